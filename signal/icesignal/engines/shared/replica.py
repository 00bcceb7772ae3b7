"""One room as a node works on it: commands turn a state into the next one, and a new state into news. Pure functions.

The room's logic is that of `icesignal.rooms`, for every engine: here it is handed one room, made from what is stored,
and what it made of it is read back. What a connection has been given is known to its own node alone (`Window`), so the
node works out from two states what its connections hear; it never matters by which steps one became the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from icesignal import wire
from icesignal.engines.shared.state import (
    MANY,
    PAIR,
    RENDEZVOUS,
    Course,
    Ended,
    Founding,
    Kind,
    RoomState,
    Seat,
    node_of,
)
from icesignal.registry import ENDED_ON_PURPOSE, ConnectionAction, Registry, RoomLimits
from icesignal.room import AnyRoom, Member, RoomOfMany, RoomOfTwo
from icesignal.rooms import RoomTable
from icesignal.sources import Levels, ShareBook
from icesignal.ticket_door import MANY as MANY_KEY

FAR = 2**53  # a position that nothing is after: of connections of other nodes, which know what theirs has been given
BIRTH_BYTES = 8
PARTED = 64  # sessions, of which a room keeps why they went: as many as it can have members
ENTRIES = (wire.Allocate, wire.Join, wire.Meet, wire.Enter, wire.Resume)


@dataclass(frozen=True, slots=True)
class FrameCommand:
    """A frame that came from a client."""

    connection: int
    frame: wire.Frame
    levels: Levels = ()
    challenge: bytes = field(default=b"", repr=False)
    is_found: bool = False  # the room is the one that its session was last seen in


@dataclass(frozen=True, slots=True)
class DisconnectCommand:
    """A connection is gone."""

    connection: int
    hung_up: bool = False


@dataclass(frozen=True, slots=True)
class DrainedCommand:
    """A connection has written all that it was given."""

    connection: int


@dataclass(frozen=True, slots=True)
class TimeoutCommand:
    """Something is due."""


@dataclass(frozen=True, slots=True)
class TouchCommand:
    """What is stored is to be kept on."""


@dataclass(frozen=True, slots=True)
class NodeGoneCommand:
    """A node is gone, and all connections that it had."""

    node: int


@dataclass(frozen=True, slots=True)
class LossCommand:
    """A part of what was accepted is lost: a new epoch."""


Command = (
    FrameCommand | DisconnectCommand | DrainedCommand | TimeoutCommand | TouchCommand | NodeGoneCommand | LossCommand
)


@dataclass(frozen=True, slots=True)
class Window:
    """What a connection of this node has been given: up to which seq, and how many bytes it has not written yet."""

    sent_seq: int
    in_flight: int


Windows = Mapping[int, Window]


class OneNameplate:
    """The nameplates as the logic of one room sees them: the one that it may have, or that rests."""

    def __init__(self, number: str, *, is_resting: bool) -> None:
        self._number = number
        self._is_resting = is_resting
        self.rests = False
        self.guesses = 0

    def take(self, now: float) -> str:
        """Return the one that was drawn."""
        return self._number

    def note_guess(self, now: float) -> None:
        """Count a guess."""
        self.guesses += 1

    def guesses_of_late(self, now: float) -> float:
        """Return nothing: the node knows."""
        return 0.0

    def claim(self, number: str) -> None:
        """Do nothing: the state says so."""

    def rest(self, now: float, number: str) -> None:
        """Note that the number is to rest; the store sees to how long."""
        self.rests = True

    def is_resting(self, number: str) -> bool:
        """Return whether it was in use not long ago."""
        return self._is_resting

    def forget(self, now: float) -> None:
        """Do nothing: the store forgets."""

    def next_timeout(self) -> float | None:
        """Return None: the store forgets."""
        return None


class _Recorder(Registry):
    """A registry that notes why rooms and stays have ended."""

    ended: str | None = None
    parted: tuple[tuple[bytes, str], ...] = ()
    parted_before: Mapping[bytes, str] = {}  # in a room of many, as it is stored

    def end(self, now: float, room: AnyRoom, reason: str) -> None:
        """End a room, and note why."""
        self.ended = reason
        super().end(now, room, reason)

    def dismiss(self, now: float, member: Member, reason: str) -> None:
        """End a session, and note why."""
        self.parted = (*self.parted, (member.session, reason))
        super().dismiss(now, member, reason)

    def why_ended(self, now: float, session: bytes) -> str | None:
        """Return why a session of late was ended on purpose, at whatever node."""
        reason = self.parted_before.get(session)
        return reason if reason in ENDED_ON_PURPOSE else super().why_ended(now, session)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a room's logic needs to know of the node.

    Attributes:
        node: its number.
        randbytes: a cryptographic source.
        limits: the bounds; with no place for a room where the node has none.
        shares: what sources have on this node.
        log_bytes: what all logs of the node take.
    """

    node: int
    randbytes: Callable[[int], bytes]
    limits: RoomLimits
    shares: ShareBook
    log_bytes: int


