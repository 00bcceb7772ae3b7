"""Which relay a session uses: the one that was named, the one in the code, the one of the environment, or its own.

A code with an address names the relay where its maker waits, so it has precedence over `ICEAGENT_RELAY`, which is only
a default. A relay given as an argument has precedence over both. Several may be given: the first that answers serves,
and the code then names it.

Signaling is reconnected when the network changes, since a restart needs it at once. TCP does not report that the
address of a connection is gone, or that a router has lost its state, and the relay's pings need most of a minute.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import icesignal
import trio
from icesignal import wire

from iceagent.agent import AgentConfig, IceServer
from iceagent.agent.gather.servers import offered_servers
from iceagent.errors import LocalError
from iceagent.net import Network, SystemNetwork
from iceagent.net.monitor import open_monitor
from iceagent.net.proxy import ProxyError, connect_through
from iceagent.net.proxy_choice import Proxy, is_exempt, parse_proxy, proxy_for
from iceagent.net.tasks import open_background
from iceagent.session.errors import CodeError, NobodyCame, RelayError, RelayMissing, VersionMismatch
from iceagent.session.within import address_on, virtual_network, way_on

if TYPE_CHECKING:
    from iceagent.agent import Agent


ENVIRONMENT = "ICEAGENT_RELAY"
RELAY_TIMEOUT_S = 10.0  # ours: to the welcome of a relay, all its addresses, TLS and a proxy included
Relays = str | Sequence[str] | None
"""The URL of a relay, or several; None for those of the environment."""
PROXY_SHARE = 0.8  # ours: of that time, what a proxy has for its yes; a silent one is told, and not the relay behind it
_OUTSIDE = (("192.0.2.1", socket.AF_INET), ("2001:db8::1", socket.AF_INET6))  # RFC 5737 and 3849: nobody's


@dataclass(frozen=True, slots=True)
class RelayPlace:
    """A relay as this side reaches it; `address` is what the code carries so that the other side finds it.

    `url` may hold a password; `shown` is for others. `others` are further relays, tried after the first.
    """

    url: str = field(repr=False)
    address: str | None = None
    others: Sequence[str] = field(default=(), repr=False)

    @property
    def urls(self) -> Sequence[str]:
        """All of them, in the order in which they are tried."""
        return (self.url, *self.others)

    @property
    def hosts(self) -> Sequence[str]:
        """Their hosts, as others see them."""
        return (host_of(self.shown), *map(host_of, self.others))

    @property
    def shown(self) -> str:
        """The URL as it may be printed and given to the other side."""
        return f"ws://{self.address}" if self.address else icesignal.parse_relay_url(self.url).shown


@asynccontextmanager
async def open_relay(
    relay: Relays, *, most_peers: int = 1, config: AgentConfig | None = None
) -> AsyncIterator[RelayPlace]:
    """Yield the relay of an inviter; when none is configured, one runs while the body does.

    Args:
        relay: what was named.
        most_peers: how many may be connected at once.
        config: whose network a relay of our own is on.
    Raises:
        RelayError: a relay of our own cannot be started.
        LocalError: a URL is malformed.
    """
    named = named_relays(relay)
    if named:
        yield RelayPlace(named[0], others=named[1:])
        return
    # Strangers that find the port may join, if they know the code, and do nothing else.
    password = secrets.token_urlsafe(16)
    network = virtual_network(config)
    host = best_address() if network is None else address_on(network)
    wildcard, loopback = ("::", "::1") if ":" in host else ("0.0.0.0", "127.0.0.1")  # noqa: S104 (its purpose)
    async with AsyncExitStack() as stack:
        try:
            listeners = () if network is None else (await network.listen_tcp(wildcard),)
            server = await stack.enter_async_context(_serve_one_command(wildcard, password, most_peers, listeners))
        except OSError as error:
            raise RelayError(f"cannot start a relay here: {error.strerror}; name one with --relay") from error
        url = f"ws://{icesignal.OWNER}:{password}@{_authority(loopback, server.port)}"
        yield RelayPlace(url, _authority(host, server.port))


def _serve_one_command(
    host: str, password: str, most_peers: int, listeners: Sequence[trio.abc.Listener[Any]]
) -> AbstractAsyncContextManager[icesignal.Server]:
    """Return a relay of one command's own: for its rooms, and whoever comes to join them.

    Its code carries an address, so that nobody has to say the nameplate to himself, and it may be long enough that
    trying them all is no way in. Each peer has a connection here, and this command another for it; of the rest nobody
    who is at one address alone may take the larger part.
    """
    limits = icesignal.Limits(max_connections=60 + 4 * most_peers, max_connections_per_source=15 + most_peers)
    most_rooms = 3 + 2 * most_peers  # that of its code, and one where it is met again
    rooms = icesignal.RoomLimits(
        max_rooms=most_rooms, rooms_per_source=most_rooms, total_log_bytes=4 << 20, nameplate_digits=4
    )
    engine = icesignal.MemoryEngine(limits=rooms)
    return icesignal.serve(host=host, limits=limits, engine=engine, owner_password=password, listeners=listeners)


def relay_for(code: icesignal.Code, relay: Relays) -> str:
    """Return the URL of a joiner's relay: what is named may be several, where a code was made is one.

    Raises:
        RelayMissing: nothing names one, or several are named and the code is silent.
        LocalError: a URL is malformed.
    """
    named = named_relays(relay)
    if relay and len(named) == 1:
        return named[0]
    found = code.relay_among(named)
    if found is None and named:
        raise RelayMissing(
            f"the code {code.nameplate}-... names no relay, and {len(named)} are given here: to ask them all could use "
            "up the code of somebody else. Give the one where it was made (--relay URL)"
        )
    if found is None:
        raise RelayMissing(
            f"the code {code.nameplate}-... names no relay; give the one the other side uses (--relay URL)"
        )
    return found


def named_relays(relay: Relays) -> tuple[str, ...]:
    """Return the URLs of the relays that are named, as `relay` or by the environment; none where neither names one.

    Raises:
        LocalError: one of them is malformed, or they are too many.
    """
    if relay:
        return _checked([relay] if isinstance(relay, str) else relay, "")
    listed = [one.strip() for one in os.environ.get(ENVIRONMENT, "").split(",")]
    return _checked([one for one in listed if one], f"{ENVIRONMENT}: ")


def _checked(urls: Sequence[str], named_by: str) -> tuple[str, ...]:
    try:
        return tuple(one.text for one in icesignal.parse_relay_urls(urls)) if urls else ()
    except ValueError as error:
        raise LocalError(f"{named_by}{error}") from None


@asynccontextmanager
async def open_client(
    relays: str | Sequence[str], config: AgentConfig | None = None, *, timeout_s: float = RELAY_TIMEOUT_S
) -> AsyncIterator[icesignal.Client]:
    """Connect to a relay, or to the first of several that answers, through a proxy where one is configured for it.

    Raises:
        SignalError: as for `icesignal.open_client`.
    """
    places = icesignal.parse_relay_urls(relays)
    network = virtual_network(config)
    direct = None if network is None else way_on(network)
    proxies = [_proxy_to(place.host, place.port, config or AgentConfig()) for place in places]
    ways = [
        direct if proxy is None else _through(network or SystemNetwork(), proxy, PROXY_SHARE * timeout_s)
        for proxy in proxies
    ]
    urls = [place.text for place in places]
    async with icesignal.open_client(urls, open_stream=ways, timeout_s=timeout_s) as client:
        yield client


def is_proxied(host: str, port: int, config: AgentConfig | None) -> bool:
    """Return whether a relay is reached through a proxy."""
    return _proxy_to(host, port, config or AgentConfig()) is not None


def _proxy_to(host: str, port: int, config: AgentConfig) -> Proxy | None:
    """Return the proxy to a relay: the configured one, where `""` means none, or this machine's environment's."""
    if config.proxy is None:
        return proxy_for(host, port, os.environ) if virtual_network(config) is None else None
    return parse_proxy(config.proxy) if config.proxy and not is_exempt(host, port, {}) else None


def _through(network: Network, proxy: Proxy, timeout_s: float) -> icesignal.OpenStream:
    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        try:
            return await connect_through(network, proxy, host, port, timeout_s=timeout_s)
        except ProxyError as error:
            raise ProxyError(f"{error} (NO_PROXY names what is to be reached without a proxy)") from error
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise ProxyError(f"the proxy {proxy.host} on the way to it cannot be reached: {why}") from error

    return open_stream


def parse_code(text: str) -> icesignal.Code:
    """Return a code taken apart.

    Raises:
        CodeError: the text is no code.
    """
    try:
        return icesignal.parse_code(text)
    except ValueError as error:
        raise CodeError(str(error)) from None


def best_address(families: Sequence[int] = (4, 6)) -> str:
    """Return the address under which other machines most likely reach this one; loopback if it is alone.

    Args:
        families: IP versions it may have, 4 or 6 or both.
    """
    for outside, family in _OUTSIDE:
        if (6 if family is socket.AF_INET6 else 4) not in families:
            continue
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:  # a kernel may have no IPv6 at all
                probe.connect((outside, 9))  # sends nothing: only asks the routing table
                host = str(probe.getsockname()[0])
        except OSError:
            continue
        if not ipaddress.ip_address(host).is_loopback:
            return host
    try:
        interfaces = SystemNetwork().interfaces()
    except OSError:  # no netlink, as in a sandbox
        interfaces = []
    others = [one.host for one in interfaces if not one.is_loopback and not one.is_link_local]
    usable = [host for host in others if (6 if ":" in host else 4) in families]
    return min(usable, key=lambda host: ":" in host, default="127.0.0.1" if 4 in families else "::1")


def agent_config(config: AgentConfig | None, relay_host: str, ice_servers: Sequence[Mapping[str, Any]]) -> AgentConfig:
    """Return the agent's configuration with the relay's STUN and TURN servers.

    Peers that meet at loopback may use loopback. What the relay offers and nobody can use is left out and logged.

    Raises:
        LocalError: only relayed paths are allowed, and there is no TURN server.
    """
    config = config or AgentConfig()
    servers = session_servers(config, relay_host, ice_servers)
    _require_turn(config, is_known=any(server.is_turn for server in servers))
    loopback = True if config.include_loopback is None and is_loopback(relay_host) else config.include_loopback
    return replace(config, servers=servers, include_loopback=loopback)


def check_turn(config: AgentConfig | None, client: icesignal.Client) -> None:
    """See before a code is used whether there will be a TURN server where one is needed.

    Raises:
        LocalError: only relayed paths are allowed, and there will be none.
    """
    config = config or AgentConfig()
    own = any(server.is_turn for server in config.ice_servers)
    _require_turn(config, is_known=own or wire.OFFERS_TURN in client.welcome.offers)


def _require_turn(config: AgentConfig, *, is_known: bool) -> None:
    if config.transport_policy == "relay" and not is_known:
        raise LocalError(
            "only relayed paths are allowed here, and no TURN server is known: let the relay be `iceagent serve --turn`"
        )


def session_servers(
    config: AgentConfig | None, relay_host: str, ice_servers: Sequence[Mapping[str, Any]]
) -> tuple[IceServer, ...]:
    """Return the servers of a session's agent: those of its configuration, then what the relay offers."""
    config = config or AgentConfig()
    offered = offered_servers(ice_servers, relay_host, config.network or SystemNetwork())
    return tuple(dict.fromkeys([*config.ice_servers, *offered]))


