"""Several data streams, several components: what an agent has beside its first component.

Each component has an engine room of its own, that of an agent with nothing else: sockets, servers asked, relays, a
queue of what was received. They share the core's checklist set, the signals that something has changed, and the
roaming; and they are opened and closed together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import TYPE_CHECKING

import trio

from iceagent.agent import late
from iceagent.agent.lane import Lane
from iceagent.core import ice
from iceagent.errors import LocalError
from iceagent.net.api import Batch

if TYPE_CHECKING:
    from iceagent.agent.agent import Agent
    from iceagent.agent.events import AgentEvent
    from iceagent.agent.explain import Verdict
    from iceagent.agent.roaming import Roaming
    from iceagent.agent.statistics import AgentStatistics


class Component(trio.abc.Channel[bytes]):
    """One component of a data stream: datagrams to and from the peer over its own path.

    Its methods are those of `Agent` that concern a path. The first component of the first stream is the one `Agent`
    itself sends and receives over.

    Attributes:
        stream: index of its data stream, from 0.
        id: component id, from 1; that of its candidates.
    """

    def __init__(self, agent: Agent, stream: int, component: int, close: Callable[[], None]) -> None:
        self._agent = agent
        self._close = close
        self.stream = stream
        self.id = component

    @property
    def state(self) -> ice.AgentState:
        """Where this component stands. CLOSED: also where the peer has no such component."""
        return self._agent._driver.ice.state  # noqa: SLF001 - the engine room of this component, here and below

    @property
    def selected_pair(self) -> ice.CandidatePair | None:
        """The nominated pair that carries the data, or None before nomination."""
        return self._agent.selected_pair

    @property
    def relay_transport(self) -> str | None:
        """How our relay is reached if the selected pair uses one of ours; see `Agent.relay_transport`."""
        return self._agent.relay_transport

    @property
    def relayed_because(self) -> str | None:
        """Why the selected pair goes through a relay; None if it does not."""
        return self._agent.relayed_because

    @property
    def max_datagram_size(self) -> int:
        """Bytes of the largest datagram that every path carries whole."""
        return self._agent.max_datagram_size

    async def wait_connected(self) -> ice.CandidatePair:
        """Wait until a pair of this component is selected; return it. Raises as `Agent.wait_connected` does."""
        return await self._agent._wait_selected()  # noqa: SLF001

    def events(self) -> AsyncIterator[AgentEvent]:
        """Iterate over what has happened to this component, until it closes."""
        return self._agent.events()

    def statistics(self) -> AgentStatistics:
        """Return a snapshot of this component's candidates, pairs and transport."""
        return late.collect_statistics([self._agent._driver], self._agent._gatherer.interfaces())  # noqa: SLF001

    def explain(self) -> Verdict:
        """Return why this component is where it is, the evidence, and what to do about it."""
        return self._agent._explain_lane()  # noqa: SLF001

    async def send(self, value: bytes) -> None:
        """Send one datagram; see `Agent.send`."""
        await self._agent.send_many((value,))

    async def send_many(self, datagrams: Sequence[bytes]) -> None:
        """Send datagrams in order; see `Agent.send_many`."""
        await self._agent.send_many(datagrams)

    async def receive(self) -> bytes:
        """Wait for the next datagram of this component; see `Agent.receive`."""
        return await self._agent.receive()

    async def receive_many(self) -> list[bytes]:
        """Wait, then return all datagrams at hand, oldest first."""
        return await self._agent.receive_many()

    async def receive_batches(self) -> list[Batch]:
        """Wait, then return all that is at hand as the network delivered it."""
        return await self._agent.receive_batches()

    async def aclose(self) -> None:
        """Close this component alone; the others go on. The last one closes the agent. Idempotent."""
        self._close()
        await trio.lowlevel.checkpoint()


class Stream:
    """One data stream of an agent: its components, and what is signalled for it.

    Attributes:
        index: from 0, in the order of `AgentConfig.streams`, which must be the peer's, too.
        components: in the order of their ids, from 1.
    """

    def __init__(self, agent: Agent, index: int, components: Sequence[Component], streams: ice.StreamSet) -> None:
        self._agent = agent
        self._streams = streams
        self.index = index
        self.components = tuple(components)

    def component(self, number: int = 1) -> Component:
        """Return one component, by its id.

        Raises:
            LocalError: `AgentConfig.streams` has no such component.
        """
        if not 1 <= number <= len(self.components):
            raise LocalError(f"stream {self.index} has components 1 to {len(self.components)}, not {number}")
        return self.components[number - 1]

    @property
    def state(self) -> ice.ChecklistState:
        """How its checks fare; FAILED as soon as one component has no path."""
        return self._streams.checklist_state(self.index)

    @property
    def credentials(self) -> ice.Credentials:
        """Our ufrag and password for this stream: those of the agent, until a stream restarts alone."""
        return self._streams.credentials(self.index)

    def local_candidates(self) -> AsyncIterator[ice.Candidate]:
        """Iterate over the candidates of all its components as they are found; see `Agent.local_candidates`."""
        return self._agent.local_candidates(self.index)

    def set_remote_credentials(
        self, credentials: ice.Credentials, *, lite: bool = False, options: Collection[str] = ()
    ) -> None:
        """Take what the peer has for this stream; see `Agent.set_remote_credentials`."""
        self._agent.set_remote_credentials(credentials, lite=lite, options=options, stream=self.index)

    def add_remote_candidate(self, candidate: ice.Candidate | str | None) -> None:
        """Take a candidate the peer has for this stream, or its end; see `Agent.add_remote_candidate`."""
        self._agent.add_remote_candidate(candidate, stream=self.index)

    def restart(self) -> ice.Credentials:
        """Restart this stream alone; see `Agent.restart`."""
        return self._agent.restart(stream=self.index)

    def remove(self) -> None:
        """Go on without this stream, say because it has failed; its components are closed (RFC 8445 section 8.1.2)."""
        for component in self.components:
            component._close()  # noqa: SLF001


