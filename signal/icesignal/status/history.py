"""What the charts of the status page show: some sums over the metrics, now and in the past hour. Sans-IO."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icesignal.status.readings import Readings

STEP_S = 10.0  # ours: how often the numbers are looked at; a chart of an hour has less than a pixel for each
MAX_ROWS = 361  # an hour, and both its ends


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Attributes:
        name: by which the page knows it.
        metrics: which ones are added up: a regular expression for the whole name.
        labels: those that the samples must have.
        absent: what it is while there is no such metric. A counter of the relay begins with 0; what is no part of this
            process is not known.
    """

    name: str
    metrics: str
    labels: tuple[tuple[str, str], ...] = ()
    absent: float | None = None

    def value(self, readings: Readings) -> float | None:
        """Return the sum, None where it is not known."""
        found = [
            one.value
            for one in readings.samples.values()
            if re.fullmatch(self.metrics, one.name) and all(one.labels.get(key) == text for key, text in self.labels)
        ]
        return sum(found) if found else self.absent


_REFUSALS = (
    r"icesignal_(engine_refused_\w+|(connections|origins)_refused|\w+_over_limit"
    r"|rooms_(forbidden|while_draining))_total"
)
_RELAYED = "iceagent_turn_relayed_bytes_total"
SERIES = (
    Series("rooms", "icesignal_engine_rooms"),
    Series("members", "icesignal_engine_sessions"),
    Series("connections", "icesignal_connections_open"),
    Series("log_bytes", "icesignal_engine_log_bytes"),
    Series("messages", "icesignal_engine_messages_total", absent=0),
    Series("entries", r"icesignal_engine_(allocated|joined|met|entered)_total", absent=0),
    Series("resumes", "icesignal_engine_resumes_total", absent=0),
    Series("refusals", _REFUSALS, absent=0),
    *(Series(one, "icesignal_outcomes_total", (("outcome", one),), 0) for one in ("direct", "relayed", "failed")),
    Series("turn_allocations", "iceagent_turn_allocations"),
    Series("turn_ports_used", "iceagent_turn_ports", (("state", "used"),)),
    Series("turn_ports_free", "iceagent_turn_ports", (("state", "free"),)),
    Series("turn_to_peer", _RELAYED, (("direction", "to_peer"),)),
    Series("turn_to_client", _RELAYED, (("direction", "to_client"),)),
)


def values_of(readings: Readings) -> dict[str, float | None]:
    """Return the value of each series by name."""
    return {one.name: one.value(readings) for one in SERIES}


class History:
    """The values of the past hour; what is older is forgotten."""

    def __init__(self) -> None:
        self._rows: deque[tuple[float, tuple[float | None, ...]]] = deque(maxlen=MAX_ROWS)

    def __len__(self) -> int:
        return len(self._rows)

    def note(self, now: float, readings: Readings) -> None:
        """Keep what the numbers are now; `now` in seconds of any clock that never goes back."""
        self._rows.append((now, tuple(one.value(readings) for one in SERIES)))

    def told(self, now: float) -> dict[str, Any]:
        """Return all rows, the oldest first: how many seconds ago each was, and the values of each series."""
        rows: Sequence[tuple[float, tuple[float | None, ...]]] = list(self._rows)
        return {
            "ages_s": [round(now - at, 1) for at, _ in rows],
            "series": {one.name: [values[number] for _, values in rows] for number, one in enumerate(SERIES)},
        }
