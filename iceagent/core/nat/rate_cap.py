"""A bound on packets per second that holds in every second, however late the timer was."""

from __future__ import annotations

from collections import deque
from typing import Final

_WINDOW_S: Final = 1.001  # a second, and what rounding may take from it
_CATCH_UP: Final = 3  # packets that a late timer may send at once


class RateCap:
    """At most `per_second` packets in any second, evenly spread; several users may share one.

    Args:
        per_second: packets, at least 1.
    """

    def __init__(self, per_second: int) -> None:
        if per_second < 1:
            raise ValueError(f"a cap of {per_second} packets a second lets nothing pass")
        self.gap_s = 1 / per_second
        """Between two packets, seconds."""
        self._sent: deque[float] = deque(maxlen=per_second)
        self._next_at = float("-inf")

    def next_at(self) -> float:
        """Return the time from which on one more packet may be sent."""
        if len(self._sent) == self._sent.maxlen:
            return max(self._next_at, self._sent[0] + _WINDOW_S)
        return self._next_at

    def note(self, now: float) -> None:
        """Count a packet sent at `now`, seconds; times must not go backwards."""
        self._sent.append(now)
        self._next_at = max(self._next_at + self.gap_s, now - _CATCH_UP * self.gap_s)
