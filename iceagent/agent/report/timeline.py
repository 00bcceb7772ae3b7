"""What happened to an agent, in order: kept bounded, read by any number of late or slow subscribers.

The latest event on each subject is kept, too (such as the last answer of each server): verdicts need them, and the log
of a long session no longer holds its beginning.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

import trio

MAX_EVENTS: Final = 512  # ours: some minutes of a session's life, and all of its beginning
MAX_MATTERS: Final = 256  # ours: 16 servers, each with every local address and transport
MAX_CLOCK_STEPS: Final = 16  # ours: sleeps and corrections of the wall clock that are told apart
CLOCK_STEP_S: Final = 0.5  # ours: less is drift

E = TypeVar("E")
F = TypeVar("F")


class Timeline(Generic[E]):
    """A log of events; each subscription reads it from the oldest kept event on and ends when the log does.

    Args:
        matter_of: returns what an event is about, such as the server it is an answer of, or None for what matters
            only in its turn. A later event on the same matter takes the place of an earlier one in `latest`.
        wall_clock: seconds since the epoch.
    """

    def __init__(
        self,
        matter_of: Callable[[E], Hashable | None] = lambda event: None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._events: deque[tuple[float, E]] = deque(maxlen=MAX_EVENTS)
        self._next = 0  # number of the next event; the oldest kept one is `_next - len(_events)`
        self._lot = trio.lowlevel.ParkingLot()
        self._ended = False
        self._matter_of = matter_of
        self._latest: dict[Hashable, tuple[float, E]] = {}
        self._wall_clock = wall_clock
        self._clock_steps: list[tuple[float, float]] = []  # (since, what to add to get wall-clock time)
        self.events_missed = 0

    def record(self, now: float, event: E) -> None:
        """Append an event; the oldest gives way when the log is full."""
        entry = (now, event)
        self._events.append(entry)
        self._next += 1
        matter = self._matter_of(event)
        if matter is not None:
            self._latest.pop(matter, None)  # so that the oldest comes first
            self._latest[matter] = entry
            if len(self._latest) > MAX_MATTERS:
                del self._latest[next(iter(self._latest))]
        self._look_at_clock(now)
        self._lot.unpark_all()

    def end(self) -> None:
        """No event follows; subscriptions end after the last one."""
        self._ended = True
        self._lot.unpark_all()

    def entries(self) -> list[tuple[float, E]]:
        """Return what is kept, oldest first, each with its time."""
        return list(self._events)

    @property
    def events_forgotten(self) -> int:
        """How many events are no longer kept."""
        return self._next - len(self._events)

    def latest(self, kind: type[F]) -> list[tuple[float, F]]:
        """Return the latest events of a type on each matter, oldest first, each with its time."""
        return [(at, event) for at, event in self._latest.values() if isinstance(event, kind)]

    def now(self) -> float:
        """Return the present; after the end of Trio's run, when the last event was."""
        if trio.lowlevel.in_trio_run():
            return trio.current_time()
        return self._events[-1][0] if self._events else 0.0

    def wall_time(self, at: float) -> float:
        """Return the wall-clock time of a moment, in seconds since the epoch, as that clock showed then."""
        if not self._clock_steps:
            return self._wall_clock() + at - self.now()
        since = [offset for since, offset in self._clock_steps if since <= at]
        return at + (since[-1] if since else self._clock_steps[0][1])

    def subscribe(self) -> Subscription[E]:
        """Return an asynchronous iterator over what is kept and what follows."""
        return Subscription(self)

    async def next_from(self, number: int) -> tuple[int, E] | None:
        """Wait for the event of that number or the oldest kept after it; return both, or None at the end."""
        await trio.lowlevel.checkpoint()
        while number >= self._next:
            if self._ended:
                return None
            await self._lot.park()
        oldest = self._next - len(self._events)
        if number < oldest:
            self.events_missed += oldest - number
            number = oldest
        return number, self._events[number - oldest][1]

    def _look_at_clock(self, now: float) -> None:
        """Take note when the wall clock has jumped: the monotonic one stands still while the machine sleeps."""
        offset = self._wall_clock() - now
        if not self._clock_steps or abs(offset - self._clock_steps[-1][1]) > CLOCK_STEP_S:
            self._clock_steps.append((now, offset))
            if len(self._clock_steps) > MAX_CLOCK_STEPS:
                del self._clock_steps[1]  # the first one is that of the beginning


class Subscription(Generic[E]):
    """One reader's place in a timeline. Holds no resources: it may be dropped at any point."""

    def __init__(self, timeline: Timeline[E]) -> None:
        self._timeline = timeline
        self._number = 0

    def __aiter__(self) -> Subscription[E]:
        return self

    async def __anext__(self) -> E:
        found = await self._timeline.next_from(self._number)
        if found is None:
            raise StopAsyncIteration
        self._number = found[0] + 1
        return found[1]
