"""The task that drives one core: its sockets and its one timer. Nothing here waits for the user."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from errno import ECONNREFUSED
from functools import partial
from typing import TYPE_CHECKING

import trio

from iceagent.agent.clock import clock
from iceagent.agent.filters import Policy
from iceagent.agent.gather.queries import Queries
from iceagent.agent.inbox import Inbox
from iceagent.agent.report.events import AgentEvent, DestinationUnreachable, Stopped, matter_of
from iceagent.agent.report.identifiers import Identifiers
from iceagent.agent.report.signalling_times import SignallingTimes
from iceagent.agent.report.timeline import Timeline
from iceagent.agent.report.traffic import Traffic
from iceagent.agent.stops import STOPPED_S
from iceagent.core import ice
from iceagent.core.address import TransportAddress
from iceagent.core.constants import DATA_SUSPICION_MIN_S
from iceagent.errors import NetworkError
from iceagent.net.api import UdpSocket
from iceagent.net.batch import Batch
from iceagent.net.logs import limited_logger
from iceagent.net.shared_port import SharedSocket
from iceagent.net.tasks import contained, log_unforeseen

if TYPE_CHECKING:
    from iceagent.agent.gather.servers import IceServer

logger = limited_logger("iceagent.agent", lines=100)  # of all agents together; a peer moves pairs and roles

_LAST_STUN_BYTE = 3
"""RFC 7983 section 7: a first byte of 0 to 3 is STUN; everything above is left to the application."""

_MAX_UNREACHABLE = 128
_BINDING_REQUEST = b"\x00\x01"


class Driver:
    """Feeds the core with datagrams and time, and carries out what it asks for.

    Every change of the core goes through `mutate` or a receive loop; both drain the core's transmits and events before
    anything else runs, so all of this is synchronous, and only `run` and the receive loops wait.

    Args:
        core: the ICE agent.
        randbytes: for the transaction ids of STUN queries.
        receive_queue: bytes that may wait for the user.
        policy: whom we may send to.
    """

    def __init__(
        self, core: ice.IceAgent, randbytes: Callable[[int], bytes], receive_queue: int, policy: Policy
    ) -> None:
        self.ice = core
        self.policy = policy
        self.servers: tuple[IceServer, ...] = ()
        """The STUN and TURN servers as they are now: see `Agent.set_servers`."""
        self.queries = Queries(randbytes)
        self.sockets: dict[TransportAddress, UdpSocket] = {}
        self.inbox = Inbox(receive_queue)
        self.timeline: Timeline[AgentEvent] = Timeline(matter_of)
        self.signalling_times = SignallingTimes()
        self.traffic = Traffic()
        self.names = Identifiers(core.credentials.pwd)
        self.selected_pair_changes = 0
        self.started_at = trio.current_time()
        self.changed = trio.lowlevel.ParkingLot()
        self.failure: str | None = None
        self.closed = False
        self.checks_received = 0
        self.checked_at = 0.0
        self.relay_transports: dict[TransportAddress, str] = {}
        """How each relayed address, past ones too, is reached: `udp`, `tcp`, `tls` or `dtls`."""
        self.relay_answered_at: float | None = None
        """When a TURN server has last answered over UDP for the first time; a refusal is an answer, too."""
        self.on_remote_host: Callable[[str], None] = lambda host: None
        """Called with each host of the peer's, so that relays let its checks pass before ours go there."""
        self.after_settle: Callable[[float], None] | None = None
        """Called after each change, where other components share the core's checklist set."""
        self._activity = core.activity
        self._unreachable: set[tuple[TransportAddress, TransportAddress, int]] = set()
        self._alarm = clock().alarm(self._on_timer)
        self._alarm_at = math.inf

    # Changing the core

    def mutate(self, change: Callable[[float], object]) -> None:
        """Apply one change to the core, given the time, and carry out what follows from it at once."""
        now = trio.current_time()
        change(now)
        self._settle(now)

    def follow(self, now: float) -> None:
        """Carry out what follows from a change of the core that was made elsewhere."""
        if not self.closed:
            self._settle(now)

    def note(self, event: AgentEvent) -> None:
        """Put an event of the shell's own on the timeline."""
        self.timeline.record(trio.current_time(), event)
        self.changed.unpark_all()

    def close(self) -> None:
        """End the session and close the sockets. Idempotent; no timer runs afterwards."""
        if self.closed:
            return
        self.closed = True
        now = trio.current_time()
        self.ice.close(now)
        self._drain_events(now)
        self.queries.close()
        for sock in self.sockets.values():
            sock.close()
        self.inbox.end(lambda: trio.ClosedResourceError("this agent is closed"), discard=True)
        self.timeline.end()
        self._set_alarm(math.inf)
        self.changed.unpark_all()

    def note_sending(self) -> None:
        """Take note that data is being sent: if nothing comes back, the path is looked at soon.

        Costs one attribute per call; while data flows both ways the timer wakes a few times a second.
        """
        if self._activity.unheard_since is None:
            self._activity.unheard_since = now = trio.current_time()
            if now + DATA_SUSPICION_MIN_S < self._alarm.at:
                self._set_alarm(self._next_timeout())

    # Waiting

    async def run(self) -> None:
        """Do what is due when it is, until cancelled: the agent's one timer."""
        if not self.closed:
            await clock().serve(self._alarm)

    def _on_timer(self) -> None:
        if not self.closed:
            self._settle(trio.current_time())

    async def receive_from(self, base: TransportAddress) -> None:
        """Receive at one socket until it is closed, which may be before a task that was started for it begins."""
        sock = self.sockets.get(base)
        if sock is None:
            return
        if isinstance(sock, SharedSocket):
            sock.divert(partial(self._take, base, sock))
            return  # its port has a loop for all
        with contained(f"receiving at {base}", lambda error: self._lose_base(base)):
            await self._receive_all(base, sock)

    def _lose_base(self, base: TransportAddress) -> None:
        """Go on without a socket that is of no use: something unforeseen happened there, or it is closed."""
        sock = self.sockets.pop(base, None)
        if sock is not None and not self.closed:
            sock.close()
            self.mutate(lambda now: self.ice.handle_base_lost(now, base))

    async def _receive_all(self, base: TransportAddress, sock: UdpSocket) -> None:
        while not self.closed:
            try:
                batches = await sock.receive()
            except trio.ClosedResourceError:
                if self.sockets.get(base) is sock:  # closed by its network, not by us: nothing can go from there
                    self._lose_base(base)
                return
            for error in sock.take_errors():
                self._note_unreachable(base, error.remote, error.errno)
            if self.closed:
                return
            for batch in batches:
                self._sort_alone(base, batch)

    def _take(self, base: TransportAddress, sock: SharedSocket, batches: Sequence[Batch]) -> None:
        """Take what a shared port has for us."""
        for error in sock.take_errors():
            self._note_unreachable(base, error.remote, error.errno)
        for batch in batches:
            self._sort_alone(base, batch)

    def take(self, base: TransportAddress, batch: Batch) -> None:
        """Deal with what arrived at a socket before `receive_from` began."""
        self._sort_alone(base, batch)

    # Datagrams

    def _sort_alone(self, base: TransportAddress, batch: Batch) -> None:
        """Deal with a batch; one that makes something unforeseen happen is lost, and ends neither us nor the port."""
        try:
            self._sort(base, batch)
        except Exception as error:
            log_unforeseen("a datagram", error)

    def _sort(self, base: TransportAddress, batch: Batch) -> None:
        """Hand a batch to the user whole if it is all data of a validated path, else look at each datagram."""
        data = batch.data
        if data and min(data[:: batch.segment_size]) > _LAST_STUN_BYTE and self.ice.is_validated(base, batch.remote):
            self._activity.unheard_since = None
            self.traffic.received(trio.current_time(), base, batch)
            self.inbox.put(batch)
            return
        for datagram in batch.datagrams():
            self._handle(base, batch.remote, datagram)

    def _handle(self, base: TransportAddress, remote: TransportAddress, datagram: bytes) -> None:
        now = trio.current_time()
        if self.queries.busy and self.queries.handle_datagram(now, base, remote, datagram):
            self._settle(now)
            return
        if not self.policy.permits(remote):
            self.policy.drop("datagram of a forbidden address dropped")
            return
        received = self.ice.handle_datagram(now, base, remote, datagram)
        if received is ice.Received.CONSUMED and datagram.startswith(_BINDING_REQUEST):
            self.checks_received += 1
            self.checked_at = now
        if received is ice.Received.CONSUMED:
            sock = self.sockets.get(base)
            if isinstance(sock, SharedSocket):
                sock.note_authenticated(now, remote, datagram, valid=self.ice.is_validated(base, remote))
        elif received is ice.Received.APPLICATION_DATA:
            self._activity.unheard_since = None
            self._deliver(now, base, Batch(remote, datagram, len(datagram) or 1))
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s: received %d bytes: %s", base, len(datagram), received.value)
        self._settle(now)

    def _note_unreachable(self, base: TransportAddress, remote: TransportAddress, errno: int) -> None:
        if errno == ECONNREFUSED and self.queries.busy:
            self.queries.handle_refused(base, remote)
        known = (base, remote, errno)
        if known not in self._unreachable and len(self._unreachable) < _MAX_UNREACHABLE:
            # Reported once: a peer that died answers each datagram so, and would fill the timeline.
            self._unreachable.add(known)
            self.note(DestinationUnreachable(*known))
        self.mutate(lambda now: self.ice.handle_unreachable(now, base, remote))

    # After each change

    def _settle(self, now: float) -> None:
        """Run what is due, send the packets and report the events that result, and set the timer early enough."""
        if now >= self._alarm_at + STOPPED_S:
            self.note(Stopped(now - self._alarm_at))
        due = self.ice.next_timeout()
        if due is not None and due <= now:
            self.ice.handle_timeout(now)
        while (transmit := self.ice.poll_transmit()) is not None:
            if not self.policy.permits(transmit.remote):
                self.policy.drop("datagram to a forbidden address not sent")
                continue
            self._transmit(transmit.local, transmit.remote, transmit.data)
        if self.queries.busy:
            self.queries.handle_timeout(now)
            while (transmit := self.queries.poll_transmit()) is not None:
                self._transmit(transmit.local, transmit.remote, transmit.data)
        self._drain_events(now)
        self._set_alarm(math.inf if self.closed else self._next_timeout())
        if self.after_settle is not None:
            self.after_settle(now)

    def _set_alarm(self, at: float) -> None:
        self._alarm_at = at
        self._alarm.set(at)

    def _next_timeout(self) -> float:
        due = self.ice.next_timeout()
        at = math.inf if due is None else due
        if self.queries.busy:
            due = self.queries.next_timeout()
            at = at if due is None else min(at, due)
        return at

    def _transmit(self, local: TransportAddress, remote: TransportAddress, data: bytes) -> None:
        sock = self.sockets.get(local)
        if sock is None or self.closed:
            return
        # A full buffer loses the packet, as the network may: whatever matters is retransmitted.
        try:
            taken = sock.send_nowait((data,), remote)
        except trio.ClosedResourceError:
            return  # a relayed address whose allocation is gone, which the core does not know yet
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s: sent %d bytes%s", local, len(data), "" if taken else ": buffer full, lost")

    def _drain_events(self, now: float) -> None:
        happened = False
        while (event := self.ice.poll_event()) is not None:
            happened = True
            if isinstance(event, ice.HeldDataReleased):
                for datagram in event.datagrams:
                    self._deliver(now, event.local, Batch(event.remote, datagram, len(datagram) or 1))
                continue
            self.timeline.record(now, event)
            self._react(event)
            if isinstance(event, ice.RemoteCandidateAdded):
                self.signalling_times.note(now, event.candidate, self.ice)
                if event.candidate.name is None:
                    self.on_remote_host(event.candidate.address.host)
        if happened:
            self.changed.unpark_all()

    def _deliver(self, now: float, base: TransportAddress, batch: Batch) -> None:
        self.traffic.received(now, base, batch)
        self.inbox.put(batch)

    def _react(self, event: AgentEvent) -> None:
        if isinstance(event, ice.StateChanged):
            logger.info("%s: state %s, was %s", self.ice.credentials.ufrag, event.new.value, event.old.value)
            if event.new is ice.AgentState.FAILED:
                self.inbox.end(self.broken, discard=False)
        elif isinstance(event, ice.SelectedPairChanged):
            self.selected_pair_changes += 1
            kinds = "none" if event.pair is None else f"{event.pair.local.type.value}-{event.pair.remote.type.value}"
            logger.info("%s: selected pair %s", self.ice.credentials.ufrag, kinds)
        elif isinstance(event, ice.Restarted):
            for sock in self.sockets.values():
                if isinstance(sock, SharedSocket):
                    sock.add_ufrag(event.credentials.ufrag)
        elif isinstance(event, ice.RoleChanged):
            logger.info("%s: role %s", self.ice.credentials.ufrag, event.role.value)
        elif isinstance(event, ice.ControllerFailed):
            name = self.ice.credentials.ufrag
            logger.error("%s: controller failed in %s: %s; the default goes on", name, event.question, event.reason)
        elif isinstance(event, ice.Failed):
            self.failure = event.reason
            logger.info("%s: failed: %s", self.ice.credentials.ufrag, event.reason)

    def failure_error(self) -> NetworkError:
        """Return the error that says why the session failed."""
        return NetworkError(self._why())

    def broken(self) -> trio.BrokenResourceError:
        """Return the same as Trio's error for a channel whose other end is gone."""
        error = trio.BrokenResourceError(self._why())
        error.__cause__ = self.failure_error()
        return error

    def _why(self) -> str:
        return f"no path to the peer: {self.failure}" if self.failure else "no path to the peer"
