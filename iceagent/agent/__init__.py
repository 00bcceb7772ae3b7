"""The ICE agent on Trio: `open_agent()`, and the types of its arguments and results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.core.lazy import names_on_demand

if TYPE_CHECKING:
    from iceagent.agent.agent import Agent, open_agent
    from iceagent.agent.component import Component
    from iceagent.agent.config import AgentConfig
    from iceagent.agent.description import Description, StreamDescription
    from iceagent.agent.explain import RelayReason, Verdict, VerdictKind
    from iceagent.agent.gather.servers import IceServer
    from iceagent.agent.report.events import (
        AgentEvent,
        DestinationUnreachable,
        FreshPort,
        GatheringEnough,
        GatheringFinished,
        HardNatBegun,
        HardNatEnded,
        NatSeen,
        NetworkChanged,
        PortMapped,
        PortMappingFailed,
        RelayAllocated,
        RelayFailed,
        RelayLost,
        ServerAnswered,
        ServerFailed,
        ServersChanged,
        ServersNotRenewed,
        Stopped,
    )
    from iceagent.agent.report.statistics import (
        AgentStatistics,
        CandidateStatistics,
        PairStatistics,
        TransportStatistics,
    )
    from iceagent.agent.shared_port import open_shared_port
    from iceagent.agent.stream import Stream
    from iceagent.core.hard_nat import HardNat
    from iceagent.core.ice import AgentState, Candidate, CandidatePair, CandidateType, Credentials, PairState, Role
    from iceagent.core.turn import TurnCredentials
    from iceagent.net.shared_port import SharedPort
else:
    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "agent": "Agent open_agent",
            "component": "Component",
            "config": "AgentConfig",
            "description": "Description StreamDescription",
            "report.events": (
                "AgentEvent DestinationUnreachable FreshPort GatheringEnough GatheringFinished HardNatBegun "
                "HardNatEnded NatSeen NetworkChanged PortMapped PortMappingFailed RelayAllocated RelayFailed "
                "RelayLost ServerAnswered ServerFailed ServersChanged ServersNotRenewed Stopped"
            ),
            "explain": "RelayReason Verdict VerdictKind",
            "gather.servers": "IceServer",
            "shared_port": "open_shared_port",
            "report.statistics": "AgentStatistics CandidateStatistics PairStatistics TransportStatistics",
            "stream": "Stream",
            "iceagent.core.ice": "AgentState Candidate CandidatePair CandidateType Credentials PairState Role",
            "iceagent.core.hard_nat": "HardNat",
            "iceagent.core.turn": "TurnCredentials",
            "iceagent.net.shared_port": "SharedPort",
        },
    )

__all__ = [
    "Agent",
    "AgentConfig",
    "AgentEvent",
    "AgentState",
    "AgentStatistics",
    "Candidate",
    "CandidatePair",
    "CandidateStatistics",
    "CandidateType",
    "Component",
    "Credentials",
    "Description",
    "DestinationUnreachable",
    "FreshPort",
    "GatheringEnough",
    "GatheringFinished",
    "HardNat",
    "HardNatBegun",
    "HardNatEnded",
    "IceServer",
    "NatSeen",
    "NetworkChanged",
    "PairState",
    "PairStatistics",
    "PortMapped",
    "PortMappingFailed",
    "RelayAllocated",
    "RelayFailed",
    "RelayLost",
    "RelayReason",
    "Role",
    "ServerAnswered",
    "ServerFailed",
    "ServersChanged",
    "ServersNotRenewed",
    "SharedPort",
    "Stopped",
    "Stream",
    "StreamDescription",
    "TransportStatistics",
    "TurnCredentials",
    "Verdict",
    "VerdictKind",
    "open_agent",
    "open_shared_port",
]
