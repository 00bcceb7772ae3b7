"""Logs that a relay is gone, and its return."""

from __future__ import annotations

import logging

import trio

from icesignal.client_session import ClientSession

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

    def lost(self, session: ClientSession | None) -> None:
        """Log that the relay is gone, and again while it stays away."""
        if session is None or session.joined is None or session.over is not None:
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
                session.joined.resume_s,
            )

    def found(self, session: ClientSession | None) -> None:
        """Log that it is back, once the session has been resumed there."""
        if self._lost_at is not None and session is not None and session.resumed_here:
            self._lost_at = None
            logger.log(_level(session), "the connection to the relay %s is back", self._url)


def _level(session: ClientSession) -> int:
    return logging.WARNING if session.peer == "absent" else logging.INFO
