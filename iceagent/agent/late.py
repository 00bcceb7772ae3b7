"""What an ordinary agent never needs, or not before it has a path: each name is imported when it is first used.

Where that is: as the agent opens, for what its configuration asks for (several components, hard NATs, relays); when
somebody asks (verdicts, statistics, the timeline); or once ordinary checks have led nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.core.lazy import names_on_demand

if TYPE_CHECKING:
    from iceagent.agent.explain import explain, relayed_because
    from iceagent.agent.hard_nat.sockets import find_ttl
    from iceagent.agent.hard_nat.traversal import HardNatTraversal
    from iceagent.agent.report.collect import collect_statistics
    from iceagent.agent.report.export import timeline_document, timeline_json
    from iceagent.core.hard_nat import is_target
    from iceagent.core.ice import check_layout
    from iceagent.core.turn import TurnCredentials
    from iceagent.net.portmap import open_port_mapping
    from iceagent.net.turn.allocation import TurnLogin, open_turn_socket
    from iceagent.net.turn.connect import TurnOptions
else:
    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "iceagent.agent.report.collect": "collect_statistics",
            "iceagent.agent.hard_nat.sockets": "find_ttl",
            "iceagent.agent.explain": "explain relayed_because",
            "iceagent.agent.report.export": "timeline_document timeline_json",
            "iceagent.agent.hard_nat.traversal": "HardNatTraversal",
            "iceagent.core.ice": "check_layout",
            "iceagent.core.hard_nat": "is_target",
            "iceagent.core.turn": "TurnCredentials",
            "iceagent.net.portmap": "open_port_mapping",
            "iceagent.net.turn.allocation": "TurnLogin open_turn_socket",
            "iceagent.net.turn.connect": "TurnOptions",
        },
    )

__all__ = [
    "HardNatTraversal",
    "TurnCredentials",
    "TurnLogin",
    "TurnOptions",
    "check_layout",
    "collect_statistics",
    "explain",
    "find_ttl",
    "is_target",
    "open_port_mapping",
    "open_turn_socket",
    "relayed_because",
    "timeline_document",
    "timeline_json",
]
