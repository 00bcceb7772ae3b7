"""TCP streams and listeners of this machine."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from typing import Protocol, runtime_checkable

import trio

from iceagent.core.address import TransportAddress, make_address
from iceagent.net.sockaddr import bind_sockaddr

BACKLOG = 128
"""Connections that may wait to be accepted."""
_LINGER = "hh" if sys.platform == "win32" else "ii"  # struct linger: on or off, seconds
LINGER_RESET = struct.pack(_LINGER, 1, 0)
"""The value of SO_LINGER with which closing a socket resets its connection."""
LINGER_END = struct.pack(_LINGER, 0, 0)
"""The value with which closing a socket ends its connection well."""


async def connect_tcp(
    remote: TransportAddress, *, local_host: str | None = None, local_port: int = 0
) -> trio.SocketStream:
    """Connect to an address, with TCP_NODELAY set.

    Args:
        remote: an IP literal, with zone if link-local, and a port.
        local_host: the local address to leave from; None leaves it to the system.
        local_port: the port to leave from, which a listener may share (see `listen_tcp`); 0 lets the system choose.
    Raises:
        OSError: nobody listens there, or no way leads there.
    """
    family, target = bind_sockaddr(remote.host, remote.port)
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        if local_host is not None:
            if local_port:
                _share_port(sock)
            await sock.bind(bind_sockaddr(local_host, local_port)[1])
        await sock.connect(target)
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise


async def listen_tcp(host: str, port: int = 0, *, share_port: bool = False) -> trio.SocketListener:
    """Listen at an IP literal; `::` listens for IPv6 only.

    Args:
        host: the address to bind.
        port: 0 lets the system choose.
        share_port: whether connections may be opened from there, too, as simultaneous open needs it.
    Raises:
        OSError: the address is not ours or the port is taken.
    """
    family, address = bind_sockaddr(host, port)
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # there it would let two listeners share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share_port:
            _share_port(sock)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind(address)
        sock.listen(BACKLOG)
        return trio.SocketListener(sock)
    except BaseException:
        sock.close()
        raise


def _share_port(sock: trio.socket.SocketType) -> None:
    """Let several sockets of ours have one port: one listens, the others are connected to different peers."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):  # with a listener there, Linux and the BSDs want this, too
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


@runtime_checkable
class _Resettable(Protocol):
    def reset(self) -> None: ...


def reset_connection(stream: object) -> None:
    """Close a connection at once and for good: its ports are free for another one between the same two addresses.

    After an ordinary close the system goes on sending, for minutes if nothing answers, and refuses a second connection
    from the same port meanwhile (EADDRNOTAVAIL). Source: RFC 9293 section 3.10.4, ABORT.
    """
    if isinstance(stream, trio.SocketStream):
        with contextlib.suppress(OSError):
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        stream.socket.close()
    elif isinstance(stream, _Resettable):
        stream.reset()


@runtime_checkable
class _KnowsAddress(Protocol):
    local_address: TransportAddress


@runtime_checkable
class _KnowsPeer(Protocol):
    remote_address: TransportAddress


def bound_address(end: object) -> TransportAddress:
    """Return the local address of a TCP stream or listener, of this machine or of another network.

    Raises:
        OSError: it is not connected any more, or not of a kind that knows.
    """
    if isinstance(end, _KnowsAddress):
        return end.local_address
    if isinstance(end, trio.SocketStream | trio.SocketListener):
        host, port = end.socket.getsockname()[:2]
        return make_address(host.partition("%")[0], port)
    raise OSError(f"{type(end).__name__} has no local address")


def peer_address(stream: object) -> TransportAddress:
    """Return the remote address of a TCP stream, of this machine or of another network.

    Raises:
        OSError: it is not connected any more, or not of a kind that knows.
    """
    if isinstance(stream, _KnowsPeer):
        return stream.remote_address
    if isinstance(stream, trio.SocketStream):
        host, port = stream.socket.getpeername()[:2]
        return make_address(host.partition("%")[0], port)
    raise OSError(f"{type(stream).__name__} has no remote address")
