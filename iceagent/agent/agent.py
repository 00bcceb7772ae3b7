"""The agent: datagrams to one peer over the best path ICE finds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import trio

from iceagent.agent import report
from iceagent.agent.candidates import Descriptions, LateCandidates, LocalCandidates, ends, signalled
from iceagent.agent.component import CONNECTED, MAX_DATAGRAM_SIZE, Component
from iceagent.agent.components import Components, components_for, of_stream
from iceagent.agent.config import AgentConfig
from iceagent.agent.description import Description, StreamDescription
from iceagent.agent.report.events import AgentEvent, ServersChanged
from iceagent.agent.roaming import Roaming
from iceagent.agent.stream import Stream
from iceagent.core import ice, sdp
from iceagent.core.checked import checked
from iceagent.core.constants import TA_OFFERED_S, TA_S
from iceagent.errors import LocalError, RemoteError, WrongType
from iceagent.net.batch import Batch
from iceagent.net.system import SystemNetwork
from iceagent.net.tasks import open_background, run_contained

if TYPE_CHECKING:
    from iceagent.agent.explain import Verdict
    from iceagent.agent.gather.servers import IceServer
    from iceagent.agent.report.statistics import AgentStatistics

ICE_OPTIONS: Final = ("ice2", "trickle", "renomination")
"""RFC 8445 section 10, RFC 8838 section 3, draft-thatcher-ice-renomination section 3."""


class Agent(trio.abc.Channel[bytes]):
    """One ICE session: datagrams to and from one peer. Made by `open_agent`.

    Sending and receiving need no `wait_connected` first: `send` waits for the first valid path, `receive` for data.
    """

    def __init__(self, config: AgentConfig, role: ice.Role) -> None:
        if config.ice_lite and role is not ice.Role.CONTROLLED:
            raise LocalError("a lite agent is controlled (RFC 8445 section 6.1.1): open it with Role.CONTROLLED")
        self._config = config
        self._network = config.network or SystemNetwork()
        self._components: Components = components_for(config, role, self._network)
        self._components.on_end = self._shut
        self._first = self._components.all[0, 1]
        self._driver, self._gatherer = self._first.driver, self._first.gatherer
        self._streams = tuple(Stream(self, index, self._components) for index in range(len(config.streams)))
        self._roaming = Roaming(self._network, config, self._components)
        # Shielded: who cancels the body still has paths, relays among them, for final messages; then `_shut` ends all.
        self._tasks = trio.CancelScope(shield=True)

    # What to carry to the peer, and what came from it

    @property
    def credentials(self) -> ice.Credentials:
        """Our ufrag and password, for the peer's `set_remote_credentials`; a restart makes new ones."""
        return self._driver.ice.credentials

    @property
    def options(self) -> tuple[str, ...]:
        """Our ice-options, for the peer's `set_remote_credentials`."""
        return ICE_OPTIONS

    @property
    def pacing_s(self) -> float:
        """The Ta we propose, seconds, for the peer's `set_remote_credentials` (in SDP `a=ice-pacing`, in ms)."""
        return TA_OFFERED_S if self._config.ta_s is None else self._config.ta_s

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The data streams, in the order of `AgentConfig.streams`."""
        return self._streams

    @checked
    def stream(self, index: int = 0) -> Stream:
        """Return one data stream, counted from 0.

        Raises:
            LocalError: `AgentConfig.streams` has no such stream.
        """
        if not 0 <= index < len(self._streams):
            raise LocalError(f"this agent has streams 0 to {len(self._streams) - 1}, not {index}")
        return self._streams[index]

    @checked
    def local_candidates(self, stream: int = 0) -> AsyncIterator[ice.Candidate]:
        """Iterate over our candidates as they are found; ends at end-of-candidates, or when a restart begins.

        May be called repeatedly; after a restart it gives the candidates that go with the new credentials. Those of
        all components of one data stream, the first by default, come out of it; `Candidate.component` tells them apart.
        """
        return LocalCandidates(of_stream(self._components, stream))

    @checked
    def late_candidates(self, stream: int = 0) -> AsyncIterator[ice.Candidate]:
        """Iterate over the candidates that come after end-of-candidates, until the agent closes.

        An answer of a server that was slow, a mapped port, the address of a new interface, or that of a TURN server
        that was restarted. RFC 8838 section 13 has none follow the end, so a strict peer ignores them (and may yet be
        found by our checks); agents of this kind take them. With `AgentConfig.full_trickle` few remain.
        """
        return LateCandidates(of_stream(self._components, stream))

    @checked
    async def wait_gathered(self, stream: int = 0) -> list[ice.Candidate]:
        """Wait until the candidates that are likely to come have come; return those to carry to the peer.

        For signaling in one message. It waits for the answer of one server per IP version and for one relay, if there
        are such servers; for silent ones 1 s if anything else answers, else `gather_budget_s`. What comes later comes
        out of `local_candidates()`, and is worth carrying. After a restart it waits for the new candidates.

        Raises:
            trio.ClosedResourceError: the agent is closed.
        """
        components = of_stream(self._components, stream)
        for component in components:
            await component.gatherer.wait_enough()
        self._check_open()
        return signalled(components)

    def description(self) -> Description:
        """Return all that the peer must know, as of now; after `wait_gathered()` for signaling in one message."""
        streams = []
        for stream in self._streams:
            components, credentials = stream.components, self._components.credentials(stream.index)
            streams.append(StreamDescription(credentials, tuple(signalled(components)), ends(components)))
        return self._describe(streams)

    def descriptions(self) -> AsyncIterator[Description]:
        """Iterate over what the peer must know as it comes, until the agent closes: carry each part, in order.

        The first is there at once; later ones have what is new: candidates, also those that come after the end (see
        `late_candidates`), or all anew after a restart, whosever it was. Holds nothing: it may be dropped at any point.
        """
        return Descriptions([stream.components for stream in self._streams], self._describe)

    def accept(self, description: Description) -> None:
        """Take what the peer's `description()`, or a part of its `descriptions()`, says.

        Once more, or a part that a restart has overtaken, changes nothing. New credentials mean what they mean to
        `set_remote_credentials`. Candidates that cannot be used are counted and left out.

        Raises:
            RemoteError: it describes other data streams than this agent has.
            WrongType: it is no `Description`.
            trio.ClosedResourceError: the agent is closed.
        """
        self._check_open()
        if not isinstance(description, Description):
            kind = type(description).__name__
            raise WrongType(f"accept takes a Description, not {kind}; read text by Description.from_json or from_sdp")
        if len(description.streams) != len(self._streams):
            theirs, ours = len(description.streams), len(self._streams)
            words = f"the peer describes {theirs} data streams, this agent has {ours}; see AgentConfig.streams"
            raise RemoteError(words)
        given: dict[str, Any] = {"lite": description.lite, "options": description.options}
        same = len({one.credentials for one in description.streams}) == 1
        for index, stream in enumerate(description.streams):
            self.set_remote_credentials(
                stream.credentials, pacing_s=description.pacing_s, stream=None if same else index, **given
            )
            if self._components.remote_credentials(index) != stream.credentials:
                continue  # those of a session that a restart has ended
            for candidate in stream.candidates:
                self.add_remote_candidate(candidate, stream=index)
            if stream.end:
                self.add_remote_candidate(None, stream=index)

    @checked
    def set_remote_credentials(
        self,
        credentials: ice.Credentials,
        *,
        lite: bool = False,
        options: Collection[str] = (),
        pacing_s: float | None = None,
        stream: int | None = None,
    ) -> None:
        """Take the peer's ufrag and password; checks start as soon as there are candidates.

        New ones later mean that the peer has restarted, or answer a restart of ours. In the first case our own
        `credentials` are new, too, and an event `Restarted` carries them: the peer needs them, and our candidates.

        Args:
            credentials: the peer's.
            lite: the peer is a lite implementation (RFC 8445 section 2.5), as its description says.
            options: the ice-options of its description; "renomination" lets data move to a better path later.
            pacing_s: the peer's `pacing_s`; the higher one of the two is used. None if it is not known: then 50 ms is
                taken for it (RFC 8445 section 14.2), unless `AgentConfig.ta_s` says what both have agreed upon.
            stream: the data stream they belong to, where its descriptions differ (RFC 8839 section 5.4); None for all.

        Raises:
            trio.ClosedResourceError: the agent is closed.
        """
        self._check_open()
        if pacing_s is None:
            pacing_s = TA_S if self._config.ta_s is None else 0.0
        given: dict[str, Any] = {"lite": lite, "options": options, "pacing_s": pacing_s}
        take = self._components.set_remote_credentials
        self._roaming.change(lambda now: take(now, credentials, stream, **given))

    def add_remote_candidate(self, candidate: ice.Candidate | str | None, *, stream: int | None = 0) -> None:
        """Take one of the peer's candidates, as a value or as SDP text; None, `""` and `{}` mean that none follows.

        A `.local` name is looked up by multicast DNS, beside everything else (`AgentConfig.mdns`). Candidates that
        cannot be used, or must not by the policy, are counted and left out.

        Raises:
            RemoteError: the text is not a candidate (a `ValueError`, too).
            trio.ClosedResourceError: the agent is closed.
        """
        self._check_open()
        if not isinstance(candidate, ice.Candidate):
            text = sdp.trickled_candidate(candidate)
            candidate = None if text is None else ice.Candidate.from_sdp(text)
        self._components.add_remote_candidate(candidate, stream)

    @checked
    def restart(self, *, stream: int | None = None) -> ice.Credentials:
        """Restart ICE: look for the best path anew, while the present one goes on carrying data.

        The application has to carry the new credentials and `local_candidates()` to the peer, and the peer's back.
        Senders and receivers notice nothing. While the peer's answer is awaited, calling it again changes nothing.

        Returns:
            The new credentials; `Restarted` among the `events()` carries them, too.

        Raises:
            LocalError: the session has failed; open a new agent.
            trio.ClosedResourceError: the agent is closed.

        Source: RFC 8445 section 9.
        """
        self._check_open()
        if self.state is ice.AgentState.FAILED:
            raise LocalError("this session has failed and cannot restart; open a new agent")
        return self._roaming.restart(stream)

    def gather_again(self) -> None:
        """Ask all servers again, without a restart: what they saw minutes ago may no longer hold.

        What is new comes out of `late_candidates()` and `descriptions()`.

        Raises:
            trio.ClosedResourceError: the agent is closed.
        """
        self._check_open()
        self._roaming.gather_again()

    def give_up(self) -> None:
        """Wait no longer for a path to come back (`AgentConfig.outage_s`): somebody knows that the peer is gone.

        An agent without a path fails at once, or when consent ends; one that has a path goes on.
        """
        self._roaming.give_up()

    @checked
    def set_servers(self, servers: Sequence[IceServer | str]) -> None:
        """Take other STUN and TURN servers, or the same with other credentials, while the session lasts.

        As with the W3C's `setConfiguration`, they are used from the next gathering on, such as a restart begins, and
        what was gathered before stays. A relay that stands goes on, with its new credentials if the server takes them;
        one that was refused is asked again with them at once. A server that is left out is not asked any more.

        Raises:
            LocalError: a lite agent has none, or there is no TURN server where the policy needs one.
            trio.ClosedResourceError: the agent is closed.
        """
        self._check_open()
        config = replace(self._config, servers=servers)
        config.check_relay()
        for component in self._components.all.values():
            component.gatherer.take_servers(config.ice_servers)
        self._driver.note(ServersChanged(tuple(server.shown for server in config.ice_servers)))

    # Where the session stands

    @property
    def state(self) -> ice.AgentState:
        """Where the session stands; with several components, all of them: see `StreamSet.state`."""
        return self._components.state

    @property
    def is_answering(self) -> bool:
        """Whether the peer answers on the path in use; if not, the path falters, or there is none."""
        return self.state in CONNECTED and not self._driver.ice.stranded

    @property
    def is_restarting(self) -> bool:
        """Whether a restart is under way that has not led to a path yet."""
        return self._driver.ice.restarting

    @property
    def silent_s(self) -> float | None:
        """How long ago the peer last answered, seconds; None if it never has. An idle path is asked every 5 s."""
        heard_at = self._driver.ice.heard_at
        return trio.current_time() - heard_at if heard_at else None

    @property
    def role(self) -> ice.Role:
        """Who nominates; a role conflict may change it."""
        return self._driver.ice.role

    @property
    def selected_pair(self) -> ice.CandidatePair | None:
        """The nominated pair that carries the data, or None before nomination."""
        return self._first.selected_pair

    @property
    def relay_transport(self) -> str | None:
        """How our relay is reached (`udp`, `tcp`, `tls` or `dtls`) if the selected pair uses one of ours, else None."""
        return self._first.relay_transport

    @property
    def relayed_because(self) -> str | None:
        """Why the selected pair goes through a relay, in words for people; None if it does not."""
        return self._first.relayed_because

    @property
    def max_datagram_size(self) -> int:
        """Bytes of the largest datagram that every path carries whole; larger ones may get lost."""
        return MAX_DATAGRAM_SIZE

    async def wait_connected(self) -> ice.CandidatePair:
        """Wait until a pair is selected, of several components one for each; return that of the first.

        Raises:
            NetworkError: there is no path, or some component has none; `explain()` says why.
            trio.ClosedResourceError: the agent was closed.
        """
        return await self._components.wait_connected()

    def events(self) -> AsyncIterator[AgentEvent]:
        """Iterate over what has happened from the start on and what happens, until the agent closes.

        A bounded log: who reads too late or too slowly misses the oldest; `statistics()` counts them. Of several
        components it has the first one's, and what becomes of checklists; `Component.events()` has the others'.
        """
        return self._driver.timeline.subscribe()

    def timeline(self) -> dict[str, Any]:
        """Return what has happened so far, with times, as values that JSON has; schema in docs/explain.md.

        A bounded log, as `events()` is: `events_forgotten` is how many of the oldest are missing. It holds no
        password, and no address that the peer has not signalled.
        """
        return report.timeline_document(self._driver, self)

    def timeline_json(self) -> str:
        """Return `timeline()` as JSON text, one event a line."""
        return report.timeline_json(self._driver, self)

    def statistics(self) -> AgentStatistics:
        """Return a snapshot of candidates, pairs and transport, shaped like the W3C's."""
        drivers = [component.driver for component in self._components.all.values()]
        return report.collect_statistics(drivers, self._gatherer.interfaces())

    def explain(self) -> Verdict:
        """Return why the agent is where it is, the evidence, and what to do about it.

        Of several components it is about the first of those that fare worst.
        """
        living = [component for component in self._components.all.values() if not component.driver.closed]
        return min(living, key=_fares, default=self._first).explain()

    # Data

    async def send(self, value: bytes) -> None:
        """Send one datagram; waits for the first valid path, then only while the socket is full.

        Raises:
            trio.BrokenResourceError: the session failed.
            trio.ClosedResourceError: the agent is closed.
        """
        await self._first.send_many((value,))

    async def send_many(self, datagrams: Sequence[bytes]) -> None:
        """Send datagrams, in order and in as few system calls as the network allows. Raises as `send` does."""
        await self._first.send_many(datagrams)

    async def send_everywhere(self, datagrams: Sequence[bytes]) -> None:
        """Send datagrams on the path in use and, once more each, on up to three others that work: for final messages.

        The peer may not have followed to the path in use yet, or have left it already. It may get them several times.
        Raises what `send_many` does.
        """
        await self._first.send_everywhere(datagrams)

    async def receive(self) -> bytes:
        """Wait for the next datagram from the peer.

        Raises:
            trio.BrokenResourceError: the session failed, and all that arrived before has been received.
            trio.ClosedResourceError: the agent is closed.
        """
        return await self._first.receive()

    async def receive_many(self) -> list[bytes]:
        """Wait, then return all datagrams at hand, oldest first. Raises as `receive` does."""
        return await self._first.receive_many()

    async def receive_batches(self) -> list[Batch]:
        """Wait, then return all that is at hand as the network delivered it. Raises as `receive` does."""
        return await self._first.receive_batches()

    async def aclose(self) -> None:
        """Close at once: sockets, timers, tasks. Idempotent; leaving `open_agent` does the same."""
        self._shut()
        await trio.lowlevel.checkpoint()

    # Inside

    def _describe(self, streams: Sequence[StreamDescription]) -> Description:
        return Description(tuple(streams), ICE_OPTIONS, self.pacing_s, self._config.ice_lite)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        try:
            for component in self._components.all.values():
                await component.gatherer.open_bases()
            with trio.CancelScope() as ending:
                async with open_background() as nursery:
                    nursery.start_soon(self._serve)
                    try:
                        yield
                    except trio.Cancelled:
                        raise
                    except BaseException:
                        # The tasks end within the time a relay is given back in; a cancellation from outside would only
                        # take the place of the body's own error.
                        ending.shield = True
                        raise
                    finally:
                        self._shut()  # before the nursery waits for its tasks
        finally:
            self._shut()

    async def _serve(self) -> None:
        """Run the session's tasks until it is closed."""
        with self._tasks:
            async with trio.open_nursery() as nursery:
                for component in self._components.all.values():
                    nursery.start_soon(component.serve)
                nursery.start_soon(run_contained, "restarting", self._roaming.run)

    def _shut(self) -> None:
        self._components.shut()
        self._tasks.cancel()

    def _check_open(self) -> None:
        if self._components.closed:
            raise trio.ClosedResourceError("this agent is closed")


def _fares(component: Component) -> int:
    """Return how a component fares: 0 if it has failed, 2 if it is connected, else 1."""
    return 0 if component.state is ice.AgentState.FAILED else 1 + (component.state in CONNECTED)


@checked
@asynccontextmanager
async def open_agent(config: AgentConfig | None = None, *, role: ice.Role) -> AsyncIterator[Agent]:
    """Open an ICE agent; its sockets are bound and its host candidates known when the body starts.

    Args:
        config: None for the defaults.
        role: one of the peers is CONTROLLING, the other CONTROLLED; if both say the same, they sort it out.

    Raises:
        LocalError: no allowed local port can be bound, the agent is to be lite and controlling, or to relay without a
            TURN server.

    When the body ends, however it does, no task and no socket is left. An exception of the body leaves unwrapped.
    """
    config = config or AgentConfig()
    config.check_relay()
    agent = Agent(config, role)
    async with agent._running():  # noqa: SLF001 - nobody else's affair
        yield agent
