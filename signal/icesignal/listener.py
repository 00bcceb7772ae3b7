"""Listening: one port for all addresses of a host, and an accept loop that no error ends."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import trio

from icesignal.systemd import ADMIN, RELAY

logger = logging.getLogger("icesignal.server")
FREE_PORT_ATTEMPTS = 5
ACCEPT_PAUSE_S = 0.1  # after an accept that failed: what it wanted, a descriptor most likely, is not there at once
COMPLAINT_INTERVAL_S = 60.0  # between two lines about that
RESERVED_DESCRIPTORS = 128  # for all that is no connection of a client


class AdminNotListening(OSError):
    """The address of the operator's listener cannot be had, and not the relay's."""


def raise_descriptor_limit() -> None:
    """Raise the number of descriptors that the process may have as far as it may by itself. For a program's start."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS says no to "unlimited"
            logger.debug("the limit of descriptors stays at %d", soft)


def connections_possible(wanted: int) -> int:
    """Return how many connections the process has descriptors for, at most `wanted`."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - min(RESERVED_DESCRIPTORS, soft // 2)))


async def listen(host: str | Sequence[str] | None, port: int) -> list[trio.SocketListener]:
    """Return listening sockets, all of one port: a host of several addresses must not get a free port for each.

    Args:
        host: one, several, or None for all addresses.
        port: 0 for any free one.
    Raises:
        OSError: the host or the port cannot be had.
    """
    hosts = [host] if host is None or isinstance(host, str) else list(host)
    for attempts_left in reversed(range(FREE_PORT_ATTEMPTS)):
        listeners = await _listen_at(hosts, port)
        ports = {listener.socket.getsockname()[1] for listener in listeners}
        if len(ports) == 1:
            return listeners
        for listener in listeners:
            await listener.aclose()
        try:
            return await _listen_at(hosts, ports.pop())
        except OSError:
            if not attempts_left:
                raise
    raise AssertionError("unreachable")


async def _listen_at(hosts: Sequence[str | None], port: int) -> list[trio.SocketListener]:
    listeners: list[trio.SocketListener] = []
    try:
        for host in hosts:
            listeners += await trio.open_tcp_listeners(port, host=host)
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


async def listen_all(
    host: str | Sequence[str] | None,
    port: int,
    admin: tuple[str | Sequence[str] | None, int] | None,
    sockets: Mapping[str, Sequence[socket.socket]],
    given: Sequence[trio.SocketListener] = (),
) -> tuple[list[trio.SocketListener], list[trio.SocketListener]]:
    """Return the listeners of a relay and those of its operator; sockets that listen already come before addresses.

    Args:
        host, port: of the relay, as `listen` takes them.
        admin: the same for its operator; None for no listener of its own.
        sockets: those that listen, under `relay` and `admin`.
        given: listeners of the relay that there are already.
    Raises:
        AdminNotListening: the operator's address cannot be had.
        OSError: an address cannot be had.
    """
    listeners = list(given) or _adopt(sockets.get(RELAY, ())) or await listen(host, port)
    admins = _adopt(sockets.get(ADMIN, ()))
    if not admins and admin is not None:
        try:
            admins = await listen(*admin)
        except OSError as error:
            _close(listeners)
            raise AdminNotListening(error.errno, error.strerror) from error
        except BaseException:
            _close(listeners)
            raise
    return listeners, admins


class _Place:
    """What is asked of a socket, of a stream or listener that has none."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    def getsockname(self) -> tuple[str, int]:
        return self._owner.local_address.host, self._owner.local_address.port

    def getpeername(self) -> tuple[str, int]:
        return self._owner.remote_address.host, self._owner.remote_address.port

    def close(self) -> None:
        self._owner.close()


class _PlacedStream(trio.abc.Stream):
    """A stream of another network than the system's, as the relay wants it."""

    def __init__(self, stream: Any) -> None:
        self.socket = _Place(stream)
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._stream.aclose()


class _PlacedListener(trio.abc.Listener[_PlacedStream]):
    """A listener that yields such streams."""

    def __init__(self, listener: Any) -> None:
        self.socket = _Place(listener)
        self._listener = listener

    async def accept(self) -> _PlacedStream:
        return _PlacedStream(await self._listener.accept())

    async def aclose(self) -> None:
        await self._listener.aclose()


def adopted(listeners: Sequence[trio.abc.Listener[Any]]) -> list[trio.SocketListener]:
    """Return listeners of another network than the system's in the shape of those of the system's."""
    return [cast(trio.SocketListener, _PlacedListener(one)) for one in listeners]


def _close(listeners: Sequence[trio.SocketListener]) -> None:
    for listener in listeners:
        listener.socket.close()


def _adopt(sockets: Sequence[socket.socket]) -> list[trio.SocketListener]:
    return [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]


async def accept_forever(
    listener: trio.SocketListener,
    handle: Callable[[trio.SocketStream], Awaitable[None]],
    on_exhausted: Callable[[], object],
) -> None:
    """Accept until cancelled, each connection to a task of its own.

    Args:
        listener: closed at the end.
        handle: serves a connection and closes it; must not raise.
        on_exhausted: called when an accept failed, to free what can be freed; must return at once.
    """
    complained_at = -COMPLAINT_INTERVAL_S
    async with listener, trio.open_nursery() as nursery:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                now = trio.current_time()
                if now - complained_at >= COMPLAINT_INTERVAL_S:
                    complained_at = now
                    logger.warning("no connection can be accepted now: %s; trying on", error.strerror or error)
                on_exhausted()
                await trio.sleep(ACCEPT_PAUSE_S)
            else:
                nursery.start_soon(handle, stream)
