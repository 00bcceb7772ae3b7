"""Trickling our candidates, alone or in whole descriptions, to whoever carries them to the peer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from iceagent.agent.component import Component
from iceagent.agent.description import Description, StreamDescription
from iceagent.agent.gather.mdns import Key, key_of
from iceagent.core import ice

GROUPING_S: Final = 0.002
"""Ours: what is found together is signalled together; one message costs less than it waits."""


class LocalCandidates:
    """One reader's place among our candidates of one generation. Holds no resources: it may be dropped at any point.

    Args:
        components: those of one data stream, at least one; they wake their readers together.
    """

    def __init__(self, components: Sequence[Component]) -> None:
        self._components = components
        self._first = components[0].driver
        self._generation = self._first.ice.generation
        self._given: set[Key] = set()

    def __aiter__(self) -> LocalCandidates:
        return self

    async def __anext__(self) -> ice.Candidate:
        await trio.lowlevel.checkpoint()
        while self._first.ice.generation == self._generation:
            for candidate in signalled(self._components):
                key = key_of(candidate)
                if key not in self._given:
                    self._given.add(key)
                    return candidate
            if ends(self._components):
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
        self._given: list[set[Key]] = [set() for _ in components]

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
            self._given[number] = set(component.gatherer.signalled_in_time)
        for candidate in component.gatherer.names.signalled():
            key = key_of(candidate)
            if key not in self._given[number]:
                self._given[number].add(key)
                return candidate
        return None


class Descriptions:
    """One reader's position in all that is to be signalled: each part has what is new since the one before.

    Args:
        streams: the components of each data stream.
        frame: makes a description of what is signalled for each stream.
    """

    def __init__(
        self, streams: Sequence[Sequence[Component]], frame: Callable[[Sequence[StreamDescription]], Description]
    ) -> None:
        self._streams = [_Given(components) for components in streams]
        self._frame = frame
        self._first = streams[0][0].driver
        self._has_begun = False

    def __aiter__(self) -> Descriptions:
        return self

    async def __anext__(self) -> Description:
        await trio.lowlevel.checkpoint()
        while not all(stream.is_closed for stream in self._streams):
            if any(stream.has_news() for stream in self._streams):
                if self._has_begun:
                    await trio.sleep(GROUPING_S)
                self._has_begun = True
                return self._frame([stream.take() for stream in self._streams])
            await self._first.changed.park()
        raise StopAsyncIteration


class _Given:
    """What has been signalled of one data stream."""

    def __init__(self, components: Sequence[Component]) -> None:
        self._components = components
        self._generation = -1
        self._keys: set[Key] = set()
        self._has_ended = False

    @property
    def is_closed(self) -> bool:
        return all(component.driver.closed for component in self._components)

    def has_news(self) -> bool:
        return not self.is_closed and (
            self._generation != self._components[0].driver.ice.generation
            or self._has_ended != ends(self._components)
            or any(key not in self._keys for key in map(key_of, signalled(self._components)))
        )

    def take(self) -> StreamDescription:
        """Return what is new, and count it as signalled."""
        core = self._components[0].driver.ice
        if self._generation != core.generation:
            self._generation, self._keys = core.generation, set()
        news = [one for one in signalled(self._components) if key_of(one) not in self._keys]
        self._keys.update(map(key_of, news))
        self._has_ended = ends(self._components)
        return StreamDescription(core.credentials, tuple(news), self._has_ended)


def signalled(components: Sequence[Component]) -> list[ice.Candidate]:
    """Return the candidates of a stream's components that are signalled to the peer."""
    return [candidate for one in components for candidate in one.gatherer.names.signalled()]


def ends(components: Sequence[Component]) -> bool:
    """Return whether no candidate of a stream follows, as far as is known."""
    return all(one.gatherer.finished or one.driver.closed for one in components)
