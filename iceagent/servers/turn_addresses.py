"""The addresses of a TURN server's machine: those that relays bind to, those that are never peers, their changes."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import trio

from iceagent.core.address import is_private
from iceagent.core.turn.server import PeerPolicy, TurnServerConfig, UserStore
from iceagent.net.api import Network
from iceagent.net.interfaces import own_hosts, ownership
from iceagent.net.monitor import open_monitor
from iceagent.servers.turn_options import TurnOptions, TurnOptionsError

if TYPE_CHECKING:
    from iceagent.servers.turn import TurnService

logger = logging.getLogger(__name__)

MAX_RELAY_HOSTS: Final = 64  # ours: addresses of a machine that listens at all of them, of both families


def make_config(options: TurnOptions, network: Network, users: UserStore) -> TurnServerConfig:
    """Return the core's configuration.

    Raises:
        TurnOptionsError: addresses or rules do not fit.
        PolicyError: a peer rule is malformed.
    """
    hosts = relay_hosts(options, network)
    policy = PeerPolicy(
        allow=options.allow_peers,
        deny=options.deny_peers,
        own=own_addresses(options, network, hosts),
        is_here=ownership(network),
        loopback=options.loopback,
        relay_only=options.relay_only,
        nat64=options.nat64,
    )
    try:
        return TurnServerConfig(
            options.realm, users, hosts, policy, options.limits, options.ports, software=options.software
        )
    except ValueError as error:
        raise TurnOptionsError(f"TURN server: {error}") from None


def own_addresses(options: TurnOptions, network: Network, hosts: dict[str, str]) -> frozenset[str]:
    """Return what is never a peer but as a relay: the machine's addresses, and what others know it as.

    Raises:
        OSError: the system does not report them.
    """
    listed = {address.host.partition("%")[0] for address in options.listen}
    return own_hosts(network) | listed | {*hosts, *hosts.values()}


def relay_hosts(options: TurnOptions, network: Network) -> dict[str, str]:
    """Return where relays are bound and what they are called, of each family the preferred address first.

    A server that listens at all addresses relays from all that are as good as the best: global ones if there are any.
    Where an external address is named, the NAT in front of the machine knows one inner address, so one it is.

    Raises:
        TurnOptionsError: an address is no address, or there is none to relay from.
    """
    external = {":" in host: _literal(host) for host in options.external}
    if len(external) != len(options.external):
        raise TurnOptionsError("at most one external address of each family")
    wanted = [_literal(host) for host in options.relay_hosts or [address.host for address in options.listen]]
    hosts: dict[str, str] = {}
    for literal in wanted:
        is_ipv6 = ":" in literal
        if is_ipv6 in external and any((":" in one) == is_ipv6 for one in hosts):
            continue
        found = _usable_hosts(network, is_ipv6=is_ipv6) if ipaddress.ip_address(literal).is_unspecified else [literal]
        for host in found[:1] if is_ipv6 in external else found:
            hosts[host] = external.get(is_ipv6, host)
    if not external.keys() <= {":" in host for host in hosts}:
        raise TurnOptionsError("an external address is of a family that the server does not listen with")
    return dict(list(hosts.items())[:MAX_RELAY_HOSTS])


def _literal(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise TurnOptionsError(f"{host!r} is no IP address") from None


def _usable_hosts(network: Network, *, is_ipv6: bool) -> list[str]:
    """Return the addresses to relay from of a server that listens at all: the global ones, else those there are.

    That from which packets to the internet leave comes first: a machine may have networks of its own, for containers.
    """
    usable = (
        one
        for one in network.interfaces()
        if (":" in one.host) == is_ipv6 and not one.is_loopback and not one.is_link_local and not one.is_temporary
    )
    found = [one.host for one in sorted(usable, key=lambda one: -one.route_use)]
    if not found:
        family = "IPv6" if is_ipv6 else "IPv4"
        raise TurnOptionsError(f"no {family} address to relay from; listen at an address of this machine")
    return [host for host in found if not is_private(host)] or found


class AddressWatch:
    """Keeps a server's view of its own addresses true while it runs.

    Args:
        service: the server.
    """

    def __init__(self, service: TurnService) -> None:
        self._service = service

    async def run(self) -> None:
        """Watch until cancelled."""
        async with open_monitor(self._service.network) as monitor:
            while True:
                self.look()
                await monitor.wait()

    def look(self) -> None:
        """Give the core the present addresses; where the system reports none, those reported before stay."""
        service = self._service
        options, network, core = service.options, service.network, service.core
        try:
            hosts = _kept(core.relay_hosts, relay_hosts(options, network), own_hosts(network))
            core.set_own_addresses(own_addresses(options, network, hosts))
        except (OSError, TurnOptionsError) as error:
            logger.warning("the addresses of this machine are not known now: %s", error)
            return
        core.set_relay_hosts(trio.current_time(), hosts)
        service.note_relay_hosts()
        service.settle()


def _kept(before: Mapping[str, str], now: dict[str, str], mine: frozenset[str]) -> dict[str, str]:
    """Return the present relay hosts, then earlier ones that are still ours: an interface may have no carrier."""
    return now | {host: public for host, public in before.items() if host in mine and host not in now}
