"""A heap of deadlines that can be cancelled, and then leave nothing behind."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Deadline:
    """Something to be called at a time, until it is cancelled. Made by `Deadlines.call_at`."""

    __slots__ = ("_what",)

    def __init__(self, what: Callable[[float], None]) -> None:
        self._what: Callable[[float], None] | None = what

    @property
    def is_set(self) -> bool:
        """Whether it is still to come."""
        return self._what is not None

    def take(self) -> Callable[[float], None] | None:
        """Return what is to be called, and forget it."""
        what, self._what = self._what, None
        return what


class Deadlines:
    """Deadlines in order of time; those of one time in the order in which they were set.

    What was cancelled is let go at once: neither what it would have called lives on, nor is more than half of the heap
    ever empty entries, so that a machine whose objects are all closed holds none.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Deadline]] = []
        self._sequence = 0
        self._cancelled = 0

    def __len__(self) -> int:
        """Return how many entries there are, empty ones included."""
        return len(self._heap)

    def call_at(self, at: float, what: Callable[[float], None]) -> Deadline:
        """Have `what(now)` called at `at`, seconds, or soon after."""
        self._sequence += 1
        deadline = Deadline(what)
        heapq.heappush(self._heap, (at, self._sequence, deadline))
        return deadline

    def cancel(self, deadline: Deadline | None) -> None:
        """Take a deadline back, if there is one and it has not come."""
        if deadline is None or deadline.take() is None:
            return
        self._cancelled += 1
        if 2 * self._cancelled > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].is_set]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def next_timeout(self) -> float | None:
        """Return when the next one is, seconds; None: never."""
        while self._heap and not self._heap[0][2].is_set:
            heapq.heappop(self._heap)
            self._cancelled -= 1
        return self._heap[0][0] if self._heap else None

    def handle_timeout(self, now: float) -> None:
        """Call what is due."""
        while (at := self.next_timeout()) is not None and at <= now:
            what = heapq.heappop(self._heap)[2].take()
            assert what is not None, "empty entries are gone"
            what(now)
