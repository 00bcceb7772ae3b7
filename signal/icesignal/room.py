"""One room: its members, its log and the order of messages. Sans-IO; `rooms` has the protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

from icesignal import wire
from icesignal.sources import Levels

INVITER: Final = "inviter"
JOINER: Final = "joiner"


def other(role: str) -> str:
    """Return the other place of a room of two."""
    return JOINER if role == INVITER else INVITER


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One accepted message. `at` is when, in seconds; `to` the places it is for, None for all but the sender's."""

    seq: int
    at: float
    sender: str
    client_seq: int
    payload: bytes = field(repr=False)
    to: frozenset[str] | None = None

    def is_for(self, place: str) -> bool:
        """Return whether whoever has this place is to hear it."""
        return place != self.sender and (self.to is None or place in self.to)


@dataclass(slots=True, eq=False)
class Member:
    """A session in its place. `connection` is None while it is away.

    `place` is a role in a room of two, and the member's id in hexadecimal in a room of many; there, `ticket` is what it
    entered with, and `until` when that expires, in seconds.
    """

    room: AnyRoom
    place: str
    session: bytes = field(repr=False)
    opening: bytes = field(repr=False)
    token: bytes = field(repr=False)
    previous_token: bytes | None = field(default=None, repr=False)
    ticket: bytes = field(default=b"", repr=False)
    key: bytes = b""  # the ticket's
    can: frozenset[str] = frozenset()
    until: float = float("inf")
    connection: int | None = None
    away_at: float | None = None
    hung_up: bool = False  # how it went away: the connection was closed from its side, without a goodbye
    client_seq: int = 0
    is_settled: bool = False
    may_skip: bool = False  # its engine has lost a part of what was acknowledged: any next `client_seq` is right
    sent_seq: int = 0  # up to here what is for it has been given to the connection
    in_flight: int = 0  # bytes given to the connection and not yet written

    def rotate_token(self, token: bytes) -> None:
        """Make `token` the good one; the one before stays good until `confirm_token`."""
        self.previous_token, self.token = self.token, token

    def confirm_token(self) -> None:
        """Note that the client has the newest token, as it speaks on the connection that got it."""
        self.previous_token = None
        self.is_settled = True

    def over_at(self, resume_s: float) -> float:
        """Return when it is over by itself: away for too long, or its ticket has expired."""
        return self.until if self.away_at is None else min(self.until, self.away_at + resume_s)


@dataclass(slots=True, eq=False)
class AnyRoom(ABC):
    """What was said in a room, and who hears it.

    `key` is under what a table keeps it, `name` what its members call it.
    """

    key: str
    name: str
    epoch: int
    created_at: float
    levels: Levels = ()  # who made it
    members: dict[str, Member] = field(default_factory=dict[str, Member])
    seq: int = 0
    log: list[LogEntry] = field(default_factory=list[LogEntry])  # some hundreds at most, and of most rooms none
    log_bytes: int = 0
    # The newest message for each place that the log no longer holds: a position before it cannot be replayed from.
    lost_seq: dict[str, int] = field(default_factory=dict[str, int])

    @abstractmethod
    def places(self) -> Iterable[str]:
        """Return the places that messages may be for."""

    @abstractmethod
    def greeting(self, member: Member, arrival: wire.Arrival, seq: int, resume_s: int) -> list[wire.Frame]:
        """Return what a member is told that has come in or come back, at a position."""

    @abstractmethod
    def news_of(self, member: Member) -> wire.Frame:
        """Return what the others are told of a member."""

    @abstractmethod
    def message(self, entry: LogEntry) -> wire.Message:
        """Return what a member hears."""

    def others(self, member: Member) -> list[Member]:
        """Return all members but one."""
        return [one for one in self.members.values() if one is not member]

    def recipients(self, frame: wire.Send) -> frozenset[str] | None:
        """Return the places that a message is for; None for all."""
        return None

    def append(self, now: float, member: Member, frame: wire.Send) -> LogEntry:
        """Give a message its place in the order."""
        self.seq += 1
        member.client_seq = frame.client_seq
        member.may_skip = False
        to = self.recipients(frame)
        entry = LogEntry(self.seq, now, member.place, frame.client_seq, frame.payload, to)
        self.log.append(entry)
        self.log_bytes += len(entry.payload)
        return entry

    def lost(self, place: str) -> int:
        """Return the newest message for a place that the log no longer holds."""
        return self.lost_seq.get(place, 0)

    def unsent(self, member: Member) -> list[LogEntry]:
        """Return what is for a member and has not been given to its connection, oldest first."""
        later = takewhile(lambda entry: entry.seq > member.sent_seq, reversed(self.log))
        return [entry for entry in later if entry.is_for(member.place)][::-1]

    def seq_of(self, sender: str, client_seq: int) -> int:
        """Return the place of a message that was accepted before; 0 when the log no longer has it."""
        key = (sender, client_seq)  # the newest: a member that was started anew counts from 1 again
        return next((entry.seq for entry in reversed(self.log) if (entry.sender, entry.client_seq) == key), 0)

    def trim(self, now: float, max_age_s: float, *, max_messages: int, max_bytes: int) -> None:
        """Drop what is too old or too much, oldest first."""
        while self.log and (
            self.log[0].at + max_age_s <= now or len(self.log) > max_messages or self.log_bytes > max_bytes
        ):
            entry = self.log.pop(0)
            self.log_bytes -= len(entry.payload)
            for place in self.places():
                if entry.is_for(place):
                    self.lost_seq[place] = max(entry.seq, self.lost(place))

    def over_at(self, resume_s: float, unjoined_s: float) -> float:
        """Return when the room or one of its members is over by itself; infinity for never."""
        return min((member.over_at(resume_s) for member in self.members.values()), default=float("inf"))

    def next_timeout(self, log_s: float, resume_s: float, unjoined_s: float) -> float:
        """Return when something of this room ends; infinity when nothing will by itself."""
        over_at = self.over_at(resume_s, unjoined_s)
        return min(over_at, self.log[0].at + log_s) if self.log else over_at


