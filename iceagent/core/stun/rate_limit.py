"""How much one source gets: token buckets and windows of bytes, in tables of bounded size."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

from iceagent.core.constants import STUN_TOTAL_BYTES
from iceagent.core.token_bucket import TokenBucket

WIDER_SHARES: Final = ((56, 2), (48, 4))  # ours: bits of an IPv6 prefix, and how many /64s' share it has together
WINDOW_S: Final = 1.0  # ours: over which bytes out are held against bytes in
RESERVE: Final = 0.25  # ours: part of what came in that is kept for sources whose request was not answered before
ASKS_AGAIN_S: Final = 0.25  # ours: half of what RFC 8489 section 6.2.1 waits before a request is sent again


@lru_cache(maxsize=4096)
def source_of(host: str) -> str:
    """Return what counts as one source: an IPv4 address, or the /64 of an IPv6 address.

    A single IPv6 subscriber has at least a /64 to send from (RFC 6177), so its addresses share one bucket.
    """
    if ":" not in host:
        return host
    packed = ipaddress.IPv6Address(host.partition("%")[0]).packed
    return packed[:8].hex()


@lru_cache(maxsize=4096)
def home_of(host: str) -> str:
    """Return what belongs to one subscriber: an IPv4 address, or the /56 of an IPv6 address or /64 (RFC 6177)."""
    if ":" not in host:
        return host
    ip = ipaddress.IPv6Address(host.partition("/")[0].partition("%")[0])
    return str(ip.ipv4_mapped) if ip.ipv4_mapped is not None else ip.packed[:7].hex()


@lru_cache(maxsize=4096)
def levels_of(host: str) -> tuple[tuple[str, int], ...]:
    """Return a source and the networks around it, each with how many times the share of one source it has.

    Whoever has an IPv6 /64 has, as a rule, a /56 or even a /48 of them (RFC 6177): these count, too.
    """
    source = source_of(host)
    if ":" not in host:
        return ((source, 1),)
    return ((source, 1), *((source[: bits // 4], scale) for bits, scale in WIDER_SHARES))


class ByteWindow:
    """Bytes in and out, and answers, of one source since a second began.

    Args:
        window_s: how long that second is.
        max_credit: bytes in that later answers may be paid from, so that credit does not pile up.
    """

    __slots__ = ("_max_credit", "_window_s", "answers", "began_at", "bytes_in", "bytes_out")

    def __init__(self, window_s: float, max_credit: int) -> None:
        self._window_s = window_s
        self._max_credit = max_credit
        self.began_at = float("-inf")
        self.bytes_in = self.bytes_out = self.answers = 0

    def note(self, now: float, size: int) -> None:
        """Count a request; begin anew when the second is over."""
        if now - self.began_at >= self._window_s:
            self.began_at = now
            self.bytes_in = self.bytes_out = self.answers = 0
        self.bytes_in = min(self.bytes_in + size, self.bytes_out + self._max_credit)

    def spend(self, size: int) -> None:
        """Count an answer."""
        self.bytes_out += size
        self.answers += 1


class Asker(ByteWindow):
    """The window of one source.

    Attributes:
        waits_since: when a request of it was first not answered; None once one was.
    """

    __slots__ = ("waits_since",)

    def __init__(self, window_s: float, max_credit: int) -> None:
        super().__init__(window_s, max_credit)
        self.waits_since: float | None = None


class SharedBudget:
    """The byte budget of all sources together: in a second no more bytes go out than came in, or than a floor.

    A part of it is kept for those who ask again: every client does within half a second, a forged source seldom. So new
    clients get in though forged sources use up the rest.

    Args:
        floor_bytes: what goes out in a second whatever came in.
        max_credit: bytes in that later answers may be paid from.
    """

    def __init__(self, floor_bytes: int, max_credit: int) -> None:
        self._floor_bytes = floor_bytes
        self._all = ByteWindow(WINDOW_S, max_credit)

    def note(self, now: float, size_in: int) -> None:
        """Count a question."""
        self._all.note(now, size_in)

    def has(self, now: float, asker: Asker, size_out: int) -> bool:
        """Return whether bytes of whoever it was pay for an answer that is longer than its question."""
        asks_again = asker.waits_since is not None and now - asker.waits_since >= ASKS_AGAIN_S
        part = 1.0 if asks_again else 1.0 - RESERVE
        return self._all.bytes_out + size_out <= part * max(self._all.bytes_in, self._floor_bytes)

    def refuse(self, now: float, asker: Asker) -> None:
        """Take note of a request that was not answered."""
        asker.waits_since = now if asker.waits_since is None else asker.waits_since

    def spend(self, asker: Asker, size_out: int) -> None:
        """Count an answer."""
        asker.waits_since = None
        self._all.spend(size_out)


class RateLimiter:
    """Lets each source through `burst` times at once and `rate_per_s` times a second after that.

    IPv6 networks of many sources have shares of their own: see `levels_of`.

    When the table is full the source silent for longest is forgotten. Its bucket has usually filled up again; where it
    has not, the flood comes from more sources than the table holds, and no limit per source would stop it.

    Args:
        rate_per_s: sustained rate of one source.
        burst: bucket size, at least 1.
        max_sources: table size, at least 1.

    Raises:
        ValueError: an argument is not positive.
    """

    def __init__(self, *, rate_per_s: float, burst: float, max_sources: int) -> None:
        if not (rate_per_s > 0 and burst >= 1 and max_sources >= 1):
            raise ValueError(f"no limit has rate_per_s={rate_per_s}, burst={burst}, max_sources={max_sources}")
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._max_sources = max_sources
        self._buckets: dict[str, TokenBucket] = {}  # least recently seen first

    def __len__(self) -> int:
        """Return how many sources are remembered."""
        return len(self._buckets)

    def allow(self, now: float, host: str) -> bool:
        """Return whether `host` may have one more, and take it if so. `now` is in seconds."""
        found = [self._bucket(now, source, scale) for source, scale in levels_of(host)]
        return all(bucket.has(now) for bucket in found) and all(bucket.take(now) for bucket in found)

    def _bucket(self, now: float, source: str, scale: int) -> TokenBucket:
        """Return the bucket of a source, the most recently seen one from now on."""
        bucket = self._buckets.pop(source, None)
        if bucket is None:
            bucket = TokenBucket(self._rate_per_s * scale, self._burst * scale, now)
        if len(self._buckets) >= self._max_sources:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[source] = bucket
        return bucket


class AnswerBudget:
    """Lets no source be sent more bytes in a second than came from it, but for a few: its address may be forged.

    Nor are all sources together, but for a floor: a question that is shorter than its answer is worth nothing to who
    forges many sources. See `SharedBudget`; a question at least as long as its answer needs none.

    Args:
        free_bytes: what one source is sent in a second beyond what came from it.
        max_sources: table size, at least 1; the source silent for longest is forgotten.
        total_bytes: what all are sent in a second, whatever came from them.
    """

    def __init__(self, *, free_bytes: int, max_sources: int, total_bytes: int = STUN_TOTAL_BYTES) -> None:
        self._free_bytes = free_bytes
        self._max_sources = max_sources
        self._windows: dict[str, Asker] = {}
        self._shared = SharedBudget(total_bytes, total_bytes)

    def __len__(self) -> int:
        """Return how many sources are remembered."""
        return len(self._windows)

    def allows(self, now: float, host: str, size_in: int, size_out: int) -> bool:
        """Return whether a question of `size_in` bytes is answered with `size_out`, and count both. `now`: seconds."""
        levels = [(self._window(now, source, size_in), scale) for source, scale in levels_of(host)]
        asker = levels[0][0]
        self._shared.note(now, size_in)
        is_paid = all(it.bytes_out + size_out <= it.bytes_in + scale * self._free_bytes for it, scale in levels)
        if not (is_paid and (size_out <= size_in or self._shared.has(now, asker, size_out))):
            self._shared.refuse(now, asker)
            return False
        for window, _ in levels:
            window.spend(size_out)
        self._shared.spend(asker, size_out)
        return True

    def _window(self, now: float, source: str, size_in: int) -> Asker:
        window = self._windows.pop(source, None) or Asker(WINDOW_S, self._free_bytes)
        if len(self._windows) >= self._max_sources:
            del self._windows[next(iter(self._windows))]
        self._windows[source] = window
        window.note(now, size_in)
        return window
