"""Engines keep the rooms of a relay: `memory` for one process; others may share them between nodes.

Every engine passes the same suite, tests/relay/test_engine_contract.py. An engine never waits for a subscriber: it
hands frames over, and the subscriber limits what it keeps.
"""

from __future__ import annotations

from icesignal.engines.engine import Engine, Subscriber
from icesignal.engines.memory import MemoryEngine

__all__ = ["Engine", "MemoryEngine", "Subscriber"]
