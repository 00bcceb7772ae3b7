"""Reaching a TURN server: which transport, through which proxy, proved by which certificate."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

import trio

from iceagent.core.address import TransportAddress, make_address
from iceagent.net.api import Network, RealHost, UdpSocket
from iceagent.net.proxy import Proxy, all_permitted, connect_through
from iceagent.net.staggered import interleave
from iceagent.net.tls import client_context, wrap_tls
from iceagent.net.turn.redirect import DEFAULT_PORT, DEFAULT_TLS_PORT, Redirections, TurnServerAddress
from iceagent.net.turn.transport import StreamTransport, TurnTransport, UdpTransport

TRANSPORTS: Final = ("udp", "tcp", "tls", "dtls")
_NOWHERE: Final = TransportAddress("0.0.0.0", 0)  # noqa: S104 - a name, where the stream has no address to show


@dataclass(frozen=True, slots=True)
class TurnConnectOptions:
    """What does not depend on the server.

    Attributes:
        families: IP versions to reach the server over.
        local_host: the local IP address to use, None for the system's choice; with another family's server it is
            left out of account.
        ports: local UDP ports to try in turn; (0,) lets the system choose.
        proxy: through which streams go; None for none. UDP and DTLS never go through one.
        ca_file: certificates to trust instead of the system's, PEM.
        context: a TLS context to use as it is, if it verifies.
        permits: says of an address whether anything may be sent there; the server's and the proxy's are asked about.
        permits_proxy: the same about the proxy, where that is another question.
        redirections: remembers who was asked, across allocations; None for this one alone.
        own_hosts: returns the addresses of this machine, where no server may redirect to.
        answered: called when a server answers a request over a transport for the first time, if only with a refusal.
    """

    families: tuple[int, ...] = (4, 6)
    local_host: str | None = None
    ports: tuple[int, ...] | range = (0,)
    proxy: Proxy | None = None
    ca_file: str | None = None
    context: ssl.SSLContext | None = field(default=None, repr=False)
    permits: Callable[[TransportAddress], bool] | None = None
    permits_proxy: Callable[[TransportAddress], bool] | None = None
    redirections: Redirections | None = None
    own_hosts: Callable[[], Collection[str]] = tuple
    answered: Callable[[], None] | None = None


async def find_places(
    network: Network, server: TurnServerAddress, options: TurnConnectOptions
) -> list[TransportAddress | None]:
    """Return the addresses of a server, best first; None stands for what a proxy is to resolve.

    Raises:
        OSError: its name has no address that may be used.
        ValueError: the transport is not known.
    """
    if server.transport not in TRANSPORTS:
        raise ValueError(f"transport {server.transport!r} is none of {', '.join(TRANSPORTS)}")
    if options.proxy is not None and server.transport in ("tcp", "tls"):
        literal = _literal(server)
        if literal is not None and options.permits is not None and not options.permits(literal):
            raise OSError("its address is forbidden by the policy")  # a proxy in this machine would connect to it
        return [None]
    family = options.families[0] if len(options.families) == 1 else None
    found = await network.resolve(server.host, server.port, family=family)
    usable = [address for address in found if address.family in options.families]
    if not usable:
        raise OSError(f"{server.host} has no address of IP version {options.families}")
    return [*interleave(all_permitted(usable, options.permits))]


def _literal(server: TurnServerAddress) -> TransportAddress | None:
    name = server.host.lower().removesuffix(".")
    try:
        return make_address("127.0.0.1" if f".{name}".endswith(".localhost") else server.host, server.port)
    except ValueError:
        return None


async def open_transport(
    network: Network, server: TurnServerAddress, options: TurnConnectOptions, place: TransportAddress | None
) -> TurnTransport:
    """Connect to a server at one of the places `find_places` has returned.

    Raises:
        OSError: it cannot be reached, or does not prove its name.
    """
    if place is None or server.transport in ("tcp", "tls"):
        return StreamTransport(*await open_stream(network, server, options, place))
    if server.transport == "udp":
        return UdpTransport(await _open_udp(network, place, options), place)
    if not isinstance(network, RealHost):
        raise OSError("DTLS needs a real network: its timers run by the machine's clock")
    try:
        from iceagent.net.turn.dtls import open_dtls
    except ImportError as error:
        raise OSError("DTLS needs pyOpenSSL; install it, or leave out turns:...?transport=udp") from error

    sock = await _open_udp(network, place, options)
    return await open_dtls(sock, place, server.tls_name or server.host, options.ca_file)


async def _open_udp(network: Network, server: TransportAddress, options: TurnConnectOptions) -> UdpSocket:
    host = _bind_host(server, options)
    refusal = OSError("no local port is allowed")
    for port in options.ports:
        try:
            return await network.open_udp(host, port)
        except OSError as error:
            refusal = error
    raise refusal


async def open_stream(
    network: Network, server: TurnServerAddress, options: TurnConnectOptions, place: TransportAddress | None
) -> tuple[trio.abc.Stream, TransportAddress, TransportAddress]:
    """Connect to a server over TCP or TLS, at one address or with None through the proxy; return the stream, its ends.

    Raises:
        OSError: it cannot be reached, or does not prove its name.
    """
    stream: trio.abc.Stream
    if place is not None:
        stream = await network.connect_tcp(place, local_host=_local_host(place, options))
    else:
        assert options.proxy is not None
        permits = options.permits_proxy or options.permits
        stream = await connect_through(
            network, options.proxy, server.host, server.port, local_host=options.local_host, permits=permits
        )
    try:
        local, remote = _ends(stream)
    except OSError:
        await trio.aclose_forcefully(stream)
        raise
    if server.transport == "tls":
        context = options.context or client_context(options.ca_file)
        stream = await wrap_tls(stream, context, server.tls_name or server.host)
    return stream, local, remote


def _bind_host(server: TransportAddress, options: TurnConnectOptions) -> str:
    return _local_host(server, options) or ("::" if server.family == 6 else "0.0.0.0")  # noqa: S104


def _local_host(server: TransportAddress, options: TurnConnectOptions) -> str | None:
    host = options.local_host
    return host if host is not None and (":" in host) == (server.family == 6) else None


def _ends(stream: trio.abc.Stream) -> tuple[TransportAddress, TransportAddress]:
    """Return both addresses of a connection, for people and the 5-tuple's sake."""
    if not isinstance(stream, trio.SocketStream):
        inner = getattr(stream, "transport_stream", None)
        return (_NOWHERE, _NOWHERE) if inner is None else _ends(inner)
    local, remote = stream.socket.getsockname(), stream.socket.getpeername()
    return make_address(local[0], local[1]), make_address(remote[0], remote[1])


__all__ = [
    "DEFAULT_PORT",
    "DEFAULT_TLS_PORT",
    "TRANSPORTS",
    "TurnConnectOptions",
    "TurnServerAddress",
    "find_places",
    "open_stream",
    "open_transport",
]
