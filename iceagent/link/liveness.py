"""Whether the peer's end of the link lives: a PING after silence, and a decision from the answers to those alone.

Silence alone says nothing about the peer. A link may carry nothing for a day, its path may be gone until ICE has found
another one, and the machine may have slept. QUIC's own idle timer would end the link in all these cases, so it is off.
The agent below the link knows the path, and ends the link when the peer's consent expires. It cannot know that the
peer's *link* has ended while the peer's agent goes on (the final messages were lost). So a link that has heard nothing
for a while sends a PING. It ends when several in a row got no answer although the path worked.
"""

from __future__ import annotations

from enum import Enum, auto

QUESTIONS = 4  # unanswered in a row before the peer's end counts as gone; each has its share of the time allowed


class Due(Enum):
    """What the link has to do now."""

    NOTHING = auto()
    ASK = auto()
    GIVE_UP = auto()


class Liveness:
    """Counts the questions to which nothing came back.

    Args:
        allowed_s: how long the peer may answer nothing, over a path that works.
    """

    def __init__(self, allowed_s: float) -> None:
        self.due_at = float("inf")
        self._gap_s = allowed_s / QUESTIONS
        self._unanswered = 0

    def heard(self, now: float) -> None:
        """Take note that the peer's end said something; the first time, that the link is open."""
        self.due_at = now + self._gap_s
        self._unanswered = 0

    def advance(self, now: float, *, path_works: bool) -> Due:
        """Return what to do.

        However late this is called, a clock that leapt over a sleep makes it one question and not four.
        """
        if now < self.due_at:
            return Due.NOTHING
        self.due_at = now + self._gap_s
        if not path_works:
            self._unanswered = 0
            return Due.NOTHING
        if self._unanswered >= QUESTIONS:
            return Due.GIVE_UP
        self._unanswered += 1
        return Due.ASK
