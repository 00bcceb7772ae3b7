"""NATs: what they do (RFC 5780), and asking them for a port (NAT-PMP, RFC 6886; PCP, RFC 6887)."""

from __future__ import annotations

from iceagent.core.nat import natpmp, pcp
from iceagent.core.nat.behaviour import (
    Filtering,
    Lifetime,
    Mapping,
    NatBehaviour,
    ServerReport,
    classify_filtering,
    classify_mapping,
)
from iceagent.core.nat.dialects import NAT_PMP, PCP, NatPmpDialect, PcpDialect
from iceagent.core.nat.discovery import Discovery, DiscoverySockets
from iceagent.core.nat.epoch import Epoch, natpmp_rule, pcp_rule
from iceagent.core.nat.errors import CodecReason, PortMappingCodecError
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

__all__ = [
    "NAT_PMP",
    "PCP",
    "CodecReason",
    "Discovery",
    "DiscoverySockets",
    "Epoch",
    "FamilyView",
    "Filtering",
    "GatewayProbe",
    "LeaseClient",
    "LeaseEvent",
    "LeaseState",
    "Lifetime",
    "Mapped",
    "Mapping",
    "MappingFailed",
    "MappingLost",
    "NatBehaviour",
    "NatPmpDialect",
    "Outcome",
    "PcpDialect",
    "PortMapper",
    "PortMappingCodecError",
    "Prediction",
    "ProbeAnswer",
    "Released",
    "ServerReport",
    "SideView",
    "classify_filtering",
    "classify_mapping",
    "meets",
    "natpmp",
    "natpmp_rule",
    "pcp",
    "pcp_rule",
    "predict",
]
