"""One timer for all agents of a Trio run: a thousand agents cost no more wake-ups than their deadlines need.

Each agent waits in `Clock.serve`. One of those tasks, the leader, sleeps until the earliest deadline of all and calls
whoever is due; the others are parked and cost nothing. When the leader's agent closes, another one takes over, so no
task outlives its agent.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Final, NoReturn

import trio

from iceagent.net.tasks import PerRun

_MAX_RINGS: Final = 64  # ours: agents served in one go; then other tasks get their turn
_MAX_DEAD: Final = 256  # ours: entries nobody waits for any more, beyond as many as there are live ones


class Alarm:
    """One agent's deadline: `ring` is called once after it has come. Made by `Clock.alarm`."""

    __slots__ = ("_clock", "_parked", "at", "error", "ring")

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._parked = trio.Event()
        self.at = math.inf
        self.ring = ring
        self.error: Exception | None = None

    def set(self, at: float) -> None:
        """Ring at `at` and no earlier; infinity for never. A few microseconds, and nothing if it is so already."""
        if at != self.at:
            self.at = at
            self._clock.schedule(self)

    def wake(self) -> None:
        """Let the parked task look around."""
        self._parked.set()

    def fail(self, error: Exception) -> None:
        """Raise an error in the task that serves this alarm: for what fails elsewhere on its agent's behalf."""
        self.error = error
        self.wake()
        self._clock.interrupt(self)

    async def park(self) -> None:
        """Wait for `wake`."""
        await self._parked.wait()
        self._parked = trio.Event()


class Clock:
    """The deadlines of one Trio run; see `clock`."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarm]] = []
        self._entries: dict[Alarm, int] = {}
        self._numbers = 0
        self._leader: Alarm | None = None
        self._heirs: dict[Alarm, None] = {}
        self._sleep: trio.CancelScope | None = None

    def __len__(self) -> int:
        """Return how many deadlines are set."""
        return len(self._entries)

    def alarm(self, ring: Callable[[], None]) -> Alarm:
        """Return a deadline that is not set yet; somebody has to be in `serve` with it when it comes."""
        return Alarm(self, ring)

    def schedule(self, alarm: Alarm) -> None:
        """Take note that the deadline of an alarm has changed."""
        if alarm.at == math.inf:
            self._entries.pop(alarm, None)
            return
        self._numbers += 1
        self._entries[alarm] = self._numbers
        heapq.heappush(self._heap, (alarm.at, self._numbers, alarm))
        if self._sleep is not None and alarm.at < self._sleep.deadline:
            self._sleep.deadline = alarm.at
        if len(self._heap) > 2 * len(self._entries) + _MAX_DEAD:
            self._forget_dead()

    def _forget_dead(self) -> None:
        self._heap = [entry for entry in self._heap if self._is_live(entry)]
        heapq.heapify(self._heap)

    def interrupt(self, alarm: Alarm) -> None:
        """Let the task of an alarm look around at once, should it be the one that sleeps for all."""
        if self._leader is alarm and self._sleep is not None:
            self._sleep.cancel()

    async def serve(self, alarm: Alarm) -> NoReturn:
        """Let an alarm ring until cancelled; afterwards it is not set.

        Raises:
            Exception: what `ring` raised, in the task of the agent it belongs to.
        """
        try:
            while True:
                if self._leader is None:
                    self._leader = alarm
                    await self._lead(alarm)
                else:
                    self._heirs[alarm] = None
                    await alarm.park()
                if alarm.error is not None:
                    raise alarm.error
        finally:
            self._leave(alarm)

    async def _lead(self, alarm: Alarm) -> None:
        """Call whoever is due, until cancelled or the leader's own alarm fails."""
        while alarm.error is None:
            with trio.CancelScope(deadline=self._earliest()) as self._sleep:
                await trio.sleep_forever()
            self._sleep = None
            self._ring_due(trio.current_time())

    def _earliest(self) -> float:
        while self._heap and not self._is_live(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def _is_live(self, entry: tuple[float, int, Alarm]) -> bool:
        return self._entries.get(entry[2]) == entry[1]

    def _ring_due(self, now: float) -> None:
        """Call those due, at most `_MAX_RINGS`, so that other tasks get their turn."""
        for _ in range(_MAX_RINGS):
            if self._earliest() > now:
                return
            alarm = heapq.heappop(self._heap)[2]
            del self._entries[alarm]
            alarm.at = math.inf
            try:
                alarm.ring()
            except Exception as error:  # of another agent, maybe: it is raised in the task of that one
                alarm.fail(error)

    def _leave(self, alarm: Alarm) -> None:
        alarm.set(math.inf)
        if len(self._heap) > 2 * len(self._entries):
            self._forget_dead()  # an alarm holds its agent, which must not live on until a deadline that it had
        self._heirs.pop(alarm, None)
        if self._leader is alarm:
            self._leader = self._sleep = None
        if self._leader is None:  # also where the heir called last leaves before it could lead
            for heir in self._heirs:
                del self._heirs[heir]
                heir.wake()
                return


_clock: Final = PerRun("iceagent.agent.clock", Clock)


def clock() -> Clock:
    """Return the clock of this Trio run."""
    return _clock.get()
