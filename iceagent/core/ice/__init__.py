"""The ICE agent, sans-IO: RFC 8445, 8838, 8863, 7675, 6544. `IceAgent`, its arguments and results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.core.address import without_zone
from iceagent.core.ice.agent import IceAgent
from iceagent.core.ice.checks.pacer import Pacer
from iceagent.core.ice.checks.signs import CredentialSigns
from iceagent.core.ice.choice.controller import (
    CheckQuestion,
    Choice,
    Controller,
    DefaultController,
    FalterQuestion,
    NominationQuestion,
    Search,
    SearchQuestion,
    SwitchQuestion,
    kind_of,
)
from iceagent.core.ice.config import IceConfig
from iceagent.core.ice.events import (
    AGENT_TRANSITIONS,
    AgentState,
    ChecklistState,
    ChecklistStateChanged,
    ComponentGivenUp,
    ConsentLost,
    ControllerFailed,
    DropReason,
    Failed,
    HeldDataReleased,
    IceEvent,
    LocalCandidateAdded,
    PairNominated,
    PairStateChanged,
    PairValidated,
    PathUnanswered,
    Received,
    RemoteCandidateAdded,
    Restarted,
    RestartFailed,
    RoleChanged,
    SelectedPairChanged,
    StateChanged,
)
from iceagent.core.ice.model.candidate import (
    Candidate,
    CandidateError,
    host_candidate,
    relay_candidate,
    srflx_candidate,
)
from iceagent.core.ice.model.credentials import Credentials, generate_credentials
from iceagent.core.ice.model.pair import PAIR_TRANSITIONS, CandidatePair, PairFacts, PairState, PathAddresses
from iceagent.core.ice.model.priority import CandidateType, candidate_priority, foundation, pair_priority
from iceagent.core.ice.model.tcp import tcp_host_candidate, tcp_priority, tcp_srflx_candidate
from iceagent.core.ice.report import PairReport
from iceagent.core.ice.roles import Role
from iceagent.core.lazy import names_on_demand

if TYPE_CHECKING:
    from iceagent.core.ice.streams import ComponentEvent, StreamSet, check_layout
else:
    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "streams": "ComponentEvent StreamSet check_layout",
        },
    )

__all__ = [
    "AGENT_TRANSITIONS",
    "PAIR_TRANSITIONS",
    "AgentState",
    "Candidate",
    "CandidateError",
    "CandidatePair",
    "CandidateType",
    "CheckQuestion",
    "ChecklistState",
    "ChecklistStateChanged",
    "Choice",
    "ComponentEvent",
    "ComponentGivenUp",
    "ConsentLost",
    "Controller",
    "ControllerFailed",
    "CredentialSigns",
    "Credentials",
    "DefaultController",
    "DropReason",
    "Failed",
    "FalterQuestion",
    "HeldDataReleased",
    "IceAgent",
    "IceConfig",
    "IceEvent",
    "LocalCandidateAdded",
    "NominationQuestion",
    "Pacer",
    "PairFacts",
    "PairNominated",
    "PairReport",
    "PairState",
    "PairStateChanged",
    "PairValidated",
    "PathAddresses",
    "PathUnanswered",
    "Received",
    "RemoteCandidateAdded",
    "RestartFailed",
    "Restarted",
    "Role",
    "RoleChanged",
    "Search",
    "SearchQuestion",
    "SelectedPairChanged",
    "StateChanged",
    "StreamSet",
    "SwitchQuestion",
    "candidate_priority",
    "check_layout",
    "foundation",
    "generate_credentials",
    "host_candidate",
    "kind_of",
    "pair_priority",
    "relay_candidate",
    "srflx_candidate",
    "tcp_host_candidate",
    "tcp_priority",
    "tcp_srflx_candidate",
    "without_zone",
]
