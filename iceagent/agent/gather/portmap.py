"""Ports that the gateway maps for us, as server-reflexive candidates, in parallel to all else: they delay nothing.

By default the gateway is asked where that can help: the agent has servers, so its peer may be in another network, and
its own address is private (or IPv6, where a firewall may be opened). An agent on loopback
alone, or with a public IPv4 address, asks nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from iceagent.agent import late
from iceagent.agent.config import AgentConfig
from iceagent.agent.driver import Driver
from iceagent.agent.report.events import PortMapped, PortMappingFailed
from iceagent.core import ice
from iceagent.core.address import TransportAddress, is_private, make_address
from iceagent.net.api import Network
from iceagent.net.gateway import KnowsGateways, find_gateways
from iceagent.net.tasks import run_contained

if TYPE_CHECKING:
    from iceagent.net.portmap import MappedPort, PortMapping

PORT_MAPPING_BUDGET_S: Final = 2.0
"""Ours: for so long end-of-candidates is held back; who waits for it waits no longer than for a slow server."""
MAX_MAPPINGS: Final = 4  # ours: bases of one agent that are mapped


class PortMappings:
    """Keeps the bases of one agent mapped, as far as its configuration and its gateway allow.

    Args:
        network: must know its gateways, or there is nothing to do.
        config: says whether.
        driver: takes the candidates.
    """

    def __init__(self, network: Network, config: AgentConfig, driver: Driver) -> None:
        self._network = network
        self._config = config
        self._driver = driver
        self._waiting = 0
        self._settled = trio.Event()

    def is_wanted(self, base: TransportAddress) -> bool:
        """Return whether a base is worth a mapping."""
        config = self._config
        if not self._driver.policy.has_type(ice.CandidateType.SRFLX):
            return False
        if config.port_mapping is False or not isinstance(self._network, KnowsGateways):
            return False
        if config.port_mapping is None and not self._driver.servers:
            return False
        ip = base.ip
        if ip.is_loopback or ip.is_link_local:
            return False
        return is_private(base.host) if base.family == 4 else not is_private(base.host)

    async def run(self, bases: Sequence[tuple[TransportAddress, int]]) -> None:
        """Keep the bases mapped until cancelled; each with its local preference."""
        wanted = [(base, preference) for base, preference in bases if self.is_wanted(base)][:MAX_MAPPINGS]
        if wanted and not await self._may_ask():
            wanted = []
        self._waiting = len(wanted)
        if not wanted:
            self._settled.set()
            return
        async with trio.open_nursery() as nursery:
            for base, preference in wanted:
                nursery.start_soon(self._map_alone, base, preference)

    async def _may_ask(self) -> bool:
        gateways = await find_gateways(self._network)
        return all(self._driver.policy.permits_server(make_address(gateway.host, 0)) for gateway in gateways)

    async def wait_settled(self) -> None:
        """Wait until every base is mapped or will not be. It may be cancelled by a budget."""
        await self._settled.wait()

    async def _map_alone(self, base: TransportAddress, preference: int) -> None:
        """Map one base; whatever its gateway may say, the others are mapped, and nobody waits for this one."""
        is_settled = trio.Event()
        await run_contained(f"a port mapping of {base}", self._map, base, preference, is_settled)
        self._note_settled(is_settled)

    async def _map(self, base: TransportAddress, preference: int, is_settled: trio.Event) -> None:
        reported: set[TransportAddress] = set()
        async with late.open_port_mapping(self._network, base, randbytes=self._config.randbytes) as mapping:
            while not self._driver.closed:
                for held in mapping.addresses:
                    if held.external not in reported:
                        reported.add(held.external)
                        self._add(held, preference)
                if mapping.settled and not is_settled.is_set():
                    self._report_failures(mapping)
                    self._note_settled(is_settled)
                await mapping.wait_changed()

    def _add(self, held: MappedPort, preference: int) -> None:
        self._driver.note(PortMapped(held.protocol, held.internal, held.external))
        if held.external == held.internal or is_private(held.external.host):
            return  # an opened firewall, which the host candidate is for; or another NAT behind this one
        component = self._driver.ice.component
        candidate = ice.srflx_candidate(held.external, held.internal, held.protocol, preference, component)
        if not self._driver.policy.has_type(ice.CandidateType.HOST):
            candidate = replace(candidate, related_address=None)
        self._driver.mutate(lambda now: self._driver.ice.add_local_candidate(now, candidate))

    def _report_failures(self, mapping: PortMapping) -> None:
        if not mapping.addresses:
            for protocol, reason in mapping.failures.items():
                self._driver.note(PortMappingFailed(protocol, mapping.local, reason))

    def _note_settled(self, is_settled: trio.Event) -> None:
        """Take note, once for each base, that nothing more is to be waited for."""
        if is_settled.is_set():
            return
        is_settled.set()
        self._waiting -= 1
        if self._waiting == 0:
            self._settled.set()
