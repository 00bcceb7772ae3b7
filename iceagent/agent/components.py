"""What the components of an agent do together: the case of one component here, several in `component_set`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import trio

from iceagent.agent.component import Component
from iceagent.agent.config import AgentConfig
from iceagent.core import ice
from iceagent.core.constants import TA_OFFERED_S
from iceagent.errors import LocalError
from iceagent.net.api import Network, RealHost
from iceagent.net.tasks import PerRun


class Components(Protocol):
    """What the agent and its roaming ask of its components, one or several.

    Attributes:
        all: by data stream and component id, the first one first.
        on_end: called when the last of them has been given up.
    """

    all: Mapping[tuple[int, int], Component]
    on_end: Callable[[], None]

    @property
    def state(self) -> ice.AgentState:
        """Where they stand, taken together."""
        ...

    @property
    def closed(self) -> bool:
        """Whether none is left."""
        ...

    def checklist_state(self, stream: int) -> ice.ChecklistState:
        """Return how the checks of a stream fare."""
        ...

    def credentials(self, stream: int) -> ice.Credentials:
        """Return our ufrag and password for a stream."""
        ...

    def remote_credentials(self, stream: int) -> ice.Credentials | None:
        """Return the peer's for a stream; None before they came, and while a restart of ours awaits its answer."""
        ...

    def change(self, change: Callable[[float], object]) -> None:
        """Apply a change, given the time, that concerns them all, and carry out what follows from it for each."""
        ...

    def restart(self, now: float, stream: int | None) -> None:
        """Restart ICE for a stream, or with None for all."""
        ...

    def set_remote_credentials(
        self, now: float, credentials: ice.Credentials, stream: int | None, **given: Any
    ) -> None:
        """Take the peer's for a stream, or with None for all; `given` is what `IceAgent.set_remote_credentials` has."""
        ...

    def add_remote_candidate(self, candidate: ice.Candidate | None, stream: int | None) -> None:
        """Hand a candidate of the peer's to its component; None is the end of those of a stream, or of all."""
        ...

    async def wait_connected(self) -> ice.CandidatePair:
        """Wait until each has a selected pair; return that of the first. Raises as `Agent.wait_connected` does."""
        ...

    def shut(self) -> None:
        """Close each. Idempotent."""
        ...


def of_stream(components: Components, stream: int) -> list[Component]:
    """Return the components of a stream, in the order of their ids.

    Raises:
        LocalError: there is no such stream.
    """
    found = [component for (at, _), component in components.all.items() if at == stream]
    if not found:
        raise LocalError(f"this agent has streams 0 to {max(at for at, _ in components.all)}, not {stream}")
    return found


class OneComponent:
    """A component that stands alone: nothing to couple, so its core is asked directly."""

    def __init__(self, component: Component) -> None:
        self.all: Mapping[tuple[int, int], Component] = {(0, 1): component}
        self.on_end = component.shut
        self._core = component.driver.ice
        self._component = component
        component.give_up = self._end

    @property
    def state(self) -> ice.AgentState:
        """Where it stands."""
        return self._core.state

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._component.driver.closed

    def checklist_state(self, stream: int) -> ice.ChecklistState:
        """Return how its checks fare."""
        match self._core.state:
            case ice.AgentState.FAILED:
                return ice.ChecklistState.FAILED
            case ice.AgentState.COMPLETED | ice.AgentState.DISCONNECTED:  # silence alone decides nothing
                return ice.ChecklistState.COMPLETED
        return ice.ChecklistState.RUNNING

    def credentials(self, stream: int) -> ice.Credentials:
        """Return our ufrag and password."""
        return self._core.credentials

    def remote_credentials(self, stream: int) -> ice.Credentials | None:
        """Return the peer's."""
        return self._core.remote_credentials

    def change(self, change: Callable[[float], object]) -> None:
        """Apply a change to the core, and carry out what follows."""
        self._component.driver.mutate(change)

    def restart(self, now: float, stream: int | None) -> None:
        """Restart ICE."""
        self._core.restart(now)

    def set_remote_credentials(
        self, now: float, credentials: ice.Credentials, stream: int | None, **given: Any
    ) -> None:
        """Take the peer's."""
        self._core.set_remote_credentials(now, credentials, **given)

    def add_remote_candidate(self, candidate: ice.Candidate | None, stream: int | None) -> None:
        """Take a candidate of the peer's; those of other streams are counted."""
        if stream:
            self._core.counters[ice.DropReason.CANDIDATE_TRANSPORT] += candidate is not None
        else:
            self._component.remote.add(candidate)

    async def wait_connected(self) -> ice.CandidatePair:
        """Wait until a pair is selected; return it. Raises as `Agent.wait_connected` does."""
        return await self._component.wait_connected()

    def shut(self) -> None:
        """Close it. Idempotent."""
        self._component.shut()

    def _end(self) -> None:
        if not self.closed:
            self.on_end()


