"""Traversal of NATs behind which a peer's port is not known. Runs only if `AgentConfig.hard_nat` asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.core.lazy import names_on_demand

if TYPE_CHECKING:
    from iceagent.agent.hard_nat.traversal import HardNatTraversal
else:
    __getattr__, __dir__ = names_on_demand(__name__, {"traversal": "HardNatTraversal"})

__all__ = ["HardNatTraversal"]
