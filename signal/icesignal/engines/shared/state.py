"""What a store keeps of a room: values, the fields they are stored in, and how two of them differ. Pure functions.

A room is a hash of fields and a hash of log entries. A step names the version it was made from and the fields that it
changes, so a node that has that version follows with the change alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec.msgpack import Decoder

from icesignal.room import LogEntry

Kind = Literal["pair", "rendezvous", "many"]
PAIR: Final = "pair"
RENDEZVOUS: Final = "rendezvous"
MANY: Final = "many"
_SEAT = "m"  # before a member's place, in the name of its field
_NUMBER_BITS = 32

T = TypeVar("T")
Version = Annotated[str, msgspec.Meta(pattern=r"\A(?:[0-9]{1,15}-[0-9a-f]*)?\Z")]


def connection_of(node: int, number: int) -> int:
    """Return a connection's number that no other node has."""
    return node << _NUMBER_BITS | number


def node_of(connection: int) -> int:
    """Return the node that has a connection."""
    return connection >> _NUMBER_BITS


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """Stored as a list, in the order of its fields; a field is only ever added at the end, with a default."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"  # much of it is secret


class Founding(_Stored, frozen=True, array_like=True):
    """What never changes of a room. `birth` tells rooms apart that have one key after each other."""

    kind: Kind
    name: str
    created_at: float
    levels: tuple[tuple[str, float], ...]
    birth: bytes


class Course(_Stored, frozen=True, array_like=True):
    """Where a room's order is, and what has become of its claim."""

    epoch: int = 1
    seq: int = 0
    claimed: bool = False
    inviter_said: int = 0
    is_confirmed: bool = False


class Seat(_Stored, frozen=True, array_like=True):
    """A member, as `icesignal.room.Member`; `rank` orders those of a room, `connection` has the node's number, too."""

    rank: int
    session: bytes
    opening: bytes
    token: bytes
    previous_token: bytes | None
    ticket: bytes
    key: bytes
    can: tuple[str, ...]
    until: float | None
    connection: int | None
    away_at: float | None
    hung_up: bool
    client_seq: int
    is_settled: bool
    may_skip: bool


class Ended(_Stored, frozen=True, array_like=True):
    """The room of this birth has ended, and its nameplate rests; or the one before the room that there is."""

    birth: bytes
    reason: str
    is_resting: bool


class _Entry(_Stored, frozen=True, array_like=True):
    at: float
    sender: str
    client_seq: int
    payload: bytes
    to: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class RoomState:
    """One version of a room.

    Attributes:
        version: empty while nothing is stored under this key.
        founding: None where there is no room.
        lost: see `AnyRoom.lost_seq`.
        seats: the members, by place.
        log: oldest first; of a room that has ended, what may not have been given to everybody.
        parted: sessions of late whose stay ended before the room's, and why.
    """

    version: str = ""
    founding: Founding | None = None
    course: Course = field(default_factory=Course)
    lost: Mapping[str, int] = field(default_factory=dict[str, int])
    barred: tuple[str, ...] = ()
    seats: Mapping[str, Seat] = field(default_factory=dict[str, Seat], repr=False)
    log: tuple[LogEntry, ...] = ()
    ended: Ended | None = None
    parted: tuple[tuple[bytes, str], ...] = field(default=(), repr=False)

    @property
    def is_resting(self) -> bool:
        """Whether this was a nameplate not long ago."""
        return self.founding is None and self.ended is not None and self.ended.is_resting

    def seat_of(self, session: bytes) -> Seat | None:
        """Return the seat of a session."""
        return next((seat for seat in self.seats.values() if seat.session == session), None)

    def nodes(self) -> set[int]:
        """Return the nodes that members are connected to."""
        return {node_of(seat.connection) for seat in self.seats.values() if seat.connection is not None}


EMPTY: Final = RoomState()


class Change(_Stored, frozen=True, array_like=True):
    """What a step does to what is stored of one room; also what is published of it.

    Attributes:
        key: the room's.
        before: the version that it was made from; empty for none.
        after: the version that it makes.
        is_whole: what was stored before goes first.
        put: fields and their values.
        drop: fields that go.
        entries: new ones of the log, by seq.
        trimmed: seqs of those that go.
    """

    key: str
    before: Version
    after: Version
    is_whole: bool = False
    put: dict[str, bytes] = {}
    drop: list[str] = []
    entries: dict[int, bytes] = {}
    trimmed: list[int] = []


def count_of(version: str) -> int:
    """Return the number of steps behind a version."""
    return int(version.partition("-")[0]) if version else 0


