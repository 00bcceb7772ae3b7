"""Servers on Trio: STUN."""

from __future__ import annotations

from iceagent.servers.stun import StunServer, open_stun_server

__all__ = ["StunServer", "open_stun_server"]