def host_of(url: str) -> str:
    """Return the host of a relay's URL, without brackets."""
    return icesignal.parse_relay_url(url).host


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine by name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def signal_errors() -> Iterator[None]:
    """Turn what icesignal raises into the errors of a session."""
    try:
        yield
    except icesignal.CodeError as error:
        raise CodeError(str(error)) from error
    except icesignal.ProtocolMismatch as error:
        raise VersionMismatch(str(error)) from error
    except icesignal.PeerLeft as error:
        raise NobodyCame(str(error)) from error
    except icesignal.SignalError as error:
        raise RelayError(str(error)) from error
    except ValueError as error:
        raise LocalError(str(error)) from error


LookAgain = Callable[[Collection[str] | None], None]


@asynccontextmanager
async def keeping_up(look_again: LookAgain, network: Network | None = None) -> AsyncIterator[None]:
    """While the body runs, have signaling look at its connection after each change of the network.

    Args:
        look_again: called with the addresses that this machine has now.
        network: this machine's, unless another one is given.
    """
    watched = network or SystemNetwork()

    async def follow() -> None:
        async with open_monitor(watched) as monitor:
            while True:
                await monitor.wait()
                look_again({entry.host.partition("%")[0] for entry in watched.interfaces()})

    async with open_background() as nursery:
        nursery.start_soon(follow)
        yield


async def hurry_restarts(agent: Agent, look_again: LookAgain) -> None:
    """Have signaling look at its connection whenever the agent has something to say that cannot wait."""
    from iceagent.core.ice import Restarted  # here: an inviter keeps up long before it has an agent

    async for event in agent.events():
        if isinstance(event, Restarted):
            look_again(None)
