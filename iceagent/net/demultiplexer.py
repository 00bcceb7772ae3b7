"""Whose datagram is it? One UDP port and many ICE sessions, identified by ufrag, transaction and address.

Sans-IO: bytes and explicit time in, a session or the reason why there is none out. Per datagram it costs a few lookups,
whatever the number of sessions:

- A STUN request goes to the session whose username fragment it names (RFC 8445 section 7.2.2: USERNAME begins with the
  receiver's).
- A STUN response goes to the session that sent a request with its transaction id.
- All else, application data and Binding indications, goes to the session that holds a *claim* to the remote address.

A claim begins when a session has authenticated a message from the address, never before: to know or guess a ufrag is
not enough. It is *proven* once the session got an answer to a request of its own from there: only who receives what is
sent to that address can give one. A request alone could be a replay with a forged source. So a proven claim is not
given to another session while its own messages keep coming, and it replaces one that is not proven.

The data of two sessions whose peers have the same address and port (they share a port, too) cannot be distinguished.
Therefore the second one must not use that path: its checks from there are dropped while the first claim is fresh.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Final, Generic, TypeVar

from iceagent.core.address import TransportAddress
from iceagent.core.constants import CHECK_TIMEOUT_S, CONSENT_EXPIRY_S
from iceagent.core.stun import MessageClass, StunError, Username, attributes_of, looks_like_stun

MAX_MEMBERS: Final = 65536  # ours: sessions of one address and port
MAX_UFRAGS: Final = 6  # ours: of one session; a restart adds one, and old ones answer for another 30 s
MAX_CLAIMS: Final = 64  # ours: of one session; the least recent unproven one gives way
MAX_PENDING: Final = 256  # ours: requests of one session that wait for their answer; the oldest gives way
MAX_ASKED: Final = 64  # ours: addresses one session has asked lately, for ICMP errors; the oldest gives way
FRESH_S: Final = CONSENT_EXPIRY_S  # a claim without an authenticated message for so long may be taken over
ANSWER_S: Final = CHECK_TIMEOUT_S  # no request waits longer for its answer

_MAX_ATTRIBUTES: Final = 32
_BINDING_REQUEST: Final = b"\x00\x01"  # checks, and questions to STUN servers
_LAST_STUN_BYTE: Final = 3  # RFC 7983 section 7

S = TypeVar("S")


class Unclaimed(StrEnum):
    """Why a datagram belongs to no session."""

    NO_USERNAME = "stun-request-without-username"
    UNKNOWN_UFRAG = "stun-request-for-unknown-ufrag"
    UNKNOWN_TRANSACTION = "stun-response-of-unknown-transaction"
    ADDRESS_TAKEN = "remote-address-in-use-by-another-session"
    UNKNOWN_SOURCE = "data-from-unknown-address"


@dataclass(slots=True, eq=False)
class PortMember(Generic[S]):
    """One session at the port, with all that is known of it, which is removed when it leaves.

    Attributes:
        session: who it is.
        ufrags: its own, oldest first.
        claims: remote addresses, the least recent first.
        pending: transaction ids of its requests and when they were sent, oldest first.
        asked: where its requests went to, if it was the last to ask there.
    """

    session: S
    ufrags: list[str] = field(default_factory=list)
    claims: dict[TransportAddress, None] = field(default_factory=dict)
    pending: dict[bytes, float] = field(default_factory=dict)
    asked: dict[TransportAddress, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Claim(Generic[S]):
    member: PortMember[S]
    heard_at: float
    proven: bool


class Demultiplexer(Generic[S]):
    """The tables of one local address.

    Attributes:
        counters: how many datagrams were dropped for each reason.
    """

    def __init__(self) -> None:
        self._ufrags: dict[str, PortMember[S]] = {}
        self._claims: dict[TransportAddress, _Claim[S]] = {}
        self._pending: dict[bytes, PortMember[S]] = {}
        self._asked: dict[TransportAddress, PortMember[S]] = {}
        self._members: dict[int, PortMember[S]] = {}
        self.counters: Counter[Unclaimed] = Counter()

    def __len__(self) -> int:
        """Return the number of sessions."""
        return len(self._members)

    @property
    def entries(self) -> int:
        """How many things are remembered, of all sessions."""
        others = len(self._ufrags) + len(self._members)
        return len(self._claims) + len(self._pending) + len(self._asked) + others

    # Sessions

    def sessions(self) -> list[S]:
        """Return all of them."""
        return [member.session for member in self._members.values()]

    def join(self, session: S) -> PortMember[S]:
        """Take a session in; it gets nothing until it has a username fragment or has sent a request.

        Raises:
            ValueError: the port is full.
        """
        if len(self._members) >= MAX_MEMBERS:
            raise ValueError(f"this port has {MAX_MEMBERS} sessions already")
        member = PortMember(session)
        self._members[id(member)] = member
        return member

    def add_ufrag(self, member: PortMember[S], ufrag: str) -> None:
        """Let requests that name `ufrag` go to a session; of its old ones the oldest is forgotten in time.

        Raises:
            ValueError: another session has that one.
        """
        holder = self._ufrags.get(ufrag)
        if holder is member or id(member) not in self._members:
            return
        if holder is not None:
            raise ValueError("another session at this port has the same username fragment")
        self._ufrags[ufrag] = member
        member.ufrags.append(ufrag)
        if len(member.ufrags) > MAX_UFRAGS:
            del self._ufrags[member.ufrags.pop(0)]

    def leave(self, member: PortMember[S]) -> None:
        """Forget a session and everything about it. Idempotent."""
        if self._members.pop(id(member), None) is None:
            return
        for ufrag in member.ufrags:
            del self._ufrags[ufrag]
        for remote in member.claims:
            del self._claims[remote]
        for transaction_id in member.pending:
            del self._pending[transaction_id]
        for remote in member.asked:
            del self._asked[remote]
        for known in (member.ufrags, member.claims, member.pending, member.asked):
            known.clear()

    # What sessions send and authenticate

    def note_sent(self, now: float, member: PortMember[S], remote: TransportAddress, datagram: bytes) -> None:
        """Take note of what a session sends: the answers to its requests are to find it."""
        if datagram[:2] != _BINDING_REQUEST or not looks_like_stun(datagram) or id(member) not in self._members:
            return
        transaction_id = datagram[8:20]
        pending = member.pending
        if transaction_id in pending:
            return  # sent again: its answer may come until it would have been given up from the first one on
        while pending:
            oldest = next(iter(pending))
            if len(pending) < MAX_PENDING and now < pending[oldest] + ANSWER_S:
                break
            del pending[oldest], self._pending[oldest]
        if transaction_id not in self._pending:
            pending[transaction_id] = now
            self._pending[transaction_id] = member
            self._note_asked(member, remote)

    def _note_asked(self, member: PortMember[S], remote: TransportAddress) -> None:
        last = self._asked.get(remote)
        if last is member:
            return
        if last is not None:
            del last.asked[remote]
        elif len(member.asked) >= MAX_ASKED:
            oldest = next(iter(member.asked))
            del member.asked[oldest], self._asked[oldest]
        self._asked[remote] = member
        member.asked[remote] = None

    def note_authenticated(
        self, now: float, member: PortMember[S], remote: TransportAddress, datagram: bytes, *, valid: bool
    ) -> None:
        """Take note that a session has authenticated a STUN message from an address, which begins a claim.

        Args:
            now: seconds.
            member: who has.
            remote: where the message came from.
            datagram: the message.
            valid: whether the session holds the path to that address for valid.
        """
        kind = message_class(datagram)
        if id(member) not in self._members or kind is MessageClass.INDICATION:
            return  # indications are taken without integrity, so they prove nothing
        answer = kind is not MessageClass.REQUEST
        if answer:
            transaction_id = datagram[8:20]
            if member.pending.pop(transaction_id, None) is not None:
                del self._pending[transaction_id]
            if not valid:
                return  # it came from elsewhere than it was sent to, or refuses something
        self._claim(now, member, remote, proven=answer)

    def _claim(self, now: float, member: PortMember[S], remote: TransportAddress, *, proven: bool) -> None:
        claim = self._claims.get(remote)
        if claim is not None and claim.member is member:
            claim.heard_at = now
            claim.proven = claim.proven or proven
            return
        if claim is not None:
            if not _gives_way(now, claim, proven=proven):
                self.counters[Unclaimed.ADDRESS_TAKEN] += 1
                return
            del claim.member.claims[remote]
        if len(member.claims) >= MAX_CLAIMS:
            self._forget_a_claim(member)
        self._claims[remote] = _Claim(member, now, proven)
        member.claims[remote] = None

    def _forget_a_claim(self, member: PortMember[S]) -> None:
        unproven = (remote for remote in member.claims if not self._claims[remote].proven)
        victim = min(unproven, key=lambda remote: self._claims[remote].heard_at, default=None)
        if victim is None:
            victim = min(member.claims, key=lambda remote: self._claims[remote].heard_at)
        del member.claims[victim], self._claims[victim]

    # What arrives

    def route_data(self, remote: TransportAddress, datagrams: int = 1) -> S | None:
        """Return whose data comes from an address; one lookup. None, counted, if it is nobody's."""
        claim = self._claims.get(remote)
        if claim is not None:
            return claim.member.session
        self.counters[Unclaimed.UNKNOWN_SOURCE] += datagrams
        return None

    def asker(self, remote: TransportAddress) -> S | None:
        """Return whom an ICMP error about a destination concerns: its owner, or who asked there last."""
        claim = self._claims.get(remote)
        member = self._asked.get(remote) if claim is None else claim.member
        return None if member is None else member.session

    def route(self, now: float, remote: TransportAddress, datagram: bytes) -> S | None:
        """Return whose a datagram is; None, counted by reason, if it is nobody's. Never raises."""
        if not datagram or datagram[0] > _LAST_STUN_BYTE or not looks_like_stun(datagram):
            return self.route_data(remote)
        kind = message_class(datagram)
        if kind is MessageClass.INDICATION:
            return self.route_data(remote)
        if kind is MessageClass.REQUEST:
            ufrag = named_ufrag(datagram)
            if ufrag is None:
                return self._drop(Unclaimed.NO_USERNAME)
            member = self._ufrags.get(ufrag)
            if member is None:
                return self._drop(Unclaimed.UNKNOWN_UFRAG)
        else:
            member = self._pending.get(datagram[8:20])
            if member is None:
                return self._drop(Unclaimed.UNKNOWN_TRANSACTION)
        claim = self._claims.get(remote)
        if claim is not None and claim.member is not member and not _gives_way(now, claim, proven=True):
            return self._drop(Unclaimed.ADDRESS_TAKEN)
        return member.session

    def _drop(self, reason: Unclaimed) -> S | None:
        """Count a datagram that is nobody's."""
        self.counters[reason] += 1
        return None


def _gives_way(now: float, claim: _Claim[S], *, proven: bool) -> bool:
    """Return whether a claim may be taken over by a session that has proven its own, or could."""
    return now >= claim.heard_at + FRESH_S or (proven and not claim.proven)


def message_class(datagram: bytes) -> MessageClass:
    """Return the class of a STUN message; RFC 8489 section 5: two bits of its type."""
    return MessageClass((datagram[0] & 1) << 1 | (datagram[1] & 0x10) >> 4)


def named_ufrag(datagram: bytes) -> str | None:
    """Return the first part of a request's USERNAME, which is the receiver's username fragment, or None."""
    with suppress(StunError):
        for kind, at, size in islice(attributes_of(datagram), _MAX_ATTRIBUTES):
            if kind == Username.TYPE:
                ufrag, colon, _ = datagram[at + 4 : at + 4 + size].partition(b":")
                return ufrag.decode("ascii", "replace") if colon else None
    return None
