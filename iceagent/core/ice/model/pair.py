"""Candidate pairs, their states and their checks: RFC 8445 section 6.1.2."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct

from iceagent.core.address import TransportAddress
from iceagent.core.ice.model.candidate import Candidate
from iceagent.core.ice.model.priority import CandidateType, pair_priority

PathAddresses: TypeAlias = tuple[TransportAddress, TransportAddress]  # (local base, remote address): what packets know


class PairState(Enum):
    """RFC 8445 section 6.1.2.6."""

    FROZEN = "frozen"
    WAITING = "waiting"
    IN_PROGRESS = "in-progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


# Figure 6 of RFC 8445, with the edges its text adds: a cancelled check waits again for its triggered one (7.3.1.4),
# a late answer to a cancelled or failed check counts, and a path that lost consent fails (RFC 7675).
PAIR_TRANSITIONS: Final[dict[PairState, frozenset[PairState]]] = {
    PairState.FROZEN: frozenset({PairState.WAITING}),
    PairState.WAITING: frozenset({PairState.IN_PROGRESS, PairState.SUCCEEDED, PairState.FAILED}),
    PairState.IN_PROGRESS: frozenset({PairState.WAITING, PairState.SUCCEEDED, PairState.FAILED}),
    PairState.SUCCEEDED: frozenset({PairState.FAILED}),
    PairState.FAILED: frozenset({PairState.WAITING, PairState.SUCCEEDED}),
}


class CandidatePair(Struct, frozen=True):
    """A pair as it is at one moment, for users and events.

    Attributes:
        local: the local candidate: once the pair is valid, the one the peer sees us at.
        remote: the remote candidate.
        state: of the pair's connectivity check.
        nominated: whether the controlling agent chose it.
        rtt_s: smoothed round-trip time of its checks, seconds, or None before the first answer.
        priority: 64 bits; higher is better.
        valid: whether data may flow on it.
    """

    local: Candidate
    remote: Candidate
    state: PairState
    nominated: bool
    rtt_s: float | None
    priority: int
    valid: bool = False

    @property
    def is_relayed(self) -> bool:
        """Whether either end is at a relay, as far as is known: of a peer-reflexive address that comes out later."""
        return CandidateType.RELAY in (self.local.type, self.remote.type)

    def __str__(self) -> str:
        kinds = f"{self.local.type.value} {self.local.address} to {self.remote.type.value} {self.remote.address}"
        return f"{kinds} ({self.state.value})"


class PairFacts(NamedTuple):
    """What a `Controller` may know of a pair; immutable.

    Attributes:
        path: (local base, remote address), which names the pair.
        local: the local candidate: once the pair is valid, the one the peer sees us at.
        remote: the remote candidate.
        state: of the pair's connectivity check.
        priority: 64 bits; higher is better.
        check_priority: what it is, or was, before the check was answered; then the peer may see us at a reflexive
            address, which makes the pair rank lower. This one compares with pairs that were not answered yet.
        is_valid: whether data may flow on it.
        is_nominated: whether the controlling agent chose it.
        is_relayed: whether either end is at a relay.
        rtt_s: smoothed round-trip time of its checks, seconds, or None before the first answer.
        rtt_samples: how many round trips made it.
        checked_at: when its first check was sent, or None.
        answered_at: when its last check was answered; 0.0 if none was.
        heard: whether an authenticated check of the peer came on it.
        nomination_failures: how many nominating checks on it went unanswered.
    """

    path: PathAddresses
    local: Candidate
    remote: Candidate
    state: PairState
    priority: int
    check_priority: int
    is_valid: bool
    is_nominated: bool
    is_relayed: bool
    rtt_s: float | None
    rtt_samples: int
    checked_at: float | None
    answered_at: float
    heard: bool
    nomination_failures: int


@dataclass(slots=True, eq=False)
class CheckPair:
    """A pair as the checklist keeps it: one per path, its valid pair included.

    RFC 8445 distinguishes a pair of the checklist from the valid pair its check yields (section 7.2.5.3.2). Both always
    have the same base and destination, which are the path of packets. So one object holds both; `valid_local` is the
    local candidate of the valid pair, or None.
    """

    local: Candidate
    remote: Candidate
    base: TransportAddress
    destination: TransportAddress
    priority: int
    check_priority: int = 0  # what it was before its check was answered
    state: PairState = PairState.FROZEN
    valid_local: Candidate | None = None
    nominated: bool = False
    nominate_on_success: bool = False  # RFC 8445 section 7.3.1.5: USE-CANDIDATE came before our own check was answered
    nominated_as: int = 0  # which of the peer's nominations its latest one was, counted from 1
    nominated_at: float = 0.0  # when that was heard
    consent_lost: bool = False  # RFC 7675 section 5.1: never again with these credentials
    nomination_failures: int = 0
    heard: bool = False  # an authenticated check came from there
    granted: int = 0  # requests we may yet send there upon the last such check, where nothing else speaks for it
    check: Check | None = None  # the one whose outcome decides the state
    triggered_as: int = 0  # its number in the triggered-check queue of a stream of several components
    checked_at: float | None = None
    checks_sent: int = 0
    last_sent_at: float = 0.0
    last_response_at: float = 0.0
    rtt_s: float | None = None
    rtt_samples: int = 0
    rtt_last_s: float | None = None
    rtt_total_s: float = 0.0
    requests_sent: int = 0  # without retransmissions; consent and probes apart
    consent_requests_sent: int = 0
    responses_received: int = 0
    requests_received: int = 0
    responses_sent: int = 0

    @property
    def is_relayed(self) -> bool:
        """Whether either end is at a relay."""
        local = self.local if self.valid_local is None else self.valid_local
        return CandidateType.RELAY in (self.local.type, local.type, self.remote.type)

    @property
    def is_tcp(self) -> bool:
        """Whether its packets travel in a TCP connection: none is lost, and none is sent twice."""
        return self.local.transport == "tcp"

    @property
    def is_passive(self) -> bool:
        """Whether only the peer can open its connection, which then never comes back under the same address."""
        return self.local.tcp_type == "passive"

    @property
    def check_order(self) -> tuple[bool, int]:
        """What ordinary checks are ordered by, the greatest first; also who gives way last in a full checklist.

        Deviation from RFC 8445 section 6.1.4.2, where priority alone decides: UDP goes first, relayed pairs too,
        though they rank below direct TCP. So candidates over TCP delay no connection that can do without them.
        """
        return (not self.is_tcp, self.priority)

    @property
    def path(self) -> PathAddresses:
        """The pair's key: (local base, remote address)."""
        return (self.base, self.destination)

    @property
    def foundation(self) -> tuple[str, str]:
        """What the pair freezes and thaws by."""
        return (self.local.foundation, self.remote.foundation)

    @property
    def is_valid(self) -> bool:
        """Whether the pair is on the valid list: our check was answered and consent stands."""
        return self.valid_local is not None

    @property
    def is_vouched_for(self) -> bool:
        """Whether more than a check speaks for the remote address: the peer has signalled it, or it has answered us.

        A check can be replayed from a forged source, in the name of somebody who has nothing to do with us.
        """
        return self.remote.type is not CandidateType.PRFLX or self.responses_received > 0

    @property
    def is_pending(self) -> bool:
        """Whether its check may yet succeed."""
        return self.state in (PairState.FROZEN, PairState.WAITING, PairState.IN_PROGRESS)

    def set_state(self, state: PairState) -> None:
        """Move to `state`; moving to the present one changes nothing."""
        if state is self.state:
            return
        assert state in PAIR_TRANSITIONS[self.state], f"{self.state} to {state}"
        self.state = state

    def rank(self, controlling: bool) -> None:
        """Compute the priorities anew, as after a change of role or candidate (RFC 8445 section 6.1.2.3)."""
        self.check_priority = self.priority = self._priority_with(self.local, controlling)
        if self.valid_local is not None:
            self.priority = self._priority_with(self.valid_local, controlling)

    def _priority_with(self, local: Candidate, controlling: bool) -> int:
        if controlling:
            return pair_priority(local.priority, self.remote.priority)
        return pair_priority(self.remote.priority, local.priority)

    def measure_rtt(self, sample_s: float) -> None:
        """Smooth one round-trip time in; the gain is twice RFC 6298's since samples come seconds apart."""
        self.rtt_samples += 1
        self.rtt_last_s = sample_s
        self.rtt_total_s += sample_s
        if self.is_tcp and self.rtt_samples == 2:
            self.rtt_s = sample_s  # the first one included opening the connection
            return
        self.rtt_s = sample_s if self.rtt_s is None else 0.75 * self.rtt_s + 0.25 * sample_s

    def facts(self) -> PairFacts:
        """Return what a controller may know of the pair."""
        return PairFacts(
            self.path,
            self.local if self.valid_local is None else self.valid_local,
            self.remote,
            self.state,
            self.priority,
            self.check_priority,
            self.is_valid,
            self.nominated,
            self.is_relayed,
            self.rtt_s,
            self.rtt_samples,
            self.checked_at,
            self.last_response_at,
            self.heard,
            self.nomination_failures,
        )

    def view(self) -> CandidatePair:
        """Return the pair as it is now."""
        local = self.local if self.valid_local is None else self.valid_local
        return CandidatePair(
            local, self.remote, self.state, self.nominated, self.rtt_s, self.priority, self.valid_local is not None
        )


class CheckKind(Enum):
    """What a check is for.

    ORDINARY decides its pair's state. NOMINATION carries USE-CANDIDATE. CONSENT is sent once (RFC 7675 section 5.1).
    PROBE is an ordinary check of a valid pair that went silent; its failure decides nothing.
    """

    ORDINARY = "ordinary"
    NOMINATION = "nomination"
    CONSENT = "consent"
    PROBE = "probe"


@dataclass(slots=True, eq=False)
class Check:
    """One transaction. `gaps_s[i]` is the wait after the i-th send.

    `astray`: an authenticated answer has come, but on another path, so that the check is sent no more.
    `is_timed`: nobody has stopped us since it was sent, so that its answer shows the round-trip time.
    """

    pair: CheckPair
    kind: CheckKind
    transaction_id: bytes
    data: bytes
    role_generation: int
    rto_s: float
    gaps_s: tuple[float, ...]
    started_at: float
    expires_at: float
    sent_at: float
    next_at: float
    sends: int = 1
    cancelled: bool = False
    astray: bool = False
    is_timed: bool = True

    @property
    def is_first_try(self) -> bool:
        """Whether the first request has been out for less than the first timeout, and may be answered yet."""
        return self.sends <= 1 and not self.astray
