"""When new checks may go: the slots of an agent, and the pacing of all agents of a machine. RFC 8445 section 14.2."""

from __future__ import annotations

from dataclasses import dataclass

from iceagent.core import constants


@dataclass(slots=True)
class Slots:
    """The slots of Ta, in which an agent's new checks go: one row of them for all its sessions.

    Attributes:
        next_at: before this no new check is sent.
        used_by: the session that sent the last one; another that has a check comes first then.
    """

    next_at: float = float("-inf")
    used_by: object | None = None

    def use(self, session: object, next_at: float) -> None:
        """A session takes the slot that has come; the next one comes then."""
        self.used_by, self.next_at = session, next_at

    def postpone(self, next_at: float) -> None:
        """Another component has taken the slot."""
        self.next_at = next_at

    def disown(self) -> None:
        """Keep a session that has ended alive no longer."""
        self.used_by = None


class Pacer:
    """Hands out times to send new checks at, shared by many agents; each of them keeps its own Ta besides.

    A few may go at once after a pause, so that a first check never waits. Each time is given to one agent, in the order
    of asking: nobody starves, and nobody wakes for a time that another takes.

    Args:
        interval_s: between checks in the long run, seconds; 5 ms is the least RFC 8445 allows.
        burst: how many may go at once after a pause.
    """

    def __init__(self, interval_s: float = constants.TA_MIN_S, burst: int = constants.PACER_BURST) -> None:
        self._interval_s = interval_s
        self._grace_s = (burst - 1) * interval_s
        self._full_at = float("-inf")

    def reserve(self, now: float) -> float:
        """Return when the caller may send one new check: `now` or later."""
        at = max(now, self._full_at - self._grace_s)
        self._full_at = max(self._full_at, at) + self._interval_s
        return at
