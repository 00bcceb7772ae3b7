"""Servers on Trio: STUN, and STUN with TURN."""

from __future__ import annotations

from iceagent.servers.stun import StunServer, open_stun_server
from iceagent.servers.turn import TurnService, open_turn_server
from iceagent.servers.turn_options import TlsFiles, TurnOptions, TurnOptionsError

__all__ = [
    "StunServer",
    "TlsFiles",
    "TurnOptions",
    "TurnOptionsError",
    "TurnService",
    "open_stun_server",
    "open_turn_server",
]
