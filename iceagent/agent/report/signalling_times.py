"""When the peer first signalled each of its server-reflexive candidates, and in which ICE session.

After a restart a peer signals at once what servers reported earlier, and a moment later what they report now. So
candidates that arrive together may come from different times.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from iceagent.core import ice
from iceagent.core.address import TransportAddress

MAX_TIMES: Final = 256  # ours: those of many restarts; the one not repeated for the longest time is forgotten
AT_ONCE_S: Final = 1.0
"""Ours: servers are asked together, so there is room for one request sent again, and hardly for a router's restart."""


class SignallingTime(Struct, frozen=True):
    """When a candidate was first signalled: the loop's clock in seconds, and the ufrags of both sides then."""

    at: float
    session: tuple[str, str]


class SignallingTimes:
    """When each server-reflexive candidate was first signalled, by its base and its address. Bounded."""

    def __init__(self) -> None:
        self._first: dict[tuple[TransportAddress | None, TransportAddress], SignallingTime] = {}

    def note(self, now: float, candidate: ice.Candidate, core: ice.IceAgent) -> None:
        """Take note that the peer has signalled a candidate, for the first time or again."""
        if candidate.type is not ice.CandidateType.SRFLX:
            return
        remote = core.remote_credentials
        time = SignallingTime(now, (core.credentials.ufrag, "" if remote is None else remote.ufrag))
        key = (candidate.related_address, candidate.address)
        self._first[key] = self._first.pop(key, time)
        if len(self._first) > MAX_TIMES:
            del self._first[next(iter(self._first))]

    def were_together(self, one: ice.Candidate, other: ice.Candidate) -> bool:
        """Whether both were first signalled in one ICE session, and at the same time."""
        first, second = (self._first.get((each.related_address, each.address)) for each in (one, other))
        if first is None or second is None:
            return False
        return first.session == second.session and abs(first.at - second.at) <= AT_ONCE_S
