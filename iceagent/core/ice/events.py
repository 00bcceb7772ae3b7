"""What the ICE core reports to its shell: agent states, what became of datagrams, events, reasons for drops."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Final, TypeAlias

from msgspec import Struct

from iceagent.core.address import TransportAddress
from iceagent.core.ice.model.candidate import Candidate
from iceagent.core.ice.model.credentials import Credentials
from iceagent.core.ice.model.pair import CandidatePair
from iceagent.core.ice.roles import Role


class AgentState(Enum):
    """Where the session stands.

    CONNECTED: a valid pair exists, data may flow. COMPLETED: a pair is selected. DISCONNECTED: the path in use has
    been silent for a while; data may still be sent, and it recovers with the next answer. During a restart the state
    is that of the session that carries the data, and CHECKING once none does.
    """

    NEW = "new"
    CHECKING = "checking"
    CONNECTED = "connected"
    COMPLETED = "completed"
    DISCONNECTED = "disconnected"
    FAILED = "failed"
    CLOSED = "closed"


AGENT_TRANSITIONS: Final[dict[AgentState, frozenset[AgentState]]] = {
    AgentState.NEW: frozenset({AgentState.CHECKING, AgentState.CLOSED}),
    AgentState.CHECKING: frozenset({AgentState.CONNECTED, AgentState.FAILED, AgentState.CLOSED}),
    AgentState.CONNECTED: frozenset(
        {
            AgentState.CHECKING,
            AgentState.COMPLETED,
            AgentState.DISCONNECTED,
            AgentState.FAILED,
            AgentState.CLOSED,
        }
    ),
    AgentState.COMPLETED: frozenset(
        {
            AgentState.CHECKING,
            AgentState.CONNECTED,
            AgentState.DISCONNECTED,
            AgentState.FAILED,
            AgentState.CLOSED,
        }
    ),
    AgentState.DISCONNECTED: frozenset(
        {
            AgentState.CHECKING,
            AgentState.CONNECTED,
            AgentState.COMPLETED,
            AgentState.FAILED,
            AgentState.CLOSED,
        }
    ),
    AgentState.FAILED: frozenset({AgentState.CLOSED}),
    AgentState.CLOSED: frozenset(),
}


class Effect(Enum):
    """What follows from a datagram that was dealt with.

    NONE: nothing: it was one more check of the path in use, or the answer to one. SETTLE: facts have changed, and every
    part may have something to do.
    """

    NONE = "none"
    SETTLE = "settle"


class Received(Enum):
    """What became of a datagram.

    CONSUMED: it was STUN and is dealt with. APPLICATION_DATA: hand it to the user. HELD: data that overtook the answer
    to our own check; it comes back in `HeldDataReleased` if that check succeeds. DROPPED: counted by reason.
    """

    CONSUMED = "consumed"
    APPLICATION_DATA = "application-data"
    HELD = "held"
    DROPPED = "dropped"


class DropReason(StrEnum):
    """Why something was not done. `IceAgent.counters` counts each."""

    SESSION_OVER = "session-over"
    DATA_UNVALIDATED = "data-from-unvalidated-path"
    DATA_HELD_OVERFLOW = "data-ahead-of-validation-overflow"
    STUN_MALFORMED = "stun-malformed"
    STUN_METHOD = "stun-method-not-binding"
    STUN_FINGERPRINT = "stun-fingerprint-missing-or-wrong"
    STUN_NO_INTEGRITY = "stun-without-integrity"
    STUN_NO_USERNAME = "stun-request-without-username"
    STUN_WRONG_USERNAME = "stun-username-not-ours"
    STUN_BAD_INTEGRITY = "stun-integrity-wrong"
    STUN_UNKNOWN_ATTRIBUTE = "stun-unknown-required-attribute"
    STUN_NO_PRIORITY = "stun-check-without-priority"
    RESPONSE_UNKNOWN_TRANSACTION = "response-to-no-transaction-of-ours"
    RESPONSE_WRONG_PATH = "response-from-another-path"
    RESPONSE_NO_ADDRESS = "response-without-mapped-address"
    RESPONSE_ERROR = "response-error"
    RESPONSE_STALE_ROLE_CONFLICT = "response-role-conflict-stale"
    CHECK_OTHER_GENERATION = "check-from-another-generation"
    CHECK_EARLY_OVERFLOW = "check-before-credentials-overflow"
    CHECK_UNKNOWN_LOCAL = "check-at-unknown-local-address"
    CANDIDATE_DUPLICATE = "candidate-duplicate"
    CANDIDATE_UNUSABLE = "candidate-address-unusable"
    CANDIDATE_UNRESOLVED = "candidate-name-unresolved"
    CANDIDATE_TRANSPORT = "candidate-transport-or-component-unsupported"
    CANDIDATE_LIMIT = "candidate-limit"
    PAIR_LIMIT = "pair-limit"
    TRANSACTION_LIMIT = "transaction-limit"
    ROLE_CONFLICT_REFUSED = "role-conflict-refused-with-487"
    UNREACHABLE = "destination-reported-unreachable"
    TRANSMIT_OVERFLOW = "transmit-queue-overflow"
    EVENT_OVERFLOW = "event-queue-overflow"


class StateChanged(Struct, frozen=True):
    """The agent moved from one state to another."""

    old: AgentState
    new: AgentState


class LocalCandidateAdded(Struct, frozen=True):
    """A local candidate is in use; send it to the peer unless it is peer-reflexive."""

    candidate: Candidate


class RemoteCandidateAdded(Struct, frozen=True):
    """A remote candidate is in use: signalled, or peer-reflexive, or the signalled twin of a peer-reflexive one."""

    candidate: Candidate


class PairStateChanged(Struct, frozen=True):
    """A pair's check moved on; `pair.state` is the new state."""

    pair: CandidatePair


