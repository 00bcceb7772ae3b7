"""Trickling our candidates to whoever carries them to the peer."""

from __future__ import annotations

import trio

from iceagent.agent.driver import Driver
from iceagent.agent.gather import Gatherer
from iceagent.core import ice
from iceagent.core.address import TransportAddress


class LocalCandidates:
    """One reader's place among our candidates of one generation. Holds no resources: it may be dropped at any point."""

    def __init__(self, driver: Driver, gatherer: Gatherer) -> None:
        self._driver = driver
        self._gatherer = gatherer
        self._generation = driver.ice.generation
        self._told: set[tuple[TransportAddress, TransportAddress]] = set()

    def __aiter__(self) -> LocalCandidates:
        return self

    async def __anext__(self) -> ice.Candidate:
        await trio.lowlevel.checkpoint()
        while self._driver.ice.generation == self._generation:
            for candidate in signalled(self._driver):
                key = (candidate.address, candidate.path_base)
                if key not in self._told:
                    self._told.add(key)
                    return candidate
            if self._gatherer.finished or self._driver.closed:
                break
            await self._driver.changed.park()
        raise StopAsyncIteration


class LateCandidates:
    """One reader's place among the candidates found after the end of candidates of their generation."""

    def __init__(self, driver: Driver, gatherer: Gatherer) -> None:
        self._driver = driver
        self._gatherer = gatherer
        self._generation = -1
        self._told: set[tuple[TransportAddress, TransportAddress]] = set()

    def __aiter__(self) -> LateCandidates:
        return self

    async def __anext__(self) -> ice.Candidate:
        await trio.lowlevel.checkpoint()
        while not self._driver.closed:
            if self._gatherer.finished:
                if self._generation != self._driver.ice.generation:
                    self._generation = self._driver.ice.generation
                    self._told = set(self._gatherer.told_in_time)
                for candidate in signalled(self._driver):
                    key = (candidate.address, candidate.path_base)
                    if key not in self._told:
                        self._told.add(key)
                        return candidate
            await self._driver.changed.park()
        raise StopAsyncIteration


def signalled(driver: Driver) -> list[ice.Candidate]:
    """Return the candidates found so far that the peer is to be told."""
    return [candidate for candidate in driver.ice.local_candidates if _is_signalled(candidate)]


def _is_signalled(candidate: ice.Candidate) -> bool:
    """Peer-reflexive candidates are not: the peer is who revealed them (RFC 8445 section 7.2.5.3.1)."""
    return candidate.type is not ice.CandidateType.PRFLX
