"""What the connections of a node hear when a room has become another one, by whatever steps. A pure function."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from icesignal import wire
from icesignal.engines.shared.replica import (
    DisconnectCommand,
    OneNameplate,
    Surroundings,
    Window,
    Windows,
    due_at,
    make_member,
    make_room,
)
from icesignal.engines.shared.state import RoomState, Seat
from icesignal.registry import ConnectionAction, Registry
from icesignal.room import JOINER, Member
from icesignal.wire import CloseCode

UNTOLD = "expired"  # why a room ended of which even that is forgotten


@dataclass(frozen=True, slots=True)
class News:
    """What follows from a new state.

    Attributes:
        windows: of the connections of this node that members are still at.
        actions: on the connections of this node, in order.
        commands: what this node has to do about it.
        due_at: when something of the room ends by itself; infinity for never.
    """

    windows: Windows
    actions: tuple[ConnectionAction, ...]
    commands: tuple[DisconnectCommand, ...]
    due_at: float
    counters: Counter[str]


class _Teller:
    """Tells the connections of one node what has become of their room."""

    def __init__(self, key: str, old: RoomState, new: RoomState, windows: Windows, around: Surroundings) -> None:
        self.old, self.new, self.windows = old, new, windows
        self.registry = Registry(
            randbytes=around.randbytes,
            limits=around.limits,
            epoch=1,
            nameplates=OneNameplate(key, is_resting=False),
            shares=around.shares,
        )
        self.commands: list[DisconnectCommand] = []
        self.is_same = new.founding is not None and old.founding is not None and new.founding == old.founding
        self.room = None if new.founding is None else make_room(key, new.founding, new.course, new)
        if self.room is not None:
            for place, seat in new.seats.items():
                self.room.members[place] = make_member(self.room, place, seat, windows)
        # Whose stay is over hears the rest of the log first. What follows in the log of another room is not for them.
        self.last = None
        if old.founding is not None:
            is_known = self.is_same or (new.founding is None and new.ended is not None and _is_of(new, old))
            self.last = make_room(key, old.founding, old.course, new if is_known else old)

    def tell(self) -> News:
        """Work out all of it."""
        stay = self._staying()
        self._tell_presence(stay, are_here=True)
        for member in stay:
            self._give(member)
        self._tell_presence(stay, are_here=False)
        windows = {
            member.connection: Window(member.sent_seq, member.in_flight)
            for member in stay
            if member.connection is not None
        }
        registry = self.registry
        due = due_at(self.room, registry.limits)
        return News(windows, tuple(registry.outputs), tuple(self.commands), due, registry.counters)

    def _staying(self) -> list[Member]:
        """Return the members that are still at a connection of this node; the other connections are ended."""
        stay: list[Member] = []
        for place, seat in self.old.seats.items():
            if seat.connection is None or seat.connection not in self.windows:
                continue
            now = self.new.seat_of(seat.session) if self.is_same else None
            if now is None or self.room is None:
                self._dismiss(place, seat)
            elif now.connection != seat.connection:
                # Nobody's: this node was taken for gone. The client is to resume, and not to think it is elsewhere.
                code = CloseCode.GOING_AWAY if now.connection is None else CloseCode.FENCED
                self._close(seat.connection, code)
            elif self.new.course.epoch != self.old.course.epoch:
                self._leave(seat.connection, CloseCode.GOING_AWAY)
            else:
                stay.append(self.room.members[place])
        return stay

    def _dismiss(self, place: str, seat: Seat) -> None:
        if self.last is None:
            return
        ended = self.new.ended
        reason = dict(self.new.parted).get(seat.session, "")
        if not reason:
            reason = ended.reason if ended is not None and _is_of(self.new, self.old) else UNTOLD
        self.registry.dismiss(0.0, make_member(self.last, place, seat, self.windows), reason)

    def _close(self, connection: int, code: CloseCode) -> None:
        self.registry.outputs.append(ConnectionAction(connection, close=code))

    def _leave(self, connection: int, code: CloseCode) -> None:
        """End a connection that is still the member's, which is away then."""
        self._close(connection, code)
        self.commands.append(DisconnectCommand(connection))

    def _give(self, member: Member) -> None:
        if member.connection is None:
            return
        if member.room.lost(member.place) > member.sent_seq:
            self.registry.counters["too_slow"] += 1
            self._leave(member.connection, CloseCode.TOO_SLOW)
            member.connection = None
            return
        self.registry.pump(0.0, member)
        is_confirmed = self.new.course.is_confirmed and not self.old.course.is_confirmed
        if is_confirmed and member.place == JOINER:
            self.registry.outputs.append(ConnectionAction(member.connection, is_confirmed=True))

    def _tell_presence(self, stay: list[Member], *, are_here: bool) -> None:
        """Tell who came or came back, or who went, to those who stay."""
        room = self.room
        if room is None or not stay:
            return
        for place in self.new.seats if are_here else {**self.old.seats, **self.new.seats}:
            before, now = self.old.seats.get(place), self.new.seats.get(place)
            if (now is not None and now.connection is not None) is not are_here:
                continue
            if before is not None and (now is None or now.session != before.session) and self.last is not None:
                self._tell(stay, place, room.news_of(make_member(room, place, before, {})))
            if now is not None and _shown(before) != _shown(now):
                self._tell(stay, place, room.news_of(room.members[place]))

    def _tell(self, stay: list[Member], place: str, frame: wire.Frame) -> None:
        for member in stay:
            if member.place != place and member.connection is not None:
                self.registry.output(member.connection, frame)


def _is_of(new: RoomState, old: RoomState) -> bool:
    """Return whether what is said to have ended is the old room."""
    return new.ended is not None and old.founding is not None and new.ended.birth == old.founding.birth


def _shown(seat: Seat | None) -> tuple[object, ...] | None:
    """Return what the others are told of a member, and when anew."""
    return None if seat is None else (seat.session, seat.connection, seat.hung_up, seat.ticket, seat.opening)


def news(key: str, old: RoomState, new: RoomState, windows: Windows, around: Surroundings) -> News:
    """Return what follows for the connections of this node where `old` has become `new`."""
    return _Teller(key, old, new, windows, around).tell()
