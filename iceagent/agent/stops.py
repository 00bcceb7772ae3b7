"""Times in which this program did not run: the machine slept, or the program was stopped (Ctrl-Z, SIGSTOP, a debugger).

A machine that sleeps shows in the clocks (`iceagent.net.monitor`), a program that was stopped in a timer that comes far
too late. Neither can be answered for by the peer, which gives up after 30 s without an answer of ours (RFC 7675).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iceagent.agent.report.events import Stopped
from iceagent.core.constants import CONSENT_EXPIRY_S, CONSENT_INTERVAL_S

if TYPE_CHECKING:
    from iceagent.agent.agent import Agent
    from iceagent.agent.driver import Driver

STOPPED_S: Final = 5.0
"""Ours: a timer this late is not the load of the machine; the same as what counts as sleep."""
FATAL_S: Final = CONSENT_EXPIRY_S - CONSENT_INTERVAL_S
"""Ours: after so long the peer, which last heard us up to one interval before, has given up or is about to."""


def stopped_since_heard(driver: Driver) -> float:
    """Return how long this program did not run, seconds, if the peer has not answered since; else 0.0."""
    stops = [(at, event.seconds) for at, event in driver.timeline.latest(Stopped)]
    if not stops or driver.ice.heard_at > stops[-1][0]:
        return 0.0
    return stops[-1][1]


def was_stopped(agent: Agent) -> float:
    """Return the same of an agent."""
    return stopped_since_heard(agent._driver)  # noqa: SLF001 - of this room
