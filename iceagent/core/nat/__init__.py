"""NATs: what they do (RFC 5780), and asking them for a port (NAT-PMP, RFC 6886; PCP, RFC 6887)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.core.lazy import names_on_demand

if TYPE_CHECKING:
    from iceagent.core.nat import natpmp, pcp
    from iceagent.core.nat.allocation import NatKind, PortHabit, Sighting, read_habit
    from iceagent.core.nat.behaviour import (
        Filtering,
        Lifetime,
        Mapping,
        NatBehaviour,
        ServerReport,
        classify_filtering,
        classify_mapping,
    )
    from iceagent.core.nat.by_checks import CheckSeen, Shown, kind_by_checks
    from iceagent.core.nat.dialects import NAT_PMP, PCP, NatPmpDialect, PcpDialect
    from iceagent.core.nat.discovery import Discovery, DiscoverySockets
    from iceagent.core.nat.epoch import Epoch, natpmp_rule, pcp_rule
    from iceagent.core.nat.errors import CodecReason, PortMappingCodecError
    from iceagent.core.nat.hard_nat import (
        Announcement,
        HardNat,
        Shot,
        Task,
        Technique,
        Traversal,
        aim_ahead,
        assign,
        is_target,
    )
    from iceagent.core.nat.lease import (
        LeaseClient,
        LeaseEvent,
        LeaseState,
        Mapped,
        MappingFailed,
        MappingLost,
        Released,
    )
    from iceagent.core.nat.port_mapper import PortMapper
    from iceagent.core.nat.prediction import FamilyView, Outcome, Prediction, SideView, meets, predict
    from iceagent.core.nat.probe import GatewayProbe, ProbeAnswer
    from iceagent.core.nat.rate_cap import RateCap, Share
else:
    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "": "natpmp pcp",
            "allocation": "NatKind PortHabit Sighting read_habit",
            "behaviour": "Filtering Lifetime Mapping NatBehaviour ServerReport classify_filtering classify_mapping",
            "by_checks": "CheckSeen Shown kind_by_checks",
            "dialects": "NAT_PMP PCP NatPmpDialect PcpDialect",
            "discovery": "Discovery DiscoverySockets",
            "epoch": "Epoch natpmp_rule pcp_rule",
            "errors": "CodecReason PortMappingCodecError",
            "hard_nat": "Announcement HardNat Shot Task Technique Traversal aim_ahead assign is_target",
            "lease": "LeaseClient LeaseEvent LeaseState Mapped MappingFailed MappingLost Released",
            "port_mapper": "PortMapper",
            "prediction": "FamilyView Outcome Prediction SideView meets predict",
            "probe": "GatewayProbe ProbeAnswer",
            "rate_cap": "RateCap Share",
        },
    )

__all__ = [
    "NAT_PMP",
    "PCP",
    "Announcement",
    "CheckSeen",
    "CodecReason",
    "Discovery",
    "DiscoverySockets",
    "Epoch",
    "FamilyView",
    "Filtering",
    "GatewayProbe",
    "HardNat",
    "LeaseClient",
    "LeaseEvent",
    "LeaseState",
    "Lifetime",
    "Mapped",
    "Mapping",
    "MappingFailed",
    "MappingLost",
    "NatBehaviour",
    "NatKind",
    "NatPmpDialect",
    "Outcome",
    "PcpDialect",
    "PortHabit",
    "PortMapper",
    "PortMappingCodecError",
    "Prediction",
    "ProbeAnswer",
    "RateCap",
    "Released",
    "ServerReport",
    "Share",
    "Shot",
    "Shown",
    "SideView",
    "Sighting",
    "Task",
    "Technique",
    "Traversal",
    "aim_ahead",
    "assign",
    "classify_filtering",
    "classify_mapping",
    "is_target",
    "kind_by_checks",
    "meets",
    "natpmp",
    "natpmp_rule",
    "pcp",
    "pcp_rule",
    "predict",
    "read_habit",
]
