"""The agent's state, as its sessions make it: one table of transitions, one event per step."""

from __future__ import annotations

from typing import Final

from iceagent.core.ice.events import AGENT_TRANSITIONS, AgentState, StateChanged
from iceagent.core.ice.outbox import Outbox

# Two facts may come true at once, such as the first answer and the end of patience; then the state goes through these.
_NEXT_STEP: Final = {AgentState.NEW: AgentState.CHECKING, AgentState.CHECKING: AgentState.CONNECTED}


class Standing:
    """Where the agent stands; FAILED and CLOSED are for good."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.state = AgentState.NEW
        self.over = False
        """Whether the agent has failed or was closed."""

    def follow(self, wanted: AgentState) -> None:
        """Go to a state by allowed steps, telling each."""
        while self.state is not wanted:
            allowed = AGENT_TRANSITIONS[self.state]
            new = wanted if wanted in allowed else _NEXT_STEP.get(self.state)
            assert new in allowed, f"{self.state} to {wanted}"
            old, self.state = self.state, new
            self.over = new in (AgentState.FAILED, AgentState.CLOSED)
            self._outbox.emit(StateChanged(old, new))