@dataclass(slots=True, eq=False)
class RoomOfTwo(AnyRoom):
    """An inviter and a joiner, met by a nameplate or by a rendezvous name."""

    is_rendezvous: bool = False
    claimed: bool = False
    inviter_said: int = 0  # messages since somebody joined
    is_confirmed: bool = False

    def places(self) -> Iterable[str]:
        """Return both, taken or not: what is said before the joiner comes is for it."""
        return (INVITER, JOINER)

    def greeting(self, member: Member, arrival: wire.Arrival, seq: int, resume_s: int) -> list[wire.Frame]:
        """Return one frame, that has the other member's state and opening, too."""
        kind = {"joined": wire.Joined, "resumed": wire.Resumed, "resync": wire.Resync}[arrival]
        place = other(member.place)
        peer = self.members.get(place)
        return [
            kind(
                room=self.name,
                role="inviter" if member.place == INVITER else "joiner",
                token=member.token,
                epoch=self.epoch,
                seq=seq,
                peer="absent" if peer is None else _presence(peer),
                hung_up=peer is not None and peer.hung_up,
                opening=b"" if peer is None else peer.opening,
                client_seq=member.client_seq,
                resume_s=resume_s,
            )
        ]

    def news_of(self, member: Member) -> wire.Frame:
        """Return how the peer is."""
        return wire.Peer(state=_presence(member), hung_up=member.hung_up, opening=member.opening)

    def message(self, entry: LogEntry) -> wire.Message:
        """Return what the other one said."""
        return wire.Message(epoch=self.epoch, seq=entry.seq, payload=entry.payload)

    def over_at(self, resume_s: float, unjoined_s: float) -> float:
        """Return when a member has been away for too long, or nobody has come."""
        unjoined = float("inf") if self.claimed else self.created_at + unjoined_s
        return min(unjoined, min((member.over_at(resume_s) for member in self.members.values()), default=float("inf")))


@dataclass(slots=True, eq=False)
class RoomOfMany(AnyRoom):
    """Members that have tickets of the room's owner. It lasts as long as there is one."""

    barred: dict[str, None] = field(default_factory=dict[str, None])
    """Places whose tickets do not count any more, the oldest first."""

    def bar(self, place: str, at_most: int) -> None:
        """Keep a place's tickets out; with more than so many, that of the oldest no more."""
        self.barred.pop(place, None)
        while len(self.barred) >= at_most:
            del self.barred[next(iter(self.barred))]
        self.barred[place] = None

    def places(self) -> Iterable[str]:
        """Return the members' ids."""
        return self.members

    def recipients(self, frame: wire.Send) -> frozenset[str] | None:
        """Return the members that are named, by strings that are there already: the log takes no more for them."""
        if frame.to is None:
            return None
        named = {one.hex() for one in frame.to}
        return frozenset(place for place in self.members if place in named)

    def greeting(self, member: Member, arrival: wire.Arrival, seq: int, resume_s: int) -> list[wire.Frame]:
        """Return the place, and then each other member."""
        others = self.others(member)
        entered = wire.Entered(
            room=self.name,
            member=bytes.fromhex(member.place),
            arrival=arrival,
            token=member.token,
            epoch=self.epoch,
            seq=seq,
            client_seq=member.client_seq,
            members=len(others),
            resume_s=resume_s,
        )
        return [entered, *map(self.news_of, others)]

    def news_of(self, member: Member) -> wire.Frame:
        """Return how a member is, and its ticket: who it is needs no relay to be believed."""
        return wire.Member(
            member=bytes.fromhex(member.place),
            state="gone" if self.members.get(member.place) is not member else _presence(member),
            hung_up=member.hung_up,
            ticket=member.ticket,
            opening=member.opening,
        )

    def message(self, entry: LogEntry) -> wire.Message:
        """Return who said what."""
        sender = bytes.fromhex(entry.sender)
        return wire.Message(epoch=self.epoch, seq=entry.seq, payload=entry.payload, sender=sender)


def _presence(member: Member) -> wire.Present:
    return "away" if member.connection is None else "present"
