"""Roles and role conflicts: RFC 8445 sections 6.1.1, 7.2.5.1 and 7.3.1.1."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from iceagent.core import stun


class Role(Enum):
    """Who nominates."""

    CONTROLLING = "controlling"
    CONTROLLED = "controlled"

    @property
    def other(self) -> Role:
        """The peer's role."""
        return Role.CONTROLLED if self is Role.CONTROLLING else Role.CONTROLLING


class Conflict(Enum):
    """What a request's role attribute means for us."""

    NONE = "none"
    SWITCH = "switch"
    REFUSE = "refuse"


class RoleKeeper:
    """Our role and tiebreaker.

    `generation` counts the changes: a 487 counts only against the role its check was sent in.
    """

    def __init__(self, role: Role, randbytes: Callable[[int], bytes]) -> None:
        self.role = role
        self.generation = 0
        self._randbytes = randbytes
        self.tiebreaker = self._draw()

    @property
    def controlling(self) -> bool:
        """Whether we nominate."""
        return self.role is Role.CONTROLLING

    def attribute(self) -> stun.IceControlling | stun.IceControlled:
        """Return the role attribute of our checks."""
        return stun.IceControlling(self.tiebreaker) if self.controlling else stun.IceControlled(self.tiebreaker)

    def judge(self, request: stun.Message) -> Conflict:
        """Say what an authenticated request asks of us; changes nothing.

        Both controlling: the larger tiebreaker stays controlling. Both controlled: the larger one becomes
        controlling. In both cases whoever is right in its role refuses with 487, and the other switches.

        Source: RFC 8445 section 7.3.1.1.
        """
        if self.controlling:
            theirs = request.get(stun.IceControlling)
            if theirs is None:
                return Conflict.NONE
            return Conflict.REFUSE if self.tiebreaker >= theirs.tiebreaker else Conflict.SWITCH
        claim = request.get(stun.IceControlled)
        if claim is None:
            return Conflict.NONE
        return Conflict.SWITCH if self.tiebreaker >= claim.tiebreaker else Conflict.REFUSE

    def switch(self) -> None:
        """Take the other role, keeping the tiebreaker: the request that asks for it has been compared with it."""
        self.role = self.role.other
        self.generation += 1

    def obey_487(self, generation: int) -> bool:
        """Take the other role, with a new tiebreaker, if the refused check was sent in our present one.

        Args:
            generation: `generation` when the check was sent.

        Returns:
            False when the 487 is stale: the role has changed since, by another 487 or by a request.

        Source: RFC 8445 section 7.2.5.1.
        """
        if generation != self.generation:
            return False
        self.switch()
        self.tiebreaker = self._draw()
        return True

    def _draw(self) -> int:
        return int.from_bytes(self._randbytes(8), "big")
