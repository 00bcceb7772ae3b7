"""Several data streams of several components with one peer: RFC 8445's agent as a whole.

Each component is an `IceAgent` of its own, with its sockets, pairs, selected pair and consent; `ChecklistSet` couples
their checks. An agent with one stream of one component is just that `IceAgent`, uncoupled.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

from iceagent.core.address import TransportAddress
from iceagent.core.ice.agent import IceAgent
from iceagent.core.ice.checklist_set import ChecklistSet
from iceagent.core.ice.checks.pacer import Pacer
from iceagent.core.ice.config import IceConfig
from iceagent.core.ice.events import (
    AgentState,
    ChecklistState,
    ChecklistStateChanged,
    ComponentGivenUp,
    DropReason,
    IceEvent,
    Received,
    StateChanged,
)
from iceagent.core.ice.membership import Membership
from iceagent.core.ice.model.candidate import Candidate
from iceagent.core.ice.model.credentials import Credentials, generate_credentials
from iceagent.core.ice.outbox import Outbox
from iceagent.core.ice.roles import Role, RoleKeeper
from iceagent.core.ice.sessions import Standing
from iceagent.core.transmit import Transmit

MAX_STREAMS: Final = 32  # ours: descriptions with more media than that are unheard of
MAX_COMPONENTS: Final = 256  # RFC 8445 section 5.1.1.1 and 8839 section 5.1: ids are 1 to 256
MAX_IN_ALL: Final = 64  # ours: components of all streams; each has its sockets
_DEFAULT_CONFIG: Final = IceConfig()
_SETTLED: Final = frozenset((AgentState.COMPLETED, AgentState.DISCONNECTED))
_CONNECTED: Final = frozenset((AgentState.CONNECTED, *_SETTLED))
_MAX_EVENTS: Final = 256  # ours: of those that are no component's; the oldest gives way


@dataclass(frozen=True, slots=True)
class ComponentEvent:
    """An event of one component."""

    stream: int
    component: int
    event: IceEvent


def check_layout(layout: Sequence[int]) -> tuple[int, ...]:
    """Return the number of components of each stream.

    Raises:
        ValueError: there are none, or too many.
    """
    counts = tuple(layout)
    if not 1 <= len(counts) <= MAX_STREAMS:
        raise ValueError(f"there must be 1 to {MAX_STREAMS} streams, not {len(counts)}")
    if not all(1 <= count <= MAX_COMPONENTS for count in counts) or sum(counts) > MAX_IN_ALL:
        raise ValueError(f"each stream has at least one component, and all together at most {MAX_IN_ALL}: {counts}")
    return counts


class StreamSet:
    """ICE with one peer over several data streams, each of one or more components.

    Its contract is that of `IceAgent`: one call that changes something, then both polls, then waiting. Streams count
    from 0, components from 1, as candidates say. Candidates of stream and component go to that component alone, and a
    datagram to the one whose base it came to; so nothing ever crosses between them.

    Args:
        role: ours; all components share it, and its tiebreaker.
        layout: the number of components of each stream.
        randbytes: source of unpredictable bytes.
        config: settings; `max_pairs` is for the whole set.
        credentials: our own, for all streams; fresh ones by default.
        pacer: shared by the agents of a machine.
        single: an agent that there is already, to be the only component.
    """

    def __init__(
        self,
        *,
        role: Role,
        randbytes: Callable[[int], bytes],
        layout: Sequence[int] = (1,),
        config: IceConfig = _DEFAULT_CONFIG,
        credentials: Credentials | None = None,
        pacer: Pacer | None = None,
        single: IceAgent | None = None,
    ) -> None:
        self.layout = check_layout(layout)
        self._randbytes = randbytes
        self._events: deque[ChecklistStateChanged | ComponentGivenUp] = deque(maxlen=_MAX_EVENTS)
        self._outbox = Outbox()
        self._standing = Standing(self._outbox)
        self._closed = False
        self._bases: dict[TransportAddress, IceAgent] = {}
        self._agents: dict[tuple[int, int], IceAgent] = {}
        self._given_up: set[tuple[int, int]] = set()
        self._signalled: dict[int, int] = {}  # by stream, the highest component the peer has signalled
        self._checklist_set: ChecklistSet | None = None
        self._memberships: dict[tuple[int, int], Membership] = {}
        if self.layout == (1,):
            self._agents[0, 1] = single or IceAgent(
                role=role, randbytes=randbytes, config=config, credentials=credentials, pacer=pacer
            )
        else:
            self._join_all(role, config, credentials or generate_credentials(randbytes), pacer)
        self._states = dict.fromkeys(range(len(self.layout)), ChecklistState.RUNNING)

    def _join_all(self, role: Role, config: IceConfig, credentials: Credentials, pacer: Pacer | None) -> None:
        self._checklist_set = checklist_set = ChecklistSet(RoleKeeper(role, self._randbytes), config.ta_s, pacer)
        for stream, count in enumerate(self.layout):
            for component in range(1, count + 1):
                membership = Membership(checklist_set, stream, component)
                self._memberships[stream, component] = membership
                member = IceAgent(
                    role=role,
                    randbytes=self._randbytes,
                    config=config,
                    credentials=credentials,
                    membership=membership,
                )
                checklist_set.members[membership] = self._agents[stream, component] = member

    # What is.

    def component(self, stream: int = 0, component: int = 1) -> IceAgent:
        """Return one component.

        Raises:
            KeyError: there is none of these numbers.
        """
        return self._agents[stream, component]

    @property
    def agents(self) -> dict[tuple[int, int], IceAgent]:
        """All components by stream and component id; those given up are CLOSED."""
        return dict(self._agents)

    def components_of(self, stream: int) -> tuple[IceAgent, ...]:
        """Return the components of a stream that are in use."""
        return tuple(agent for (at, _), agent in self._in_use() if at == stream)

    def credentials(self, stream: int = 0) -> Credentials:
        """Return our username fragment and password for a stream; all have the same until one restarts alone."""
        return self._agents[stream, 1].credentials

    @property
    def role(self) -> Role:
        """Our present role."""
        return self._agents[0, 1].role

    @property
    def state(self) -> AgentState:
        """Where the agent as a whole stands.

        COMPLETED: all checklists are (RFC 8445 section 6.1.3). CONNECTED: every component has a path. DISCONNECTED: so
        it is, but some path is silent. FAILED: all checklists have failed; while only some have, CHECKING, until their
        streams are removed.
        """
        return self._agents[0, 1].state if self._checklist_set is None else self._standing.state

    def checklist_state(self, stream: int) -> ChecklistState:
        """Return how the checks of a stream fare."""
        return self._judge(stream, self._states[stream]) if self._checklist_set is None else self._states[stream]

    @property
    def counters(self) -> Counter[DropReason]:
        """How often each thing was dropped or refused, by all components; a copy."""
        return sum((agent.counters for agent in self._agents.values()), Counter[DropReason]())

    def checks_sent(self) -> int:
        """Return the number of requests sent so far, by all components."""
        return sum(agent.checks_sent for agent in self._agents.values())

    # What changes it.

    def set_remote_credentials(
        self,
        now: float,
        credentials: Credentials,
        *,
        lite: bool = False,
        options: Collection[str] = (),
        pacing_s: float = 0.0,
        stream: int | None = None,
    ) -> None:
        """Take the peer's credentials, for one stream or, with None, for all (RFC 8839 section 5.4).

        Others than those known mean that these streams were restarted; see `IceAgent.set_remote_credentials`.
        """
        agents = [agent for at in self._streams(stream) for agent in self.components_of(at)]
        ours = self._fresh_for(credentials, agents)
        with self._together():
            for agent in agents:
                agent.set_remote_credentials(now, credentials, lite=lite, options=options, pacing_s=pacing_s, ours=ours)
        self._settle(now)

    def _fresh_for(self, credentials: Credentials, agents: Sequence[IceAgent]) -> Credentials | None:
        """Return what these components are to have if the peer's credentials mean a restart; one pair for all of them.

        Also where the peer's are signalled stream by stream: then those of a stream that has got them already.
        """
        if self._checklist_set is None or not any(a.remote_credentials not in (None, credentials) for a in agents):
            return None
        known = {agent.credentials for agent in agents}
        signalled = (agent.credentials for _, agent in self._in_use() if agent.remote_credentials == credentials)
        return next((ours for ours in signalled if ours not in known), None) or generate_credentials(self._randbytes)

    def _together(self) -> AbstractContextManager[None]:
        return nullcontext() if self._checklist_set is None else self._checklist_set.together()

    def restart(self, now: float, *, stream: int | None = None, credentials: Credentials | None = None) -> Credentials:
        """Restart ICE for one stream or, with None, for all; return the new credentials.

        See `IceAgent.restart`. A stream that awaits the peer's answer to an earlier restart keeps its credentials.

        Raises:
            ValueError: all components have failed or are closed, or `credentials` are not new.
        """
        living = [(at, agent) for (at, _), agent in self._in_use() if agent.state is not AgentState.FAILED]
        chosen = [agent for at, agent in living if stream is None or at == stream]
        if not chosen:
            raise ValueError("the session is over; a new one needs a new agent")
        # The peer's answer to a restart of ours is still to come; then it is one and the same restart.
        pending = next((agent.credentials for agent in chosen if agent.remote_credentials is None), None)
        fresh = credentials or pending or generate_credentials(self._randbytes)
        with self._together():
            for agent in chosen:
                if agent.remote_credentials is not None:
                    agent.restart(now, fresh)
        self._settle(now)
        return chosen[0].credentials

    def add_local_candidate(self, now: float, candidate: Candidate, stream: int = 0) -> bool:
        """Use a gathered candidate; its component says which; False if it is redundant or unusable."""
        agent = self._agents.get((stream, candidate.component))
        if agent is None:
            return False
        self._bases[candidate.path_base] = agent
        added = agent.add_local_candidate(now, candidate)
        self._settle(now)
        return added

    def end_of_local_candidates(self, now: float, stream: int | None = None) -> None:
        """Take note that gathering is over, for one stream or for all."""
        for at in self._streams(stream):
            for agent in self.components_of(at):
                agent.end_of_local_candidates(now)
        self._settle(now)

    def add_remote_candidate(self, now: float, candidate: Candidate | None, stream: int | None = 0) -> bool:
        """Use a candidate of the peer; return False if it was dropped, as those of components we do not have are.

        None is the end-of-candidates of a stream, or of all if `stream` is None (RFC 8838 section 13). From then on it
        is known which components the peer has: the others are given up (RFC 8445 section 6.1.2.2).
        """
        if candidate is None:
            for at in self._streams(stream):
                for agent in self.components_of(at):
                    agent.add_remote_candidate(now, None)
                self.note_remote_end(now, at)
            return True
        self.note_signalled(candidate, stream or 0)
        whose = self._agents.get((stream or 0, candidate.component))
        added = whose is not None and whose.add_remote_candidate(now, candidate)
        self._settle(now)
        return added

    def remove_stream(self, now: float, stream: int) -> None:
        """Go on without a stream, for instance one that has failed (RFC 8445 section 8.1.2). The last one stays."""
        if len({at for (at, _), _ in self._in_use()}) > 1:
            for component in range(1, self.layout[stream] + 1):
                self._give_up(now, stream, component)
        self._settle(now)

    def give_up(self, now: float, stream: int, component: int) -> None:
        """Close one component; the others go on. The last one leaves the agent CLOSED."""
        self._give_up(now, stream, component)
        self._closed = not any(True for _ in self._in_use())
        self._settle(now)

    def note_signalled(self, candidate: Candidate, stream: int) -> None:
        """For shells that hand candidates to components themselves: take note of one, usable or not.

        Which stream it belongs to, the peer says, so it may be one that is not there: counted, and nothing more.
        """
        if (stream, candidate.component) not in self._agents:
            self._agents[0, 1].counters[DropReason.CANDIDATE_TRANSPORT] += 1
        if stream in self._streams(None):
            self._signalled[stream] = max(candidate.component, self._signalled.get(stream, 0))

    def note_remote_end(self, now: float, stream: int) -> None:
        """For the same: take note of the peer's end-of-candidates, and give up the components it does not have.

        Once a stream was restarted that is known, or left to time. An end says not whose it is: it may be that of the
        candidates before the restart, cut short by it, of which those of some component had not been signalled yet.
        """
        if stream not in self._streams(None) or any(agent.generation for agent in self.components_of(stream)):
            return
        heard = [component for (at, component), agent in self._in_use() if at == stream and agent.remote_candidates]
        highest = max([self._signalled.get(stream, 0), *heard])
        for component in range(highest + 1, self.layout[stream] + 1) if highest else ():
            self._give_up(now, stream, component)
        self._settle(now)

    def handle_datagram(self, now: float, local: TransportAddress, remote: TransportAddress, data: bytes) -> Received:
        """Deal with a datagram that came to the socket at `local`; one look-up finds whose that is."""
        agent = self._bases.get(local)
        if agent is None:
            return Received.DROPPED
        received = agent.handle_datagram(now, local, remote, data)
        self._settle(now)
        return received

    def handle_unreachable(self, now: float, local: TransportAddress, remote: TransportAddress) -> None:
        """Take note of an ICMP error; see `IceAgent.handle_unreachable`."""
        agent = self._bases.get(local)
        if agent is not None:
            agent.handle_unreachable(now, local, remote)
        self._settle(now)

    def handle_base_lost(self, now: float, base: TransportAddress) -> None:
        """Take note that a socket is gone; see `IceAgent.handle_base_lost`."""
        agent = self._bases.pop(base, None)
        if agent is not None:
            agent.handle_base_lost(now, base)
        self._settle(now)

    def handle_network_changed(self, now: float) -> None:
        """Take note that this host's network has changed."""
        for _, agent in self._in_use():
            agent.handle_network_changed(now)
        self._settle(now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due at `now`."""
        for _, agent in self._in_use():
            due = agent.next_timeout()
            if due is not None and due <= now:
                agent.handle_timeout(now)
        self._settle(now)

    def close(self, now: float) -> None:
        """End it all; idempotent."""
        self._closed = True
        for agent in self._agents.values():
            agent.close(now)
        self._bases.clear()
        self._settle(now)

    # What comes out.

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` wants to be called, or None."""
        dues = (agent.next_timeout() for agent in self._agents.values())
        return min((at for at in dues if at is not None), default=None)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        for agent in self._agents.values():
            if (transmit := agent.poll_transmit()) is not None:
                return transmit
        return None

    def poll_event(self) -> ComponentEvent | ChecklistStateChanged | ComponentGivenUp | StateChanged | None:
        """Return the next event, or None; `StateChanged` is of the agent as a whole."""
        for (stream, component), agent in self._agents.items():
            if (event := agent.poll_event()) is not None:
                return ComponentEvent(stream, component, event)
        return self.poll_own_event()

    def poll_own_event(self) -> ChecklistStateChanged | ComponentGivenUp | StateChanged | None:
        """Return the next event that is no component's, or None: for shells that drain each component themselves."""
        if self._events:
            return self._events.popleft()
        event = self._outbox.events.popleft() if self._outbox.events else None
        return event if isinstance(event, StateChanged) else None

    def take_touched(self) -> list[IceAgent]:
        """Return the components that may have something to poll, or another `next_timeout`, though nobody called them.

        For shells that drain each component by itself; call it after each change of any of them.
        """
        touched = [(key, membership) for key, membership in self._memberships.items() if membership.touched]
        for _, membership in touched:
            membership.touched = False
        return [self._agents[key] for key, _ in touched]

    # Within.

    def _streams(self, stream: int | None) -> Sequence[int]:
        return range(len(self.layout)) if stream is None else (stream,)

    def _in_use(self) -> Iterator[tuple[tuple[int, int], IceAgent]]:
        return (item for item in self._agents.items() if item[0] not in self._given_up)

    def _give_up(self, now: float, stream: int, component: int) -> None:
        if (stream, component) in self._given_up:
            return
        self._given_up.add((stream, component))
        gone = self._agents[stream, component]
        gone.close(now)
        self._bases = {base: agent for base, agent in self._bases.items() if agent is not gone}
        if self._checklist_set is not None:
            membership = self._memberships[stream, component]
            del self._checklist_set.members[membership]
            membership.slot_at, membership.touched = None, True
        self._events.append(ComponentGivenUp(stream, component))

    def _settle(self, now: float) -> None:
        if self._checklist_set is not None:
            self._checklist_set.settle(now)
        self.settle(now)

    def settle(self, now: float) -> None:
        """Draw the conclusions for streams and agent; for shells that change components themselves, after each time."""
        if self._checklist_set is None:
            return
        for stream, old in self._states.items():
            self._give_up_unheard(now, stream)
            new = self._judge(stream, old)
            if new is not old:
                self._states[stream] = new
                self._events.append(ChecklistStateChanged(stream, old, new))
        if self._standing.state is not AgentState.FAILED or self._closed:
            self._standing.follow(self._whole())

    def _give_up_unheard(self, now: float, stream: int) -> None:
        """Give up what failed for want of any candidate of the peer's, where a lower component has some.

        From a peer that signals no end-of-candidates we learn in this way, at last, that it has no such component.
        """
        heard_of = False
        for (at, component), agent in list(self._in_use()):
            if at == stream and agent.remote_candidates:
                heard_of = True
            elif at == stream and heard_of and agent.state is AgentState.FAILED:
                self._give_up(now, stream, component)

    def _judge(self, stream: int, old: ChecklistState) -> ChecklistState:
        states = {agent.state for agent in self.components_of(stream)}
        if not states:
            return old
        if AgentState.FAILED in states:
            return ChecklistState.FAILED
        if states == {AgentState.COMPLETED}:
            return ChecklistState.COMPLETED
        return old if states <= _SETTLED else ChecklistState.RUNNING  # silence alone decides nothing

    def _whole(self) -> AgentState:
        if self._closed:
            return AgentState.CLOSED
        checklists = {self._states[at] for (at, _), _ in self._in_use()}
        if checklists == {ChecklistState.FAILED}:
            return AgentState.FAILED
        states = {agent.state for _, agent in self._in_use()}
        if not states:
            return AgentState.CLOSED
        if ChecklistState.FAILED in checklists or not states <= _CONNECTED:
            is_new = states == {AgentState.NEW} and self._standing.state is AgentState.NEW
            return AgentState.NEW if is_new else AgentState.CHECKING
        if AgentState.DISCONNECTED in states:
            return AgentState.DISCONNECTED
        return AgentState.COMPLETED if states == {AgentState.COMPLETED} else AgentState.CONNECTED
