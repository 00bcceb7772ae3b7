"""What happened to an agent, in order: kept bounded, read by any number of late or slow subscribers."""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

import trio

MAX_EVENTS: Final = 512  # ours: some minutes of a session's life, and all of its beginning

E = TypeVar("E")


class Timeline(Generic[E]):
    """A log of events; each subscription reads it from the oldest kept event on and ends when the log does."""

    def __init__(self) -> None:
        self._events: deque[tuple[float, E]] = deque(maxlen=MAX_EVENTS)
        self._next = 0  # number of the next event; the oldest kept one is `_next - len(_events)`
        self._lot = trio.lowlevel.ParkingLot()
        self._ended = False
        self.events_missed = 0

    def record(self, now: float, event: E) -> None:
        """Append an event; the oldest gives way when the log is full."""
        self._events.append((now, event))
        self._next += 1
        self._lot.unpark_all()

    def end(self) -> None:
        """No event follows; subscriptions end after the last one."""
        self._ended = True
        self._lot.unpark_all()

    def entries(self) -> list[tuple[float, E]]:
        """Return what is kept, oldest first, each with its time."""
        return list(self._events)

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
