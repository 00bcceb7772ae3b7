"""So much at once, and so much a second after that: of datagrams, bytes or whatever is counted."""

from __future__ import annotations


class TokenBucket:
    """What may pass, refilled as time goes by; time that runs backwards takes nothing.

    Args:
        per_s: sustained.
        burst: at once.
        now: when it begins, full; seconds.
    """

    __slots__ = ("_at", "_burst", "_per_s", "_tokens")

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s = per_s
        self._burst = self._tokens = burst
        self._at = now

    def has(self, now: float, cost: float = 1.0) -> bool:
        """Whether as much may pass now."""
        self._refill(now)
        return self._tokens >= cost

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Return whether as much may pass now, and take it if so."""
        if not self.has(now, cost):
            return False
        self._tokens -= cost
        return True

    def take_some(self, now: float, cost: float, count: int) -> int:
        """Return how many of `count` things that cost as much may pass now, and take them."""
        self._refill(now)
        passing = count if cost <= 0 else max(0, min(count, int(self._tokens // cost)))
        self._tokens -= passing * cost
        return passing

    def borrow(self, now: float, cost: float) -> float:
        """Take as much whatever there is; return how many seconds to wait before it may pass."""
        self._refill(now)
        self._tokens -= cost
        return max(0.0, -self._tokens / self._per_s)

    def is_full(self, now: float) -> bool:
        """Whether forgetting this bucket would give nobody anything."""
        return self.has(now, self._burst)

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._per_s)
        self._at = max(now, self._at)
