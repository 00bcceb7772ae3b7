"""What an agent has counted, shaped like the W3C's `RTCStatsReport`: candidates, pairs, transport.

Source: https://www.w3.org/TR/webrtc-stats/, names in Python's spelling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from iceagent.agent.driver import Driver
from iceagent.core import ice


@dataclass(frozen=True, slots=True)
class CandidateStatistics:
    """One candidate; `is_remote` tells whose. `base` is None for remote ones."""

    is_remote: bool
    candidate_type: str
    address: str
    port: int
    priority: int
    foundation: str
    base: str | None


@dataclass(frozen=True, slots=True)
class PairStatistics:
    """One candidate pair. `current_round_trip_time_s` is None before the first answer."""

    local: str
    remote: str
    state: str
    nominated: bool
    selected: bool
    priority: int
    current_round_trip_time_s: float | None


@dataclass(frozen=True, slots=True)
class TransportStatistics:
    """The agent as a whole; bytes and datagrams count everything at its sockets, checks included."""

    ice_state: str
    ice_role: str
    ice_local_username_fragment: str
    selected_pair_changes: int
    datagrams_sent: int
    bytes_sent: int
    datagrams_received: int
    bytes_received: int
    send_errors: int
    icmp_errors: int
    receive_queue_dropped: int
    events_missed: int
    dropped: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AgentStatistics:
    """A snapshot."""

    candidates: tuple[CandidateStatistics, ...]
    pairs: tuple[PairStatistics, ...]
    transport: TransportStatistics


def collect_statistics(driver: Driver) -> AgentStatistics:
    """Return a snapshot of an agent."""
    core = driver.ice
    selected = core.selected_pair
    candidates = [_candidate(candidate, is_remote=False) for candidate in core.local_candidates]
    candidates += [_candidate(candidate, is_remote=True) for candidate in core.remote_candidates]
    pairs = [_pair(pair, selected) for pair in core.pairs]
    return AgentStatistics(tuple(candidates), tuple(pairs), _transport(driver))


def _candidate(candidate: ice.Candidate, *, is_remote: bool) -> CandidateStatistics:
    return CandidateStatistics(
        is_remote=is_remote,
        candidate_type=candidate.type.value,
        address=candidate.address.host,
        port=candidate.address.port,
        priority=candidate.priority,
        foundation=candidate.foundation,
        base=None if is_remote or candidate.base is None else str(candidate.base),
    )


def _pair(pair: ice.CandidatePair, selected: ice.CandidatePair | None) -> PairStatistics:
    is_selected = (
        selected is not None
        and selected.local.path_base == pair.local.path_base
        and selected.remote.address == pair.remote.address
    )
    return PairStatistics(
        local=str(pair.local.address),
        remote=str(pair.remote.address),
        state=pair.state.value,
        nominated=pair.nominated,
        selected=is_selected,
        priority=pair.priority,
        current_round_trip_time_s=pair.rtt_s,
    )


def _transport(driver: Driver) -> TransportStatistics:
    core = driver.ice
    counters = [sock.statistics() for sock in driver.sockets.values()]
    changes = sum(isinstance(event, ice.SelectedPairChanged) for _, event in driver.timeline.entries())
    return TransportStatistics(
        ice_state=core.state.value,
        ice_role=core.role.value,
        ice_local_username_fragment=core.credentials.ufrag,
        selected_pair_changes=changes,
        datagrams_sent=sum(counter.datagrams_sent for counter in counters),
        bytes_sent=sum(counter.bytes_sent for counter in counters),
        datagrams_received=sum(counter.datagrams_received for counter in counters),
        bytes_received=sum(counter.bytes_received for counter in counters),
        send_errors=sum(counter.send_errors for counter in counters),
        icmp_errors=sum(counter.icmp_errors for counter in counters),
        receive_queue_dropped=driver.inbox.datagrams_dropped,
        events_missed=driver.timeline.events_missed,
        dropped={str(reason): count for reason, count in core.counters.items() if count},
    )
