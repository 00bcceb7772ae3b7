"""Credentials that expire before the agent ends: when others are needed, and what is reported if there are none."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

import trio

from iceagent.agent.report.events import RelayFailed, ServersNotRenewed

if TYPE_CHECKING:
    from iceagent.agent.agent import Agent

REFUSED: Final = frozenset((401, 441))
"""RFC 8656 section 19: what a server says to credentials that it does not know, or no longer."""


async def wait_refused(agent: Agent, urls: Collection[str], since: float) -> None:
    """Wait until one of these TURN servers has refused our credentials, `since` (Trio's time) or later."""
    driver = agent.stream().component().driver
    await trio.lowlevel.checkpoint()
    while not any(
        at >= since and event.code in REFUSED and event.url in urls for at, event in driver.timeline.latest(RelayFailed)
    ):
        await driver.changed.park()


def report_not_renewed(agent: Agent, reason: str) -> None:
    """Put on the timeline that the present credentials are the last ones, and why."""
    agent.stream().component().driver.note(ServersNotRenewed(reason))