@dataclass(frozen=True, slots=True)
class RunResult:
    """What commands make of a room.

    Attributes:
        state: with the version that it was made from.
        windows: of the connections of this node.
        actions: on these connections, in order.
        counters: what was done.
        guesses: of those that tried nameplates.
        due_at: when something of the room ends by itself, in the store's time; infinity for never.
    """

    state: RoomState
    windows: Windows
    actions: tuple[ConnectionAction, ...]
    counters: Counter[str]
    guesses: int
    due_at: float


def run(
    key: str, state: RoomState, windows: Windows, commands: Iterable[Command], now: float, around: Surroundings
) -> RunResult:
    """Return what commands make of a room.

    Args:
        key: the room's; a drawn nameplate for `Allocate`.
        state: what is stored.
        windows: of the connections of this node that members are at.
        commands: in order.
        now: the store's time, seconds.
        around: the node.
    """
    book = OneNameplate(key, is_resting=state.is_resting)
    registry = _Recorder(
        randbytes=around.randbytes, limits=around.limits, epoch=1, nameplates=book, shares=around.shares
    )
    registry.log_bytes = around.log_bytes
    if key.startswith(MANY_KEY):
        registry.parted_before = dict(state.parted)
    room = _fill(registry, key, state, windows)
    table = RoomTable(randbytes=around.randbytes, wall_clock=lambda: now, registry=registry)
    known = set(windows)
    for command in commands:
        _run_one(table, registry, command, now, known)
    after = registry.rooms.get(key)
    ours = {
        connection: Window(member.sent_seq, member.in_flight)
        for connection, member in registry.connections.items()
        if connection in known
    }
    new = _read_back(state, room, after, registry, book, around.randbytes)
    return RunResult(
        new,
        ours,
        tuple(one for one in registry.outputs if node_of(one.connection) == around.node),
        registry.counters,
        book.guesses,
        due_at(after, around.limits),
    )


def due_at(room: AnyRoom | None, limits: RoomLimits) -> float:
    """Return when something of a room ends by itself."""
    return float("inf") if room is None else room.next_timeout(limits.log_s, limits.resume_s, limits.unjoined_s)


def _run_one(table: RoomTable, registry: Registry, command: Command, now: float, known: set[int]) -> None:
    match command:
        case FrameCommand(connection, frame, levels, challenge):
            if isinstance(frame, ENTRIES) and connection not in known:
                # Stored already where the answer of the store was lost: for the logic it is the first time.
                registry.connections.pop(connection, None)
            known.add(connection)
            table.handle_frame(now, connection, frame, levels, challenge)
        case DisconnectCommand(connection, hung_up):
            table.handle_disconnect(now, connection, hung_up=hung_up)
        case DrainedCommand(connection):
            table.handle_drained(now, connection)
        case TimeoutCommand():
            table.handle_timeout(now)
        case TouchCommand():
            pass
        case NodeGoneCommand(gone):
            for connection in [one for one in registry.connections if node_of(one) == gone]:
                table.handle_disconnect(now, connection)
        case LossCommand():
            for room in registry.rooms.values():
                room.epoch += 1
                for member in room.members.values():
                    member.may_skip = True
            # Ours are to resume in it; the nodes of the others see the new epoch, and send theirs away as well.
            for connection in sorted(known & registry.connections.keys()):
                registry.outputs.append(ConnectionAction(connection, close=wire.CloseCode.GOING_AWAY))
                table.handle_disconnect(now, connection)


# From what is stored, and back


def _fill(registry: Registry, key: str, state: RoomState, windows: Windows) -> AnyRoom | None:
    """Put the stored room into a registry; return it."""
    if state.founding is None:
        return None
    room = make_room(key, state.founding, state.course, state)
    for place, seat in state.seats.items():
        member = make_member(room, place, seat, windows)
        room.members[place] = member
        registry.sessions[seat.session] = member
        if seat.connection is not None:
            registry.connections[seat.connection] = member
    registry.rooms[key] = room
    return room


