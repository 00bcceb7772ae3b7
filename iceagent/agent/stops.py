"""Times in which this program did not run: the machine slept, or the program was stopped (Ctrl-Z, SIGSTOP, a debugger).

Sleep of the machine is seen in its clocks (`iceagent.net.monitor`); a stop of the program in a timer that fires far too
late. The peer cannot know of either: it gives up after 30 s without an answer of ours (RFC 7675).
"""

from __future__ import annotations

from typing import Final

from iceagent.agent.report.events import AgentEvent, Stopped
from iceagent.agent.report.timeline import Timeline
from iceagent.core.constants import CONSENT_EXPIRY_S, CONSENT_INTERVAL_S

STOPPED_S: Final = 5.0
"""Ours: a timer this late is not the load of the machine; the same as what counts as sleep."""
FATAL_S: Final = CONSENT_EXPIRY_S - CONSENT_INTERVAL_S
"""Ours: after so long the peer, which last heard us up to one interval before, has given up or is about to."""


def stopped_since(heard_at: float, timeline: Timeline[AgentEvent]) -> float:
    """Return how long this program did not run after the peer was last heard, seconds; 0.0 if it ran."""
    stops = [(at, event.seconds) for at, event in timeline.latest(Stopped)]
    if not stops or heard_at > stops[-1][0]:
        return 0.0
    return stops[-1][1]
