"""How much is said to strangers. An answer to a forged source hits somebody who asked for nothing."""

from __future__ import annotations

from typing import Final

from iceagent.core.stun import RateLimiter
from iceagent.core.stun.rate_limit import ByteWindow, source_of
from iceagent.core.turn.server.limits import (
    ASKS_AGAIN_S,
    FREE_REPLIES,
    MAX_REPLY_CREDIT,
    MAX_REPLY_SOURCES,
    PROVEN_BURST,
    PROVEN_FOR_S,
    PROVEN_RATE_PER_S,
    REPLY_FLOOR_BYTES,
    REPLY_RESERVE,
    REPLY_WINDOW_S,
)

_NEVER: Final = float("-inf")


class _Stranger(ByteWindow):
    """A source that has not shown to receive our answers.

    Attributes:
        waits_since: when it first asked in vain; None once it was answered.
    """

    __slots__ = ("waits_since",)

    def __init__(self) -> None:
        super().__init__(REPLY_WINDOW_S, MAX_REPLY_CREDIT)
        self.waits_since: float | None = None


class ReplyBudget:
    """Lets error answers to strangers out only as far as bytes came in.

    In each second a source that has not shown to receive our answers is given a few at once, so that an honest client
    never waits, and beyond them no more bytes than came from it; all strangers together no more bytes than came from
    them, but for a small floor. Two kinds of clients get in whatever flood of forged sources there is:

    - who asks with at least as many bytes as the answer has, as our own client does: nobody gains by that;
    - who asks again, as all clients do within half a second: a forged source seldom does, so a part of what came in is
      kept for those that have asked in vain before.

    Who returns a nonce of ours has proven its address and is limited by number only.
    """

    def __init__(self) -> None:
        self._sources: dict[str, _Stranger] = {}
        self._all = ByteWindow(REPLY_WINDOW_S, MAX_REPLY_CREDIT)
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
        stranger = self._sources.pop(source, None) or _Stranger()
        if len(self._sources) >= MAX_REPLY_SOURCES:
            del self._sources[next(iter(self._sources))]
        self._sources[source] = stranger
        stranger.note(now, size_in)
        self._all.note(now, size_in)
        if size_out > size_in and not self._can_pay(now, stranger, size_out):
            stranger.waits_since = now if stranger.waits_since is None else stranger.waits_since
            return False
        stranger.waits_since = None
        stranger.spend(size_out)
        self._all.spend(size_out)
        return True

    def _can_pay(self, now: float, stranger: _Stranger, size_out: int) -> bool:
        """Return whether bytes that came before pay for an answer that is longer than its question."""
        if stranger.answers >= FREE_REPLIES and stranger.bytes_out + size_out > stranger.bytes_in:
            return False
        asks_again = stranger.waits_since is not None and now - stranger.waits_since >= ASKS_AGAIN_S
        part = 1.0 if asks_again else 1.0 - REPLY_RESERVE
        return self._all.bytes_out + size_out <= part * max(self._all.bytes_in, REPLY_FLOOR_BYTES)
