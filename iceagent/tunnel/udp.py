"""UDP through the link: one flow per source address, in QUIC datagrams that begin with the flow's id.

A flow has a stream of its own. It carries the request and the answer, then the datagrams too large for one QUIC
datagram, each behind its length (2 bytes, big-endian); its end is the end of the flow. So a flow never outlives its
two ends, an application's large datagram arrives whole, and no reassembly table is needed.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import trio

from iceagent.net.logs import limited_logger
from iceagent.net.tasks import contained, open_background
from iceagent.session.establish import answer_within
from iceagent.session.raw import NamedStream
from iceagent.session.session import Session
from iceagent.tunnel import wire
from iceagent.tunnel.binds import bind_port
from iceagent.tunnel.datagrams import Origin, PlainUdpSocket, TargetSocket
from iceagent.tunnel.errors import FailedError, RefusedError
from iceagent.tunnel.opening import open_tunnel_stream
from iceagent.tunnel.pump import RESET_TUNNEL
from iceagent.tunnel.spec import BackTarget, PortBind, UdpTarget
from iceagent.tunnel.targets import addresses_of, explain_os_error
from iceagent.tunnel.traffic import Traffic

IDLE_S = 300.0  # a flow without a datagram either way ends; RFC 4787 section 4.3 recommends 5 minutes
MAX_FLOWS = 256  # of a session; beyond it the longest idle one makes room. The rest is for connections
MAX_QUEUED = 256  # datagrams per flow on their way to the link; more are dropped and counted
REFUSED_PAUSE_S = 5.0  # how long a source that was refused is ignored, instead of asking again for each datagram

_log = limited_logger(__name__)


class Flow:
    """One flow once both sides have agreed on it; the same on either side."""

    def __init__(
        self,
        session: Session,
        stream: NamedStream,
        flow_id: int,
        deliver: Callable[[bytes], object],
        traffic: Traffic,
    ) -> None:
        """`deliver` hands a datagram to the local socket and does not block; `traffic` counts."""
        self._datagrams = session.datagrams
        self._stream = stream
        self._id = flow_id
        self._deliver = deliver
        self._traffic = traffic
        self.active_at = trio.current_time()

    def open(self) -> bool:
        """Let datagrams in; False if the id is in use."""
        return self._datagrams.open_flow(self._id, self._handle_datagram)

    def close(self) -> None:
        """Let no more datagrams in. Idempotent."""
        self._datagrams.close_flow(self._id)

    def _handle_datagram(self, data: bytes) -> None:
        self.active_at = trio.current_time()
        self._traffic.received += len(data)
        self._deliver(data)

    async def send(self, data: bytes) -> None:
        """Send a datagram: in a QUIC datagram if it fits, else on the stream."""
        self.active_at = trio.current_time()
        self._traffic.sent += len(data)
        if len(data) <= self._datagrams.room(self._id):
            await self._datagrams.send(self._id, data)
        else:
            await self._stream.send_all(len(data).to_bytes(2, "big") + data)

    async def receive_large(self) -> None:
        """Deliver what comes on the stream, until it ends."""
        while True:
            head = await self._stream.receive_some(1)
            if not head:
                return
            size = int.from_bytes(head + await wire.receive_exactly(self._stream, 1), "big")
            self._handle_datagram(await wire.receive_exactly(self._stream, size) if size else b"")


Key = TypeVar("Key", bound=Hashable)


class _NearFlow(Generic[Key]):
    """What a key of a table stands for, from its first datagram until it falls idle."""

    def __init__(self, table: FlowTable[Key], key: Key, target: UdpTarget | BackTarget) -> None:
        self._table = table
        self._key = key
        self._target = target
        self._queue = trio.open_memory_channel[bytes](MAX_QUEUED)
        self._flow: Flow | None = None
        self._opened_at = trio.current_time()
        self.scope = trio.CancelScope()

    @property
    def active_at(self) -> float:
        return self._flow.active_at if self._flow else self._opened_at

    def evict(self) -> None:
        """End, to make room for another."""
        self.scope.cancel()
        self._table.forget(self._key, self)
        self._table.dropped["flow evicted"] += 1

    def put(self, data: bytes) -> None:
        try:
            self._queue[0].send_nowait(data)
        except trio.WouldBlock:
            self._table.dropped["queue full"] += 1

    async def run(self) -> None:
        try:
            with self.scope, contained("a flow of a UDP forward"), self._table.traffic.connection():
                await self._run_logged()
        finally:
            self._table.forget(self._key, self)

    async def _run_logged(self) -> None:
        try:
            await self._run_stream(await open_tunnel_stream(self._table.session, self._target))
        except (RefusedError, FailedError, trio.TooSlowError) as error:
            _log.warning("%s", str(error) or f"the other side does not answer about {self._target}")
            await trio.sleep(REFUSED_PAUSE_S)
        except (wire.WireError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            _log.info("a UDP flow to %s ended: %s", self._target, error)

    async def _run_stream(self, stream: NamedStream) -> None:
        session, deliver, key = self._table.session, self._table.deliver, self._key
        flow_id = session.datagrams.new_flow_id()
        flow = Flow(session, stream, flow_id, lambda data: deliver(data, key), self._table.traffic)
        try:
            flow.open()
            async with answer_within(session, wire.ANSWER_TIMEOUT_S):
                await wire.send_request(stream, wire.request_for(self._target, flow=flow_id))
                (await wire.receive_answer(stream)).raise_unless_ok(self._target)
            self._flow = flow
            async with open_background() as nursery:
                nursery.start_soon(self._send_queued, flow)
                nursery.start_soon(self._watch_idle, flow, nursery.cancel_scope)
                await flow.receive_large()
        finally:
            flow.close()
            stream.reset(RESET_TUNNEL)

    async def _send_queued(self, flow: Flow) -> None:
        async for data in self._queue[1]:
            await flow.send(data)

    async def _watch_idle(self, flow: Flow, scope: trio.CancelScope) -> None:
        while (idle_at := flow.active_at + self._table.idle_s) > trio.current_time():  # noqa: ASYNC110 (it moves)
            await trio.sleep_until(idle_at)
        scope.cancel()


# Of all forwards of a session: they share its streams, of which each flow takes one.
_near_flows: WeakKeyDictionary[Session, set[_NearFlow[Any]]] = WeakKeyDictionary()


class FlowTable(Generic[Key]):
    """The flows of a local UDP socket, each found by its key: the source of its datagrams, or where they go."""

    def __init__(
        self,
        session: Session,
        deliver: Callable[[bytes, Key], object],
        traffic: Traffic,
        *,
        idle_s: float = IDLE_S,
    ) -> None:
        """`deliver` hands a datagram of the far side to the local socket; `idle_s`: seconds until a flow ends."""
        self.session = session
        self.traffic = traffic
        self.deliver = deliver
        self.idle_s = idle_s
        self.dropped: Counter[str] = Counter()
        self._flows: dict[Key, _NearFlow[Key]] = {}
        self._all_flows = _near_flows.setdefault(session, set())

    def put(self, data: bytes, key: Key, target: UdpTarget | BackTarget, nursery: trio.Nursery) -> None:
        """Send a datagram by the flow of its key, a new one to `target`, run in `nursery`, if there is none."""
        flow = self._flows.get(key)
        if flow is None:
            self._make_room()
            flow = self._flows[key] = _NearFlow(self, key, target)
            self._all_flows.add(flow)
            nursery.start_soon(flow.run)
        flow.put(data)

    def _make_room(self) -> None:
        if len(self._all_flows) >= MAX_FLOWS:
            _log.warning("more than %d UDP sources at once; the longest idle one makes room for the next", MAX_FLOWS)
            min(self._all_flows, key=lambda flow: flow.active_at).evict()

    def forget(self, key: Key, flow: _NearFlow[Key]) -> None:
        """Drop a flow that has ended; its key may have a newer one."""
        self._all_flows.discard(flow)
        if self._flows.get(key) is flow:
            del self._flows[key]

    def __len__(self) -> int:
        return len(self._flows)


class UdpForward:
    """A local UDP socket whose every source has its own flow to the target."""

    def __init__(
        self,
        session: Session,
        sock: PlainUdpSocket,
        target: UdpTarget | BackTarget,
        *,
        idle_s: float = IDLE_S,
        traffic: Traffic | None = None,
    ) -> None:
        """`idle_s`: seconds after which a flow without datagrams ends; `traffic` counts what is carried."""
        self._target = target
        self._socket = sock
        self._table = FlowTable[Origin](session, self._deliver, traffic or Traffic(str(target)), idle_s=idle_s)

    async def run(self) -> None:
        """Carry datagrams until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                for data, source in await self._socket.receive():
                    self._table.put(data, source, self._target, nursery)

    def _deliver(self, data: bytes, source: Origin) -> None:
        """Send a datagram of the far side to the source it answers."""
        if not self._socket.send(data, source):
            self.dropped["local send failed"] += 1

    @property
    def dropped(self) -> Counter[str]:
        """Datagrams that were dropped here, by reason."""
        return self._table.dropped

    @property
    def flows(self) -> int:
        """How many sources have a flow now."""
        return len(self._table)


