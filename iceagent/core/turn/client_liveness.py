"""Does the server still know us? Asked when it falls silent, so that a restart is noticed within a second.

A restarted server answers only requests of an old client: it drops ChannelData and indications of allocations that it
does not know. So if nothing comes back while we send, we send a Refresh: any answer, also 437, decides.
"""

from __future__ import annotations

from math import inf

from iceagent.core.turn.client_values import DEAD_AFTER_S, PROBE_INTERVAL_S, SUSPICION_MAX_S, SUSPICION_S


class ServerLiveness:
    """When to ask, and when to give up. Knows nothing of messages."""

    def __init__(self) -> None:
        self._patience_s = SUSPICION_S
        self._sent_at = inf  # the first data sent since the server was last heard
        self._probing_since: float | None = None
        self._next_probe_at = inf

    @property
    def probing(self) -> bool:
        """Whether answers are awaited."""
        return self._probing_since is not None

    def sent(self, now: float) -> bool:
        """Note that data went to the server; return whether it is the first since the server was heard."""
        if self._sent_at != inf:
            return False
        self._sent_at = now
        return True

    def heard(self, *, data: bool) -> None:
        """Note that the server was heard: with a peer's data, or only with an answer of its own.

        An answer without data means that the peer is silent, not the server, so it is asked less and less often.
        """
        if data:
            self._patience_s = SUSPICION_S
        elif self._probing_since is not None:
            self._patience_s = min(2 * self._patience_s, SUSPICION_MAX_S)
        self._sent_at = inf
        self._probing_since = None
        self._next_probe_at = inf

    def doubt(self, now: float) -> None:
        """Ask at once: ICMP says that the server cannot be reached, but is not authenticated."""
        if self._probing_since is None:
            self._probing_since = self._next_probe_at = now

    def is_probe_due(self, now: float) -> bool:
        """Return whether to ask now; the next question is due a little later."""
        if self._probing_since is None and now >= self._sent_at + self._patience_s:
            self._probing_since = self._next_probe_at = now
        if now < self._next_probe_at:
            return False
        self._next_probe_at = now + PROBE_INTERVAL_S
        return True

    def is_dead(self, now: float) -> bool:
        """Return whether it has not answered for long enough."""
        return self._probing_since is not None and now >= self._probing_since + DEAD_AFTER_S

    def next_timeout(self) -> float | None:
        """Return when one of the answers changes."""
        if self._probing_since is not None:
            return min(self._next_probe_at, self._probing_since + DEAD_AFTER_S)
        return None if self._sent_at == inf else self._sent_at + self._patience_s
