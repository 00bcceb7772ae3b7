"""Log lines that others can cause: a few a minute, then how many were left out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

LINES = 10
PERIOD_S = 60.0


class FewLines(logging.Filter):
    """Lets so many records pass in a period; the first of the next one says how many were left out.

    For a logger of its own, whose records all are of one kind.
    """

    def __init__(
        self, lines: int = LINES, period_s: float = PERIOD_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` returns seconds."""
        super().__init__()
        self._lines = lines
        self._period_s = period_s
        self._clock = clock
        self._began_at = float("-inf")
        self._passed = 0
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record passes."""
        if self._clock() >= self._began_at + self._period_s:
            if self._left_out:
                record.msg = f"{record.getMessage()} ({self._left_out} more were left out before)"
                record.args = None
            self._began_at, self._passed, self._left_out = self._clock(), 0, 0
        if self._passed >= self._lines:
            self._left_out += 1
            return False
        self._passed += 1
        return True
