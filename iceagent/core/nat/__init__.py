"""NATs: what they do (RFC 5780), and asking them for a port (NAT-PMP, RFC 6886; PCP, RFC 6887)."""

from __future__ import annotations

from iceagent.core.nat import natpmp, pcp
from iceagent.core.nat.dialects import NAT_PMP, PCP, NatPmpDialect, PcpDialect
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
from iceagent.core.nat.probe import GatewayProbe, ProbeAnswer

__all__ = [
    "NAT_PMP",
    "PCP",
    "CodecReason",
    "Epoch",
    "GatewayProbe",
    "LeaseClient",
    "LeaseEvent",
    "LeaseState",
    "Mapped",
    "MappingFailed",
    "MappingLost",
    "NatPmpDialect",
    "PcpDialect",
    "PortMapper",
    "PortMappingCodecError",
    "ProbeAnswer",
    "Released",
    "natpmp",
    "natpmp_rule",
    "pcp",
    "pcp_rule",
]
