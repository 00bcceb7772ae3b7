"""Outages of a session's path, as they happen: silent, what is being tried, back after so many seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from itertools import chain, repeat

import trio
from msgspec import Struct

from iceagent.agent import Agent, AgentState
from iceagent.agent.explain import VerdictKind
from iceagent.agent.outlook import gives_up_in, was_stopped, what_is_tried
from iceagent.core.constants import CONSENT_EXPIRY_S


class OutageKind(Enum):
    """What is reported of an outage.

    SILENT: nothing is answered. RESTARTING: ICE looks for another way. RECONNECTING: consent to all paths has ended,
    and the two sides meet again at the relay to agree on another. TRYING: it lasts, and so much is being done. BACK:
    the other side answers again.
    """

    SILENT = "silent"
    RESTARTING = "restarting"
    RECONNECTING = "reconnecting"
    TRYING = "trying"
    BACK = "back"


class Outage(Struct, frozen=True):
    """A turn in an outage.

    Attributes:
        kind: what happened.
        seconds: since the other side last answered, or for BACK how long it had not.
        is_ours: the network of this machine has changed, or it slept or the program was stopped, so that the other side
            need not be the cause.
        stopped_s: how long it slept or was stopped, seconds.
        trying: for TRYING, what is being done.
        gives_up_s: for RECONNECTING and TRYING, in how many seconds the session is given up if nothing answers.
    """

    kind: OutageKind
    seconds: float
    is_ours: bool = False
    stopped_s: float = 0.0
    trying: str = ""
    gives_up_s: float | None = None

    def __str__(self) -> str:
        seconds = f"{self.seconds:.0f} s"
        match self.kind:
            case OutageKind.SILENT if self.stopped_s:
                return (
                    f"this machine slept, or this program was stopped, for {self.stopped_s:.0f} s; asking the other "
                    "side whether it is still there"
                )
            case OutageKind.SILENT if self.is_ours:
                return f"this machine's network has changed, and nothing has come through for {seconds}"
            case OutageKind.SILENT:
                return f"the other side has not answered for {seconds}; the session waits for it"
            case OutageKind.RESTARTING:
                return f"no path has answered for {seconds}; looking for another one"
            case OutageKind.RECONNECTING:
                until = "" if self.gives_up_s is None else f" for up to {format_time(self.gives_up_s)}"
                return f"the other side is out of reach; reconnecting{until}"
            case OutageKind.TRYING:
                until = "" if self.gives_up_s is None else f"; giving up in about {format_time(self.gives_up_s)}"
                return f"still nothing after {seconds}; {self.trying}{until}"
            case OutageKind.BACK:
                return f"the other side answers again, after {seconds}"


def format_time(seconds: float) -> str:
    """Return a time in the largest unit that says it well: `40 s`, `10 min`, `24 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


LOOK_S = 0.2  # between two looks at an agent whose path is silent; no event says that the same path answers again
AGAIN_S = (10.0, 30.0, 60.0)  # ours: so long after the beginning it is reported what is being tried,
THEN_EVERY_S = 300.0  # and from then on this often
_OVER = frozenset((AgentState.FAILED, AgentState.CLOSED))


async def watch_outages(agent: Agent, report: Callable[[Outage], None]) -> None:
    """Report every outage of a connected agent until it is closed or fails."""
    async for _ in agent.events():
        if not agent.is_answering and agent.state not in _OVER:
            await _watch_one(agent, report)


def _moments(begun_at: float) -> Iterator[float]:
    """Return when it is reported what is being tried: less and less often."""
    at = begun_at
    for seconds in chain(AGAIN_S, repeat(THEN_EVERY_S)):
        at = begun_at + seconds if seconds in AGAIN_S else at + seconds
        yield at


async def _watch_one(agent: Agent, report: Callable[[Outage], None]) -> None:
    begun_at = trio.current_time()
    last_answer_at = begun_at - (agent.silent_s or 0.0)
    stopped_s = was_stopped(agent)
    is_ours = bool(stopped_s) or agent.explain().kind is VerdictKind.NETWORK_CHANGED
    report(Outage(OutageKind.SILENT, begun_at - last_answer_at, is_ours, stopped_s))
    is_restart_reported = is_reconnecting = False
    moments = _moments(begun_at)
    again_at = next(moments)
    while agent.state not in _OVER:
        now = trio.current_time()
        heard_at = now - (agent.silent_s or 0.0)
        if agent.is_answering and heard_at > begun_at:
            report(Outage(OutageKind.BACK, heard_at - last_answer_at))
            return
        if agent.is_restarting and not is_restart_reported:
            is_restart_reported = True
            report(Outage(OutageKind.RESTARTING, now - last_answer_at))
        if now - heard_at >= CONSENT_EXPIRY_S and not is_reconnecting:
            is_reconnecting = True
            again_at = next(at for at in moments if at > now + AGAIN_S[0])
            left_s = gives_up_in(agent)
            report(Outage(OutageKind.RECONNECTING, now - last_answer_at, is_ours, stopped_s, gives_up_s=left_s))
        if now >= again_at:
            again_at = next(at for at in moments if at > now)
            trying, gives_up_s = what_is_tried(agent), gives_up_in(agent)
            report(Outage(OutageKind.TRYING, now - last_answer_at, is_ours, trying=trying, gives_up_s=gives_up_s))
        await trio.sleep(LOOK_S)
