"""Trust in a room of many: who is a member, who says what, and who hears it, without believing the relay. Sans-IO.

A `Circle` is one stay of one member. It gets what the relay says, and gives what to send and what has happened.
Source: docs/relay-protocol.md section 14.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from icesignal import room_chains, room_pairs, tickets, wire
from icesignal.room_chains import ChainWanted, HeardChain, OwnChain, Speaker
from icesignal.room_events import (
    MemberAway,
    MemberBack,
    MemberCame,
    MemberRemoved,
    MemberWent,
    MessagesMissed,
    RoomEvent,
    RoomMember,
    RoomMessage,
)
from icesignal.room_keys import MemberKey, is_opening_of, make_opening
from icesignal.room_pairs import Allowance, Pair, Patience
from icesignal.room_removals import REMOVAL, Removals
from icesignal.secretbox import COUNTER_BYTES, OVERHEAD_BYTES, SEALED, OpenError
from icesignal.tickets import KEY_BYTES, Ticket
from icesignal.wire import Present

MAX_PEERS: Final = 256  # those that are gone among them: four times what a room has
MAX_OPENINGS: Final = 256  # of one member, in one stay of ours
MAX_ALL_OPENINGS: Final = 16_384  # some 2 MB; what is beyond is not spoken to until we enter anew
MAX_OUTBOX: Final = 1_024  # payloads; what finds no place is asked for by whom it was for
CLOCK_LEEWAY_S: Final = 300.0  # by which clocks may differ over a ticket's end
MAX_TO_ALL_BYTES: Final = wire.MAX_PAYLOAD_BYTES - room_chains.OVERHEAD_BYTES
MAX_TO_SOME_BYTES: Final = wire.MAX_PAYLOAD_BYTES - OVERHEAD_BYTES - 1


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A payload for the relay; `to` is the id of who is to get it, None for all."""

    payload: bytes = field(repr=False)
    to: bytes | None


@dataclass(slots=True, eq=False)
class Peer:
    """One session of another member.

    `ticket_data` is its ticket as it came, `given` the generation of our chain that it has, `told` how many removals we
    had noted when we said them to it last. Who is gone has no `presence`; whose ticket has expired, too, and is not
    heard either, until a newer one comes.
    """

    ticket: Ticket = field(repr=False)
    ticket_data: bytes = field(repr=False)
    opening: bytes = field(repr=False)
    pair: Pair
    chain: HeardChain
    allowance: Allowance
    presence: Present | None = "present"
    is_confirmed: bool = False
    given: int = 0
    told: int = 0
    is_expired: bool = False
    patience: Patience = field(default_factory=Patience)

    @property
    def is_here(self) -> bool:
        """Whether it hears us, and we say so."""
        return self.is_confirmed and self.presence is not None

    def shown(self) -> RoomMember:
        """Return what an application sees of it."""
        ticket = self.ticket
        return RoomMember(
            ticket.id, ticket.role, frozenset(ticket.can), ticket.key, ticket.expires, self.presence or "away"
        )


