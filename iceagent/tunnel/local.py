"""Local listeners of a forward, and what they accept."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeVar

import trio

from iceagent.net.accepting import accept_next
from iceagent.net.logs import limited_logger
from iceagent.tunnel.binds import BACKLOG, bind_port, bound_text, unix_bind_error
from iceagent.tunnel.errors import BindError
from iceagent.tunnel.pump import arm, break_off
from iceagent.tunnel.spec import Bind, UnixBind

_log = limited_logger(__name__)

S = TypeVar("S", bound=trio.abc.HalfCloseableStream)


@asynccontextmanager
async def open_listeners(bind: Bind) -> AsyncIterator[tuple[list[trio.SocketListener], tuple[str, ...]]]:
    """Yield the listeners of a bind, and the addresses they have, as text.

    Raises:
        BindError: the port is taken, the address is not ours, the path exists, the permission is missing.
    """
    if isinstance(bind, UnixBind):
        with unix_listener(bind) as listener:
            yield [listener], (str(bind),)
        return
    bound = await bind_port(bind, socket.SOCK_STREAM)
    sockets = list(map(trio.socket.from_stdlib_socket, bound))
    try:
        yield list(map(trio.SocketListener, sockets)), tuple(map(bound_text, bound))
    finally:
        for sock in sockets:
            sock.close()


@contextmanager
def unix_listener(bind: UnixBind) -> Iterator[trio.SocketListener]:
    """Yield a listener on a path that only this user may connect to; the path is removed at the end.

    Raises:
        BindError: the path exists and is in use, or is no socket; the folder is missing or not ours.
    """
    _remove_stale_socket(bind)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mask = os.umask(0o177)  # as ssh's StreamLocalBindMask; the mode cannot be given to bind()
        try:
            sock.bind(bind.path)
        finally:
            os.umask(mask)
        sock.listen(BACKLOG)
        identity = os.stat(bind.path)
    except OSError as error:
        sock.close()
        raise unix_bind_error(str(bind), error) from error
    try:
        yield trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    finally:
        sock.close()
        with suppress(OSError):
            found = os.stat(bind.path)
            if (found.st_dev, found.st_ino) == (identity.st_dev, identity.st_ino):
                os.unlink(bind.path)


def _remove_stale_socket(bind: UnixBind) -> None:
    """Remove a socket that a killed process left behind; anything else stays."""
    try:
        if not stat.S_ISSOCK(os.stat(bind.path).st_mode):
            raise BindError(f"{bind} exists and is not a socket; choose another path")
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(bind.path)
        except ConnectionRefusedError:
            with suppress(OSError):
                os.unlink(bind.path)
        except OSError:
            return


async def accept_connections(
    listener: trio.abc.Listener[S], handler: Callable[[S], Awaitable[None]], *, limit: int
) -> None:
    """Accept for ever and run `handler` for each connection, at most `limit` at once; others are reset and logged.

    If they were left in the backlog, their programs would wait without knowing for what.
    """
    slots = trio.Semaphore(limit)

    async def run(stream: S) -> None:
        try:
            await handler(stream)
        finally:
            slots.release()

    async with trio.open_nursery() as nursery:
        while True:
            stream = await accept_next(listener)
            if isinstance(stream, trio.SocketStream):
                arm(stream.socket)
            try:
                slots.acquire_nowait()
            except trio.WouldBlock:
                _log.warning("there are %d connections at once on one forward; a further one was reset", limit)
                break_off(stream)
                continue
            nursery.start_soon(run, stream)