@asynccontextmanager
async def open_udp_sockets(bind: PortBind) -> AsyncIterator[list[PlainUdpSocket]]:
    """Yield UDP sockets on all addresses of a bind; they are closed when the body ends.

    Raises:
        BindError: the port is taken or the address is not ours.
    """
    sockets = list(map(PlainUdpSocket, await bind_port(bind, socket.SOCK_DGRAM)))
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


async def serve_udp_flow(
    session: Session, stream: NamedStream, target: UdpTarget, flow_id: int, traffic: Traffic
) -> None:
    """Carry a flow that the other side asked for, until its stream ends. Answers the request.

    Raises:
        FailedError: the target's name does not resolve, or the flow id is in use.
        trio.BrokenResourceError: the stream broke.
    """
    sock = await _target_socket(target)
    flow = Flow(session, stream, flow_id, sock.send, traffic)
    try:
        if not flow.open():
            raise FailedError(f"flow {flow_id} is already in use")
        await wire.send_answer(stream, wire.OK)
        async with open_background() as nursery:
            nursery.start_soon(_send_received, sock, flow)
            await flow.receive_large()
    finally:
        flow.close()
        sock.close()


async def _target_socket(target: UdpTarget) -> TargetSocket:
    try:
        return TargetSocket(await addresses_of(target))
    except OSError as error:
        raise FailedError(explain_os_error(error)) from error


async def _send_received(sock: TargetSocket, flow: Flow) -> None:
    while True:
        for data in await sock.receive():
            await flow.send(data)
