"""Tasks that serve the body of an `async with`, and an error that leaves it as it was raised."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_background() -> AsyncIterator[trio.Nursery]:
    """Yield a nursery for tasks that end with the body.

    A nursery wraps whatever leaves it in an exception group. Users of `async with invite()` write `except NoPath`,
    so a single error, the body's own or a background task's, leaves unwrapped. Several at once: the body's first.
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
    if body_error is not None and any(error is body_error for error in group.exceptions):
        return body_error
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if not isinstance(leaf, trio.Cancelled)), leaves[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
