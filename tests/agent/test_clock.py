"""The one timer of all agents: on time, handed over, and nobody's error hits another."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import trio
import trio.testing

from iceagent.agent.clock import Alarm, Clock, clock


class Bell:
    """Notes when it rang."""

    def __init__(self, timers: Clock, again_s: float = math.inf) -> None:
        self.rang: list[float] = []
        self.again_s = again_s
        self.alarm: Alarm = timers.alarm(self.ring)

    def ring(self) -> None:
        now = trio.current_time()
        self.rang.append(now)
        self.alarm.set(now + self.again_s)


async def test_each_rings_at_its_own_time(autojump_clock: trio.testing.MockClock) -> None:
    """One task sleeps for all: a deadline set later, but earlier than the one slept for, is not missed."""
    timers, start = Clock(), trio.current_time()
    slow, quick = Bell(timers), Bell(timers)
    async with trio.open_nursery() as nursery:
        for bell in (slow, quick):
            nursery.start_soon(timers.serve, bell.alarm)
        slow.alarm.set(start + 10)
        await trio.sleep(1)
        quick.alarm.set(start + 2)
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert (quick.rang, slow.rang) == ([start + 2], [start + 10])


async def test_a_deadline_moved_back_or_cleared_does_not_ring(autojump_clock: trio.testing.MockClock) -> None:
    """Answers move the next deadline later; the old one would wake an agent for nothing."""
    timers, start = Clock(), trio.current_time()
    moved, cleared = Bell(timers), Bell(timers)
    async with trio.open_nursery() as nursery:
        for bell in (moved, cleared):
            nursery.start_soon(timers.serve, bell.alarm)
            bell.alarm.set(start + 1)
        moved.alarm.set(start + 3)
        cleared.alarm.set(math.inf)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert (moved.rang, cleared.rang) == ([start + 3], [])
    assert len(timers) == 0


async def test_another_agent_takes_over_when_the_leader_leaves(autojump_clock: trio.testing.MockClock) -> None:
    """The leader's task belongs to one agent; the others must not stop when that one closes, in whatever order."""
    timers = Clock()
    bells = [Bell(timers, again_s=1.0) for _ in range(6)]
    async with trio.open_nursery() as nursery:
        scopes: list[trio.CancelScope] = []

        async def serve(bell: Bell, scope: trio.CancelScope) -> None:
            with scope:
                await timers.serve(bell.alarm)

        for bell in bells:
            scopes.append(trio.CancelScope())
            nursery.start_soon(serve, bell, scopes[-1])
            bell.alarm.set(trio.current_time() + 0.5)
        await trio.sleep(1)
        for scope in scopes[:3]:  # the leader and its first heirs at once
            scope.cancel()
        await trio.sleep(10)
        scopes[4].cancel()
        await trio.sleep(10)
        assert [len(bell.rang) for bell in bells[:3]] == [1, 1, 1]
        assert [len(bell.rang) for bell in bells[3:]] == [21, 11, 21]
        nursery.cancel_scope.cancel()
    assert len(timers) == 0


async def test_an_error_is_raised_in_the_task_it_belongs_to(autojump_clock: trio.testing.MockClock) -> None:
    """An agent that breaks takes no other with it, be it the leader or not."""
    timers = Clock()
    good = Bell(timers, again_s=1.0)

    def fail() -> None:
        raise RuntimeError("broken")

    async def expect_error(ring: Callable[[], None]) -> None:
        alarm = timers.alarm(ring)
        alarm.set(trio.current_time() + 3)
        with pytest.raises(RuntimeError, match="broken"):
            await timers.serve(alarm)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_error, fail)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(timers.serve, good.alarm)
        nursery.start_soon(expect_error, fail)
        good.alarm.set(trio.current_time() + 1)
        await trio.sleep(5.5)
        nursery.cancel_scope.cancel()
    assert len(good.rang) == 5


async def test_what_nobody_waits_for_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    """A deadline moves with every answer, for days: the heap must not remember all of them."""
    timers = Clock()
    bells = [Bell(timers) for _ in range(10)]
    for step in range(10_000):
        bells[step % 10].alarm.set(1000.0 + step)
    assert len(timers) == 10
    assert len(timers._heap) <= 300
    assert clock() is clock()
