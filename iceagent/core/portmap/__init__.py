"""Asking a gateway for a port: NAT-PMP (RFC 6886) and PCP (RFC 6887), their packets and how long a mapping lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.core.lazy import names_on_demand

if TYPE_CHECKING:
    from iceagent.core.portmap import natpmp, pcp
    from iceagent.core.portmap.dialects import NAT_PMP, PCP, NatPmpDialect, PcpDialect
    from iceagent.core.portmap.errors import CodecReason, PortMappingCodecError
    from iceagent.core.portmap.lease import (
        Epoch,
        LeaseClient,
        LeaseEvent,
        LeaseState,
        Mapped,
        MappingFailed,
        MappingLost,
        Released,
        natpmp_rule,
        pcp_rule,
    )
    from iceagent.core.portmap.port_mapper import PortMapper
    from iceagent.core.portmap.probe import GatewayProbe, ProbeAnswer
else:
    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "": "natpmp pcp",
            "dialects": "NAT_PMP PCP NatPmpDialect PcpDialect",
            "errors": "CodecReason PortMappingCodecError",
            "lease": (
                "Epoch LeaseClient LeaseEvent LeaseState Mapped MappingFailed MappingLost Released natpmp_rule pcp_rule"
            ),
            "port_mapper": "PortMapper",
            "probe": "GatewayProbe ProbeAnswer",
        },
    )

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
