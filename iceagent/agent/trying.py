"""What an agent does while its path is silent, for how long, and the likely reason: for those who wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from iceagent.agent.stops import stopped_since
from iceagent.core import ice

if TYPE_CHECKING:
    from iceagent.agent.agent import Agent


def what_is_tried(agent: Agent) -> str:
    """Return what a connected agent does to hear of the peer again."""
    core = agent.stream().component().driver.ice
    if not core.restarting:
        return "asking on the path there was"
    if core.remote_credentials is None:
        return "asking the other side for other paths, through the relay, and on the path there was"
    number = sum(pair.state in (ice.PairState.WAITING, ice.PairState.IN_PROGRESS) for pair in core.pairs)
    return f"trying {number} paths" if number != 1 else "trying 1 path"


def gives_up_in(agent: Agent) -> float | None:
    """Return in how many seconds a connected agent gives up if nothing answers; None where that cannot be told."""
    seconds = agent.stream().component().driver.ice.gives_up_at - trio.current_time()
    return seconds if seconds > 0 else None


def was_stopped(agent: Agent) -> float:
    """Return how long this program did not run, seconds, if the peer has not answered since; else 0.0."""
    driver = agent.stream().component().driver
    return stopped_since(driver.ice.heard_at, driver.timeline)
