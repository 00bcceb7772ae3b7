"""The state of the path in use, from the first doubt on; `consent` and others report here what they see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class PathHealth:
    """What is thought of the path that carries data; written by these methods alone.

    Attributes:
        doubted: there is a reason to ask at once whether it works.
        suspected_at: when the present or last suspicion began.
        faltering: quick checks of it go unanswered; another valid pair may take over.
        stranded: it has faltered for so long, and no other valid pair has answered either, that a restart is worth it.
        silent: it has not answered for a while.
        heard_at: when the peer last answered on any pair, in the sessions before this one, too; to a lite agent, which
            waits for it, also when it last checked one.
    """

    doubted: bool = False
    suspected_at: float = 0.0
    faltering: bool = False
    stranded: bool = False
    silent: bool = False
    heard_at: float = 0.0

    def doubt(self) -> None:
        """Have the consent keeper ask whether it works."""
        self.doubted = True

    def suspect(self, now: float) -> None:
        """A check asks now whether it works."""
        self.suspected_at = now

    def allay(self) -> None:
        """The doubt has been dealt with."""
        self.doubted = False

    def falter(self) -> None:
        """Quick checks go unanswered."""
        self.faltering = True

    def strand(self) -> None:
        """Nothing else has answered either."""
        self.stranded = True

    def fall_silent(self) -> None:
        """Nothing has come for a while, or its socket is gone."""
        self.silent = self.faltering = True

    def recover(self) -> None:
        """It answers, or is another one."""
        self.silent = self.faltering = self.stranded = False

    def hear(self, now: float) -> None:
        """The peer has answered."""
        self.heard_at = now

    def inherit(self, heard_at: float) -> None:
        """The peer answered then in a session before this one."""
        self.heard_at = max(self.heard_at, heard_at)
