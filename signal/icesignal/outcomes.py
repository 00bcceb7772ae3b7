"""How the connections of members turned out, as they report it. Nothing here names a session, a room or an address.

Source: docs/relay-protocol.md section 15.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict

from icesignal import wire
from icesignal.metrics import Family, Labels

MAX_REPORTED = 20_000  # ours: sessions that are remembered to have reported, twice as many as there are rooms
DIGEST_BYTES = 16
BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LONGEST_MS = 3_600_000  # ours: what is longer counts as an hour, so that one report cannot spoil the mean
OTHER = "other"


class Outcomes:
    """The totals of one relay."""

    def __init__(self) -> None:
        self._totals: Counter[tuple[str, str]] = Counter()
        self._buckets: dict[str, list[int]] = {outcome: [0] * (len(BUCKETS_S) + 1) for outcome in wire.OUTCOMES}
        self._sums_ms: Counter[str] = Counter()
        self._reported: OrderedDict[bytes, None] = OrderedDict()

    @property
    def totals(self) -> dict[str, int]:
        """How many sessions were direct, relayed and failed."""
        return {name: sum(count for (one, _), count in self._totals.items() if one == name) for name in wire.OUTCOMES}

    def note(self, session: bytes, report: wire.Outcome) -> bool:
        """Count a report; return False, counting nothing, when the session has reported before."""
        digest = hashlib.blake2b(session, digest_size=DIGEST_BYTES).digest()
        if digest in self._reported:
            return False
        self._reported[digest] = None
        if len(self._reported) > MAX_REPORTED:
            self._reported.popitem(last=False)
        self._totals[report.outcome, report.why if report.why in wire.WHYS else OTHER] += 1
        ms = min(report.ms, LONGEST_MS)
        bucket = next((n for n, bound in enumerate(BUCKETS_S) if ms <= bound * 1000), len(BUCKETS_S))
        self._buckets[report.outcome][bucket] += 1
        self._sums_ms[report.outcome] += ms
        return True

    def families(self) -> list[Family]:
        """Return the totals and the histogram of times."""
        totals: list[tuple[str, Labels, float]] = [
            ("", (("outcome", outcome), ("why", why)), count) for (outcome, why), count in sorted(self._totals.items())
        ]
        return [
            Family("outcomes_total", "counter", "Sessions by how their connection turned out, and why.", totals),
            Family(
                "outcome_seconds",
                "histogram",
                "From the proof of the code to the connection, or to giving up.",
                [sample for outcome in wire.OUTCOMES for sample in self._histogram(outcome)],
            ),
        ]

    def _histogram(self, outcome: str) -> list[tuple[str, Labels, float]]:
        label = ("outcome", outcome)
        counts, bounds = self._buckets[outcome], [*map(str, BUCKETS_S), "+Inf"]
        cumulated = [sum(counts[: number + 1]) for number in range(len(counts))]
        samples: list[tuple[str, Labels, float]] = [
            ("_bucket", (label, ("le", bound)), count) for bound, count in zip(bounds, cumulated, strict=True)
        ]
        return [*samples, ("_sum", (label,), self._sums_ms[outcome] / 1000), ("_count", (label,), cumulated[-1])]
