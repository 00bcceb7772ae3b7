"""Nurseries for `async with` entries: tasks end with the block, and the block's own error is raised unwrapped."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_background() -> AsyncGenerator[trio.Nursery, None]:
    """Open a nursery whose tasks are cancelled when the block ends, in whatever way.

    Raises:
        BaseException: the block's own exception as it was, not in a group, when no task failed.
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
        if body_error is None or not _says_only(group, body_error):
            raise
    if body_error is not None:
        raise body_error


def _says_only(group: BaseExceptionGroup[BaseException], error: BaseException) -> bool:
    """Return whether a group holds nothing but this error and cancellations."""
    leaves = {id(leaf) for leaf in _leaves(group) if not isinstance(leaf, trio.Cancelled)}
    return leaves <= {id(leaf) for leaf in _leaves(error)}


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
