"""How much is said to strangers. An answer to a forged source hits somebody who asked for nothing."""

from __future__ import annotations

from typing import Final

from iceagent.core.stun import RateLimiter
from iceagent.core.stun.rate_limit import source_of
from iceagent.core.turn.server.limits import (
    FREE_REPLIES,
    MAX_REPLY_CREDIT,
    MAX_REPLY_SOURCES,
    PROVEN_BURST,
    PROVEN_FOR_S,
    PROVEN_RATE_PER_S,
    REPLY_FLOOR_BYTES,
    REPLY_WINDOW_S,
)

_NEVER: Final = float("-inf")


class _Window:
    """Bytes in and out, and answers, since a second began."""

    __slots__ = ("answers", "began_at", "bytes_in", "bytes_out")

    def __init__(self) -> None:
        self.began_at = _NEVER
        self.bytes_in = self.bytes_out = self.answers = 0

    def note(self, now: float, size: int) -> None:
        """Count a request; begin anew when the second is over. Credit does not pile up: see `MAX_REPLY_CREDIT`."""
        if now - self.began_at >= REPLY_WINDOW_S:
            self.began_at = now
            self.bytes_in = self.bytes_out = self.answers = 0
        self.bytes_in = min(self.bytes_in + size, self.bytes_out + MAX_REPLY_CREDIT)

    def spend(self, size: int) -> None:
        """Count an answer."""
        self.bytes_out += size
        self.answers += 1


class ReplyBudget:
    """Lets error answers to strangers out only as far as bytes came in.

    In each second a source that has not shown to receive our answers is given a few at once, so that an honest client
    never waits, and beyond them no more bytes than came from it; all strangers together no more bytes than came from
    them, but for a small floor. Who returns a nonce of ours has proven its address and is limited by number only.
    """

    def __init__(self) -> None:
        self._sources: dict[str, _Window] = {}
        self._all = _Window()
        self._proven_until: dict[str, float] = {}
        self._limiter = RateLimiter(rate_per_s=PROVEN_RATE_PER_S, burst=PROVEN_BURST, max_sources=MAX_REPLY_SOURCES)

    def __len__(self) -> int:
        """Return how many sources are remembered."""
        return len(self._sources) + len(self._proven_until) + len(self._limiter)

    def note_proven(self, now: float, host: str) -> None:
        """Remember that what we send to `host` arrives there."""
        source = source_of(host)
        self._proven_until.pop(source, None)
        if len(self._proven_until) >= MAX_REPLY_SOURCES:
            del self._proven_until[next(iter(self._proven_until))]
        self._proven_until[source] = now + PROVEN_FOR_S

    def allows(self, now: float, host: str, size_in: int, size_out: int) -> bool:
        """Return whether a request of `size_in` bytes from `host` is answered with `size_out`; count both."""
        source = source_of(host)
        if self._proven_until.get(source, _NEVER) > now:
            return self._limiter.allow(now, host)
        window = self._sources.pop(source, None) or _Window()
        if len(self._sources) >= MAX_REPLY_SOURCES:
            del self._sources[next(iter(self._sources))]
        self._sources[source] = window
        window.note(now, size_in)
        self._all.note(now, size_in)
        if window.answers >= FREE_REPLIES and window.bytes_out + size_out > window.bytes_in:
            return False
        if self._all.bytes_out + size_out > max(self._all.bytes_in, REPLY_FLOOR_BYTES):
            return False
        window.spend(size_out)
        self._all.spend(size_out)
        return True
