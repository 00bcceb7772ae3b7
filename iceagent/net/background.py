"""Background tasks for the body of an `async with`, whose errors leave it as they were raised, without a group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio


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
