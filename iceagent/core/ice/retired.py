"""The sessions of before: they answer checks until the peer's consent to them has ended (trap 25)."""

from __future__ import annotations

from collections.abc import Iterator

from iceagent.core import constants
from iceagent.core.ice.session import Session


class Retired:
    """Sessions that a restart has replaced, oldest first, at most `MAX_RETIRED_SESSIONS`.

    Attributes:
        checks_sent: by those that are forgotten.
    """

    def __init__(self) -> None:
        self.checks_sent = 0
        self._sessions: list[tuple[float, Session]] = []

    def __iter__(self) -> Iterator[Session]:
        return (session for _, session in self._sessions)

    def add(self, now: float, session: Session) -> None:
        """Retire a session; one that has failed is forgotten at once."""
        if session.context.over:
            self.bury(session)
            return
        session.retire()
        self._sessions.append((now + constants.RESTART_LINGER_S, session))
        if len(self._sessions) > constants.MAX_RETIRED_SESSIONS:
            self._forget()

    def bury(self, session: Session) -> None:
        """Keep of a session only its count."""
        self.checks_sent += session.context.runner.checks_sent

    def expire(self, now: float) -> bool:
        """Forget those whose time is over; return whether there were any."""
        before = len(self._sessions)
        while self._sessions and now >= self._sessions[0][0]:
            self._forget()
        return len(self._sessions) < before

    def clear(self) -> None:
        """Forget all, for an agent that has ended."""
        while self._sessions:
            self._forget()

    def next_timeout(self) -> float | None:
        """Return when `expire` has something to do."""
        return self._sessions[0][0] if self._sessions else None

    def _forget(self) -> None:
        _, session = self._sessions.pop(0)
        self.bury(session)
        session.wind_up()
