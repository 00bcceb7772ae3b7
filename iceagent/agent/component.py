"""One component: a core, its sockets, its gatherer, and the datagrams that go over its path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from iceagent.agent import explain, hard_nat, report
from iceagent.agent.config import AgentConfig
from iceagent.agent.driver import Driver
from iceagent.agent.filters import Policy
from iceagent.agent.gather.fresh_port import FreshPorts
from iceagent.agent.gather.gatherer import Gatherer
from iceagent.agent.gather.remote import RemoteCandidates
from iceagent.agent.report.events import AgentEvent
from iceagent.agent.report.traffic import PathAddresses
from iceagent.core import ice
from iceagent.core.checked import check_datagrams
from iceagent.net.api import Network, UdpSocket
from iceagent.net.batch import Batch
from iceagent.net.tasks import contained, run_contained

if TYPE_CHECKING:
    from iceagent.agent.explain import Verdict
    from iceagent.agent.report.statistics import AgentStatistics

MAX_DATAGRAM_SIZE: Final = 1200
"""Bytes every path carries: IPv6's least MTU of 1280 less IP and UDP headers (48), and room for those of a relay."""
MAX_OTHER_PATHS: Final = 3  # ours: paths for final messages, in addition to the one in use

CONNECTED: Final = frozenset((ice.AgentState.CONNECTED, ice.AgentState.COMPLETED))


