"""How many bytes a second one user may have relayed."""

from __future__ import annotations


class Meter:
    """A token bucket of bytes, shared by all allocations of a user.

    Args:
        bytes_per_s: sustained.
        burst: bytes at once.
        now: when it begins, full.
    """

    __slots__ = ("_at", "_burst", "_bytes_per_s", "_tokens")

    def __init__(self, bytes_per_s: float, burst: float, now: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float, size: int) -> bool:
        """Return whether `size` bytes may pass now, and take them if so."""
        self._refill(now)
        if self._tokens < size:
            return False
        self._tokens -= size
        return True

    def take_some(self, now: float, size: int, count: int) -> int:
        """Return how many of `count` datagrams of `size` bytes may pass now, and take them."""
        self._refill(now)
        passing = count if size <= 0 else max(0, min(count, int(self._tokens // size)))
        self._tokens -= passing * size
        return passing

    def borrow(self, now: float, size: int) -> float:
        """Take `size` bytes whatever there is; return how many seconds to wait before they may pass."""
        self._refill(now)
        self._tokens -= size
        return max(0.0, -self._tokens / self._bytes_per_s)

    def is_full(self, now: float) -> bool:
        """Whether forgetting this bucket would give nobody anything."""
        self._refill(now)
        return self._tokens >= self._burst

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._bytes_per_s)
        self._at = max(now, self._at)
