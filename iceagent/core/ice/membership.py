"""The membership of one component in a checklist set, and what it may ask of the set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from iceagent.core.ice.model.checklist import OtherChecklists
from iceagent.core.ice.roles import RoleKeeper


class SharedChecks(OtherChecklists, Protocol):
    """What a component asks of the set it is in; `checklist_set` is it.

    Attributes:
        roles: our role, one for all.
    """

    roles: RoleKeeper

    def turns(self, stream: int) -> int:
        """Return how many turns there are until a component of a stream has the next check."""
        ...

    def settle(self, now: float) -> None:
        """Let all components know of a new role, and send the check that is due."""
        ...


@dataclass(slots=True, eq=False)
class Membership:
    """That one component is in a set.

    Attributes:
        in_set: the set.
        stream: index of its data stream, from 0.
        component: its id, from 1.
        slot_at: when the next check of the set is due, if it is this component's; else None.
        touched: whether something of its may wait to be drained though nobody called it.
    """

    in_set: SharedChecks
    stream: int
    component: int
    slot_at: float | None = None
    touched: bool = False
