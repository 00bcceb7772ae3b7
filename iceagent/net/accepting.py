"""Accepts connections for as long as there is a listener: no error of a single connection ends that.

Which errors an accept may raise differs between systems and kernels: a connection was reset in the backlog, a
firewall refused it, there are no descriptors or no memory left. None of them concerns the next connection.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from iceagent.net.logs import limited_logger

ACCEPT_PAUSE_S: Final = 0.1  # ours: what it wanted, a descriptor most likely, is not there at once

logger = limited_logger("iceagent.net.accepting")

S = TypeVar("S", bound=trio.abc.AsyncResource)


def _ignore(error: OSError) -> None:
    """Note nothing."""


async def accept_next(listener: trio.abc.Listener[S], note: Callable[[OSError], object] = _ignore) -> S:
    """Wait for the next connection; an accept that fails is tried again after `ACCEPT_PAUSE_S`, and logged once.

    Args:
        listener: listens.
        note: called with each failure; must return at once and not raise.

    Raises:
        trio.ClosedResourceError: the listener is closed.
    """
    is_logged = False
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if not is_logged:  # said once; it is tried ten times a second
                why = str(error) if error.errno is None else os.strerror(error.errno).lower()
                logger.error("connections have to wait: %s", why)
            is_logged = True
            note(error)
            await trio.sleep(ACCEPT_PAUSE_S)


async def serve_connections(
    listener: trio.abc.Listener[S],
    handle: Callable[[S], Awaitable[object]],
    note: Callable[[OSError], object] = _ignore,
) -> None:
    """Accept until cancelled or the listener is closed, each connection to a task of its own; closes the listener.

    Args:
        listener: listens.
        handle: serves a connection, which is closed when it returns; must not raise.
        note: as for `accept_next`.
    """

    async def serve(stream: S) -> None:
        async with stream:
            await handle(stream)

    async with listener, trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(serve, await accept_next(listener, note))


def raise_descriptor_limit() -> int | None:
    """Raise the soft limit of open descriptors to the hard one; return it, or None where the system has no such thing.

    Servers hold a descriptor for each client. The soft limit is 1,024 by habit, for the sake of programs that use
    `select`; we do not.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS says "unlimited" and means less
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