class ComponentSet:
    """Several components, in one data stream or several, whose checks the core's checklist set couples.

    Each has its own sockets, servers asked, relays, and queue of what was received. They share the signals that
    something has changed, and are opened and closed together.

    Args:
        core: the components' cores, and what couples them.
        make: returns the component of a core and a stream's index.
    """

    def __init__(self, core: ice.StreamSet, make: Callable[[ice.IceAgent, int], Component]) -> None:
        self.all: Mapping[tuple[int, int], Component] = {key: make(one, key[0]) for key, one in core.agents.items()}
        self.on_end = self.shut
        self._core = core
        self._closed = False
        self._busy = False
        self._drivers = {id(component.driver.ice): component.driver for component in self.all.values()}
        self._first = self.all[0, 1].driver
        for component in self.all.values():
            component.driver.changed = self._first.changed  # so that one reader can wait for any of them
            component.driver.after_settle = self._after_settle
            component.others = [other for other in self.all.values() if other is not component]
            component.give_up = lambda component=component: self._give_up(component)  # type: ignore[misc]

    @property
    def state(self) -> ice.AgentState:
        """Where they stand, taken together; see `StreamSet.state`."""
        return self._core.state

    @property
    def closed(self) -> bool:
        """Whether none is left."""
        return self._closed

    def checklist_state(self, stream: int) -> ice.ChecklistState:
        """Return how the checks of a stream fare; FAILED as soon as one component has no path."""
        return self._core.checklist_state(stream)

    def credentials(self, stream: int) -> ice.Credentials:
        """Return our ufrag and password for a stream."""
        return self._core.credentials(stream)

    def remote_credentials(self, stream: int) -> ice.Credentials | None:
        """Return the peer's for a stream."""
        of = (component.driver for (at, _), component in self.all.items() if at == stream)
        return next((driver.ice.remote_credentials for driver in of if not driver.closed), None)

    def change(self, change: Callable[[float], object]) -> None:
        """Apply a change to the whole core, and carry out what follows from it for every component."""
        now = trio.current_time()
        change(now)
        for component in self.all.values():
            component.driver.follow(now)

    def restart(self, now: float, stream: int | None) -> None:
        """Restart ICE for a stream, or with None for all."""
        self._core.restart(now, stream=stream)

    def set_remote_credentials(
        self, now: float, credentials: ice.Credentials, stream: int | None, **given: Any
    ) -> None:
        """Take the peer's for a stream, or with None for all."""
        self._core.set_remote_credentials(now, credentials, stream=stream, **given)

    def add_remote_candidate(self, candidate: ice.Candidate | None, stream: int | None) -> None:
        """Hand a candidate to its component, or report the end to all components; the core learns what the peer has."""
        if candidate is not None:
            component = self.all.get((stream or 0, candidate.component))
            self._core.note_signalled(candidate, stream or 0)
            if component is not None:
                component.remote.add(candidate)
            return
        for at in dict.fromkeys(of for of, _ in self.all) if stream is None else (stream,):
            for (of, _), component in self.all.items():
                if of == at and not component.driver.closed:
                    component.remote.add(None)
            self.change(lambda now, at=at: self._core.note_remote_end(now, at))  # type: ignore[misc]

    async def wait_connected(self) -> ice.CandidatePair:
        """Wait until every component has a selected pair; return that of the first. Raises as the agent's does."""
        await trio.lowlevel.checkpoint()
        while True:
            living = [component.driver for component in self.all.values() if not component.driver.closed]
            if self._closed or not living:
                raise trio.ClosedResourceError("this agent is closed")
            for driver in living:
                if driver.ice.state is ice.AgentState.FAILED:
                    raise driver.failure_error()
            pairs = [driver.ice.selected_pair for driver in living]
            if pairs[0] is not None and None not in pairs:
                return pairs[0]
            await self._first.changed.park()

    def shut(self) -> None:
        """Close every component. Idempotent."""
        self._closed = True
        for component in self.all.values():
            component.shut()

    def _give_up(self, component: Component) -> None:
        if not self._closed:
            self.change(lambda now: self._core.give_up(now, component.stream, component.id))
            if all(one.driver.closed for one in self.all.values()):
                self.on_end()

    def _after_settle(self, now: float) -> None:
        """Carry out what one component's change means for the others; called after each."""
        if self._busy or self._closed:
            return
        self._busy = True
        try:
            self._core.settle(now)
            while touched := self._core.take_touched():
                for core in touched:
                    self._drivers[id(core)].follow(now)
                self._core.settle(now)
            self._report(now)
        finally:
            self._busy = False

    def _report(self, now: float) -> None:
        happened = False
        while (event := self._core.poll_own_event()) is not None:
            happened = True
            if isinstance(event, ice.StateChanged):
                continue  # `Agent.state` shows it; the timeline has those of its first component
            self._first.timeline.record(now, event)
            if isinstance(event, ice.ComponentGivenUp):
                self.all[event.stream, event.component].shut()
        if happened:
            self._first.changed.unpark_all()


def components_for(config: AgentConfig, role: ice.Role, network: Network) -> Components:
    """Return the components of an agent, each with its part of a core."""
    given: dict[str, Any] = {
        "role": role,
        "randbytes": config.randbytes,
        "config": _ice_config(config),
        "credentials": config.credentials,
        "pacer": _pacer_for(network),
    }
    if tuple(config.streams) == (1,):
        return OneComponent(Component(ice.IceAgent(**given), config, network))
    streams = ice.StreamSet(**given, layout=config.streams)
    return ComponentSet(streams, lambda core, stream: Component(core, config, network, stream=stream))


def _ice_config(config: AgentConfig) -> ice.IceConfig:
    return ice.IceConfig(
        ta_s=TA_OFFERED_S if config.ta_s is None else config.ta_s,
        lite=config.ice_lite,
        controller=config.controller or ice.DefaultController(),
        outage_s=config.outage_s or 0.0,
    )


_pacer: Final = PerRun("iceagent.agent.pacer", ice.Pacer)


def _pacer_for(network: Network) -> ice.Pacer | None:
    """Return what paces the checks of all agents on this machine; hosts of a virtual network stand alone."""
    return network.shared(_pacer) if isinstance(network, RealHost) else None