class Ensemble:
    """The components of an agent, as far as they act together.

    Args:
        lead: the agent, which is its first component's engine room, too.
        streams: the core.
        make: returns the engine room of another component.
    """

    def __init__(self, lead: Agent, streams: ice.StreamSet, make: Callable[[ice.IceAgent], Agent]) -> None:
        self.core = streams
        self.closed = False
        self._tasks = trio.CancelScope(shield=True)  # as the agent's own
        self._lead = lead
        self._busy = False
        self.agents = {key: lead if key == (0, 1) else make(core) for key, core in streams.agents.items()}
        self.lanes = {key: Lane(agent._driver, agent._gatherer) for key, agent in self.agents.items()}  # noqa: SLF001
        self._drivers = {id(lane.driver.ice): lane.driver for lane in self.lanes.values()}
        self.changed = lead._driver.changed  # noqa: SLF001
        for lane in self.lanes.values():
            lane.driver.changed = self.changed  # so that one reader can wait for any of them
            lane.driver.after_settle = self._after_settle
        self.streams = tuple(self._stream(index, count) for index, count in enumerate(streams.layout))

    def _stream(self, index: int, count: int) -> Stream:
        components = [
            Component(self.agents[index, number], index, number, lambda number=number: self._close(index, number))  # type: ignore[misc]
            for number in range(1, count + 1)
        ]
        return Stream(self._lead, index, components, self.core)

    def stream(self, index: int) -> Stream:
        """Return one stream.

        Raises:
            LocalError: there is none of this index.
        """
        if not 0 <= index < len(self.streams):
            raise LocalError(f"this agent has streams 0 to {len(self.streams) - 1}, not {index}")
        return self.streams[index]

    def lanes_of(self, stream: int) -> list[Lane]:
        """Return the engine rooms of a stream's components."""
        self.stream(stream)
        return [lane for (at, _), lane in self.lanes.items() if at == stream]

    def mutate(self, change: Callable[[float], object]) -> None:
        """Apply a change to the whole core, and carry out what follows from it for every component."""
        now = trio.current_time()
        change(now)
        for lane in self.lanes.values():
            lane.driver.follow(now)

    def add_remote_candidate(self, candidate: ice.Candidate | None, stream: int | None) -> None:
        """Hand a candidate to its component, or tell all components of the end; the core learns what the peer has."""
        if candidate is not None:
            agent = self.agents.get((stream or 0, candidate.component))
            self.core.note_signalled(candidate, stream or 0)
            if agent is not None:
                agent._remote.add(candidate)  # noqa: SLF001
            return
        for at in range(len(self.streams)) if stream is None else (stream,):
            for (of, _), agent in self.agents.items():
                if of == at and not agent._driver.closed:  # noqa: SLF001
                    agent._remote.add(None)  # noqa: SLF001
            self.mutate(lambda now, at=at: self.core.note_remote_end(now, at))  # type: ignore[misc]

    async def serve(self, roaming: Roaming) -> None:
        """Run what concerns all components, until the agent is closed."""
        with self._tasks:
            await roaming.run()

    async def wait_connected(self) -> ice.CandidatePair:
        """Wait until every component has a selected pair; return that of the first. Raises as the agent's does."""
        await trio.lowlevel.checkpoint()
        while True:
            living = [lane.driver for lane in self.lanes.values() if not lane.driver.closed]
            if self.closed or not living:
                raise trio.ClosedResourceError("this agent is closed")
            for driver in living:
                if driver.ice.state is ice.AgentState.FAILED:
                    raise driver.failure_error()
            pairs = [driver.ice.selected_pair for driver in living]
            if pairs[0] is not None and None not in pairs:
                return pairs[0]
            await self.changed.park()

    def shut(self) -> None:
        """Close every component. Idempotent."""
        self.closed = True
        self._tasks.cancel()
        for agent in self.agents.values():
            agent._shut_lane()  # noqa: SLF001

    def _close(self, stream: int, component: int) -> None:
        if not self.closed:
            self.mutate(lambda now: self.core.give_up(now, stream, component))
            if all(lane.driver.closed for lane in self.lanes.values()):
                self._lead._shut()  # noqa: SLF001

    def _after_settle(self, now: float) -> None:
        """Carry out what one component's change means for the others; called after each."""
        if self._busy or self.closed:
            return
        self._busy = True
        try:
            self.core.settle(now)
            while touched := self.core.take_touched():
                for core in touched:
                    self._drivers[id(core)].follow(now)
                self.core.settle(now)
            self._tell(now)
        finally:
            self._busy = False

    def _tell(self, now: float) -> None:
        happened = False
        while (event := self.core.poll_own_event()) is not None:
            happened = True
            if isinstance(event, ice.StateChanged):
                continue  # `Agent.state` tells; the timeline has those of its first component
            self._lead._driver.timeline.record(now, event)  # noqa: SLF001
            if isinstance(event, ice.ComponentGivenUp):
                self.agents[event.stream, event.component]._shut_lane()  # noqa: SLF001
        if happened:
            self.changed.unpark_all()
