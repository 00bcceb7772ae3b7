"""Local sockets of a forward: the listeners on this side, the connections on the side of the target."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import trio

from iceagent.tunnel.errors import BindError, FailedError
from iceagent.tunnel.spec import Bind, PortBind, TcpTarget, UnixBind, UnixTarget, join_host_port

CONNECT_TIMEOUT_S = 15.0  # of one connection to the target; Happy Eyeballs inside (RFC 6555)
ACCEPT_PAUSE_S = 0.1  # when the process has run out of file descriptors, as trio.serve_listeners does
BACKLOG = 1024
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}

_log = logging.getLogger(__name__)


@asynccontextmanager
async def open_listeners(bind: Bind) -> AsyncIterator[tuple[list[trio.SocketListener], str]]:
    """Yield the listeners of a bind, and the address they have, as text.

    Raises:
        BindError: the port is taken, the address is not ours, the path exists, the permission is missing.
    """
    with unix_listener(bind) if isinstance(bind, UnixBind) else _nothing() as unix:
        listeners = [unix] if unix is not None else await _tcp_listeners(bind)
        try:
            yield listeners, _address_of(bind, listeners[0])
        finally:
            for listener in listeners:
                listener.socket.close()


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


async def _tcp_listeners(bind: Bind) -> list[trio.SocketListener]:
    assert isinstance(bind, PortBind)
    try:
        listeners = await trio.open_tcp_listeners(bind.port, host=bind.host or None, backlog=BACKLOG)
    except OSError as error:
        raise bind_error(str(bind), error) from error
    except UnicodeError as error:
        raise BindError(f"cannot open {bind}: the name does not resolve") from error
    for surplus in listeners[1:] if bind.port == 0 else ():
        surplus.socket.close()  # the system gave each family another port, and only one is told to the user
    return listeners[:1] if bind.port == 0 else listeners


def bind_error(what: str, error: OSError) -> BindError:
    """Return the error that tells why a local socket cannot be opened and what to do."""
    if error.errno == errno.EADDRINUSE:
        return BindError(f"{what} is already in use; stop the program that has it, or choose another (0: any)")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return BindError(f"no permission to open {what}; choose a port above 1023")
    return BindError(f"cannot open {what}: {explain_os_error(error)}")


def _address_of(bind: Bind, listener: trio.SocketListener) -> str:
    if isinstance(bind, UnixBind):
        return str(bind)
    host, port = listener.socket.getsockname()[:2]
    return join_host_port(host, port)


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
        raise bind_error(str(bind), error) from error
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
    listener: trio.SocketListener, handler: Callable[[trio.SocketStream], Awaitable[None]], *, limit: int
) -> None:
    """Accept for ever and run `handler` for each connection, at most `limit` at once; more wait in the backlog."""
    slots = trio.Semaphore(limit)

    async def run(stream: trio.SocketStream) -> None:
        try:
            await handler(stream)
        finally:
            slots.release()

    is_exhausted = False
    async with trio.open_nursery() as nursery:
        while True:
            await slots.acquire()
            try:
                stream = await listener.accept()
            except OSError as error:
                slots.release()
                if error.errno not in _EXHAUSTED:
                    raise
                if not is_exhausted:  # said once; it is tried ten times a second
                    _log.error("connections have to wait: %s", os.strerror(error.errno).lower())
                is_exhausted = True
                await trio.sleep(ACCEPT_PAUSE_S)
                continue
            is_exhausted = False
            nursery.start_soon(run, stream)


async def connect_target(target: TcpTarget | UnixTarget) -> trio.SocketStream:
    """Connect to the target of a forward.

    Raises:
        FailedError: it refused, does not exist or does not answer; the message is for the other side's log.
    """
    try:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            if isinstance(target, UnixTarget):
                return await trio.open_unix_socket(target.path)
            return await trio.open_tcp_stream(target.host, target.port)
    except trio.TooSlowError:
        raise FailedError(f"no answer within {CONNECT_TIMEOUT_S:.0f} s") from None
    except (OSError, UnicodeError) as error:
        raise FailedError(explain_os_error(error)) from error


def explain_os_error(error: Exception) -> str:
    """Return the reason of a failed connection in a few words: of several attempts, the first one's."""
    cause: BaseException | None = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, OSError) and getattr(error, "errno", None) is None:
        error = cause
    if isinstance(error, socket.gaierror):
        return "the name does not resolve"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return str(error)
