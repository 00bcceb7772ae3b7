"""Connections to the targets of forwards: any address of a name will do."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator

import trio

from iceagent.core.address import TransportAddress
from iceagent.net.host_names import resolve
from iceagent.net.sockaddr import bind_sockaddr
from iceagent.net.staggered import first_of, interleave
from iceagent.tunnel.errors import FailedError
from iceagent.tunnel.pump import arm
from iceagent.tunnel.spec import TcpTarget, UdpTarget, UnixTarget

CONNECT_TIMEOUT_S = 15.0  # of one connection to the target, all addresses of its name together


async def connect_target(target: TcpTarget | UnixTarget) -> trio.SocketStream:
    """Connect to the target of a forward; closing the stream resets it until it is disarmed.

    The addresses of a name are tried in turn, a quarter of a second apart, families taking turns (RFC 8305).

    Raises:
        FailedError: it refused, does not exist or does not answer; the message is for the other side's log.
    """
    try:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            if isinstance(target, UnixTarget):
                return await trio.open_unix_socket(target.path)
            return await first_of(await addresses_of(target), _connect, discard=trio.aclose_forcefully)
    except trio.TooSlowError:
        raise FailedError(f"no answer within {CONNECT_TIMEOUT_S:.0f} s", cause="timeout") from None
    except OSError as error:
        raise FailedError(explain_os_error(error), cause=cause_of(error)) from error


async def addresses_of(target: TcpTarget | UdpTarget) -> list[TransportAddress]:
    """Return the addresses of a target, best first, families taking turns.

    Raises:
        OSError: its name does not resolve.
        FailedError: it is an address that says too little.
    """
    found = await resolve(target.host, target.port)
    usable = [address for address in found if not (address.ip.is_link_local and _needs_zone(address))]
    if not usable:
        raise FailedError("a link-local address needs the interface it is reached by, as in [fe80::1%eth0]:22")
    return interleave(usable)


def _needs_zone(address: TransportAddress) -> bool:
    ip = address.ip
    return isinstance(ip, ipaddress.IPv6Address) and ip.scope_id is None


async def _connect(address: TransportAddress) -> trio.SocketStream:
    family, sockaddr = bind_sockaddr(address.host, address.port)
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        arm(sock)
        await sock.connect(sockaddr)
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise


def explain_os_error(error: Exception) -> str:
    """Return the reason of a failure in a few words; where several addresses were tried, each reason once."""
    reasons = list(dict.fromkeys(map(_explain, _leaves(error))))
    return ", ".join(reasons)


def cause_of(error: Exception) -> str:
    """Return which of `CAUSES` a failure has: of several addresses' that of the one that got farthest."""
    numbers = {leaf.errno for leaf in _leaves(error) if isinstance(leaf, OSError)}
    if errno.ECONNREFUSED in numbers:
        return "refused"
    return "network" if errno.ENETUNREACH in numbers else "host"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__
    if isinstance(error, OSError) and error.errno is None and isinstance(cause, BaseExceptionGroup):
        for inner in cause.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _explain(error: BaseException) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "the name does not resolve"
    if isinstance(error, OSError) and error.errno is not None:
        return "permission denied" if error.errno == errno.EPERM else os.strerror(error.errno).lower()
    return str(error)
