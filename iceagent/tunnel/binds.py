"""Local addresses of a forward: `*` and a name stand for all their addresses, on the same port."""

from __future__ import annotations

import errno
import os
import socket
import sys

from iceagent.net.host_names import resolve
from iceagent.net.sockaddr import bind_sockaddr, local_address
from iceagent.tunnel.errors import BindError
from iceagent.tunnel.pump import arm
from iceagent.tunnel.spec import PortBind
from iceagent.tunnel.targets import explain_os_error

BACKLOG = 1024
PORT_TRIES = 16  # for a port that is free in every family, when the system may choose it
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 (asked for by the user)
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # an address of another machine, a kernel without IPv6


async def bind_port(bind: PortBind, kind: socket.SocketKind) -> list[socket.socket]:
    """Return sockets bound to all addresses of a bind, non-blocking; those of a TCP bind listen.

    Every interface is both families; a name is all its addresses that are this machine's; port 0 is the same free port
    for all of them.

    Args:
        bind: where.
        kind: `SOCK_STREAM` or `SOCK_DGRAM`.
    Raises:
        BindError: a port is taken, no address is ours, or the name does not resolve.
    """
    what = f"{bind}/udp" if kind == socket.SOCK_DGRAM else str(bind)
    try:
        hosts = [one.host for one in await resolve(bind.host, bind.port)] if bind.host else _WILDCARDS
        tries = PORT_TRIES if bind.port == 0 and len(hosts) > 1 else 1
        while True:
            tries -= 1
            try:
                return _bind_each(hosts, bind.port, kind)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not tries:
                    raise
    except OSError as error:
        raise bind_error(what, error) from error


def _bind_each(hosts: list[str] | tuple[str, ...], port: int, kind: socket.SocketKind) -> list[socket.socket]:
    bound: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for host in hosts:
            try:
                sock = _bind_one(host, port, kind)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
            else:
                bound.append(sock)
                port = sock.getsockname()[1]
        if missing is not None and not bound:
            raise missing
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return bound


def _bind_one(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    family, address = bind_sockaddr(host, port)
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        if kind == socket.SOCK_STREAM and sys.platform != "win32":  # there it would let two listeners share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            arm(sock)
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def bound_text(sock: socket.socket) -> str:
    """Return the address of a bound socket as text, a link-local one with its zone."""
    return str(local_address(sock))


def bind_error(what: str, error: OSError) -> BindError:
    """Return the error that says why a local socket cannot be opened and what to do."""
    if isinstance(error, socket.gaierror):
        return BindError(f"cannot open {what}: the name does not resolve")
    if error.errno == errno.EADDRINUSE:
        return BindError(f"{what} is already in use; stop the program that has it, or choose another (0: any)")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return BindError(f"no permission to open {what}; choose a port above 1023")
    if error.errno == errno.EADDRNOTAVAIL:
        return BindError(f"cannot open {what}: no interface of this machine has that address")
    return BindError(f"cannot open {what}: {explain_os_error(error)}")


def unix_bind_error(what: str, error: OSError) -> BindError:
    """Return the error that says why a Unix socket cannot be made."""
    if error.errno == errno.ENOENT:
        return BindError(f"cannot open {what}: the folder does not exist")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return BindError(f"no permission to make {what}; choose a folder that is yours")
    return BindError(f"cannot open {what}: {os.strerror(error.errno).lower() if error.errno else error}")
