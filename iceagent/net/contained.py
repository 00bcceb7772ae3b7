"""Contains unforeseen errors: one ends the work for its own server, transport or peer, and not that for the others.

Expected errors are handled where they occur. This is for all others: they would otherwise end every task of the same
nursery. The error is logged at level error, its traceback at debug.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVarTuple

logger = logging.getLogger("iceagent.unforeseen")

_MAX_SEEN: Final = 256  # ours: kinds of errors counted
_seen: Counter[tuple[str, ...]] = Counter()

_Args = TypeVarTuple("_Args")


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


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error
