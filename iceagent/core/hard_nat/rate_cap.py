"""A limit on packets per second that holds in each second, even if a timer was late."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

_WINDOW_S: Final = 1.001  # a second, and what rounding may take from it
_CATCH_UP: Final = 3  # packets that a late timer may send at once
_LEAVE_GAPS: Final = 2  # ours: less than `_CATCH_UP`, so that who leaves places to nobody loses none


class RateCap:
    """At most `per_second` packets in any second, evenly spread; several users may share one, see `share`.

    Args:
        per_second: packets, at least 1.
    """

    def __init__(self, per_second: int) -> None:
        if per_second < 1:
            raise ValueError(f"a cap of {per_second} packets a second lets nothing pass")
        self.gap_s = 1 / per_second
        """Between two packets, seconds."""
        self._per_second = per_second
        self._sent: deque[tuple[float, Share | None]] = deque()
        self._counts: Counter[Share | None] = Counter()
        self._next_at = float("-inf")

    def next_at(self) -> float:
        """Return the time from which on one more packet may be sent."""
        if len(self._sent) >= self._per_second:
            return max(self._next_at, self._sent[0][0] + _WINDOW_S)
        return self._next_at

    def note(self, now: float, share: Share | None = None) -> None:
        """Count a packet sent at `now`, seconds; times must not go backwards."""
        while self._sent and (len(self._sent) >= self._per_second or self._sent[0][0] + _WINDOW_S <= now):
            _, former = self._sent.popleft()
            self._counts[former] -= 1
            if not self._counts[former]:
                del self._counts[former]
        self._sent.append((now, share))
        self._counts[share] += 1
        self._next_at = max(self._next_at + self.gap_s, now - _CATCH_UP * self.gap_s)

    def share(self) -> Share:
        """Return one user's view of the cap: whoever has sent more than its part lets the others go first."""
        return Share(self)

    def waits_s(self, share: Share) -> float:
        """Return how long a user leaves a place to others: the longer, the more of the last second was its own."""
        return _LEAVE_GAPS * self.gap_s * self._counts[share] / len(self._sent) if self._sent else 0.0


class Share:
    """What one of several users of a cap sees of it; made by `RateCap.share`.

    A place is offered first to whoever sent least within the last second, and a little later to the others, so nobody
    is starved by whoever comes back first. Places go by a schedule that a late user keeps up with, so none is lost.
    """

    def __init__(self, cap: RateCap) -> None:
        self._cap = cap
        self.gap_s = cap.gap_s
        """Between two packets of all users, seconds."""

    def next_at(self) -> float:
        """Return the time from which on this user may send one more packet."""
        return self._cap.next_at() + self._cap.waits_s(self)

    def note(self, now: float) -> None:
        """Count a packet of this user's, sent at `now`, seconds; times must not go backwards."""
        self._cap.note(now, self)
