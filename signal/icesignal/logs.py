"""Log lines that others can cause: a few a minute, then how many were left out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import trio

from icesignal.member_session import MemberSession

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


logger = logging.getLogger("icesignal.client")
LOG_AGAIN_S = 10.0  # between two lines on a relay that stays away


class LossLog:
    """What has been logged of one client's relay; a warning if somebody waits there for a peer who cannot come."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lost_at: float | None = None  # that it is gone has been logged; None while it is there
        self._logged_at = 0.0
        self._logged_left_out = False

    def left_out(self, why: str) -> None:
        """Log, once, that the relay names an ICE server that cannot be used."""
        if not self._logged_left_out:
            self._logged_left_out = True
            logger.warning("an ICE server that the relay %s names is left out: %s", self._url, why)

    def lost(self, session: MemberSession[Any] | None) -> None:
        """Log that the relay is gone, and again while it stays away."""
        if session is None or not session.has_place or session.over is not None:
            return
        level = _level(session)
        now = trio.current_time()
        if self._lost_at is None:
            self._lost_at = self._logged_at = now
            logger.log(level, "the connection to the relay %s is lost; trying to get it back", self._url)
        elif level == logging.WARNING and now - self._logged_at >= LOG_AGAIN_S:
            self._logged_at = now
            logger.log(
                level,
                "the relay %s has been gone for %.0f s; after %.0f s the code is dead",
                self._url,
                now - self._lost_at,
                session.resume_s,
            )

    def found(self, session: MemberSession[Any] | None) -> None:
        """Log that it is back, once the session has been resumed there."""
        if self._lost_at is not None and session is not None and session.resumed_here:
            self._lost_at = None
            logger.log(_level(session), "the connection to the relay %s is back", self._url)


def _level(session: MemberSession[Any]) -> int:
    return logging.WARNING if session.awaits_peer else logging.INFO
