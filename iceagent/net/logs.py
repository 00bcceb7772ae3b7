"""Log lines that others can cause: a limited number a minute of each kind, then how many were left out.

Otherwise whoever can cause log lines could fill the disk: a peer that asks for something forbidden ten thousand times a
second, a server that answers nonsense. A line's kind is its format string, so there are as many kinds as calls in the
code. Lines at debug are not limited: who turns them on wants all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LINES: Final = 10  # of a kind in a period: enough to see what happens, and to whom
PERIOD_S: Final = 60.0
MAX_KINDS: Final = 256  # more than the code has; only text that is not a constant could exceed it


@dataclass(slots=True)
class _Kind:
    """What has become of the lines of one kind since `began_at`."""

    began_at: float
    passed: int = 0
    left_out: int = 0


class RateLimit(logging.Filter):
    """Lets `lines` records of a kind pass in each period; the last of them says that others are left out."""

    def __init__(
        self, lines: int = LINES, period_s: float = PERIOD_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` returns seconds."""
        super().__init__()
        self._lines = lines
        self._period_s = period_s
        self._clock = clock
        self._kinds: dict[tuple[int, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record passes; one that does may get a remark about those that did not."""
        if record.levelno < logging.INFO:
            return True
        kind, left_out = self._kind_of(record)
        if kind.passed >= self._lines:
            kind.left_out += 1
            return False
        kind.passed += 1
        if left_out:
            _remark(record, f"{left_out} more of this kind were left out before")
        if kind.passed == self._lines:
            _remark(record, f"more of this kind are left out for up to {self._period_s:g} s")
        return True

    def _kind_of(self, record: logging.LogRecord) -> tuple[_Kind, int]:
        """Return the kind of a record, and how many of it were left out in a period that has just ended."""
        key = (record.levelno, str(record.msg))
        kind = self._kinds.get(key)
        if kind is not None and self._clock() < kind.began_at + self._period_s:
            return kind, 0
        if kind is None and len(self._kinds) >= MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        self._kinds[key] = fresh = _Kind(self._clock())
        return fresh, kind.left_out if kind else 0


def _remark(record: logging.LogRecord, text: str) -> None:
    record.msg = f"{record.getMessage()} ({text})"
    record.args = None


def limited_logger(name: str, *, lines: int = LINES) -> logging.Logger:
    """Return the logger of a module whose lines others can cause; `lines` of a kind in a minute, for all who use it."""
    logger = logging.getLogger(name)
    if not any(isinstance(one, RateLimit) for one in logger.filters):
        logger.addFilter(RateLimit(lines))
    return logger