class PairValidated(Struct, frozen=True):
    """A check of the pair was answered for the first time: data may flow on it."""

    pair: CandidatePair


class PairNominated(Struct, frozen=True):
    """Both agents know that the controlling one chose this pair."""

    pair: CandidatePair


class SelectedPairChanged(Struct, frozen=True):
    """Data now goes over another pair, or over none."""

    pair: CandidatePair | None


class RoleChanged(Struct, frozen=True):
    """A role conflict was settled against us."""

    role: Role


class ConsentLost(Struct, frozen=True):
    """No valid answer came over the pair for 30 s, or the peer revoked its consent: nothing is sent there any more."""

    pair: CandidatePair
    revoked: bool = False


class PathUnanswered(Struct, frozen=True):
    """For a second or two nothing has been answered on the path in use, nor on another: a restart may find one."""

    pair: CandidatePair


class HeldDataReleased(Struct, frozen=True):
    """Data that arrived on the path just before it was validated; hand it to the user now, in this order."""

    local: TransportAddress
    remote: TransportAddress
    datagrams: tuple[bytes, ...]


class Restarted(Struct, frozen=True):
    """A restart began: send these credentials to the peer, then the candidates that follow.

    `by_peer`: the peer restarted, and this is our part in it. Data goes on over the old path until a new pair is
    nominated (RFC 8445 section 9).
    """

    credentials: Credentials
    by_peer: bool


class RestartFailed(Struct, frozen=True):
    """The restart found no path; the session before it goes on, since its path still works."""

    reason: str


class ControllerFailed(Struct, frozen=True):
    """A controller raised, or gave an answer that is none; from now on `DefaultController` decides.

    Attributes:
        question: the method of `Controller` that failed.
        reason: how, and where.
    """

    question: str
    reason: str


class Failed(Struct, frozen=True):
    """The session is over; `reason` says why in words."""

    reason: str


class ChecklistState(Enum):
    """How the checks of one data stream fare: RFC 8445 section 6.1.2.1.

    COMPLETED: each component has a selected pair. FAILED: some component has no path, and will have none. A restart, or
    a selected pair that is lost while others are tried, leads back from COMPLETED to RUNNING.
    """

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class ChecklistStateChanged(Struct, frozen=True):
    """The checks of a data stream came to something else."""

    stream: int
    old: ChecklistState
    new: ChecklistState


class ComponentGivenUp(Struct, frozen=True):
    """The peer has no such component, so ours is closed (RFC 8445 section 6.1.2.2), or its stream was removed."""

    stream: int
    component: int


IceEvent: TypeAlias = (
    StateChanged
    | LocalCandidateAdded
    | RemoteCandidateAdded
    | PairStateChanged
    | PairValidated
    | PairNominated
    | SelectedPairChanged
    | RoleChanged
    | ConsentLost
    | PathUnanswered
    | HeldDataReleased
    | Restarted
    | RestartFailed
    | ControllerFailed
    | Failed
)
