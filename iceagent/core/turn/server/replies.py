"""How much is sent to unauthenticated clients: an answer to a forged source reaches somebody who asked for nothing."""

from __future__ import annotations

from typing import Final

from iceagent.core.stun import RateLimiter
from iceagent.core.stun.rate_limit import WINDOW_S, Asker, SharedBudget, source_of
from iceagent.core.turn.server.limits import (
    FREE_REPLIES,
    MAX_REPLY_CREDIT,
    MAX_REPLY_SOURCES,
    PROVEN_BURST,
    PROVEN_FOR_S,
    PROVEN_RATE_PER_S,
    REPLY_FLOOR_BYTES,
)

_NEVER: Final = float("-inf")


class ReplyBudget:
    """Lets error answers to strangers out only as far as bytes came in.

    In each second a source that has not shown to receive our answers is given a few at once, so that an honest client
    never waits, and beyond them no more bytes than came from it; all strangers together no more bytes than came from
    them, but for a small floor. Two kinds of clients get in whatever flood of forged sources there is:

    - who asks with at least as many bytes as the answer has, as our own client does: nobody gains by that;
    - who asks again, as all clients do within half a second: a forged source seldom does, so a part of what came in is
      kept for those whose requests were not answered before.

    Who returns a nonce of ours has proven its address and is limited by number only.
    """

    def __init__(self) -> None:
        self._sources: dict[str, Asker] = {}  # strangers
        self._shared = SharedBudget(REPLY_FLOOR_BYTES, MAX_REPLY_CREDIT)
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
        asker = self._sources.pop(source, None) or Asker(WINDOW_S, MAX_REPLY_CREDIT)
        if len(self._sources) >= MAX_REPLY_SOURCES:
            del self._sources[next(iter(self._sources))]
        self._sources[source] = asker
        asker.note(now, size_in)
        self._shared.note(now, size_in)
        if size_out > size_in and not self._can_pay(now, asker, size_out):
            self._shared.refuse(now, asker)
            return False
        asker.spend(size_out)
        self._shared.spend(asker, size_out)
        return True

    def _can_pay(self, now: float, asker: Asker, size_out: int) -> bool:
        """Return whether bytes that came before pay for an answer that is longer than its question."""
        if asker.answers >= FREE_REPLIES and asker.bytes_out + size_out > asker.bytes_in:
            return False
        return self._shared.has(now, asker, size_out)
