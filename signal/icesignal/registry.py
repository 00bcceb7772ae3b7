"""What all rooms of a relay have in common: who is in which, who has been given what, and what it all takes. Sans-IO.

`rooms` has the protocol; this is what it does its work with.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from icesignal import wire
from icesignal.expect import expect_fields
from icesignal.nameplates import NameplateBook, Nameplates
from icesignal.room import AnyRoom, LogEntry, Member, RoomOfMany, RoomOfTwo
from icesignal.sources import Levels, ShareBook, Shares
from icesignal.wire import CloseCode, RelayErrorCode

MAX_ENDED: Final = 16_384  # sessions of which it is remembered why they ended; some 3 MB
ENDED_ON_PURPOSE: Final = frozenset({"done", "removed", "replaced"})


@dataclass(frozen=True, slots=True)
class RoomLimits:
    """The bounds of the room table. Source: docs/relay-protocol.md sections 4, 5 and 10."""

    max_rooms: int = 10_000
    log_s: float = 120.0
    log_messages: int = 256
    log_bytes: int = 1 << 20
    total_log_bytes: int = 256 << 20
    resume_s: float = 120.0
    unjoined_s: float = 86_400.0
    nameplate_rest_s: float = 600.0
    nameplate_digits: int = 1
    rooms_per_source: int = 128
    log_bytes_per_source: int = 16 << 20
    entry_bytes: int = 256  # what a message in a log takes beside its payload; 200 were measured
    window_bytes: int = 128 << 10
    members: int = wire.MAX_MEMBERS  # of a room of many
    barred: int = 256  # tickets that a room of many keeps out

    def __post_init__(self) -> None:
        """Raise TypeError where a field is of another type."""
        expect_fields(self)


@dataclass(frozen=True, slots=True)
class ConnectionAction:
    """What is to happen on one connection: a frame to send, then perhaps its end; or its claim has proved right.

    `copies` is to how many more members than one a message of its went, which were `copied_bytes`.
    """

    connection: int
    frame: wire.Frame | None = None
    close: CloseCode | None = None
    is_confirmed: bool = False
    copies: int = 0
    copied_bytes: int = 0


class Registry:
    """The rooms, sessions and connections of one node, and what is to be done on the latter.

    Attributes:
        rooms: by key.
        sessions: that could resume, by their id.
        connections: whose members are there, by number.
        outputs: what is to be done, in order.
        log_bytes: what all logs take.
    """

    def __init__(
        self,
        *,
        randbytes: Callable[[int], bytes],
        limits: RoomLimits,
        epoch: int,
        nameplates: NameplateBook | None = None,
        shares: ShareBook | None = None,
    ) -> None:
        """Make an empty one; see `RoomTable`. `nameplates` and `shares` are its own by default."""
        self.limits = limits
        self.counters: Counter[str] = Counter()
        self.randbytes = randbytes
        self.epoch = epoch
        self.nameplates: NameplateBook = nameplates or Nameplates(
            randbytes, limits.nameplate_rest_s, 4 * limits.max_rooms, limits.nameplate_digits
        )
        self.shares: ShareBook = shares or Shares(limits.rooms_per_source, limits.log_bytes_per_source)
        self.rooms: dict[str, AnyRoom] = {}
        self.sessions: dict[bytes, Member] = {}
        self.connections: dict[int, Member] = {}
        self.outputs: deque[ConnectionAction] = deque()
        self.log_bytes = 0
        self._said: tuple[LogEntry, wire.Message] | None = None  # what was given to a member last
        self._ended: dict[bytes, tuple[float, str]] = {}  # by session, when and why; the oldest first

    # Rooms

    def is_full(self, connection: int, levels: Levels) -> bool:
        """Return whether another room has no place, here or for who asks, which it is told."""
        if len(self.rooms) >= self.limits.max_rooms:
            self.refuse(connection, RelayErrorCode.BUSY, "the relay has no room left; try again later")
            return True
        if not self.shares.may_open(levels):
            self.refuse(connection, RelayErrorCode.RATE, "too many rooms of your network are open; close some or wait")
            return True
        return False

    def add(self, room: AnyRoom) -> None:
        """Take a new room in."""
        self.rooms[room.key] = room
        self.shares.open(room.levels)

    def end(self, now: float, room: AnyRoom, reason: str) -> None:
        """End a room for all who are in it."""
        self.rooms.pop(room.key, None)
        held = self._bytes_of(room)
        self.log_bytes -= held
        self.shares.close(room.levels, held)
        if isinstance(room, RoomOfTwo) and not room.is_rendezvous:
            self.nameplates.rest(now, room.name)
            if room.claimed and not room.is_confirmed:
                self.nameplates.note_guess(now)
        for member in room.members.values():
            self.dismiss(now, member, reason)

    def trim(self, now: float, room: AnyRoom) -> None:
        """Forget of a room's log what is too old or too much."""
        before = self._bytes_of(room)
        room.trim(now, self.limits.log_s, max_messages=self.limits.log_messages, max_bytes=self.limits.log_bytes)
        freed = before - self._bytes_of(room)
        self.log_bytes -= freed
        self.shares.store(room.levels, -freed)
        for member in list(room.members.values()):
            if member.connection is not None and room.lost(member.place) > member.sent_seq:
                self.pump(now, member)

    def _bytes_of(self, room: AnyRoom) -> int:
        """Return what a room's log takes: of the smallest messages most is not payload."""
        return room.log_bytes + len(room.log) * self.limits.entry_bytes

    # Members

    def enter(self, now: float, connection: int, member: Member) -> None:
        """Give a new member its place."""
        member.room.members[member.place] = member
        self.sessions[member.session] = member
        self.attach(connection, member)
        self.welcome(now, connection, member, "joined")

    def attach(self, connection: int, member: Member) -> None:
        """Have a member be at a connection; one that it was at before is fenced."""
        if member.connection not in (None, connection):
            self.counters["fenced"] += 1
            self.connections.pop(member.connection, None)
            self.outputs.append(ConnectionAction(member.connection, close=CloseCode.FENCED))
        member.connection = connection
        member.away_at = None
        member.hung_up = False
        member.in_flight = 0
        self.connections[connection] = member

    def disconnect(self, now: float, connection: int, *, hung_up: bool = False) -> None:
        """Note that a connection is gone, and whether its client closed it without a goodbye.

        Its session stays for `resume_s`.
        """
        member = self.connections.pop(connection, None)
        if member is None:
            return
        member.connection = None
        member.away_at = now
        member.hung_up = hung_up
        self.notify_others(member)

    def dismiss(self, now: float, member: Member, reason: str) -> None:
        """Give a member what it has not heard, and end its session."""
        self.sessions.pop(member.session, None)
        if isinstance(member.room, RoomOfMany) and reason in ENDED_ON_PURPOSE:
            self._ended[member.session] = (now, reason)
            self._forget_ended(now)
        if member.connection is not None:
            for entry in member.room.unsent(member):  # at most what the log holds, and of many no more than a window
                if isinstance(member.room, RoomOfMany) and member.in_flight >= self.limits.window_bytes:
                    break
                self._give(member.connection, member, entry)
            self.connections.pop(member.connection, None)
            self.outputs.append(
                ConnectionAction(member.connection, wire.Closed(reason=reason), close=CloseCode.ROOM_ENDED)
            )

    def why_ended(self, now: float, session: bytes) -> str | None:
        """Return why a session in a room of many was ended on purpose, while whoever was away may ask; else None.

        Whoever is told that enters no more, who is only not known here enters anew.
        """
        self._forget_ended(now)
        ended = self._ended.get(session)
        return None if ended is None else ended[1]

    def _forget_ended(self, now: float) -> None:
        while self._ended:
            session, (at, _) = next(iter(self._ended.items()))
            if at + self.limits.resume_s > now and len(self._ended) <= MAX_ENDED:
                return
            del self._ended[session]

    # What they are told

    def welcome(
        self, now: float, connection: int, member: Member, arrival: wire.Arrival, seq: int | None = None
    ) -> None:
        """Send a member its place; what was said after `seq` (None: all that is kept) follows."""
        room = member.room
        member.sent_seq = room.lost(member.place) if seq is None else seq
        position = room.seq if arrival != "joined" else member.sent_seq if isinstance(room, RoomOfMany) else 0
        for frame in room.greeting(member, arrival, position, int(self.limits.resume_s)):
            self.output(connection, frame)
        self.pump(now, member)  # an entry that is repeated, too, must hear what was said since the first
        self.notify_others(member)

    def pump(self, now: float, member: Member) -> None:
        """Give a member's connection what it has not been given yet, as far as its window goes.

        What does not fit stays in the log, so that a replay takes no memory and goes as fast as it is written. Who is
        so slow that the log drops what it was not given is sent away, to resume.
        """
        room, connection = member.room, member.connection
        if connection is None:
            return
        if room.lost(member.place) > member.sent_seq:
            self.counters["too_slow"] += 1
            self.outputs.append(ConnectionAction(connection, close=CloseCode.TOO_SLOW))
            self.disconnect(now, connection)
            return
        if member.in_flight < self.limits.window_bytes:
            for entry in room.unsent(member):
                self._give(connection, member, entry)
                if member.in_flight >= self.limits.window_bytes:
                    break

    def _give(self, connection: int, member: Member, entry: LogEntry) -> None:
        member.sent_seq = entry.seq
        member.in_flight += len(entry.payload)
        if self._said is None or self._said[0] is not entry:
            self._said = (entry, member.room.message(entry))
        self.output(connection, self._said[1])  # to all who hear it the same, so that it is encoded once

    def notify_others(self, member: Member) -> None:
        """Tell the others in its room how a member is."""
        news = member.room.news_of(member)
        for other in member.room.others(member):
            if other.connection is not None:
                self.output(other.connection, news)

    def output(self, connection: int, frame: wire.Frame) -> None:
        """Have a frame sent."""
        self.outputs.append(ConnectionAction(connection, frame))

    def refuse(self, connection: int, code: RelayErrorCode, message: str) -> None:
        """Say no to a frame, and count that."""
        self.counters[f"refused_{code}"] += 1
        self.output(connection, wire.Error(code=code, message=message))
