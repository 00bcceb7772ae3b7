"""When a request is sent again, and when its sender gives up: a value. RFC 8489 section 6.2."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Self

from iceagent.core.constants import STUN_MAX_RC, STUN_RC, STUN_RM, STUN_RTO_S, STUN_TI_S


@dataclass(frozen=True, slots=True)
class RetransmissionSchedule:
    """The send times of one transaction, relative to its start.

    Each wait is twice the one before, but no longer than `max_gap_s`; after the last request the client waits `rm`
    times `rto_s`.

    Attributes:
        rto_s: the first wait, seconds.
        rc: requests sent in all, 1 to 32.
        rm: how many `rto_s` to wait after the last request.
        max_gap_s: the longest wait between two requests, seconds; RFC 8489 section 6.2.1 has no such limit.
        offsets: seconds after the start of each request; the first is 0.
        timeout_s: seconds after the start when the transaction fails.
    """

    rto_s: float = STUN_RTO_S
    rc: int = STUN_RC
    rm: float = STUN_RM
    max_gap_s: float = math.inf
    offsets: tuple[float, ...] = field(init=False, compare=False, repr=False)
    timeout_s: float = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        is_sound = math.isfinite(self.rto_s) and self.rto_s > 0 and 1 <= self.rc <= STUN_MAX_RC and self.rm > 0
        if not is_sound or not self.max_gap_s >= self.rto_s:
            raise ValueError(f"no schedule is {self.rto_s=}, {self.rc=}, {self.rm=}, {self.max_gap_s=}")
        gaps = (min(self.rto_s * 2**sent, self.max_gap_s) for sent in range(self.rc - 1))
        offsets = tuple(accumulate(gaps, initial=0.0))
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "timeout_s", offsets[-1] + self.rm * self.rto_s)

    @classmethod
    def reliable(cls, timeout_s: float = STUN_TI_S) -> Self:
        """Return the schedule over TCP or TLS: one request, then patience. RFC 8489 section 6.2.2."""
        return cls(rto_s=timeout_s, rc=1, rm=1)

    def next_after(self, started_at: float, now: float) -> float:
        """Return the first send time later than `now`, or when there is none the time of failure.

        All are computed as `started_at + offset`, so that a timer set to the result finds it due and not almost due.
        """
        times = (started_at + offset for offset in self.offsets)
        return next((at for at in times if at > now), started_at + self.timeout_s)


DEFAULT_SCHEDULE: Final = RetransmissionSchedule()