class Circle:
    """What one member knows of the others, from its entry until it leaves.

    Attributes:
        opening: what the others get as we enter.
        events: what has happened; whoever reads takes it out.
        outbox: what to send, in this order; whoever sends takes it out.
        removals: who is removed.
        counters: what was dropped, by why.
    """

    def __init__(
        self,
        ticket: Ticket,
        key: MemberKey,
        *,
        randbytes: Callable[[int], bytes],
        wall_clock: Callable[[], float],
        removals: Iterable[bytes] = (),
    ) -> None:
        """Make one stay.

        Args:
            ticket: ours.
            key: ours, for which the ticket is.
            randbytes: a cryptographic source.
            wall_clock: gives Unix time, seconds.
            removals: statements that are known already.
        """
        self.room, self.id = ticket.room, ticket.id
        self._wall_clock = wall_clock
        self._private = X25519PrivateKey.from_private_bytes(randbytes(KEY_BYTES))
        self.opening = make_opening(key, self.room, self.id, self._private)
        self._chain = OwnChain(Speaker(self.room, self.id, self.opening), key, randbytes)
        self._peers: dict[bytes, Peer] = {}
        self._seen: dict[bytes, set[bytes]] = {}
        self._seen_count = 0
        self._expire_at = float("inf")
        self.events: deque[RoomEvent] = deque()
        self.outbox: deque[Outgoing] = deque()
        self.counters: Counter[str] = Counter()
        self.removals = Removals(self.room)
        for data in removals:
            self.removals.add(data)

    @property
    def members(self) -> list[RoomMember]:
        """The others that are here, confirmed."""
        return [peer.shown() for peer in self._peers.values() if peer.is_here]

    @property
    def is_removed(self) -> bool:
        """Whether we were removed ourselves."""
        return self.id in self.removals

    # -- what the relay says

    def handle_member(self, frame: wire.Member) -> None:
        """Take the news of another member, as far as they need not be believed."""
        peer = self._peers.get(frame.member)
        is_known = peer is not None and (peer.ticket_data, peer.opening) == (frame.ticket, frame.opening)
        if peer is not None and is_known and not peer.is_expired:
            self._set_presence(peer, frame.state)  # both were looked at when they came first
            return
        try:
            ticket = tickets.read_untrusted(frame.ticket)
        except tickets.BadTicket:
            self.counters["bad_tickets"] += 1
            return
        if not self._may_be(frame, ticket):
            self.counters["refused_members"] += 1
            return
        if peer is None or peer.opening != frame.opening:
            if frame.state != "gone":
                self._begin(ticket, frame)
            return
        if ticket.key == peer.ticket.key and ticket.expires > peer.ticket.expires:
            peer.ticket, peer.ticket_data, peer.is_expired = ticket, frame.ticket, False
            self._expire_at = min(self._expire_at, ticket.expires + CLOCK_LEEWAY_S)
        self._set_presence(peer, frame.state)

    def handle_listed(self, ids: Collection[bytes]) -> None:
        """Take it that the relay knows of these members and no others: who went while we were away is not told of."""
        for peer in list(self._peers.values()):
            if peer.ticket.id not in ids:
                self._set_presence(peer, "gone")

    def handle_message(self, sender: bytes, payload: bytes) -> None:
        """Take what somebody is said to say."""
        self.drop_expired()
        kind, peer = payload[:1], self._peers.get(sender)
        if kind == REMOVAL:
            self._hear_removals(payload[1:])
        elif peer is None or peer.is_expired:
            self.counters["unknown_senders"] += 1
        elif kind == SEALED:
            self._hear(peer, payload)
        elif kind == room_chains.TO_ALL and peer.is_confirmed:
            self._hear_to_all(peer, payload)
        else:
            self.counters["refused"] += 1

    def handle_resync(self) -> None:
        """Take it that messages that were for us may be lost; to be called when all members are known again."""
        self.events.append(MessagesMissed(None, None))
        self.ask_again()

    def ask_again(self) -> None:
        """Ask everybody for what we have not heard: of whom we have just heard for the first time, for its hello."""
        for peer in self._peers.values():
            if peer.presence is not None:
                self._say(peer, peer.pair.repeat_please())
                if peer.is_confirmed:
                    self._say(peer, room_pairs.CHAIN_PLEASE)

    # -- what we say

    def send_to_all(self, body: bytes) -> frozenset[bytes]:
        """Say something to all who are here; return their ids."""
        self.drop_expired()
        here = [peer for peer in self._peers.values() if peer.is_here]
        if not here:
            return frozenset()
        if self._chain.is_stale:
            self._chain.renew()
        for peer in here:
            if peer.given != self._chain.generation:
                self._give_chain(peer)
        self._post(self._chain.seal(body), None)
        return frozenset(peer.ticket.id for peer in here)

    def send_to(self, ids: Iterable[bytes], body: bytes) -> frozenset[bytes]:
        """Say something to some; return the ids of those of them that are here."""
        self.drop_expired()
        here = [one for one in dict.fromkeys(ids) if one in self._peers and self._peers[one].is_here]
        for one in here:
            self._say_removals(self._peers[one])
            self._say(self._peers[one], room_pairs.APPLICATION + body)
        return frozenset(here)

    def spread_removal(self, member: bytes, statement: bytes) -> bool:
        """Believe our own statement, and let all hear it; return whether the member is removed now.

        It is not where there is no place for it: others have none for it either, and it is not said.
        """
        self._believe(statement)
        is_removed = member in self.removals
        if is_removed:
            self._post(REMOVAL + room_pairs.lp(statement), None)
        return is_removed

    # -- who is here

    def drop_expired(self) -> None:
        """Let go whose tickets have expired: the relay may not. Their keys stay: a newer ticket may be under way."""
        now = self._wall_clock()
        if now < self._expire_at:
            return
        for peer in list(self._peers.values()):
            if not peer.is_expired and peer.ticket.expires + CLOCK_LEEWAY_S <= now:
                peer.is_expired = self._chain.is_stale = True
                self._set_presence(peer, "gone")
        ends = (peer.ticket.expires + CLOCK_LEEWAY_S for peer in self._peers.values() if not peer.is_expired)
        self._expire_at = min(ends, default=float("inf"))

    def _may_be(self, frame: wire.Member, ticket: Ticket) -> bool:
        """Return whether somebody can be a member: not removed, with a ticket of our room and an opening of its own."""
        return (
            ticket.room == self.room
            and ticket.id == frame.member != self.id
            and ticket.id not in self.removals
            and ticket.expires + CLOCK_LEEWAY_S > self._wall_clock()
            and is_opening_of(ticket, frame.opening)
        )

    def _begin(self, ticket: Ticket, frame: wire.Member) -> None:
        """Begin with a session of a member, unless we have had it."""
        former = self._peers.get(ticket.id)
        if former is None and len(self._peers) >= MAX_PEERS and not self._make_place():
            self.counters["crowded"] += 1
            return
        if not self._is_fresh(ticket.id, frame.opening):
            self.counters["old_openings"] += 1
            return
        try:
            own, theirs = (self.id, self.opening), (ticket.id, frame.opening)
            pair = Pair(self.room, self._private, own, theirs)
        except ValueError:
            self.counters["refused_members"] += 1
            return
        if former is not None:
            self._drop(former)
        chain = HeardChain(Speaker(self.room, *theirs), ticket.key)
        peer = self._peers[ticket.id] = Peer(
            ticket, frame.ticket, frame.opening, pair, chain, Allowance(self._wall_clock())
        )
        self._expire_at = min(self._expire_at, ticket.expires + CLOCK_LEEWAY_S)
        peer.presence = "away" if frame.state == "away" else "present"
        self._say_removals(peer)
        self._say(peer, room_pairs.HELLO)

    def _is_fresh(self, member: bytes, opening: bytes) -> bool:
        """Return whether we have not seen an opening in this stay, and remember it."""
        seen = self._seen.get(member, set())
        digest = hashlib.sha256(opening[:KEY_BYTES]).digest()[:16]  # one key may be signed in two ways
        if digest in seen or len(seen) >= MAX_OPENINGS or self._seen_count >= MAX_ALL_OPENINGS:
            return False
        self._seen.setdefault(member, seen).add(digest)
        self._seen_count += 1
        return True

    def _make_place(self) -> bool:
        """Forget who went first; return whether somebody was gone."""
        gone = next((peer for peer in self._peers.values() if peer.presence is None), None)
        if gone is None:
            return False
        del self._peers[gone.ticket.id]
        return True

    def _set_presence(self, peer: Peer, state: wire.MemberPresence) -> None:
        before, peer.presence = peer.presence, None if state == "gone" else state
        if before == peer.presence:
            return
        if peer.presence is None:
            self._chain.is_stale = True
            self._peers[peer.ticket.id] = self._peers.pop(peer.ticket.id)  # in the order in which they go
        if not peer.is_confirmed:
            return
        shown = peer.shown()
        if before is None:
            self.events.append(MemberCame(shown))
        elif peer.presence is None:
            self.events.append(MemberWent(shown))
        else:
            self.events.append(MemberAway(shown) if peer.presence == "away" else MemberBack(shown))

    def _drop(self, peer: Peer) -> None:
        """Forget a session of a member with its keys: it hears nothing more."""
        self._chain.is_stale = True
        del self._peers[peer.ticket.id]
        if peer.is_here:
            self.events.append(MemberWent(peer.shown()))

    # -- what a peer says

    def _hear(self, peer: Peer, payload: bytes) -> None:
        """Take a payload of a pair."""
        try:
            plaintext = peer.pair.open(payload)
        except OpenError:
            self.counters["refused"] += 1
            return
        if plaintext is None:
            self.counters["out_of_turn"] += 1
            if peer.pair.is_missing_something(payload):
                self._say(peer, peer.pair.repeat_please())
            return
        if peer.pair.lost:
            self._tell_missed(peer, peer.pair.lost)
            peer.pair.lost = 0
        self._obey(peer, plaintext[:1], plaintext[1:])

    def _obey(self, peer: Peer, kind: bytes, body: bytes) -> None:
        """Do what a peer asks for, or take what it says."""
        if kind == room_pairs.REPEAT and len(body) == COUNTER_BYTES:
            self._repeat(peer, body)
        elif kind == room_pairs.HELLO and not peer.is_confirmed:
            peer.is_confirmed = True
            if peer.presence is not None:
                self.events.append(MemberCame(peer.shown()))
        elif kind == room_pairs.REMOVALS:
            self._hear_removals(body)
        elif not peer.is_confirmed:
            self.counters["refused"] += 1
        elif kind == room_pairs.APPLICATION:
            self.events.append(RoomMessage(peer.ticket.id, body, to_all=False))
        elif kind == room_pairs.CHAIN:
            self._take_chain(peer, body)
        elif kind == room_pairs.CHAIN_PLEASE:
            self._say_removals(peer)
            if self._chain.generation and not self._chain.is_stale:
                self._give_chain(peer)

    def _take_chain(self, peer: Peer, gift: bytes) -> None:
        if not peer.chain.take(gift):
            self.counters["refused"] += 1
        elif peer.chain.lost:
            self._tell_missed(peer, peer.chain.lost)
            peer.chain.lost = 0

    def _hear_to_all(self, peer: Peer, payload: bytes) -> None:
        """Take what a peer says to all."""
        try:
            body = peer.chain.open(payload)
        except OpenError:
            self.counters["refused"] += 1
        except ChainWanted:
            self.counters["unreadable"] += 1
            if peer.patience.is_over(peer.chain.generation):
                self._say(peer, room_pairs.CHAIN_PLEASE)
        else:
            if body is None:
                self.counters["out_of_turn"] += 1
                return
            if peer.chain.lost:
                self._tell_missed(peer, peer.chain.lost)
                peer.chain.lost = 0
            self.events.append(RoomMessage(peer.ticket.id, body, to_all=True))

    def _tell_missed(self, peer: Peer, count: int) -> None:
        self.events.append(MessagesMissed(peer.ticket.id, count))

    # -- removals

    def _hear_removals(self, body: bytes) -> None:
        for statement in self.removals.parse_untrusted(body):
            self._believe(statement)

    def _believe(self, data: bytes) -> None:
        """Drop whom a statement removes, if it is good and new.

        We begin a new generation also where we do not know whom: with it each peer hears of the removal.
        """
        statement = self.removals.add(data)
        if statement is None:
            self.counters["refused_removals"] += 1
            return
        self._chain.is_stale = True
        peer = self._peers.get(statement.member)
        if peer is not None:
            peer.presence = None  # that it went is told as its removal
            self._drop(peer)
        self.events.append(MemberRemoved(statement.member, statement.by))

    def _say_removals(self, peer: Peer) -> None:
        """Say the removals that we have not said to a peer, in front of what it is to hear only if it knows them."""
        for body in self.removals.bodies(peer.told):
            self._say(peer, room_pairs.REMOVALS + body)
        peer.told = self.removals.count

    # -- the outbox

    def _give_chain(self, peer: Peer) -> None:
        peer.given = self._chain.generation
        self._say_removals(peer)
        self._say(peer, room_pairs.CHAIN + self._chain.gift())

    def _repeat(self, peer: Peer, counter: bytes) -> None:
        if len(self.outbox) > MAX_OUTBOX // 2:
            return  # it asks again
        payloads = peer.pair.since(counter)
        if payloads == []:
            return
        if not peer.allowance.take(self._wall_clock()):
            self.counters["repeated_enough"] += 1
            return
        if payloads is not None:
            for payload in payloads:
                self._post(payload, peer.ticket.id)
            return
        self._say(peer, room_pairs.GO_ON)
        peer.told = 0
        self._say_removals(peer)
        self._say(peer, room_pairs.HELLO)

    def _say(self, peer: Peer, plaintext: bytes) -> None:
        self._post(peer.pair.seal(plaintext), peer.ticket.id)

    def _post(self, payload: bytes, to: bytes | None) -> None:
        if len(self.outbox) >= MAX_OUTBOX:
            self.counters["outbox_full"] += 1  # of a pair it is kept, and asked for; of a chain it is told as lost
            return
        self.outbox.append(Outgoing(payload, to))
