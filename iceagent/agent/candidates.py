"""Trickling our candidates to whoever carries them to the peer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import trio

from iceagent.agent.lane import Lane
from iceagent.agent.mdns import Key, key_of
from iceagent.core import ice


class LocalCandidates:
    """One reader's place among our candidates of one generation. Holds no resources: it may be dropped at any point.

    Args:
        lanes: the components of one data stream, at least one; they wake their readers together.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._first = lanes[0].driver
        self._generation = self._first.ice.generation
        self._told: set[Key] = set()

    def __aiter__(self) -> LocalCandidates:
        return self

    async def __anext__(self) -> ice.Candidate:
        await trio.lowlevel.checkpoint()
        while self._first.ice.generation == self._generation:
            for candidate in chain.from_iterable(lane.gatherer.names.signalled() for lane in self._lanes):
                key = key_of(candidate)
                if key not in self._told:
                    self._told.add(key)
                    return candidate
            if all(lane.gatherer.finished or lane.driver.closed for lane in self._lanes):
                break
            await self._first.changed.park()
        raise StopAsyncIteration


class LateCandidates:
    """One reader's place among the candidates found after the end of candidates of their generation.

    Args:
        lanes: the components of one data stream, at least one; they wake their readers together.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._generations = [-1] * len(lanes)
        self._told: set[Key] = set()

    def __aiter__(self) -> LateCandidates:
        return self

    async def __anext__(self) -> ice.Candidate:
        await trio.lowlevel.checkpoint()
        while not all(lane.driver.closed for lane in self._lanes):
            for number, lane in enumerate(self._lanes):
                candidate = self._late_of(number, lane)
                if candidate is not None:
                    return candidate
            await self._lanes[0].driver.changed.park()
        raise StopAsyncIteration

    def _late_of(self, number: int, lane: Lane) -> ice.Candidate | None:
        if not lane.gatherer.finished:
            return None
        generation = lane.driver.ice.generation
        if self._generations[number] != generation:
            self._generations[number] = generation
            self._told -= {key for key in self._told if key[3] in lane.driver.sockets}
            self._told |= lane.gatherer.told_in_time
        for candidate in lane.gatherer.names.signalled():
            key = key_of(candidate)
            if key not in self._told:
                self._told.add(key)
                return candidate
        return None
