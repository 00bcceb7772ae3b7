"""Tasks of an `async with`: background tasks, unforeseen errors that end only their own work, values of a whole run.

Expected errors are handled where they occur. `contained` is for all others: they would otherwise end every task of the
same nursery. The error is logged at level error, its traceback at debug.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, Generic, TypeVar, TypeVarTuple

import trio

logger = logging.getLogger("iceagent.unforeseen")

_MAX_SEEN: Final = 256  # ours: kinds of errors counted
_seen: Counter[tuple[str, ...]] = Counter()

_Args = TypeVarTuple("_Args")

T = TypeVar("T")


class PerRun(Generic[T]):
    """A value that is made when it is asked for first, anew in each run.

    Args:
        name: for whoever looks at Trio's run variables.
        make: makes it.
    """

    def __init__(self, name: str, make: Callable[[], T]) -> None:
        self._variable: trio.lowlevel.RunVar[T] = trio.lowlevel.RunVar(name)
        self._make = make

    def get(self) -> T:
        """Return the value of the present run.

        Raises:
            RuntimeError: there is none.
        """
        try:
            return self._variable.get()
        except LookupError:
            made = self._make()
            self._variable.set(made)
            return made


@asynccontextmanager
async def open_background() -> AsyncIterator[trio.Nursery]:
    """Yield a nursery for tasks that end with the body.

    A nursery wraps whatever leaves it in an exception group. Users of `async with invite()` write `except NoPath`, so
    the body's error leaves as it was raised, a group of the body's own too, and a background task's without a group.
    Several at once: the body's first.
    """
    body_error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as error:
                body_error = error
                raise
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        chosen = _choose(group, body_error)
        context = chosen.__context__
        try:
            raise chosen
        finally:
            chosen.__context__ = context  # not the group it was taken from
            del body_error, chosen, context  # the traceback holds this frame, and the frame would hold the error


def _choose(group: BaseExceptionGroup[BaseException], body_error: BaseException | None) -> BaseException:
    """Return what leaves in place of the nursery's group.

    A group that the body raised comes out of the nursery as another one, made anew without the cancellations that were
    the nursery's: so it is recognized by what it holds, not by its type.
    """
    of_body = [] if body_error is None else list(_leaves(body_error))
    errors = [leaf for leaf in of_body if not isinstance(leaf, trio.Cancelled)]
    for child in group.exceptions if errors else ():
        leaves = list(_leaves(child))
        if any(leaf is error for leaf in leaves for error in errors):
            return body_error if len(leaves) == len(of_body) and body_error is not None else child
    found = list(_leaves(group))
    return next((leaf for leaf in found if not isinstance(leaf, trio.Cancelled)), found[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def log_unforeseen(what: str, error: BaseException) -> None:
    """Log an unforeseen error without its message, which may come from outside or hold a secret.

    Of the same error it is the first that is logged, the second, the fourth, and so on: a peer may cause it at will.
    """
    names = sorted({type(one).__name__ for one in _leaves(error)})
    key = (what, *names)
    if len(_seen) >= _MAX_SEEN:
        _seen.clear()
    _seen[key] += 1
    if _seen[key] & (_seen[key] - 1):
        return
    logger.error("%s is given up: unforeseen %s; please report it with a log at debug", what, ", ".join(names))
    logger.debug("%s", what, exc_info=error)


@contextmanager
def contained(what: str, on_failure: Callable[[Exception], object] | None = None) -> Iterator[None]:
    """Let whatever the body raises end the body alone. Cancellation passes through, as it must.

    Args:
        what: names, for the log, what is given up.
        on_failure: called with the error.
    """
    try:
        yield
    except* Exception as group:
        log_unforeseen(what, group)
        if on_failure is not None:
            on_failure(group)


async def run_contained(what: str, run: Callable[[*_Args], Awaitable[object]], *args: *_Args) -> None:
    """Run a background task so that its failure ends no other: `nursery.start_soon(run_contained, "…", task)`."""
    with contained(what):
        await run(*args)
