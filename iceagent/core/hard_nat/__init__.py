"""Traversal of NATs behind which a peer's port is not known: what kind they are, and who sends what and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.core.lazy import names_on_demand

if TYPE_CHECKING:
    from iceagent.core.hard_nat.allocation import NatKind, PortHabit, Sighting, read_habit
    from iceagent.core.hard_nat.by_checks import CheckSeen, Shown, kind_by_checks
    from iceagent.core.hard_nat.traversal import (
        Announcement,
        HardNat,
        RateCap,
        Share,
        Shot,
        Task,
        Technique,
        Traversal,
        aim_ahead,
        assign,
        is_target,
    )
else:
    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "allocation": "NatKind PortHabit Sighting read_habit",
            "by_checks": "CheckSeen Shown kind_by_checks",
            "traversal": "RateCap Share Announcement HardNat Shot Task Technique Traversal aim_ahead assign is_target",
        },
    )

__all__ = [
    "Announcement",
    "CheckSeen",
    "HardNat",
    "NatKind",
    "PortHabit",
    "RateCap",
    "Share",
    "Shot",
    "Shown",
    "Sighting",
    "Task",
    "Technique",
    "Traversal",
    "aim_ahead",
    "assign",
    "is_target",
    "kind_by_checks",
    "read_habit",
]
