"""NAT behaviour discovery, without I/O. RFC 5780 section 4.

Tests that do not depend on each other run at once. So the whole takes one or two round trips and the time limit of one
unanswered request (2.75 s), not the sum of all. There are three kinds of sockets, since one test must not open the NAT
for another: one that sends to every address of every server (mapping), one that never sends to an alternate address
(filtering, and the other end of hairpinning), and more for fragments and for each lifetime that is tried.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.constants import (
    DISCOVERY_MAX_SERVERS,
    DISCOVERY_PADDING,
    DISCOVERY_RC,
    DISCOVERY_RM,
    DISCOVERY_RTO_S,
)
from iceagent.core.discovery.behaviour import (
    LifetimeTest,
    NatBehaviour,
    ServerReport,
    classify_filtering,
    classify_mapping,
)
from iceagent.core.transmit import Transmit
from iceagent.errors import LocalError

SCHEDULE: Final = stun.RetransmissionSchedule(rto_s=DISCOVERY_RTO_S, rc=DISCOVERY_RC, rm=DISCOVERY_RM)
_ID_SIZE: Final = 12


@dataclass(frozen=True, slots=True)
class DiscoverySockets:
    """The local addresses that discovery sends from, all of one host and each of another port.

    Attributes:
        mapping: talks to every address of every server.
        filtering: talks to servers' first addresses only.
        fragments: one that does not set DF; None leaves fragments untested.
        lifetimes: one per lifetime to try.
    """

    mapping: TransportAddress
    filtering: TransportAddress
    fragments: TransportAddress | None = None
    lifetimes: tuple[TransportAddress, ...] = ()


class _Test(Enum):
    FIRST = auto()  # test I: each server's first address
    ALTERNATE = auto()  # tests II and III of mapping: its other address and ports
    SECOND_SOCKET = auto()  # test I from the socket for filtering
    FILTER_ELSEWHERE = auto()  # test II of filtering
    FILTER_PORT = auto()  # test III of filtering
    HAIRPIN = auto()
    FRAGMENTS = auto()
    LIFETIME = auto()


@dataclass(slots=True)
class _Probe:
    """A request under way: what it is for, where its answer must come from, and where it must arrive."""

    test: _Test
    local: TransportAddress
    target: TransportAddress
    comes_from: TransportAddress
    arrives_at: TransportAddress


class Discovery:
    """Finds out what stands between some local sockets and the internet. The shape is that of all machines of the core.

    Args:
        sockets: where to send from.
        servers: STUN servers of the sockets' family, the best first; those beyond eight are not asked.
        randbytes: for transaction ids.
        lifetimes_s: idle times to try, as many as `sockets.lifetimes`; discovery then takes as long as the longest.
    """

    def __init__(
        self,
        sockets: DiscoverySockets,
        servers: Sequence[TransportAddress],
        *,
        randbytes: Callable[[int], bytes],
        lifetimes_s: Sequence[float] = (),
    ) -> None:
        if len(lifetimes_s) != len(sockets.lifetimes):
            raise LocalError(f"{len(lifetimes_s)} lifetimes need as many sockets, not {len(sockets.lifetimes)}")
        self.counters: Counter[str] = Counter()
        self._sockets = sockets
        self._servers = tuple(dict.fromkeys(servers))[:DISCOVERY_MAX_SERVERS]
        self._randbytes = randbytes
        self._client = stun.StunClient()
        self._probes: dict[bytes, _Probe] = {}
        self._reports: dict[TransportAddress, ServerReport] = {}
        self._seen: dict[TransportAddress, TransportAddress] = {}
        self._second: tuple[TransportAddress, TransportAddress | None] | None = None
        self._second_mapped: TransportAddress | None = None
        self._filter: dict[_Test, bool | None] = {}
        self._hairpin: bool | None = None
        self._fragments: bool | None = None
        self._lifetime = LifetimeTest(tuple(lifetimes_s))
        self._events: deque[ServerReport | NatBehaviour] = deque()
        self._started = self._reported = False

    # What happens

    def start(self, now: float) -> None:
        """Begin.

        Raises:
            LocalError: it has begun already.
        """
        if self._started:
            raise LocalError("this discovery runs already; make another one")
        self._started = True
        for server in self._servers:
            self._ask(now, _Test.FIRST, self._sockets.mapping, server)
        self._settle(now)

    def handle_datagram(self, now: float, local: TransportAddress, remote: TransportAddress, data: bytes) -> bool:
        """Return whether the datagram belonged to a test; never raises."""
        try:
            message = stun.decode(data)
        except stun.StunError as error:
            self.counters[error.reason.value] += 1
            return False
        probe = self._probes.get(message.transaction_id)
        if probe is None:
            self.counters["unasked"] += 1
            return False
        if message.message_class is stun.MessageClass.REQUEST:
            self._handle_own_request(probe, message.transaction_id)
        elif local == probe.arrives_at and remote == probe.comes_from:
            self._client.handle_message(now, probe.local, probe.target, message)
        elif local == probe.local and remote == probe.target:
            # A server that answers from its first address has not understood, or not obeyed, CHANGE-REQUEST.
            self.counters["not_changed"] += 1
            self._client.cancel(message.transaction_id)
            self._conclude(now, message.transaction_id, None, refused=True)
        else:
            self.counters["wrong_path"] += 1
        self._settle(now)
        return True

    def handle_timeout(self, now: float) -> None:
        """Send what is due, give up what is over."""
        self._client.handle_timeout(now)
        for index, port in self._lifetime.due(now):
            self._ask_lifetime(now, index, port)
        self._settle(now)

    # What follows

    @property
    def finished(self) -> bool:
        """Whether nothing will be sent any more."""
        return self._reported

    def next_timeout(self) -> float | None:
        """Return when to call `handle_timeout` next, seconds; None when nothing is due."""
        dues = (self._client.next_timeout(), self._lifetime.next_timeout())
        return min((due for due in dues if due is not None), default=None)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._client.poll_transmit()

    def poll_event(self) -> ServerReport | NatBehaviour | None:
        """Return the next event, or None: a report per server as it comes, then, once and last, the behaviour."""
        return self._events.popleft() if self._events else None

    def behaviour(self) -> NatBehaviour:
        """Return what is known so far."""
        mapped = tuple(dict.fromkeys(self._seen.values()))
        local = self._sockets.mapping
        return NatBehaviour(
            local=local,
            mapping=classify_mapping(local, self._seen),
            filtering=classify_filtering(
                from_elsewhere=self._filter.get(_Test.FILTER_ELSEWHERE),
                from_other_port=self._filter.get(_Test.FILTER_PORT),
                alternate_lives=self._second is not None and self._alternate_lives(self._second[1]),
            ),
            mapped=mapped,
            hairpin=self._hairpin,
            fragments=self._fragments,
            preserves_port=all(address.port == local.port for address in mapped) if mapped else None,
            lifetime=self._lifetime.result(),
            servers=tuple(self._reports[server] for server in self._servers if server in self._reports),
        )

    # Asking

    def _ask(
        self,
        now: float,
        test: _Test,
        local: TransportAddress,
        target: TransportAddress,
        *attributes: stun.Attribute,
        comes_from: TransportAddress | None = None,
        arrives_at: TransportAddress | None = None,
    ) -> bytes:
        request = stun.binding_request(self._randbytes(_ID_SIZE), *attributes)
        # Servers of RFC 5780's time know FINGERPRINT; those of RFC 3489's do not, and lose nothing without it.
        key = self._client.start(now, local, target, request, schedule=SCHEDULE, fingerprint=False)
        self._probes[key] = _Probe(test, local, target, comes_from or target, arrives_at or local)
        return key

    def _settle(self, now: float) -> None:
        while (event := self._client.poll_event()) is not None:
            response = event if isinstance(event, stun.Response) else None
            self._conclude(now, event.transaction_id, response)
        self._choose_second(now)
        if self._started and not self._reported and not self._probes and self._lifetime.next_timeout() is None:
            self._reported = True
            self._events.append(self.behaviour())

    def _conclude(self, now: float, key: bytes, response: stun.Response | None, *, refused: bool = False) -> None:
        """Take the end of a probe: an answer, silence, or the server's refusal to do what was asked."""
        probe = self._probes.pop(key, None)
        if probe is None:
            return
        message = response.message if response is not None else None
        if message is not None and message.message_class is not stun.MessageClass.SUCCESS:
            refused = True
        answered = message is not None and not refused
        if probe.test is _Test.FIRST:
            self._handle_first(now, probe, response)
        elif probe.test is _Test.ALTERNATE and answered:
            self._observe(probe.target, message)
        elif probe.test is _Test.SECOND_SOCKET and answered:
            self._second_mapped = mapped_address(message)
            self._start_second_tests(now)
        elif probe.test in (_Test.FILTER_ELSEWHERE, _Test.FILTER_PORT):
            self._filter[probe.test] = None if refused else answered
        elif probe.test is _Test.FRAGMENTS:
            self._fragments = None if refused else answered
        elif probe.test is _Test.HAIRPIN and self._hairpin is None:
            self._hairpin = None if self._hairpins_open() else False
        elif probe.test is _Test.LIFETIME:
            self._handle_lifetime(now, probe, message, refused=refused)

    # Mapping

    def _handle_first(self, now: float, probe: _Probe, response: stun.Response | None) -> None:
        if response is None:
            self._report(ServerReport(probe.target, failure="no answer"))
            return
        message = response.message
        mapped = mapped_address(message)
        if mapped is None:
            error = message.get(stun.ErrorCode)
            failure = f"refused with {error.code}" if error is not None else "answered without an address"
            self._report(ServerReport(probe.target, rtt_s=response.rtt_s, failure=failure))
            return
        other = self._alternate(probe.target, message)
        self._seen[probe.target] = mapped
        self._report(ServerReport(probe.target, mapped, response.rtt_s, other))
        if other is None:
            return
        for target in (TransportAddress(other.host, probe.target.port), other):
            if target not in self._seen and not self._is_asked(target):
                self._ask(now, _Test.ALTERNATE, self._sockets.mapping, target)

    def _alternate(self, server: TransportAddress, message: stun.Message) -> TransportAddress | None:
        """Return the server's alternate address if it is worth asking.

        A server could name any victim; so one whose other address is of another kind than its own is not believed, and
        what it names gets no more than four requests of 20 bytes.
        """
        attribute = message.get(stun.OtherAddress)
        if attribute is None:
            return None
        other = attribute.address
        is_odd = other.family != server.family or other.port in (0, server.port) or other.host == server.host
        ip = other.ip
        if is_odd or ip.is_multicast or ip.is_unspecified or ip.is_loopback != server.ip.is_loopback:
            self.counters["odd_other_address"] += 1
            return None
        return other

    def _is_asked(self, target: TransportAddress) -> bool:
        return any(probe.target == target for probe in self._probes.values() if probe.test is not _Test.SECOND_SOCKET)

    def _observe(self, target: TransportAddress, message: stun.Message | None) -> None:
        mapped = mapped_address(message)
        if mapped is not None:
            self._seen[target] = mapped

    def _report(self, report: ServerReport) -> None:
        self._reports[report.server] = report
        self._events.append(report)

    # Filtering, hairpinning, fragments, lifetime

    def _choose_second(self, now: float) -> None:
        """Pick the server for the second socket: one with an alternate address, or in the end any that answers."""
        if self._second is not None:
            return
        answered = [report for report in self._reports.values() if report.mapped is not None]
        able = next((report for report in answered if report.other is not None), None)
        still_waiting = any(probe.test is _Test.FIRST for probe in self._probes.values())
        if able is None and (still_waiting or not answered):
            return
        chosen = able or answered[0]
        self._second = (chosen.server, chosen.other)
        self._ask(now, _Test.SECOND_SOCKET, self._sockets.filtering, chosen.server)
        if chosen.other is not None and self._sockets.fragments is not None:
            padding = stun.Padding(bytes(DISCOVERY_PADDING))
            self._ask(now, _Test.FRAGMENTS, self._sockets.fragments, chosen.server, padding)
        for local in self._sockets.lifetimes if chosen.other is not None else ():
            self._ask(now, _Test.LIFETIME, local, chosen.server)

    def _start_second_tests(self, now: float) -> None:
        assert self._second is not None
        server, other = self._second
        local = self._sockets.filtering
        if other is not None:
            elsewhere = stun.ChangeRequest(change_ip=True, change_port=True)
            port = stun.ChangeRequest(change_port=True)
            self._ask(now, _Test.FILTER_ELSEWHERE, local, server, elsewhere, comes_from=other)
            other_port = TransportAddress(server.host, other.port)
            self._ask(now, _Test.FILTER_PORT, local, server, port, comes_from=other_port)
        first = self._seen.get(server)
        if first is not None and self._second_mapped is not None and first != self._sockets.mapping:
            # Both ways at once, as two ICE agents would: a filter then has seen the other side's address.
            self._ask(now, _Test.HAIRPIN, self._sockets.mapping, self._second_mapped)
            self._ask(now, _Test.HAIRPIN, local, first)

    def _handle_own_request(self, probe: _Probe, key: bytes) -> None:
        if probe.test is not _Test.HAIRPIN:
            self.counters["reflected"] += 1
            return
        self._hairpin = True
        for other_key in [other for other, probe in self._probes.items() if probe.test is _Test.HAIRPIN]:
            self._client.cancel(other_key)
            del self._probes[other_key]

    def _hairpins_open(self) -> bool:
        return any(probe.test is _Test.HAIRPIN for probe in self._probes.values())

    def _alternate_lives(self, other: TransportAddress | None) -> bool:
        return other is not None and any(server.host == other.host for server in self._seen)

    def _ask_lifetime(self, now: float, index: int, port: int) -> None:
        """Ask, from the first socket, for an answer to the port that was mapped for the idle one."""
        assert self._second is not None
        idle = self._sockets.lifetimes[index]
        attribute = stun.ResponsePort(port)
        self._ask(now, _Test.LIFETIME, self._sockets.mapping, self._second[0], attribute, arrives_at=idle)

    def _handle_lifetime(self, now: float, probe: _Probe, message: stun.Message | None, *, refused: bool) -> None:
        index = self._sockets.lifetimes.index(probe.arrives_at)
        if probe.local == probe.arrives_at:
            mapped = mapped_address(message)
            if mapped is not None:
                self._lifetime.opened(now, index, mapped.port)
        elif not refused:
            self._lifetime.concluded(index, alive=message is not None)


def mapped_address(message: stun.Message | None) -> TransportAddress | None:
    """Return the mapped address of a Binding response, also from the attribute of RFC 3489's servers; or None."""
    if message is None or message.message_class is not stun.MessageClass.SUCCESS:
        return None
    found = message.get(stun.XorMappedAddress) or message.get(stun.MappedAddress)
    return None if found is None else found.address
