"""The rooms of a relay: their members, their messages, and who has not received them yet. Sans-IO.

`RoomTable` takes frames and disconnects with the time, and yields outputs; it neither waits nor raises for anything
that a client sends. Source: docs/relay-protocol.md sections 1, 4, 5 and 13.
"""

from __future__ import annotations

import hmac
import math
import time
from collections import Counter
from collections.abc import Callable

from icesignal import tickets, wire
from icesignal.pair_door import CONFIRMED_AFTER, PairDoor
from icesignal.registry import ConnectionAction, Registry, RoomLimits
from icesignal.room import INVITER, AnyRoom, Member, RoomOfMany, RoomOfTwo
from icesignal.sources import Levels
from icesignal.ticket_door import TicketDoor
from icesignal.wire import CloseCode, RelayErrorCode

__all__ = ["ConnectionAction", "RoomLimits", "RoomTable"]


class RoomTable:
    """All rooms of one node. One mutation (`handle_*`), then drain `poll_output`, then wait until `next_timeout`."""

    def __init__(
        self,
        *,
        randbytes: Callable[[int], bytes],
        limits: RoomLimits | None = None,
        epoch: int = 1,
        wall_clock: Callable[[], float] = time.time,
        registry: Registry | None = None,
    ) -> None:
        """Make a table.

        Args:
            randbytes: a cryptographic source, for tokens and nameplates.
            limits: the bounds.
            epoch: of the rooms made here.
            wall_clock: gives Unix time, by which tickets expire.
            registry: the rooms that there are; none by default.
        """
        self._registry = registry or Registry(randbytes=randbytes, limits=limits or RoomLimits(), epoch=epoch)
        self._pairs = PairDoor(self._registry)
        self._tickets = TicketDoor(self._registry, wall_clock)

    @property
    def limits(self) -> RoomLimits:
        """The bounds."""
        return self._registry.limits

    @property
    def counters(self) -> Counter[str]:
        """What became of what was asked."""
        return self._registry.counters

    @property
    def room_count(self) -> int:
        """The number of rooms there are."""
        return len(self._registry.rooms)

    @property
    def session_count(self) -> int:
        """The number of sessions that could resume."""
        return len(self._registry.sessions)

    @property
    def log_bytes(self) -> int:
        """The bytes that all logs take."""
        return self._registry.log_bytes

    def guesses(self, now: float) -> float:
        """Return how much guessing there has been of late."""
        return self._registry.nameplates.guesses_of_late(now)

    # -- the sans-IO contract

    def handle_frame(
        self, now: float, connection: int, frame: wire.Frame, levels: Levels = (), challenge: bytes = b""
    ) -> None:
        """Take one frame from one connection.

        Args:
            now: the time, seconds.
            connection: any number that the shell never uses twice.
            frame: what came.
            levels: who is connected; a room that it makes counts against them.
            challenge: what its `welcome` had, and a ticket's owner has signed.
        """
        member = self._registry.connections.get(connection)
        if member is not None:
            member.confirm_token()
        match frame:
            case wire.Send():
                self._handle_send(now, connection, member, frame)
            case wire.Close():
                self._handle_close(now, connection, member, frame)
            case wire.Remove():
                self._tickets.handle_remove(now, connection, member, frame)
            case wire.Enter():
                self._tickets.handle_enter(now, connection, member, frame, levels, challenge)
            case _ if member is not None:
                self._registry.refuse(
                    connection, RelayErrorCode.ALREADY_JOINED, "this connection has its session already"
                )
            case wire.Allocate():
                self._pairs.handle_allocate(now, connection, frame, levels)
            case wire.Join():
                self._pairs.handle_join(now, connection, frame)
            case wire.Meet():
                self._pairs.handle_meet(now, connection, frame, levels)
            case wire.Resume():
                self._handle_resume(now, connection, frame)
            case _:
                self._registry.refuse(connection, RelayErrorCode.UNKNOWN_TYPE, "a relay takes no such frame")

    def handle_disconnect(self, now: float, connection: int, *, hung_up: bool = False) -> None:
        """Note that a connection is gone, and whether its client closed it without a goodbye.

        Its session stays for `resume_s`.
        """
        self._registry.disconnect(now, connection, hung_up=hung_up)

    def handle_drained(self, now: float, connection: int) -> None:
        """Note that a connection has written all that it was given, so that it takes more."""
        member = self._registry.connections.get(connection)
        if member is not None:
            member.in_flight = 0
            self._registry.pump(now, member)

    def handle_timeout(self, now: float) -> None:
        """Forget what is over: log entries, sessions without a connection, rooms nobody joined, rested nameplates."""
        for room in list(self._registry.rooms.values()):
            self._registry.trim(now, room)
            if room.over_at(self._registry.limits.resume_s, self._registry.limits.unjoined_s) <= now:
                self._expire(now, room)
        self._registry.nameplates.forget(now)

    def _expire(self, now: float, room: AnyRoom) -> None:
        """End a room of two of which one is over; of many, those members' stay."""
        if not isinstance(room, RoomOfMany):
            self._registry.counters["rooms_expired"] += 1
            self._registry.end(now, room, "expired")
            return
        for member in list(room.members.values()):
            if member.over_at(self._registry.limits.resume_s) <= now:
                self._registry.counters["members_expired"] += 1
                self._tickets.leave(now, room, member, "expired")

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` has something to do, at the earliest; None while there is nothing."""
        limits = self._registry.limits
        deadlines = [
            room.next_timeout(limits.log_s, limits.resume_s, limits.unjoined_s)
            for room in self._registry.rooms.values()
        ]
        rested = self._registry.nameplates.next_timeout()
        if rested is not None:
            deadlines.append(rested)
        soonest = min(deadlines, default=math.inf)
        return None if soonest == math.inf else soonest

    def poll_output(self) -> ConnectionAction | None:
        """Return the next thing to do, in order; None when all is done."""
        return self._registry.outputs.popleft() if self._registry.outputs else None

    # -- resuming

    def _handle_resume(self, now: float, connection: int, frame: wire.Resume) -> None:
        member = self._registry.sessions.get(frame.session)
        if member is None:
            self._refuse_resume(now, connection, frame.session)
            return
        if not self._token_fits(member, frame.token):
            self._registry.refuse(connection, RelayErrorCode.BAD_TOKEN, "this token was used or replaced")
            return
        if hmac.compare_digest(member.token, frame.token):
            member.rotate_token(self._registry.randbytes(wire.TOKEN_BYTES))
        member.is_settled = True
        room = member.room
        self._registry.trim(now, room)
        self._registry.attach(connection, member)
        if frame.epoch != room.epoch or frame.seq > room.seq or frame.seq < room.lost(member.place):
            self._registry.counters["resyncs"] += 1
            self._registry.welcome(now, connection, member, "resync", room.seq)
        else:
            self._registry.counters["resumes"] += 1
            self._registry.welcome(now, connection, member, "resumed", frame.seq)

    def _refuse_resume(self, now: float, connection: int, session: bytes) -> None:
        """Tell who resumes what is no more why it was ended, if that is known."""
        reason = self._registry.why_ended(now, session)
        if reason is None:
            self._registry.refuse(connection, RelayErrorCode.UNKNOWN_SESSION, "this session is over")
        else:
            closed = ConnectionAction(connection, wire.Closed(reason=reason), close=CloseCode.ROOM_ENDED)
            self._registry.outputs.append(closed)

    @staticmethod
    def _token_fits(member: Member, token: bytes) -> bool:
        # Both are compared, so that the time reveals nothing about which one it was.
        current = hmac.compare_digest(member.token, token)
        previous = hmac.compare_digest(member.previous_token or b"", token)
        return current or previous

    # -- talking

    def _handle_send(self, now: float, connection: int, member: Member | None, frame: wire.Send) -> None:
        if member is None:
            self._registry.refuse(connection, RelayErrorCode.NOT_JOINED, "enter a room first")
            return
        room = member.room
        self._registry.trim(now, room)
        if frame.client_seq <= member.client_seq:
            self._registry.counters["duplicates"] += 1
            seq = room.seq_of(member.place, frame.client_seq)
            self._registry.output(connection, wire.Ack(client_seq=frame.client_seq, epoch=room.epoch, seq=seq))
            return
        if frame.client_seq != member.client_seq + 1 and not member.may_skip:
            self._registry.refuse(connection, RelayErrorCode.GAP, f"expected client_seq {member.client_seq + 1}")
            return
        size = len(frame.payload) + self._registry.limits.entry_bytes
        is_full = self._registry.log_bytes + size > self._registry.limits.total_log_bytes
        if is_full or not self._registry.shares.may_store(room.levels, size):
            self._registry.refuse(connection, RelayErrorCode.BUSY, "the relay's memory is full; try again later")
            return
        self._registry.counters["messages"] += 1
        self._registry.log_bytes += size
        self._registry.shares.store(room.levels, size)
        entry = room.append(now, member, frame)
        self._registry.output(connection, wire.Ack(client_seq=frame.client_seq, epoch=room.epoch, seq=entry.seq))
        if isinstance(room, RoomOfTwo) and member.place == INVITER and room.claimed:
            self._pairs.confirm(room, room.inviter_said + 1)
        hearers = [other for other in room.others(member) if entry.is_for(other.place)]
        if len(hearers) > 1:
            copies = len(hearers) - 1
            self._registry.outputs.append(
                ConnectionAction(connection, copies=copies, copied_bytes=copies * len(entry.payload))
            )
        for other in hearers:
            self._registry.pump(now, other)
        self._registry.trim(now, room)

    def _handle_close(self, now: float, connection: int, member: Member | None, frame: wire.Close) -> None:
        if member is None:
            self._registry.refuse(connection, RelayErrorCode.NOT_JOINED, "enter a room first")
            return
        room = member.room
        if isinstance(room, RoomOfMany) and frame.reason == "done" and tickets.END not in member.can:
            self._registry.refuse(connection, RelayErrorCode.FORBIDDEN, "this ticket does not let you end the room")
            return
        self._registry.counters[f"closed_{frame.reason}"] += 1
        if isinstance(room, RoomOfTwo) and member.place == INVITER and room.claimed and frame.reason == "done":
            self._pairs.confirm(room, CONFIRMED_AFTER)
        self._registry.connections.pop(connection, None)
        member.connection = None
        self._registry.outputs.append(ConnectionAction(connection, close=CloseCode.DONE))
        if isinstance(room, RoomOfMany) and frame.reason != "done":
            self._tickets.leave(now, room, member, frame.reason)
        else:
            self._registry.end(now, room, frame.reason)