def make_room(key: str, founding: Founding, course: Course, state: RoomState) -> AnyRoom:
    """Return a room without members, with the log and what is lost of a state."""
    room: AnyRoom
    if founding.kind == MANY:
        room = RoomOfMany(key, founding.name, course.epoch, founding.created_at, founding.levels)
        room.barred = dict.fromkeys(state.barred)
    else:
        room = RoomOfTwo(key, founding.name, course.epoch, founding.created_at, founding.levels)
        room.is_rendezvous = founding.kind == RENDEZVOUS
        room.claimed, room.is_confirmed = course.claimed, course.is_confirmed
        room.inviter_said = course.inviter_said
    room.seq = course.seq
    room.log.extend(state.log)
    room.log_bytes = sum(len(entry.payload) for entry in state.log)
    room.lost_seq = dict(state.lost)
    return room


def make_member(room: AnyRoom, place: str, seat: Seat, windows: Windows) -> Member:
    """Return a member as it is stored, at a connection of this node with what that was given."""
    window = None if seat.connection is None else windows.get(seat.connection)
    return Member(
        room=room,
        place=place,
        session=seat.session,
        opening=seat.opening,
        token=seat.token,
        previous_token=seat.previous_token,
        ticket=seat.ticket,
        key=seat.key,
        can=frozenset(seat.can),
        until=float("inf") if seat.until is None else seat.until,
        connection=seat.connection,
        away_at=seat.away_at,
        hung_up=seat.hung_up,
        client_seq=seat.client_seq,
        is_settled=seat.is_settled,
        may_skip=seat.may_skip,
        sent_seq=FAR if window is None else window.sent_seq,
        in_flight=0 if window is None else window.in_flight,
    )


def _read_back(
    old: RoomState,
    before: AnyRoom | None,
    room: AnyRoom | None,
    registry: _Recorder,
    book: OneNameplate,
    randbytes: Callable[[int], bytes],
) -> RoomState:
    """Return a room as it is to be stored, with the version that it was made from."""
    ended = old.ended
    if before is not None and old.founding is not None and room is not before:
        ended = Ended(old.founding.birth, registry.ended or "", is_resting=book.rests)
    if room is None:
        if before is None:
            return old
        log = tuple(before.log)  # who has not been given it yet still hears it
        return RoomState(version=old.version, ended=ended, log=log, parted=registry.parted[-PARTED:])
    seats = old.seats if room is before else {}
    rank = max((seat.rank for seat in seats.values()), default=0)
    new_seats: dict[str, Seat] = {}
    for place, member in room.members.items():
        seat = seats.get(place)
        if seat is None or seat.session != member.session:
            rank += 1
            new_seats[place] = _seat(rank, member)
        else:
            new_seats[place] = _seat(seat.rank, member)
    founding = old.founding if room is before else _found(room, randbytes)
    parted = ((*old.parted, *registry.parted) if room is before else registry.parted)[-PARTED:]
    return RoomState(
        version=old.version,
        founding=founding,
        course=_course(room),
        lost=room.lost_seq,
        barred=tuple(room.barred) if isinstance(room, RoomOfMany) else (),
        seats=new_seats,
        log=tuple(room.log),
        ended=ended,
        parted=parted,
    )


def _found(room: AnyRoom, randbytes: Callable[[int], bytes]) -> Founding:
    kind: Kind = MANY if not isinstance(room, RoomOfTwo) else RENDEZVOUS if room.is_rendezvous else PAIR
    return Founding(kind, room.name, room.created_at, tuple(room.levels), randbytes(BIRTH_BYTES))


def _course(room: AnyRoom) -> Course:
    if isinstance(room, RoomOfTwo):
        return Course(room.epoch, room.seq, room.claimed, room.inviter_said, room.is_confirmed)
    return Course(room.epoch, room.seq)


def _seat(rank: int, member: Member) -> Seat:
    return Seat(
        rank=rank,
        session=member.session,
        opening=member.opening,
        token=member.token,
        previous_token=member.previous_token,
        ticket=member.ticket,
        key=member.key,
        can=tuple(sorted(member.can)),
        until=None if member.until == float("inf") else member.until,
        connection=member.connection,
        away_at=member.away_at,
        hung_up=member.hung_up,
        client_seq=member.client_seq,
        is_settled=member.is_settled,
        may_skip=member.may_skip,
    )
