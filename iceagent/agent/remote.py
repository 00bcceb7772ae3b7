"""The peer's candidates on their way to the core: what the policy refuses stays here."""

from __future__ import annotations

from functools import partial

from iceagent.agent.driver import Driver
from iceagent.core import ice


class RemoteCandidates:
    """Takes what the peer signals.

    Args:
        driver: takes the candidates that may be used; holds the policy.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def add(self, candidate: ice.Candidate | None) -> None:
        """Take a candidate, or with None the end of them."""
        if candidate is None:
            self._driver.mutate(partial(_add, self._driver.ice, None))
            return
        if not _has_address(candidate) or self._driver.policy.accepts(candidate):
            self._driver.mutate(partial(_add, self._driver.ice, candidate))


def _has_address(candidate: ice.Candidate) -> bool:
    try:
        return candidate.address.ip is not None
    except ValueError:
        return False


def _add(core: ice.IceAgent, candidate: ice.Candidate | None, now: float) -> None:
    core.add_remote_candidate(now, candidate)
