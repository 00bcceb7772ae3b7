"""Restarts, and a network that changes underneath: the same agent goes on over whatever there is now.

Source: RFC 8445 section 9.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import trio

from iceagent.agent.config import AgentConfig
from iceagent.agent.driver import Driver
from iceagent.agent.events import NetworkChanged
from iceagent.agent.gather import Gatherer
from iceagent.core import ice
from iceagent.core.address import TransportAddress
from iceagent.net.api import Network
from iceagent.net.monitor import Change, open_monitor

logger = logging.getLogger("iceagent.agent")

_PATHLESS = frozenset((ice.AgentState.DISCONNECTED, ice.AgentState.CHECKING))


class Roaming:
    """Restarts an agent on demand, by the peer's wish, and with `AgentConfig.auto_restart` by its own.

    Args:
        network: what is watched for changes.
        config: says whether to restart without being asked.
        driver: holds the core and the sockets.
        gatherer: finds the candidates of each generation.
    """

    def __init__(self, network: Network, config: AgentConfig, driver: Driver, gatherer: Gatherer) -> None:
        self._network = network
        self._config = config
        self._driver = driver
        self._gatherer = gatherer
        self._again = trio.Event()

    def restart(self) -> ice.Credentials:
        """Begin a restart, unless one is waiting for the peer's answer; return the credentials it has to get."""
        self.change(self._driver.ice.restart)
        return self._driver.ice.credentials

    def change(self, change: Callable[[float], object]) -> None:
        """Apply a change to the core that may be a restart; if so, give the new session its candidates.

        Those at hand, whose sockets live, are offered at once; meanwhile all servers are asked again, since what they
        saw may no longer hold.
        """
        core = self._driver.ice
        generation = core.generation
        at_hand = [one for one in core.local_candidates if one.type is not ice.CandidateType.PRFLX]
        self._driver.mutate(change)
        if core.generation == generation:
            return
        self._gatherer.begin_again()
        for candidate in at_hand:
            if candidate.path_base in self._driver.sockets:
                self._driver.mutate(partial(_offer, core, candidate))
        self._again.set()

    async def run(self) -> None:
        """Gather anew after each restart, and follow the network, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_network, nursery)
            if self._config.auto_restart:
                nursery.start_soon(self._follow_path)
            while True:
                await self._again.wait()
                self._again = trio.Event()
                nursery.start_soon(self._gatherer.run)

    async def _follow_path(self) -> None:
        """Restart when the path in use goes silent; the peer, who hears as little, does the same."""
        core = self._driver.ice
        while not self._driver.closed:
            if core.state is ice.AgentState.DISCONNECTED and not core.restarting:
                logger.info("%s: the path is silent, so ICE restarts", core.credentials.ufrag)
                self.restart()
            await self._driver.changed.park()

    async def _follow_network(self, nursery: trio.Nursery) -> None:
        async with open_monitor(self._network) as monitor:
            while not self._driver.closed:
                changes = await monitor.wait()
                if not self._driver.closed:
                    await self._adapt(changes, nursery)

    async def _adapt(self, changes: frozenset[Change], nursery: trio.Nursery) -> None:
        """Close the sockets whose address is gone, open those of new ones, and look for the best path again."""
        core = self._driver.ice
        before = {base.address for base in self._gatherer.bases}
        moved = False
        if Change.ADDRESSES in changes and self._config.transport_policy != "relay":
            moved = self._close_stale()
            for base in await self._gatherer.open_new_bases():
                moved = True
                nursery.start_soon(self._driver.receive_from, base.address)
        after = {base.address for base in self._gatherer.bases}
        words = tuple(sorted(change.value for change in changes))
        self._driver.note(NetworkChanged(words, tuple(sorted(before - after)), tuple(sorted(after - before))))
        self._driver.mutate(core.handle_network_changed)
        if not moved and Change.WOKE not in changes and core.state not in _PATHLESS:
            return
        if self._config.auto_restart and core.remote_credentials is not None:
            logger.info("%s: the network changed, so ICE restarts", core.credentials.ufrag)
            self.restart()
        else:
            self._again.set()

    def _close_stale(self) -> bool:
        present = {entry.host for entry in self._network.interfaces()}
        gone = [base for base in self._gatherer.bases if base.address.host not in present]
        for base in gone:
            self._gatherer.bases.remove(base)
            self._driver.sockets.pop(base.address).close()
            self._driver.mutate(partial(_lose, self._driver.ice, base.address))
        return bool(gone)


def _offer(core: ice.IceAgent, candidate: ice.Candidate, now: float) -> None:
    core.add_local_candidate(now, candidate)


def _lose(core: ice.IceAgent, base: TransportAddress, now: float) -> None:
    core.handle_base_lost(now, base)