class Component(trio.abc.Channel[bytes]):
    """One component of a data stream: datagrams to and from the peer over its own path.

    Its methods are those of `Agent` that concern a path. The first component of the first stream is the one `Agent`
    itself sends and receives over.

    Attributes:
        stream: index of its data stream, from 0.
        id: component id, from 1; that of its candidates.
        driver: feeds its core; `driver`, `gatherer`, `remote` and what serves them are the agent's affair.
        gatherer: finds its candidates.
        remote: takes the peer's.
        give_up: closes this component alone; set by whoever has several.
        others: the agent's other components; set by whoever has several.
    """

    def __init__(self, core: ice.IceAgent, config: AgentConfig, network: Network, *, stream: int = 0) -> None:
        self.stream = stream
        self.id = core.component
        self._config = config
        self._policy = Policy(config)
        self.driver = Driver(core, config.randbytes, config.receive_queue_bytes, self._policy)
        self.gatherer = Gatherer(network, config, self.driver)
        self._fresh_ports = FreshPorts(config, self.driver, self.gatherer)
        if config.hard_nat:
            self.gatherer.other_ways = hard_nat.HardNatTraversal(network, config, self.driver, self.gatherer)
        self.remote = RemoteCandidates(self.driver, self.gatherer)
        self.give_up: Callable[[], None] = self.shut
        self.others: Sequence[Component] = ()
        self._tasks = trio.CancelScope()

    # Where it stands

    @property
    def state(self) -> ice.AgentState:
        """Where this component stands. CLOSED: also where the peer has no such component."""
        return self.driver.ice.state

    @property
    def selected_pair(self) -> ice.CandidatePair | None:
        """The nominated pair that carries the data, or None before nomination."""
        return self.driver.ice.selected_pair

    @property
    def relay_transport(self) -> str | None:
        """How our relay is reached if the selected pair uses one of ours; see `Agent.relay_transport`."""
        pair = self.selected_pair
        return None if pair is None else self.driver.relay_transports.get(pair.local.path_base)

    @property
    def relayed_because(self) -> str | None:
        """Why the selected pair goes through a relay; None if it does not."""
        pair = self.selected_pair
        if pair is None or not pair.is_relayed:
            return None
        return explain.relayed_because(self.driver, self.gatherer, self._config, pair, self._others())[0]

    @property
    def max_datagram_size(self) -> int:
        """Bytes of the largest datagram that every path carries whole."""
        return MAX_DATAGRAM_SIZE

    async def wait_connected(self) -> ice.CandidatePair:
        """Wait until a pair of this component is selected; return it. Raises as `Agent.wait_connected` does."""
        await trio.lowlevel.checkpoint()
        while True:
            self._check_open()
            pair = self.selected_pair
            if pair is not None:
                return pair
            if self.state is ice.AgentState.FAILED:
                raise self.driver.failure_error()
            await self.driver.changed.park()

    def events(self) -> AsyncIterator[AgentEvent]:
        """Iterate over what has happened to this component, until it closes."""
        return self.driver.timeline.subscribe()

    def statistics(self) -> AgentStatistics:
        """Return a snapshot of this component's candidates, pairs and transport."""
        return report.collect_statistics([self.driver], self.gatherer.interfaces())

    def explain(self) -> Verdict:
        """Return why this component is where it is, the evidence, and what to do about it."""
        return explain.explain(self.driver, self.gatherer, self._config, self._others())

    def _others(self) -> list[tuple[Driver, Gatherer]]:
        return [(one.driver, one.gatherer) for one in self.others]

    # Data

    async def send(self, value: bytes) -> None:
        """Send one datagram; see `Agent.send`."""
        await self.send_many((value,))

    async def send_many(self, datagrams: Sequence[bytes]) -> None:
        """Send datagrams in order; see `Agent.send_many`."""
        datagrams = check_datagrams(datagrams)
        sock, path = self._path() or await self._wait_path()
        self.driver.note_sending()
        counters = sock.statistics()
        errors = counters.send_errors
        try:
            await sock.send(datagrams, path[1])
            errors = min(counters.send_errors - errors, len(datagrams))
        except trio.ClosedResourceError:
            self._check_open()  # else it was a relayed address that is gone: lost, as datagrams may be
            errors = len(datagrams)
        if datagrams:
            self.driver.traffic.sent(trio.current_time(), path, datagrams, errors)

    async def send_everywhere(self, datagrams: Sequence[bytes]) -> None:
        """Send final messages; see `Agent.send_everywhere`."""
        datagrams = check_datagrams(datagrams)
        await self.send_many(datagrams)
        for base, remote in self.driver.ice.other_paths(trio.current_time())[:MAX_OTHER_PATHS]:
            sock = self.driver.sockets.get(base)
            if sock is not None:
                with suppress(trio.ClosedResourceError):
                    await sock.send(datagrams, remote)

    async def receive(self) -> bytes:
        """Wait for the next datagram of this component; see `Agent.receive`."""
        return await self.driver.inbox.datagram()

    async def receive_many(self) -> list[bytes]:
        """Wait, then return all datagrams at hand, oldest first."""
        return await self.driver.inbox.datagrams()

    async def receive_batches(self) -> list[Batch]:
        """Wait, then return all that is at hand as the network delivered it."""
        return await self.driver.inbox.batches()

    async def aclose(self) -> None:
        """Close this component alone; the others go on. The last one closes the agent. Idempotent."""
        self.give_up()
        await trio.lowlevel.checkpoint()

    # For the agent

    async def serve(self) -> None:
        """Run this component's tasks until it is closed."""
        with self._tasks:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.driver.run)
                for base in self.gatherer.bases:
                    nursery.start_soon(self.driver.receive_from, base.address)
                nursery.start_soon(run_contained, "candidates over TCP", self.gatherer.tcp.run)
                await self.remote.start(nursery)
                with contained("relays"):
                    self.gatherer.relays.begin(nursery)
                nursery.start_soon(run_contained, "port mapping", self.gatherer.map_ports)
                nursery.start_soon(run_contained, "gathering", self.gatherer.run)
                nursery.start_soon(run_contained, "fresh ports", self._fresh_ports.run)
                if self.gatherer.other_ways is not None:
                    nursery.start_soon(run_contained, "hard NATs", self.gatherer.other_ways.run)

    def shut(self) -> None:
        """Close sockets, timers and tasks at once. Idempotent."""
        self.driver.close()
        self._tasks.cancel()

    # Inside

    def _path(self) -> tuple[UdpSocket, PathAddresses] | None:
        path = self.driver.ice.data_pair()
        sock = None if path is None else self.driver.sockets.get(path[0])
        if path is None or sock is None or not self._policy.permits(path[1]):
            return None
        return sock, path

    async def _wait_path(self) -> tuple[UdpSocket, PathAddresses]:
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_open()
            path = self._path()
            if path is not None:
                return path
            if self.state is ice.AgentState.FAILED:
                raise self.driver.broken()
            await self.driver.changed.park()

    def _check_open(self) -> None:
        if self.driver.closed:
            raise trio.ClosedResourceError("this agent is closed")
