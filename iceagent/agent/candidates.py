"""Trickling our candidates to whoever carries them to the peer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import trio

from iceagent.agent.component import Component
from iceagent.agent.mdns import Key, key_of
from iceagent.core import ice


class LocalCandidates:
    """One reader's place among our candidates of one generation. Holds no resources: it may be dropped at any point.

    Args:
        components: those of one data stream, at least one; they wake their readers together.
    """

    def __init__(self, components: Sequence[Component]) -> None:
        self._components = components
        self._first = components[0].driver
        self._generation = self._first.ice.generation
        self._told: set[Key] = set()

    def __aiter__(self) -> LocalCandidates:
        return self

    async def __anext__(self) -> ice.Candidate:
        await trio.lowlevel.checkpoint()
        while self._first.ice.generation == self._generation:
            for candidate in chain.from_iterable(
                component.gatherer.names.signalled() for component in self._components
            ):
                key = key_of(candidate)
                if key not in self._told:
                    self._told.add(key)
                    return candidate
            if all(component.gatherer.finished or component.driver.closed for component in self._components):
                break
            await self._first.changed.park()
        raise StopAsyncIteration


class LateCandidates:
    """One reader's place among the candidates found after the end of candidates of their generation.

    Args:
        components: those of one data stream, at least one; they wake their readers together.
    """

    def __init__(self, components: Sequence[Component]) -> None:
        self._components = components
        self._generations = [-1] * len(components)
        self._told: set[Key] = set()

    def __aiter__(self) -> LateCandidates:
        return self

    async def __anext__(self) -> ice.Candidate:
        await trio.lowlevel.checkpoint()
        while not all(component.driver.closed for component in self._components):
            for number, component in enumerate(self._components):
                candidate = self._late_of(number, component)
                if candidate is not None:
                    return candidate
            await self._components[0].driver.changed.park()
        raise StopAsyncIteration

    def _late_of(self, number: int, component: Component) -> ice.Candidate | None:
        if not component.gatherer.finished:
            return None
        generation = component.driver.ice.generation
        if self._generations[number] != generation:
            self._generations[number] = generation
            self._told -= {key for key in self._told if key[3] in component.driver.sockets}
            self._told |= component.gatherer.told_in_time
        for candidate in component.gatherer.names.signalled():
            key = key_of(candidate)
            if key not in self._told:
                self._told.add(key)
                return candidate
        return None
