"""The rooms of a relay: their members, their messages, and who has not received them yet. Sans-IO.

`RoomTable` takes frames and disconnects with the time, and yields outputs; it neither waits nor raises for anything
that a client sends. Source: docs/relay-protocol.md sections 1, 4 and 5.
"""

from __future__ import annotations

import hmac
import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from icesignal import wire
from icesignal.expect import expect_fields
from icesignal.nameplates import Nameplates
from icesignal.room import LogEntry, Member, Room, other
from icesignal.sources import Levels, Shares
from icesignal.wire import CloseCode, RelayErrorCode

CONFIRMED_AFTER = 2  # messages of the inviter: its own proof, and what it says upon the joiner's


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

    def __post_init__(self) -> None:
        """Raise TypeError where a field is of another type."""
        expect_fields(self)


@dataclass(frozen=True, slots=True)
class ConnectionAction:
    """What is to happen on one connection: a frame to send, then perhaps its end; or its claim has proved right."""

    connection: int
    frame: wire.Frame | None = None
    close: CloseCode | None = None
    is_confirmed: bool = False


class RoomTable:
    """All rooms of one node. One mutation (`handle_*`), then drain `poll_output`, then wait until `next_timeout`."""

    def __init__(self, *, randbytes: Callable[[int], bytes], limits: RoomLimits | None = None, epoch: int = 1) -> None:
        """Make an empty table.

        Args:
            randbytes: a cryptographic source, for tokens and nameplates.
            limits: the bounds.
            epoch: of the rooms made here.
        """
        self.limits = limits or RoomLimits()
        self.counters: Counter[str] = Counter()
        self._randbytes = randbytes
        self._epoch = epoch
        self._nameplates = Nameplates(
            randbytes, self.limits.nameplate_rest_s, 4 * self.limits.max_rooms, self.limits.nameplate_digits
        )
        self._shares = Shares(self.limits.rooms_per_source, self.limits.log_bytes_per_source)
        self._rooms: dict[str, Room] = {}
        self._sessions: dict[bytes, Member] = {}
        self._connections: dict[int, Member] = {}
        self._outputs: deque[ConnectionAction] = deque()
        self._log_bytes = 0

    @property
    def room_count(self) -> int:
        """The number of rooms there are."""
        return len(self._rooms)

    @property
    def session_count(self) -> int:
        """The number of sessions that could resume."""
        return len(self._sessions)

    @property
    def log_bytes(self) -> int:
        """The bytes that all logs take."""
        return self._log_bytes

    # -- the sans-IO contract

    def handle_frame(self, now: float, connection: int, frame: wire.Frame, levels: Levels = ()) -> None:
        """Take one frame from one connection.

        Args:
            now: the time, seconds.
            connection: any number that the shell never uses twice.
            frame: what came.
            levels: who is connected; a room that it makes counts against them.
        """
        member = self._connections.get(connection)
        if member is not None:
            member.confirm_token()
        match frame:
            case wire.Send():
                self._handle_send(now, connection, member, frame)
            case wire.Close():
                self._handle_close(now, connection, member, frame)
            case _ if member is not None:
                self._refuse(connection, RelayErrorCode.ALREADY_JOINED, "this connection has its session already")
            case wire.Allocate():
                self._handle_allocate(now, connection, frame, levels)
            case wire.Join():
                self._handle_join(now, connection, frame)
            case wire.Meet():
                self._handle_meet(now, connection, frame, levels)
            case wire.Resume():
                self._handle_resume(now, connection, frame)
            case _:
                self._refuse(connection, RelayErrorCode.UNKNOWN_TYPE, "a relay takes no such frame")

    def handle_disconnect(self, now: float, connection: int, *, hung_up: bool = False) -> None:
        """Note that a connection is gone, and whether its client closed it without a goodbye.

        Its session stays for `resume_s`.
        """
        member = self._connections.pop(connection, None)
        if member is None:
            return
        member.connection = None
        member.away_at = now
        member.hung_up = hung_up
        self._notify_peer(member)

    def handle_drained(self, now: float, connection: int) -> None:
        """Note that a connection has written all that it was given, so that it takes more."""
        member = self._connections.get(connection)
        if member is not None:
            member.in_flight = 0
            self._pump(now, member)

    def handle_timeout(self, now: float) -> None:
        """Forget what is over: log entries, sessions without a connection, rooms nobody joined, rested nameplates."""
        for room in list(self._rooms.values()):
            self._trim(now, room)
            if room.is_over(now, self.limits.resume_s, self.limits.unjoined_s):
                self.counters["rooms_expired"] += 1
                self._end(now, room, "expired")
        self._nameplates.forget(now)

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` has something to do, at the earliest; None while there is nothing."""
        deadlines = [
            room.next_timeout(self.limits.log_s, self.limits.resume_s, self.limits.unjoined_s)
            for room in self._rooms.values()
        ]
        rested = self._nameplates.next_timeout()
        if rested is not None:
            deadlines.append(rested)
        soonest = min(deadlines, default=math.inf)
        return None if soonest == math.inf else soonest

    def poll_output(self) -> ConnectionAction | None:
        """Return the next thing to do, in order; None when all is done."""
        return self._outputs.popleft() if self._outputs else None

    # -- entering

    def _handle_allocate(self, now: float, connection: int, frame: wire.Allocate, levels: Levels) -> None:
        if self._repeat_entry(now, connection, frame.session, "inviter", None):
            return
        if self._is_full(connection, levels):
            return
        room = self._open(now, self._nameplates.take(now), levels, is_rendezvous=False)
        self.counters["allocated"] += 1
        self._enter(now, connection, room, "inviter", frame.session, frame.opening)

    def _open(self, now: float, name: str, levels: Levels, *, is_rendezvous: bool) -> Room:
        room = Room(name, epoch=self._epoch, created_at=now, is_rendezvous=is_rendezvous, levels=levels)
        self._rooms[name] = room
        self._shares.open(levels)
        return room

    def _handle_join(self, now: float, connection: int, frame: wire.Join) -> None:
        if self._repeat_entry(now, connection, frame.session, "joiner", frame.nameplate):
            return
        room = self._rooms.get(frame.nameplate)
        if room is None:
            known = self._nameplates.is_resting(frame.nameplate)
            code = RelayErrorCode.EXPIRED_NAMEPLATE if known else RelayErrorCode.UNKNOWN_NAMEPLATE
            self._nameplates.note_guess(now)
            self._refuse(connection, code, "no room has this nameplate")
        elif room.claimed:
            self._nameplates.note_guess(now)
            self._refuse(connection, RelayErrorCode.CROWDED, "two peers have met under this nameplate")
        else:
            self.counters["joined"] += 1
            self._enter(now, connection, room, "joiner", frame.session, frame.opening)

    def _handle_meet(self, now: float, connection: int, frame: wire.Meet, levels: Levels) -> None:
        name = frame.name.hex()
        if self._repeat_entry(now, connection, frame.session, frame.role, name):
            return
        room = self._rooms.get(name)
        if room is not None and frame.role in room.members:
            if room.members[frame.role].connection is not None:
                self._refuse(connection, RelayErrorCode.CROWDED, "this place is taken")
                return
            # The program behind the silent session was started anew: the old conversation cannot go on.
            self._end(now, room, "replaced")
            room = None
        if room is None:
            if self._is_full(connection, levels):
                return
            room = self._open(now, name, levels, is_rendezvous=True)
        self.counters["met"] += 1
        self._enter(now, connection, room, frame.role, frame.session, frame.opening)

    def _repeat_entry(self, now: float, connection: int, session: bytes, role: wire.Role, name: str | None) -> bool:
        """Answer an entry whose first answer was lost; return whether it was one."""
        member = self._sessions.get(session)
        if member is None:
            return False
        if member.is_settled or member.role != role or name not in (None, member.room.name):
            self._refuse(connection, RelayErrorCode.BAD_TOKEN, "this session exists; resume it with its token")
            return True
        self._attach(connection, member)
        self._welcome(now, connection, member, wire.Joined)
        return True

    def _enter(self, now: float, connection: int, room: Room, role: wire.Role, session: bytes, opening: bytes) -> None:
        member = Member(room, role, session, opening, token=self._randbytes(wire.TOKEN_BYTES))
        room.members[role] = member
        room.claimed = room.claimed or role == "joiner" or len(room.members) == 2
        self._sessions[session] = member
        self._attach(connection, member)
        self._welcome(now, connection, member, wire.Joined)

    def _is_full(self, connection: int, levels: Levels) -> bool:
        if len(self._rooms) >= self.limits.max_rooms:
            self._refuse(connection, RelayErrorCode.BUSY, "the relay has no room left; try again later")
            return True
        if not self._shares.may_open(levels):
            self._refuse(connection, RelayErrorCode.RATE, "too many rooms of your network are open; close some or wait")
            return True
        return False

    # -- resuming

    def _handle_resume(self, now: float, connection: int, frame: wire.Resume) -> None:
        member = self._sessions.get(frame.session)
        if member is None:
            self._refuse(connection, RelayErrorCode.UNKNOWN_SESSION, "this session is over")
            return
        if not self._token_fits(member, frame.token):
            self._refuse(connection, RelayErrorCode.BAD_TOKEN, "this token was used or replaced")
            return
        if hmac.compare_digest(member.token, frame.token):
            member.rotate_token(self._randbytes(wire.TOKEN_BYTES))
        member.is_settled = True
        room = member.room
        self._trim(now, room)
        self._attach(connection, member)
        if frame.epoch != room.epoch or frame.seq > room.seq or frame.seq < room.lost_seq[member.role]:
            self.counters["resyncs"] += 1
            self._welcome(now, connection, member, wire.Resync, room.seq)
        else:
            self.counters["resumes"] += 1
            self._welcome(now, connection, member, wire.Resumed, frame.seq)

    @staticmethod
    def _token_fits(member: Member, token: bytes) -> bool:
        # Both are compared, so that the time reveals nothing about which one it was.
        current = hmac.compare_digest(member.token, token)
        previous = hmac.compare_digest(member.previous_token or b"", token)
        return current or previous

    def _attach(self, connection: int, member: Member) -> None:
        if member.connection is not None:
            self.counters["fenced"] += 1
            self._connections.pop(member.connection, None)
            self._outputs.append(ConnectionAction(member.connection, close=CloseCode.FENCED))
        member.connection = connection
        member.away_at = None
        member.hung_up = False
        member.in_flight = 0
        self._connections[connection] = member

    def _welcome(
        self, now: float, connection: int, member: Member, kind: type[wire.Joined], seq: int | None = None
    ) -> None:
        """Send a member its place; what was said after `seq` (None: all that is kept) follows."""
        room, peer = member.room, member.peer
        member.sent_seq = room.lost_seq[member.role] if seq is None else seq
        self._output(
            connection,
            kind(
                room=room.name,
                role=member.role,
                token=member.token,
                epoch=room.epoch,
                seq=room.seq if kind is not wire.Joined else 0,
                peer=room.state_of(other(member.role)),
                hung_up=peer is not None and peer.hung_up,
                opening=b"" if peer is None else peer.opening,
                client_seq=member.client_seq,
                resume_s=int(self.limits.resume_s),
            ),
        )
        self._pump(now, member)  # an entry that is repeated, too, must hear what was said since the first
        self._notify_peer(member)

    def _pump(self, now: float, member: Member) -> None:
        """Give a member's connection what it has not been given yet, as far as its window goes.

        What does not fit stays in the log, so that a replay takes no memory and goes as fast as it is written. Who is
        so slow that the log drops what it was not given is sent away, to resume.
        """
        room, connection = member.room, member.connection
        if connection is None:
            return
        if room.lost_seq[member.role] > member.sent_seq:
            self.counters["too_slow"] += 1
            self._outputs.append(ConnectionAction(connection, close=CloseCode.TOO_SLOW))
            self.handle_disconnect(now, connection)
            return
        if member.in_flight < self.limits.window_bytes:
            for entry in room.unsent(member):
                self._give(connection, member, entry)
                if member.in_flight >= self.limits.window_bytes:
                    break

    def _give(self, connection: int, member: Member, entry: LogEntry) -> None:
        member.sent_seq = entry.seq
        member.in_flight += len(entry.payload)
        self._output(connection, wire.Message(epoch=member.room.epoch, seq=entry.seq, payload=entry.payload))

    def _notify_peer(self, member: Member) -> None:
        peer = member.peer
        if peer is not None and peer.connection is not None:
            state = member.room.state_of(member.role)
            self._output(peer.connection, wire.Peer(state=state, hung_up=member.hung_up, opening=member.opening))

    # -- talking

    def _handle_send(self, now: float, connection: int, member: Member | None, frame: wire.Send) -> None:
        if member is None:
            self._refuse(connection, RelayErrorCode.NOT_JOINED, "enter a room first")
            return
        room = member.room
        self._trim(now, room)
        if frame.client_seq <= member.client_seq:
            self.counters["duplicates"] += 1
            seq = room.seq_of(member.role, frame.client_seq)
            self._output(connection, wire.Ack(client_seq=frame.client_seq, epoch=room.epoch, seq=seq))
            return
        if frame.client_seq != member.client_seq + 1:
            self._refuse(connection, RelayErrorCode.GAP, f"expected client_seq {member.client_seq + 1}")
            return
        size = len(frame.payload) + self.limits.entry_bytes
        is_full = self._log_bytes + size > self.limits.total_log_bytes
        if is_full or not self._shares.may_store(room.levels, size):
            self._refuse(connection, RelayErrorCode.BUSY, "the relay's memory is full; try again later")
            return
        self.counters["messages"] += 1
        self._log_bytes += size
        self._shares.store(room.levels, size)
        entry = room.append(now, member, frame)
        self._output(connection, wire.Ack(client_seq=frame.client_seq, epoch=room.epoch, seq=entry.seq))
        if member.role == "inviter" and room.claimed:
            self._confirm(room, room.inviter_said + 1)
        if member.peer is not None:
            self._pump(now, member.peer)
        self._trim(now, room)

    def _confirm(self, room: Room, inviter_said: int) -> None:
        """Count what the inviter says to whom has joined.

        Its first message proves itself, its second one only follows upon the joiner's proof (section 7): so whoever
        claimed the nameplate knew the code.
        """
        room.inviter_said = inviter_said
        if room.is_rendezvous or room.is_confirmed or inviter_said < CONFIRMED_AFTER:
            return
        room.is_confirmed = True
        joiner = room.members.get("joiner")
        if joiner is not None and joiner.connection is not None:
            self._outputs.append(ConnectionAction(joiner.connection, is_confirmed=True))

    def _handle_close(self, now: float, connection: int, member: Member | None, frame: wire.Close) -> None:
        if member is None:
            self._refuse(connection, RelayErrorCode.NOT_JOINED, "enter a room first")
            return
        self.counters[f"closed_{frame.reason}"] += 1
        if member.role == "inviter" and member.room.claimed and frame.reason == "done":
            self._confirm(member.room, CONFIRMED_AFTER)
        self._connections.pop(connection, None)
        member.connection = None
        self._outputs.append(ConnectionAction(connection, close=CloseCode.DONE))
        self._end(now, member.room, frame.reason)

    # -- ending

    def _end(self, now: float, room: Room, reason: str) -> None:
        self._rooms.pop(room.name, None)
        held = self._bytes_of(room)
        self._log_bytes -= held
        self._shares.close(room.levels, held)
        if not room.is_rendezvous:
            self._nameplates.rest(now, room.name)
            if room.claimed and not room.is_confirmed:
                self._nameplates.note_guess(now)
        for member in room.members.values():
            self._sessions.pop(member.session, None)
            if member.connection is not None:
                for entry in room.unsent(member):  # at most what the log holds
                    self._give(member.connection, member, entry)
                self._connections.pop(member.connection, None)
                self._outputs.append(
                    ConnectionAction(member.connection, wire.Closed(reason=reason), close=CloseCode.ROOM_ENDED)
                )

    def _trim(self, now: float, room: Room) -> None:
        before = self._bytes_of(room)
        room.trim(now, self.limits.log_s, max_messages=self.limits.log_messages, max_bytes=self.limits.log_bytes)
        freed = before - self._bytes_of(room)
        self._log_bytes -= freed
        self._shares.store(room.levels, -freed)
        for member in list(room.members.values()):
            if member.connection is not None and room.lost_seq[member.role] > member.sent_seq:
                self._pump(now, member)

    def _bytes_of(self, room: Room) -> int:
        """Return what a room's log takes: of the smallest messages most is not payload."""
        return room.log_bytes + len(room.log) * self.limits.entry_bytes

    def _output(self, connection: int, frame: wire.Frame) -> None:
        self._outputs.append(ConnectionAction(connection, frame))

    def _refuse(self, connection: int, code: RelayErrorCode, message: str) -> None:
        self.counters[f"refused_{code}"] += 1
        self._output(connection, wire.Error(code=code, message=message))
