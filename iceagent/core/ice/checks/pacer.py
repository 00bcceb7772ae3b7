"""The pacing of checks across all agents of a machine: RFC 8445 section 14.2."""

from __future__ import annotations

from iceagent.core import constants


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
