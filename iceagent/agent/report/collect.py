"""Reading an agent's statistics: one pass over what the core, the sockets and the timeline know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iceagent.agent.driver import Driver
from iceagent.agent.report.events import RelayAllocated, ServerAnswered
from iceagent.agent.report.identifiers import Identifiers
from iceagent.agent.report.statistics import AgentStatistics, CandidateStatistics, PairStatistics, TransportStatistics
from iceagent.core import ice
from iceagent.core.address import TransportAddress
from iceagent.net.api import InterfaceAddress


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one snapshot needs to know beside what it is about. `servers`: which server reported (address, base)."""

    driver: Driver
    transport_id: str
    timestamp_s: float
    interfaces: dict[str, str]
    servers: dict[tuple[TransportAddress, TransportAddress], str]

    @property
    def names(self) -> Identifiers:
        return self.driver.names

    def wall_time(self, at: float | None) -> float | None:
        return None if at is None else self.driver.timeline.wall_time(at)


def collect_statistics(drivers: Sequence[Driver], interfaces: list[InterfaceAddress]) -> AgentStatistics:
    """Return a snapshot of an agent.

    Args:
        drivers: one for each component, one at least.
        interfaces: those there are, for their names.
    """
    names = {entry.host: entry.name for entry in interfaces}
    candidates: list[CandidateStatistics] = []
    pairs: list[PairStatistics] = []
    transports: list[TransportStatistics] = []
    for number, driver in enumerate(drivers, 1):
        wall_time = driver.timeline.wall_time(driver.timeline.now())
        reading = _Reading(driver, f"IT{number:02d}", wall_time, names, _servers(driver))
        reports = driver.ice.pair_reports()
        own = tuple(_pair(reading, report) for report in reports)
        candidates += _candidates(reading, reports)
        pairs += own
        transports.append(_transport(reading, own))
    return AgentStatistics(tuple(candidates), tuple(pairs), transports[0], tuple(transports))


def _servers(driver: Driver) -> dict[tuple[TransportAddress, TransportAddress], str]:
    urls = {(event.mapped, event.base): event.url for _, event in driver.timeline.latest(ServerAnswered)}
    for _, relay in driver.timeline.latest(RelayAllocated):
        urls[relay.address, relay.address] = relay.url
    return urls


def _candidates(reading: _Reading, reports: tuple[ice.PairReport, ...]) -> tuple[CandidateStatistics, ...]:
    """Return all candidates known: those of the present session, and whatever pairs of the one before are made of."""
    core = reading.driver.ice
    found: dict[str, CandidateStatistics] = {}
    remote = core.remote_credentials
    ufrags = (core.credentials.ufrag, None if remote is None else remote.ufrag)
    for is_remote, candidates in ((False, core.local_candidates), (True, core.remote_candidates)):
        for candidate in candidates:
            one = _candidate(reading, candidate, ufrags[is_remote], is_remote=is_remote)
            found[one.id] = one
    for report in reports:
        for is_remote, candidate, ufrag in (
            (False, report.pair.local, report.local_ufrag),
            (True, report.pair.remote, report.remote_ufrag),
        ):
            one = _candidate(reading, candidate, ufrag, is_remote=is_remote)
            found.setdefault(one.id, one)
    return tuple(found.values())


def _candidate(
    reading: _Reading, candidate: ice.Candidate, ufrag: str | None, *, is_remote: bool
) -> CandidateStatistics:
    related = candidate.related_address
    base = None if is_remote else candidate.path_base
    is_relay = candidate.type is ice.CandidateType.RELAY
    relay_protocol = reading.driver.relay_transports.get(base) if base is not None and is_relay else None
    url = None if base is None else reading.servers.get((candidate.address, base))
    return CandidateStatistics(
        id=reading.names.candidate(candidate, is_remote=is_remote),
        timestamp_s=reading.timestamp_s,
        transport_id=reading.transport_id,
        is_remote=is_remote,
        candidate_type=candidate.type.value,
        protocol=candidate.transport,
        address=candidate.address.host,
        port=candidate.address.port,
        priority=candidate.priority,
        foundation=candidate.foundation,
        base=None if base is None else str(base),
        network_interface=None if base is None else reading.interfaces.get(base.host),
        url=url if candidate.type in (ice.CandidateType.SRFLX, ice.CandidateType.RELAY) else None,
        relay_protocol=relay_protocol,
        related_address=None if related is None else related.host,
        related_port=None if related is None else related.port,
        username_fragment=ufrag or None,
        tcp_type=candidate.tcp_type,
        component=candidate.component,
    )


def _pair(reading: _Reading, report: ice.PairReport) -> PairStatistics:
    pair = report.pair
    traffic = reading.driver.traffic.of(report.path)
    return PairStatistics(
        id=reading.names.pair(report.path, report.local_ufrag),
        timestamp_s=reading.timestamp_s,
        transport_id=reading.transport_id,
        local_candidate_id=reading.names.candidate(pair.local, is_remote=False),
        remote_candidate_id=reading.names.candidate(pair.remote, is_remote=True),
        local=str(pair.local.address),
        remote=str(pair.remote.address),
        state=pair.state.value,
        nominated=pair.nominated,
        selected=report.selected,
        valid=pair.valid,
        priority=pair.priority,
        packets_sent=traffic.packets_sent,
        bytes_sent=traffic.bytes_sent,
        packets_received=traffic.packets_received,
        bytes_received=traffic.bytes_received,
        last_packet_sent_timestamp_s=reading.wall_time(traffic.last_sent_at),
        last_packet_received_timestamp_s=reading.wall_time(traffic.last_received_at),
        total_round_trip_time_s=report.rtt_total_s,
        round_trip_time_measurements=report.rtt_samples,
        current_round_trip_time_s=report.rtt_last_s,
        smoothed_round_trip_time_s=pair.rtt_s,
        requests_sent=report.requests_sent,
        consent_requests_sent=report.consent_requests_sent,
        checks_sent=report.checks_sent,
        requests_received=report.requests_received,
        responses_sent=report.responses_sent,
        responses_received=report.responses_received,
        packets_discarded_on_send=traffic.packets_discarded,
        bytes_discarded_on_send=traffic.bytes_discarded,
    )


def _transport(reading: _Reading, pairs: tuple[PairStatistics, ...]) -> TransportStatistics:
    driver, core = reading.driver, reading.driver.ice
    counters = [sock.statistics() for sock in driver.sockets.values()]
    traffic = driver.traffic.total()
    return TransportStatistics(
        id=reading.transport_id,
        timestamp_s=reading.timestamp_s,
        ice_state=core.state.value,
        ice_role=core.role.value,
        ice_local_username_fragment=core.credentials.ufrag,
        selected_candidate_pair_id=next((pair.id for pair in reversed(pairs) if pair.selected), None),
        selected_candidate_pair_changes=driver.selected_pair_changes,
        packets_sent=traffic.packets_sent,
        bytes_sent=traffic.bytes_sent,
        packets_received=traffic.packets_received,
        bytes_received=traffic.bytes_received,
        datagrams_sent=sum(counter.datagrams_sent for counter in counters),
        datagrams_received=sum(counter.datagrams_received for counter in counters),
        socket_bytes_sent=sum(counter.bytes_sent for counter in counters),
        socket_bytes_received=sum(counter.bytes_received for counter in counters),
        send_errors=sum(counter.send_errors for counter in counters),
        icmp_errors=sum(counter.icmp_errors for counter in counters),
        receive_queue_dropped=driver.inbox.datagrams_dropped,
        events_missed=driver.timeline.events_missed,
        dropped={str(reason): count for reason, count in core.counters.items() if count},
    )
