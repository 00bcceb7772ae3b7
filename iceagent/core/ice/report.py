"""The counters of a pair, for statistics: collected on demand, so that counting costs a few integers per pair."""

from __future__ import annotations

from msgspec import Struct

from iceagent.core.ice.model.pair import CandidatePair, CheckPair, PathAddresses


class PairReport(Struct, frozen=True):
    """A pair and its counters at one moment.

    Attributes:
        pair: the pair as users see it.
        path: (local base, remote address): what its packets know.
        local_ufrag: of the session it belongs to; during a restart there are two.
        remote_ufrag: likewise the peer's, or "" before it is known.
        selected: whether data goes over it.
        checks_sent: requests, retransmissions and consent included.
        requests_sent: checks begun, without retransmissions and consent.
        consent_requests_sent: requests that ask whether the path still works (RFC 7675).
        responses_received: authenticated answers.
        requests_received: authenticated checks of the peer, retransmissions included.
        responses_sent: answers to them.
        rtt_last_s: the last round trip measured, seconds.
        rtt_total_s: the sum of all measured.
        rtt_samples: how many were measured; answers to retransmitted checks are ambiguous and left out.
    """

    pair: CandidatePair
    path: PathAddresses
    local_ufrag: str
    remote_ufrag: str
    selected: bool
    checks_sent: int
    requests_sent: int
    consent_requests_sent: int
    responses_received: int
    requests_received: int
    responses_sent: int
    rtt_last_s: float | None
    rtt_total_s: float
    rtt_samples: int


def report_pair(pair: CheckPair, local_ufrag: str, remote_ufrag: str, *, selected: bool) -> PairReport:
    """Return what a pair has counted."""
    return PairReport(
        pair=pair.view(),
        path=pair.path,
        local_ufrag=local_ufrag,
        remote_ufrag=remote_ufrag,
        selected=selected,
        checks_sent=pair.checks_sent,
        requests_sent=pair.requests_sent,
        consent_requests_sent=pair.consent_requests_sent,
        responses_received=pair.responses_received,
        requests_received=pair.requests_received,
        responses_sent=pair.responses_sent,
        rtt_last_s=pair.rtt_last_s,
        rtt_total_s=pair.rtt_total_s,
        rtt_samples=pair.rtt_samples,
    )
