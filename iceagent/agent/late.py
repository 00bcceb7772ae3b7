"""Imports on first use, of what most agents never need.

First use is when the agent opens, for what its configuration asks for (several components, relays), or when ordinary
checks have failed. The packages `explain`, `report` and `hard_nat` hand out their names in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.core.lazy import names_on_demand

if TYPE_CHECKING:
    from iceagent.agent.hard_nat.sockets import find_ttl
    from iceagent.core.hard_nat import is_target
    from iceagent.core.ice import check_layout
    from iceagent.core.turn import TurnCredentials
    from iceagent.net.portmap import open_port_mapping
    from iceagent.net.turn.allocation import TurnLogin, open_turn_socket
    from iceagent.net.turn.connect import TurnConnectOptions
else:
    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "iceagent.agent.hard_nat.sockets": "find_ttl",
            "iceagent.core.ice": "check_layout",
            "iceagent.core.hard_nat": "is_target",
            "iceagent.core.turn": "TurnCredentials",
            "iceagent.net.portmap": "open_port_mapping",
            "iceagent.net.turn.allocation": "TurnLogin open_turn_socket",
            "iceagent.net.turn.connect": "TurnConnectOptions",
        },
    )

__all__ = [
    "TurnConnectOptions",
    "TurnCredentials",
    "TurnLogin",
    "check_layout",
    "find_ttl",
    "is_target",
    "open_port_mapping",
    "open_turn_socket",
]
