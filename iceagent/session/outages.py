"""Outages of a session's path, told as they happen: silent, looking for another way, back after so many seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import trio

from iceagent.agent import Agent, AgentState
from iceagent.agent.explain import VerdictKind

LOOK_S = 0.2  # between two looks at an agent whose path is silent; no event tells that the same path answers again
_OVER = frozenset((AgentState.FAILED, AgentState.CLOSED))


class OutageKind(Enum):
    """SILENT: nothing is answered. RESTARTING: ICE looks for another way. BACK: the other side answers again."""

    SILENT = "silent"
    RESTARTING = "restarting"
    BACK = "back"


@dataclass(frozen=True, slots=True)
class Outage:
    """A turn in an outage.

    Attributes:
        kind: what happened.
        seconds: since the other side last answered, or for BACK how long it had not.
        is_ours: the network of this machine has changed, so that the other side need not be the cause.
    """

    kind: OutageKind
    seconds: float
    is_ours: bool = False

    def __str__(self) -> str:
        seconds = f"{self.seconds:.0f} s"
        match self.kind:
            case OutageKind.SILENT if self.is_ours:
                return f"this machine's network has changed, and nothing has come through for {seconds}"
            case OutageKind.SILENT:
                return f"the other side has not answered for {seconds}; the session waits for it"
            case OutageKind.RESTARTING:
                return f"no path has answered for {seconds}; looking for another one"
            case OutageKind.BACK:
                return f"the other side answers again, after {seconds}"


async def watch_outages(agent: Agent, tell: Callable[[Outage], None]) -> None:
    """Tell of every outage of a connected agent until it is closed or fails."""
    async for _ in agent.events():
        if not agent.is_answering and agent.state not in _OVER:
            await _watch_one(agent, tell)


async def _watch_one(agent: Agent, tell: Callable[[Outage], None]) -> None:
    begun_at = trio.current_time()
    last_answer_at = begun_at - (agent.silent_s or 0.0)
    is_ours = agent.explain().kind is VerdictKind.NETWORK_CHANGED
    tell(Outage(OutageKind.SILENT, begun_at - last_answer_at, is_ours))
    is_restart_told = False
    while agent.state not in _OVER:
        now = trio.current_time()
        heard_at = now - (agent.silent_s or 0.0)
        if agent.is_answering and heard_at > begun_at:
            tell(Outage(OutageKind.BACK, heard_at - last_answer_at))
            return
        if agent.is_restarting and not is_restart_told:
            is_restart_told = True
            tell(Outage(OutageKind.RESTARTING, now - last_answer_at))
        await trio.sleep(LOOK_S)
