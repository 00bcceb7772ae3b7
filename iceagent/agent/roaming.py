"""Restarts, and changes of the network: the same agent continues over the network that there is now.

Source: RFC 8445 section 9.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import trio

from iceagent.agent.component import Component
from iceagent.agent.components import Components
from iceagent.agent.config import AgentConfig
from iceagent.agent.report.events import NetworkChanged, Stopped
from iceagent.core import constants, ice
from iceagent.core.address import TransportAddress
from iceagent.net.api import Network
from iceagent.net.monitor import Change, open_monitor
from iceagent.net.tasks import contained, run_contained

logger = logging.getLogger("iceagent.agent")

_PATHLESS = frozenset((ice.AgentState.DISCONNECTED, ice.AgentState.CHECKING))


class Roaming:
    """Restarts an agent on demand, by the peer's wish, and with `AgentConfig.auto_restart` by its own.

    Args:
        network: what is watched for changes.
        config: says whether to restart without being asked.
        components: each holds its part of the core, its sockets, and what finds its candidates.
    """

    def __init__(self, network: Network, config: AgentConfig, components: Components) -> None:
        self._network = network
        self._config = config
        self._components = components
        self._first = components.all[0, 1].driver
        self._again = trio.Event()
        self._to_gather: list[Component] = []

    @property
    def _living(self) -> list[Component]:
        return [component for component in self._components.all.values() if not component.driver.closed]

    def restart(self, stream: int | None = None) -> ice.Credentials:
        """Begin a restart, unless one is waiting for the peer's answer; return the credentials it has to get.

        Of one data stream, or with None of all.
        """
        self.change(lambda now: self._components.restart(now, stream))
        return self._components.credentials(stream or 0)

    def change(self, change: Callable[[float], object]) -> None:
        """Apply a change to the core that may be a restart; if so, give the new sessions their candidates.

        Those at hand, whose sockets live, are offered at once; meanwhile all servers are asked again, since what they
        saw may no longer hold.
        """
        before = [(component, component.driver.ice.generation, _at_hand(component)) for component in self._living]
        self._components.change(change)
        for component, generation, at_hand in before:
            core = component.driver.ice
            if core.generation != generation:
                component.gatherer.begin_again()
                for candidate in at_hand:
                    if candidate.path_base in component.driver.sockets:
                        component.driver.mutate(partial(_offer, core, candidate))
                self._gather(component)

    def gather_again(self) -> None:
        """Find candidates anew for the present credentials."""
        for component in self._living:
            self._gather(component)

    def give_up(self) -> None:
        """Have the agent fail, if it has no path."""
        for component in self._living:
            component.driver.mutate(component.driver.ice.give_up)

    def _gather(self, component: Component) -> None:
        self._to_gather.append(component)
        self._again.set()

    async def run(self) -> None:
        """Gather anew after each restart, and follow the network, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_contained, "following the network", self._follow_network, nursery)
            if self._config.auto_restart:
                nursery.start_soon(run_contained, "following the path", self._follow_path)
            while True:
                await self._again.wait()
                self._again = trio.Event()
                components, self._to_gather = self._to_gather, []
                for component in dict.fromkeys(components):
                    nursery.start_soon(run_contained, "gathering", component.gatherer.run)

    async def _follow_path(self) -> None:
        """Restart when no path answers any more; the peer, who hears as little, does the same.

        At most every `RESTART_INTERVAL_S`, lest a line that loses nearly everything be asked for more and more; but
        when the path is DISCONNECTED, or all are lost, in any case.

        Also when data has fallen back from a direct path to a relay: it works, but what servers reported of our
        addresses may no longer hold (a NAT was rebooted, a router got another address), and nothing else asks again.
        """
        direct: dict[ice.IceAgent, tuple[int, TransportAddress]] = {}
        stranded_again_at = trio.current_time()
        while components := self._living:
            for core in (component.driver.ice for component in components):
                if core.restarting:
                    continue
                has_fallen_back = self._has_fallen_back(core, direct)
                is_stranded = core.stranded and trio.current_time() >= stranded_again_at
                is_silent = core.state is ice.AgentState.DISCONNECTED or core.is_lost
                if is_silent or is_stranded or has_fallen_back:
                    words = "the direct path has died" if has_fallen_back else "the path is silent"
                    if is_stranded:
                        stranded_again_at = trio.current_time() + constants.RESTART_INTERVAL_S
                    logger.info("%s: %s, so ICE restarts", core.credentials.ufrag, words)
                    self.restart()
            await self._first.changed.park()

    def _has_fallen_back(self, core: ice.IceAgent, direct: dict[ice.IceAgent, tuple[int, TransportAddress]]) -> bool:
        """Return whether data has moved to a relay, once in each generation that had a direct path.

        What looked direct may have led to the peer's relay all the time: its checks came before its candidates.

        Args:
            core: one component's.
            direct: of which cores data went directly, in which generation and to which address; kept up to date.
        """
        pair = core.selected_pair
        if pair is None:
            return False
        if not pair.is_relayed:
            direct[core] = (core.generation, pair.remote.address)
            return False
        generation, remote = direct.pop(core, (None, None))
        relays = {one.address for one in core.remote_candidates if one.type is ice.CandidateType.RELAY}
        return generation == core.generation and remote not in relays and core.remote_credentials is not None

    async def _follow_network(self, nursery: trio.Nursery) -> None:
        async with open_monitor(self._network) as monitor:
            while self._living:
                changes = await monitor.wait()
                if Change.WOKE in changes:
                    for component in self._living:
                        component.driver.note(Stopped(monitor.slept_s))
                with contained("following a change of the network"):
                    await self._adapt(changes, nursery)

    async def _adapt(self, changes: frozenset[Change], nursery: trio.Nursery) -> None:
        """Close the sockets whose address is gone, open those of new ones, and look for the best path again."""
        moved, pathless = False, False
        for component in self._living:
            moved |= await self._rebind(component, changes, nursery)
            if not component.driver.closed:
                component.driver.mutate(component.driver.ice.handle_network_changed)
                pathless |= component.driver.ice.state in _PATHLESS
        hopeful = [
            component.driver.ice
            for component in self._living
            if component.driver.ice.state is not ice.AgentState.FAILED
        ]
        if not hopeful or (not moved and Change.WOKE not in changes and not pathless):
            return  # what has failed cannot be restarted
        core = hopeful[0]
        if self._config.auto_restart and core.remote_credentials is not None:
            logger.info("%s: the network changed, so ICE restarts", core.credentials.ufrag)
            self.restart()
        else:
            self.gather_again()

    async def _rebind(self, component: Component, changes: frozenset[Change], nursery: trio.Nursery) -> bool:
        """Let a component have the sockets that go with the addresses of now; return whether there are others."""
        driver, gatherer = component.driver, component.gatherer
        before = {base.address for base in gatherer.bases}
        moved = False
        looks_anew = not changes.isdisjoint((Change.ADDRESSES, Change.ROUTES))  # a route may lead from another address
        if looks_anew and self._config.transport_policy != "relay":
            moved = self._close_stale(component)
            for base in await gatherer.open_new_bases():
                moved = True
                nursery.start_soon(driver.receive_from, base.address)
            await gatherer.follow_tcp()
        after = {base.address for base in gatherer.bases}
        words = tuple(sorted(change.value for change in changes))
        if not driver.closed:
            driver.note(NetworkChanged(words, tuple(sorted(before - after)), tuple(sorted(after - before))))
        return moved

    def _close_stale(self, component: Component) -> bool:
        present = {entry.host for entry in component.gatherer.interfaces()}
        gone = [base for base in component.gatherer.bases if base.address.host not in present]
        selected = component.driver.ice.selected_pair
        in_use = None if selected is None else selected.local.path_base
        for base in gone:
            component.gatherer.leave(base, was_in_use=base.address == in_use)
            sock = component.driver.sockets.pop(base.address, None)
            if sock is not None:  # else it was lost before its address
                sock.close()
            component.driver.mutate(partial(_lose, component.driver.ice, base.address))
        return bool(gone)


def _at_hand(component: Component) -> list[ice.Candidate]:
    return [one for one in component.driver.ice.local_candidates if one.type is not ice.CandidateType.PRFLX]


def _offer(core: ice.IceAgent, candidate: ice.Candidate, now: float) -> None:
    core.add_local_candidate(now, candidate)


def _lose(core: ice.IceAgent, base: TransportAddress, now: float) -> None:
    core.handle_base_lost(now, base)
