"""When the peer first told each of its server-reflexive candidates, and in which session.

After a restart a peer offers at once what servers told it earlier, and a moment later what they see now: what came
together need not have been learned together.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from iceagent.core import ice
from iceagent.core.address import TransportAddress

MAX_TELLINGS: Final = 256  # ours: those of many restarts; the one that was not repeated for longest gives way
AT_ONCE_S: Final = 1.0
"""Ours: servers are asked together, so there is room for one request sent again, and hardly for a router's restart."""


class Telling(Struct, frozen=True):
    """The first time a candidate was told: the loop's clock in seconds, and the fragments of both sides then."""

    at: float
    session: tuple[str, str]


class Tellings:
    """The first telling of each server-reflexive candidate, by its base and its address. Bounded."""

    def __init__(self) -> None:
        self._first: dict[tuple[TransportAddress | None, TransportAddress], Telling] = {}

    def note(self, now: float, candidate: ice.Candidate, core: ice.IceAgent) -> None:
        """Take note that the peer has told a candidate, for the first time or again."""
        if candidate.type is not ice.CandidateType.SRFLX:
            return
        remote = core.remote_credentials
        telling = Telling(now, (core.credentials.ufrag, "" if remote is None else remote.ufrag))
        key = (candidate.related_address, candidate.address)
        self._first[key] = self._first.pop(key, telling)
        if len(self._first) > MAX_TELLINGS:
            del self._first[next(iter(self._first))]

    def were_together(self, one: ice.Candidate, other: ice.Candidate) -> bool:
        """Whether both were first told in one session, and at one time."""
        first, second = (self._first.get((each.related_address, each.address)) for each in (one, other))
        if first is None or second is None:
            return False
        return first.session == second.session and abs(first.at - second.at) <= AT_ONCE_S
