"""Deterministic runs: virtual time and a Trio scheduler that shuffles by the seed.

Trio runs the tasks that are ready in a random order, on purpose. With its own remedy (see its
`test_scheduler_determinism.py`: sort the tasks first, shuffle with a seeded generator) the same seed
gives the same order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
import trio.testing

T = TypeVar("T")


@contextmanager
def deterministic_scheduling(seed: int) -> Iterator[None]:
    """Make every `trio.run` inside the block order its tasks by `seed`; Trio's own state is restored afterwards."""
    internals: Any = trio._core._run  # noqa: SLF001
    allowed, state = internals._ALLOW_DETERMINISTIC_SCHEDULING, internals._r.getstate()  # noqa: SLF001
    internals._ALLOW_DETERMINISTIC_SCHEDULING = True  # noqa: SLF001
    internals._r.seed(seed)  # noqa: SLF001
    try:
        yield
    finally:
        internals._ALLOW_DETERMINISTIC_SCHEDULING = allowed  # noqa: SLF001
        internals._r.setstate(state)  # noqa: SLF001


def run(
    async_fn: Callable[..., Awaitable[T]],
    *args: object,
    seed: int = 1,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """Run `async_fn(*args)` like `trio.run`, in virtual time and with a repeatable order of tasks.

    Whenever all tasks wait, time jumps to the next deadline: an hour of keepalives takes a moment.

    Args:
        seed: of the order of tasks.
        clock: another clock than `MockClock(autojump_threshold=0)`.
        instruments: as for `trio.run`.
    Returns:
        What `async_fn` returns.
    """
    with deterministic_scheduling(seed):
        return trio.run(
            async_fn, *args, clock=clock or trio.testing.MockClock(autojump_threshold=0), instruments=instruments
        )
