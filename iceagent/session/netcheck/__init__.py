"""What this machine's network lets through, and what it means: the parts of `iceagent netcheck`."""

from __future__ import annotations

from iceagent.session.netcheck.check import CheckOptions, check_network
from iceagent.session.netcheck.peer import compare, netcheck_invite, netcheck_join
from iceagent.session.netcheck.report import (
    FamilyReport,
    PortMappingReport,
    RelayReport,
    Report,
    ServerHealth,
    WebReport,
)
from iceagent.session.netcheck.words import describe_behaviour, meaning

__all__ = [
    "CheckOptions",
    "FamilyReport",
    "PortMappingReport",
    "RelayReport",
    "Report",
    "ServerHealth",
    "WebReport",
    "check_network",
    "compare",
    "describe_behaviour",
    "meaning",
    "netcheck_invite",
    "netcheck_join",
]
