"""Gathering: host candidates at once, each STUN server by itself, so that a dead one delays nothing.

Source: RFC 8445 section 5.1, RFC 8838 section 9.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import trio

from iceagent.agent.addresses import choose_addresses
from iceagent.agent.config import AgentConfig, IceServer
from iceagent.agent.driver import Driver
from iceagent.agent.events import GatheringFinished, ServerAnswered, ServerFailed
from iceagent.agent.portmap import PortMappings
from iceagent.agent.relay import Relays
from iceagent.core import ice
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.constants import KEEPALIVE_S, TA_MIN_S
from iceagent.errors import LocalError
from iceagent.net.api import Network, UdpSocket

logger = logging.getLogger("iceagent.agent")

_BEST_PREFERENCE: Final = 65535  # RFC 8445 section 5.1.2.1


@dataclass(frozen=True, slots=True)
class Base:
    """A bound socket and the local preference of its candidates, unique per address (trap 23)."""

    address: TransportAddress
    local_preference: int


class Gatherer:
    """Finds the local candidates of one agent.

    Args:
        network: where sockets, interfaces and names come from.
        config: what may be used.
        driver: takes the sockets and the candidates.
    """

    def __init__(self, network: Network, config: AgentConfig, driver: Driver) -> None:
        self._network = network
        self._config = config
        self._driver = driver
        self.bases: list[Base] = []
        self._bases_made = 0
        self.addresses_seen = 0
        self.finished = False
        self.told_in_time: frozenset[TransportAddress] = frozenset()
        self.port_mappings = PortMappings(network, config, driver)
        self.relays = Relays(network, config, driver, self._relay_host, self._relay_ports)
        self._relay_hosts: dict[int, str] = {}
        self._mapped: dict[tuple[TransportAddress, TransportAddress], None] = {}

    async def open_bases(self) -> None:
        """Bind a socket to each usable address and make each a host candidate.

        Raises:
            LocalError: there are addresses but none of the allowed ports can be bound on any.
        """
        interfaces = self._network.interfaces()
        self.addresses_seen = len(interfaces)
        chosen = choose_addresses(interfaces, self._config)
        if self._config.interfaces is not None:
            for entry in reversed(chosen):
                self._relay_hosts[6 if ":" in entry.host else 4] = entry.host
        if self._config.transport_policy == "relay":
            return  # trap 4: what has no socket sends nothing and shows nothing
        for entry in chosen:
            sock = await self._open(entry.host)
            if sock is not None:
                self._add_base(sock)
        if chosen and not self.bases:
            ports = "" if self._config.port_range is None else " within ports {}-{}".format(*self._config.port_range)
            raise LocalError(f"none of {len(chosen)} local addresses can be bound{ports}; widen AgentConfig.port_range")

    async def open_new_bases(self) -> list[Base]:
        """Bind sockets to usable addresses that have come since; each is a host candidate. Return the new bases."""
        known = {base.address.host for base in self.bases}
        chosen = choose_addresses(self._network.interfaces(), self._config)
        made: list[Base] = []
        for entry in chosen:
            sock = None if entry.host in known else await self._open(entry.host)
            if sock is not None and self._driver.closed:
                sock.close()
            elif sock is not None:
                made.append(self._add_base(sock))
        return made

    def begin_again(self) -> None:
        """Take note that a restart asks for candidates anew; `run` is to follow."""
        self.finished = False

    async def run(self) -> None:
        """Ask all servers, then tell the core that no candidate follows; then keep the mapped addresses alive.

        A restart that comes in between leaves the end to the run that follows it.
        """
        generation = self._driver.ice.generation
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_relays)
            nursery.start_soon(self.port_mappings.wait_settled)
            for server in self._stun_servers():
                for family in self._families(server):
                    nursery.start_soon(self._ask, server, family)
        if self._driver.ice.generation != generation:
            return
        self.finished = True
        self.told_in_time = frozenset(candidate.address for candidate in self._driver.ice.local_candidates)
        self._driver.note(GatheringFinished(len(self._driver.ice.local_candidates)))
        self._driver.mutate(self._driver.ice.end_of_local_candidates)
        await self._keep_alive()

    async def map_ports(self) -> None:
        """Keep our ports mapped at the gateway, until cancelled."""
        await self.port_mappings.run([(base.address, base.local_preference) for base in self.bases])

    async def _wait_relays(self) -> None:
        with trio.move_on_after(self._config.gather_budget_s):
            await self.relays.wait_settled()

    def _stun_servers(self) -> list[IceServer]:
        """Return whom to ask for our mapped addresses: a TURN server over UDP is a STUN server, too."""
        found: dict[tuple[str, int], IceServer] = {}
        for server in self._config.servers:
            if not server.is_turn or "udp" in server.transports():
                found.setdefault(server.endpoint(), server)
        return list(found.values())

    def _relay_host(self, family: int) -> str | None:
        """Return the local address of connections to relays; None leaves it to the system's routes."""
        return self._relay_hosts.get(family)

    def _relay_ports(self) -> tuple[int, ...]:
        return tuple(self._ports())

    # Host candidates

    async def _open(self, host: str) -> UdpSocket | None:
        """Bind to the first free port; None when the address or all allowed ports are refused."""
        for port in self._ports():
            try:
                return await self._network.open_udp(host, port)
            except OSError as error:
                logger.debug("%s port %d cannot be bound: %s", host, port, error)
        return None

    def _ports(self) -> Iterable[int]:
        """Return the ports to try: the whole range from a random start, so that agents seldom collide."""
        if self._config.port_range is None:
            return (0,)
        low, high = self._config.port_range
        count = high - low + 1
        start = int.from_bytes(self._config.randbytes(4), "big") % count
        return (low + (start + step) % count for step in range(count))

    def _add_base(self, sock: UdpSocket) -> Base:
        base = Base(sock.local_address, _BEST_PREFERENCE - self._bases_made)
        self._bases_made += 1
        self.bases.append(base)
        self._driver.sockets[base.address] = sock
        candidate = ice.host_candidate(base.address, base.local_preference)
        self._driver.mutate(lambda now: self._driver.ice.add_local_candidate(now, candidate))
        return base

    # Server-reflexive candidates

    def _families(self, server: IceServer) -> list[int]:
        """Return the families to ask a server in: those of our sockets, or for a literal its own alone."""
        ours = sorted({base.address.family for base in self.bases})
        try:
            literal = make_address(*server.endpoint()).family
        except ValueError:
            return ours
        return [family for family in ours if family == literal]

    async def _ask(self, server: IceServer, family: int) -> None:
        """Ask one server about all our sockets of one family, within one budget; trap 21."""
        answered: set[TransportAddress] = set()
        target: TransportAddress | None = None
        bases = [base for base in self.bases if base.address.family == family]
        with trio.move_on_after(self._config.gather_budget_s) as budget:
            target = await self._resolve(server, family)
            if target is None:
                return
            bases = [base for base in bases if _can_reach(base.address, target)]
            async with trio.open_nursery() as nursery:
                for number, base in enumerate(bases):
                    nursery.start_soon(self._ask_from, server, target, base, number * TA_MIN_S, answered)
        if not budget.cancelled_caught:
            return
        reason = f"no answer within {self._config.gather_budget_s:g} s"
        if target is None:
            self._driver.note(ServerFailed(server.url, family, None, f"name lookup: {reason}"))
        for base in bases if target is not None else ():
            if base.address not in answered:
                self._driver.note(ServerFailed(server.url, family, base.address, reason))

    async def _resolve(self, server: IceServer, family: int) -> TransportAddress | None:
        host, port = server.endpoint()
        try:
            found = await self._network.resolve(host, port, family=family)
        except OSError as error:
            found = []
            reason = f"name lookup: {error}"
        else:
            reason = f"no IPv{family} address"
        if not found:
            self._driver.note(ServerFailed(server.url, family, None, reason))
            return None
        return found[0]

    async def _ask_from(
        self, server: IceServer, target: TransportAddress, base: Base, delay_s: float, answered: set[TransportAddress]
    ) -> None:
        """Learn how `target` sees one socket.

        The requests of one server start 5 ms apart, as RFC 8445 section 14.2 asks of new transactions at the least;
        servers do not wait for each other, lest a dead one delay a live one.
        """
        await trio.sleep(delay_s)
        query = self._driver.queries.start(trio.current_time(), base.address, target)
        try:
            self._driver.mutate(lambda now: None)
            await query.done.wait()
        finally:
            self._driver.queries.cancel(query)
        answered.add(base.address)
        if query.mapped is None:
            self._driver.note(ServerFailed(server.url, base.address.family, base.address, query.failure))
            return
        rtt_s = trio.current_time() - query.started_at
        self._driver.note(ServerAnswered(server.url, base.address, query.mapped, rtt_s))
        self._add_mapped(query.mapped, base, target)

    def _add_mapped(self, mapped: TransportAddress, base: Base, server: TransportAddress) -> None:
        self._mapped[base.address, server] = None
        if mapped == base.address:
            return  # no NAT in between: redundant with the host candidate (RFC 8445 section 5.1.3)
        candidate = ice.srflx_candidate(mapped, base.address, server.host, base.local_preference)
        self._driver.mutate(lambda now: self._driver.ice.add_local_candidate(now, candidate))

    async def _keep_alive(self) -> None:
        """Keep NAT bindings open until a pair is selected; from then on checks of consent do.

        Source: RFC 8445 section 5.1.1.4.
        """
        while self._mapped and self._driver.ice.state in _UNDECIDED:
            await trio.sleep(KEEPALIVE_S)
            if self._driver.ice.state in _UNDECIDED:
                for base, server in self._mapped:
                    self._driver.queries.keep_alive(base, server)
                self._driver.mutate(lambda now: None)


_UNDECIDED: Final = frozenset({ice.AgentState.NEW, ice.AgentState.CHECKING, ice.AgentState.CONNECTED})


def _can_reach(base: TransportAddress, server: TransportAddress) -> bool:
    """Return whether a packet from `base` can get to `server` at all: loopback and link-local stay among themselves."""
    here, there = base.ip, server.ip
    return (here.is_loopback, here.is_link_local) in (
        (there.is_loopback, there.is_link_local),
        (False, there.is_link_local),
    )
