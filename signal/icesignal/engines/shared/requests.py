"""What a node asks of the store that all nodes share, and what it is answered. Values.

A store does each request at once and as a whole, or not at all: a script of Redis, a method of the store of the tests.
Every answer comes with the store's own time, which is the only one that is stored anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from icesignal.engines.shared.state import Change, RoomState
from icesignal.sources import Balance, Charge, Levels

MOST_S: Final = 3_600.0  # how long a budget that is not full is remembered at most


@dataclass(frozen=True, slots=True)
class Lookup:
    """Which room a session was last seen in. Answer: its key, or None."""

    session: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Load:
    """What is stored of a room. Answer: a `RoomState`, empty where there is nothing; or `Unreadable`."""

    key: str = field(repr=False)  # a nameplate is a part of a code


@dataclass(frozen=True, slots=True)
class Prepare:
    """Before sessions enter a room: note where they are, and count the room to who makes it.

    Answer: whether the sources may have another room; where not, nothing is noted. A room that is counted already is
    counted on.

    Attributes:
        key: the room's.
        sessions: who enters.
        levels: who made it, and how many times one source's share each may have.
        keep_s: for how long all of it is kept.
    """

    key: str = field(repr=False)  # a nameplate is a part of a code
    sessions: tuple[bytes, ...] = field(repr=False)
    levels: Levels
    keep_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """Store a change if what is stored is still the version that it was made from, and tell other nodes.

    Answer: whether it was; or `Unreadable`.

    Attributes:
        change: what is to be stored.
        nodes: to be told, where members are connected.
        keep_s: for how long what is stored is kept.
    """

    change: Change
    nodes: tuple[int, ...]
    keep_s: float


@dataclass(frozen=True, slots=True)
class Retire:
    """A room has ended: it counts to nobody any more."""

    key: str = field(repr=False)  # a nameplate is a part of a code
    levels: Levels


@dataclass(frozen=True, slots=True)
class Beat:
    """Say that a node lives; ask which others do, and how much there is to be guessed. Answer: a `Pulse`.

    Attributes:
        node: which.
        others: those asked about.
        guesses: that this node has seen since the last one.
        waiting: how many of its nameplates wait to be claimed.
    """

    node: int
    others: tuple[int, ...]
    guesses: int
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a node is told at its sign of life.

    Attributes:
        alive: of the nodes asked about.
        guesses: at all nodes of late (`nameplates.Guesses`).
        waiting: nameplates at all nodes that wait to be claimed.
        is_known: whether the last sign of life of the one that asks was still stored.
    """

    alive: frozenset[int]
    guesses: float
    waiting: int = 0
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Instead of any answer about a room: what is stored of it is none of ours, or of a version that this is not."""


@dataclass(frozen=True, slots=True)
class Pay:
    """Take from budgets of sources: all that is needed at every level, or nothing. Answer: a `Balance`.

    Attributes:
        levels: who pays, each with how many times the budgets of one source.
        charges: what; at least one.
    """

    levels: Levels
    charges: tuple[Charge, ...]


def keep_budgets_s(charges: Sequence[Charge]) -> float:
    """Return how long budgets are to be kept: what is forgotten is full again."""
    return max(min(one.rate.burst * 2 / one.rate.per_s, MOST_S) if one.rate.per_s else MOST_S for one in charges)


Request = Lookup | Load | Prepare | Step | Retire | Beat | Pay
Answer = RoomState | Pulse | Balance | Unreadable | str | bool | None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and the store's time, Unix seconds."""

    time: float
    answer: Answer
