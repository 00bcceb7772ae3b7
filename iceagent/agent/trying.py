"""What an agent does while its path is silent, and until when: in words, for those who wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from iceagent.core import ice

if TYPE_CHECKING:
    from iceagent.agent.agent import Agent


def what_is_tried(agent: Agent) -> str:
    """Return what a connected agent does to hear of the peer again."""
    core = agent._driver.ice  # noqa: SLF001 - of this room
    if not core.restarting:
        return "asking on the path there was"
    if core.remote_credentials is None:
        return "asking the other side for other paths, through the relay, and on the path there was"
    number = sum(pair.state in (ice.PairState.WAITING, ice.PairState.IN_PROGRESS) for pair in core.pairs)
    return f"trying {number} paths" if number != 1 else "trying 1 path"


def gives_up_in(agent: Agent) -> float | None:
    """Return in how many seconds a connected agent gives up if nothing answers; None where that cannot be told."""
    seconds = agent._driver.ice.gives_up_at - trio.current_time()  # noqa: SLF001 - of this room
    return seconds if seconds > 0 else None
