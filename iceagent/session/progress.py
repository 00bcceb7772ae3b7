"""How far the connection of two sides has come, and what is being waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from iceagent.agent import Agent
    from iceagent.agent.explain import Verdict, VerdictKind


class Stage(Enum):
    """What is being waited for. All but CODE and MEET, which take as long as the other side does, last seconds."""

    RELAY = "relay"
    CODE = "code"
    MEET = "meet"
    PEER = "peer"
    PATH = "path"
    LINK = "link"
    OPEN = "open"


_TOGETHER = frozenset((Stage.PEER, Stage.PATH, Stage.LINK))


class Progress:
    """Follows one session from its beginning until it is open; give it to `invite()` or `join()`.

    Attributes:
        stage: what is being waited for.
        since: when the waiting for it began, Trio's time.
        relay: the relay's host, once it is known.
        peer: whom it is with, for people: a paired peer's name, or a code's number; never the code's words.
        is_peer_away: whether the relay says now that the other side's connection to it is gone.
        on_words: called with five words, where the other side's user compares them with those here.
        timeline: what happened to the connection, as `Agent.timeline_json()` had it when the session ended, well or
            not; None before, if it is not to be kept, or if it never came to an agent.

    Args:
        keep_timeline: whether it is to be kept.
    """

    def __init__(self, *, keep_timeline: bool = False) -> None:
        self.timeline: str | None = None
        self._keeps_timeline = keep_timeline
        self.stage = Stage.RELAY
        self.since = trio.current_time()
        self.relay = ""
        self.peer = ""
        self.is_peer_away: Callable[[], bool] = lambda: False
        self.on_words: Callable[[Sequence[str]], None] = lambda words: None
        self._explain: Callable[[], Verdict] | None = None
        self._changed = trio.Event()

    def enter(self, stage: Stage, explain: Callable[[], Verdict] | None = None) -> None:
        """Take note that something else is waited for; `explain` is the agent's, while there is one to ask."""
        self.stage = stage
        self.since = trio.current_time()
        self._explain = explain
        self._changed.set()
        self._changed = trio.Event()

    @asynccontextmanager
    async def following(self, agent: Agent) -> AsyncIterator[None]:
        """Keep the agent's timeline, if it is to be kept, as the block ends: the last moment that it has all."""
        try:
            yield
        finally:
            if self._keeps_timeline:
                self.timeline = agent.timeline_json()

    async def wait_changed(self) -> None:
        """Wait until something else is waited for."""
        await self._changed.wait()

    @property
    def verdict(self) -> Verdict | None:
        """What the agent says of where it is; None while there is no agent."""
        return None if self._explain is None else self._explain()

    @property
    def seconds(self) -> float:
        """How long it has been waited for the same thing."""
        return trio.current_time() - self.since

    def __str__(self) -> str:
        away = "; its connection to the relay is gone" if self.stage in _TOGETHER and self.is_peer_away() else ""
        return f"{self._sentence()}{away}"

    def _sentence(self) -> str:
        verdict = self.verdict
        match self.stage:
            case Stage.RELAY:
                return f"waiting for the relay {self.relay}".rstrip()
            case Stage.CODE:
                return "waiting for the other side to use the code"
            case Stage.MEET:
                return "waiting for the paired peer, which is not where the two meet"
            case Stage.PEER:
                return "waiting for the other side, which has not yet signalled where it can be reached"
            case Stage.PATH:
                if verdict is None or verdict.kind is _checking():
                    return "trying the paths to the other side; none has answered yet"
                return f"trying the paths to the other side: {verdict.summary.rstrip('.')}"  # more may follow
            case Stage.LINK:
                return "a path is found; waiting for the other side to open the link over it"
            case Stage.OPEN:
                return "connected"


def _checking() -> VerdictKind:
    """Return the kind that says no more than the stage does; imported late, as whoever only waits has no agent."""
    from iceagent.agent.explain import VerdictKind

    return VerdictKind.CHECKING
