"""One of several data streams of an agent: its components, and what is signalled for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Protocol

from iceagent.agent.component import Component
from iceagent.agent.components import Components, of_stream
from iceagent.core import ice
from iceagent.core.checked import checked
from iceagent.errors import LocalError


class Signals(Protocol):
    """What carries a stream's signaling: its `Agent`, whose methods these are."""

    def local_candidates(self, stream: int = 0) -> AsyncIterator[ice.Candidate]:
        """Iterate over our candidates."""
        ...

    def set_remote_credentials(
        self,
        credentials: ice.Credentials,
        *,
        lite: bool = False,
        options: Collection[str] = (),
        stream: int | None = None,
    ) -> None:
        """Take the peer's credentials."""
        ...

    def add_remote_candidate(self, candidate: ice.Candidate | str | None, *, stream: int | None = 0) -> None:
        """Take a candidate of the peer's."""
        ...

    def restart(self, *, stream: int | None = None) -> ice.Credentials:
        """Restart ICE."""
        ...


class Stream:
    """One data stream of an agent: its components, and what is signalled for it.

    Attributes:
        index: from 0, in the order of `AgentConfig.streams`, which must be the peer's, too.
        components: in the order of their ids, from 1.
    """

    def __init__(self, agent: Signals, index: int, components: Components) -> None:
        self._agent = agent
        self._together = components
        self.index = index
        self.components: tuple[Component, ...] = tuple(of_stream(components, index))

    @checked
    def component(self, number: int = 1) -> Component:
        """Return one component, by its id.

        Raises:
            LocalError: `AgentConfig.streams` has no such component.
        """
        if not 1 <= number <= len(self.components):
            raise LocalError(f"stream {self.index} has components 1 to {len(self.components)}, not {number}")
        return self.components[number - 1]

    @property
    def state(self) -> ice.ChecklistState:
        """How its checks fare; FAILED as soon as one component has no path."""
        return self._together.checklist_state(self.index)

    @property
    def credentials(self) -> ice.Credentials:
        """Our ufrag and password for this stream: those of the agent, until a stream restarts alone."""
        return self._together.credentials(self.index)

    def local_candidates(self) -> AsyncIterator[ice.Candidate]:
        """Iterate over the candidates of all its components as they are found; see `Agent.local_candidates`."""
        return self._agent.local_candidates(self.index)

    @checked
    def set_remote_credentials(
        self, credentials: ice.Credentials, *, lite: bool = False, options: Collection[str] = ()
    ) -> None:
        """Take what the peer has for this stream; see `Agent.set_remote_credentials`."""
        self._agent.set_remote_credentials(credentials, lite=lite, options=options, stream=self.index)

    def add_remote_candidate(self, candidate: ice.Candidate | str | None) -> None:
        """Take a candidate the peer has for this stream, or its end; see `Agent.add_remote_candidate`."""
        self._agent.add_remote_candidate(candidate, stream=self.index)

    def restart(self) -> ice.Credentials:
        """Restart this stream alone; see `Agent.restart`."""
        return self._agent.restart(stream=self.index)

    def remove(self) -> None:
        """Go on without this stream, say because it has failed; its components are closed (RFC 8445 section 8.1.2)."""
        for component in self.components:
            component.give_up()
