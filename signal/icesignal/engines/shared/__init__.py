"""Rooms that several nodes share through a store: any node takes any client, and none keeps what others could not find.

`state` is what is stored, `replica` what commands make of it, `news` what connections hear of it; a `desk` does the
work on one room, a `node` has the desks, `engine` is its shell. `lineage` is for a store that has lost something.
"""

from __future__ import annotations

from icesignal.engines.shared.engine import SharedEngine, Store, StoreAway, StoreRefused

__all__ = ["SharedEngine", "Store", "StoreAway", "StoreRefused"]
