"""The check of one machine's network: everything at once, each part within its own time."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import icesignal
import trio

from iceagent.agent import IceServer
from iceagent.core.address import TransportAddress
from iceagent.core.discovery import NatBehaviour
from iceagent.net import InterfaceAddress, Network, SystemNetwork
from iceagent.net.gateway import Gateway, find_gateways
from iceagent.net.nat_discovery import discover_nat
from iceagent.net.portmap import probe_port_mapping
from iceagent.session.netcheck.report import (
    FamilyReport,
    PortMappingReport,
    RelayReport,
    Report,
    ServerHealth,
    WebReport,
)
from iceagent.session.netcheck.servers import check_others, find_places, health_of_stun
from iceagent.session.netcheck.web import KnownPage, look_at_web, relay_question
from iceagent.session.relay import Relays, agent_config, open_client

RELAY_S: Final = 5.0
WEB_S: Final = 6.0
LIFETIMES_S: Final = (15.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 240.0, 300.0)


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What to look at.

    Attributes:
        relay: URL of the signaling relay, or several, of which the first that answers is used; its STUN and TURN
            servers are asked, too.
        servers: URLs of STUN and TURN servers.
        portal_url: a page that answers 204, to find captive portals where there is no relay to ask.
        lifetime: whether to find out how long idle mappings live, which takes five minutes.
        upnp: whether to look for UPnP.
        families: IP versions to look at.
        network: this machine's, or a virtual one.
        randbytes: the source of all randomness.
    """

    relay: Relays = field(default=None, repr=False)
    servers: Sequence[str] = ()
    portal_url: str | None = None
    lifetime: bool = False
    upnp: bool = True
    families: Sequence[int] = (4, 6)
    network: Network = field(default_factory=SystemNetwork)
    randbytes: Callable[[int], bytes] = field(default=secrets.token_bytes, repr=False)


async def check_network(options: CheckOptions) -> Report:
    """Look at the network; takes some seconds, most of them where something is silent.

    Raises:
        LocalError: the URL of a server is malformed.
    """
    check = _Check(options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(check.ask_servers)
        nursery.start_soon(check.ask_gateway)
        nursery.start_soon(check.ask_web)
    return check.report()


class _Check:
    def __init__(self, options: CheckOptions) -> None:
        self._options = options
        self._network = options.network
        self._relay: RelayReport | None = None
        self._web = WebReport()
        self._families: list[FamilyReport] = []
        self._mapping: list[PortMappingReport] = []
        self._report = Report()

    def report(self) -> Report:
        return replace(
            self._report,
            families=tuple(sorted(self._families, key=lambda one: one.family)),
            port_mapping=tuple(self._mapping),
            relay=self._relay,
            web=self._web,
        )

    # The relay, and the servers

    async def ask_servers(self) -> None:
        given = [IceServer(url) for url in self._options.servers]
        servers = list(dict.fromkeys([*given, *await self._ask_relay()]))
        places = await find_places(self._network, servers, self._options.families)
        health: list[ServerHealth] = []

        async def ask_others() -> None:
            health.extend(await check_others(self._network, servers))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_others)
            for family in self._options.families:
                targets = [one.address for one in places if one.address and one.address.family == family]
                nursery.start_soon(self._ask_family, family, targets)
        reports = [report for one in self._families if one.behaviour for report in one.behaviour.servers]
        self._report = replace(self._report, servers=(*health_of_stun(places, reports), *health))

    async def _ask_relay(self) -> list[IceServer]:
        """Return the servers the relay recommends, with the credentials it gives for them."""
        relays = self._options.relay
        if not relays:
            return []
        started_at = trio.current_time()
        detail, shown = f"no answer within {RELAY_S:g} s", ""
        with trio.move_on_after(RELAY_S):
            try:
                shown = icesignal.parse_relay_urls(relays)[0].shown
                async with open_client(relays, timeout_s=RELAY_S) as client:
                    shown = client.url
                    latency_s = trio.current_time() - started_at
                    # It names its servers to the members of a room; so make one, which ends at once.
                    async with icesignal.open_invitation(client) as room:
                        servers = list(agent_config(None, client.place.host, room.ice_servers).ice_servers)
            except (icesignal.SignalError, ValueError) as error:
                detail = str(error)
            else:
                self._relay = RelayReport(shown, ok=True, latency_s=latency_s)
                return servers
        self._relay = RelayReport(shown, ok=False, detail=detail)
        return []

    async def _ask_family(self, family: int, servers: list[TransportAddress]) -> None:
        """Discover what one family's path does, from the address that the servers are reached from."""
        local_only = bool(servers) and all(server.ip.is_loopback for server in servers)
        gateway = None if local_only else await self._gateway(family)
        host = choose_host(self._network.interfaces(), family, gateway, loopback=local_only)
        if host is None:
            return
        behaviour: NatBehaviour | None = None
        if servers:
            lifetimes_s = LIFETIMES_S if self._options.lifetime else ()
            try:
                behaviour = await discover_nat(
                    self._network, host, servers, randbytes=self._options.randbytes, lifetimes_s=lifetimes_s
                )
            except OSError:
                return  # the address went away meanwhile
        self._families.append(FamilyReport(family, host, gateway, behaviour))

    # The gateway

    async def _gateway(self, family: int) -> Gateway | None:
        found = await find_gateways(self._network, family)
        return found[0] if found else None

    async def ask_gateway(self) -> None:
        gateway = await self._gateway(4)
        host = choose_host(self._network.interfaces(), 4, gateway, loopback=False)
        if host is None:
            return
        answers = await probe_port_mapping(
            self._network, host, gateway, upnp=self._options.upnp and gateway is not None
        )
        self._mapping = [
            PortMappingReport(answer.protocol, answer.available, answer.detail, answer.external_host)
            for answer in answers
        ]

    # The web

    async def ask_web(self) -> None:
        question = None
        if self._options.portal_url is not None:
            question = KnownPage(self._options.portal_url, 204)
        elif self._options.relay:
            relays = self._options.relay
            question = relay_question(relays if isinstance(relays, str) else relays[0])
        with trio.move_on_after(WEB_S) as scope:
            self._web = await look_at_web(self._network, question)
        if scope.cancelled_caught and question is not None:
            self._web = WebReport(detail=f"{question.url}: no answer within {WEB_S:g} s")


def choose_host(
    interfaces: Sequence[InterfaceAddress], family: int, gateway: Gateway | None, *, loopback: bool
) -> str | None:
    """Return the local address of a family that packets to the internet leave from; None where there is none.

    Args:
        interfaces: all addresses of the host.
        family: 4 or 6.
        gateway: the default one: an address of its interface is taken before all others.
        loopback: whether only loopback will do, since all there is to reach is on this machine.
    """
    ours = [entry for entry in interfaces if (":" in entry.host) == (family == 6) and entry.is_loopback == loopback]
    ours = [entry for entry in ours if not entry.is_link_local]
    if gateway is not None and not loopback:
        ours.sort(key=lambda entry: (entry.name != gateway.interface, not entry.is_temporary))
    return ours[0].host if ours else None