def next_version(version: str, tag: bytes) -> str:
    """Return a name for what follows upon a version. The tag tells it from what another node makes of it."""
    return f"{count_of(version) + 1}-{tag.hex()}"


_encode = msgspec.msgpack.Encoder().encode
_founding: Decoder[Founding | None] = Decoder(Founding | None)
_course = Decoder(Course)
_lost: Decoder[Mapping[str, int]] = Decoder(dict[str, int])
_barred: Decoder[tuple[str, ...]] = Decoder(tuple[str, ...])
_ended: Decoder[Ended | None] = Decoder(Ended | None)
_parted: Decoder[tuple[tuple[bytes, str], ...]] = Decoder(tuple[tuple[bytes, str], ...])
_seat = Decoder(Seat)
_entry = Decoder(_Entry)
_change = Decoder(Change)


def difference(key: str, old: RoomState, new: RoomState, after: str, *, is_whole: bool = False) -> Change:
    """Return what turns the stored `old` into `new`; with `is_whole` all of `new`, whatever is stored."""
    is_whole = is_whole or (new.founding is not None and new.founding != old.founding)
    base = EMPTY if is_whole else old
    put = {
        name: _encode(value)
        for name, value, before in (
            ("f", new.founding, base.founding),
            ("c", new.course, base.course),
            ("l", new.lost, base.lost),
            ("b", new.barred, base.barred),
            ("e", new.ended, base.ended),
            ("p", new.parted, base.parted),
        )
        if value != before
    }
    put |= {_SEAT + place: _encode(seat) for place, seat in new.seats.items() if base.seats.get(place) != seat}
    drop = [_SEAT + place for place in base.seats if place not in new.seats]
    newest = base.log[-1].seq if base.log else 0
    oldest = new.log[0].seq if new.log else newest + 1
    entries = {entry.seq: _encode(_stored(entry)) for entry in new.log if entry.seq > newest}
    trimmed = [entry.seq for entry in base.log if entry.seq < oldest]
    return Change(key, old.version, after, is_whole, put, drop, entries, trimmed)


def follow(state: RoomState, change: Change) -> RoomState:
    """Return what a change makes of the state that it was made from.

    Raises:
        msgspec.DecodeError: one of its values is none of ours.
    """
    base, put = EMPTY if change.is_whole else state, change.put
    seats = {place: seat for place, seat in base.seats.items() if _SEAT + place not in change.drop}
    seats |= {name[len(_SEAT) :]: _seat.decode(data) for name, data in put.items() if name.startswith(_SEAT)}
    gone = frozenset(change.trimmed)
    return RoomState(
        version=change.after,
        founding=_read(put, "f", _founding, base.founding),
        course=_read(put, "c", _course, base.course),
        lost=_read(put, "l", _lost, base.lost),
        barred=_read(put, "b", _barred, base.barred),
        seats=_ranked(seats),
        log=(*(entry for entry in base.log if entry.seq not in gone), *_read_log(change.entries)),
        ended=_read(put, "e", _ended, base.ended),
        parted=_read(put, "p", _parted, base.parted),
    )


def read_state(version: str, fields: dict[str, bytes], entries: dict[int, bytes]) -> RoomState:
    """Return what is stored.

    Raises:
        msgspec.DecodeError: it is none of ours.
    """
    msgspec.convert(version, Version)
    return follow(EMPTY, Change("", "", version, put=fields, entries=entries))


def _read(fields: Mapping[str, bytes], name: str, decoder: Decoder[T], default: T) -> T:
    data = fields.get(name)
    return default if data is None else decoder.decode(data)


def _ranked(seats: dict[str, Seat]) -> dict[str, Seat]:
    return dict(sorted(seats.items(), key=lambda item: item[1].rank))


def _stored(entry: LogEntry) -> _Entry:
    to = None if entry.to is None else tuple(sorted(entry.to))
    return _Entry(entry.at, entry.sender, entry.client_seq, entry.payload, to)


def _read_log(entries: Mapping[int, bytes]) -> list[LogEntry]:
    read = ((seq, _entry.decode(data)) for seq, data in sorted(entries.items()))
    return [
        LogEntry(seq, one.at, one.sender, one.client_seq, one.payload, None if one.to is None else frozenset(one.to))
        for seq, one in read
    ]


def encode_change(change: Change) -> bytes:
    """Return a change as it is handed to the store and published."""
    return _encode(change)


def decode_change(data: bytes) -> Change:
    """Return a change that was published.

    Raises:
        msgspec.DecodeError: it is none; somebody else writes to the store.
    """
    return _change.decode(data)
