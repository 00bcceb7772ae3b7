"""The ICE agent, sans-IO: bytes, events and explicit time. A thin interface to the parts, one file each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING

from iceagent.core import constants, stun
from iceagent.core.address import TransportAddress
from iceagent.core.ice.checks.pacer import Pacer, Slots
from iceagent.core.ice.checks.probe import Probing
from iceagent.core.ice.checks.scheduler import Scheduler
from iceagent.core.ice.checks.signs import CredentialSigns
from iceagent.core.ice.config import IceConfig
from iceagent.core.ice.events import AgentState, DropReason, Effect, IceEvent, Received
from iceagent.core.ice.facts import Activity, SessionFacts
from iceagent.core.ice.model.candidate import Candidate
from iceagent.core.ice.model.credentials import Credentials, generate_credentials
from iceagent.core.ice.model.pair import CandidatePair, PathAddresses
from iceagent.core.ice.outbox import Outbox
from iceagent.core.ice.report import PairReport
from iceagent.core.ice.roles import Role, RoleKeeper
from iceagent.core.ice.sessions import Sessions, read_message
from iceagent.core.transmit import Transmit

if TYPE_CHECKING:
    from iceagent.core.ice.membership import Membership

_DEFAULT_CONFIG = IceConfig()


class IceAgent:
    """ICE with one peer, or the part of it that is one component of one data stream (RFC 8445); see `StreamSet`.

    It holds one session, and after a restart (RFC 8445 section 9) up to three kinds: the *current* one, which the
    latest credentials and candidates belong to; the *carrier*, whose path data takes, until the current one has a
    nominated pair; and *retired* ones, which answer checks until the peer's consent to them has ended.

    Use: call one method that changes something, then drain `poll_transmit` and `poll_event`, then wait for a datagram
    or `next_timeout`. Times are seconds of one monotonic clock. No method raises for anything the network or the peer
    did. Local addresses are those of sockets, that is the bases of candidates.

    Attributes:
        activity: the shell sets `activity.unheard_since` to the present as it sends data and finds None there, and to
            None when data of a validated path came; then `next_timeout` is another. So a path that dies in mid-transfer
            is noticed within half a second; without it, with the next consent check.

    Args:
        role: CONTROLLED for a lite agent, else CONTROLLING for the side that starts (RFC 8445 section 6.1.1); a
            conflict settles itself.
        randbytes: source of unpredictable bytes, such as `secrets.token_bytes`.
        config: settings.
        credentials: our own; fresh ones by default.
        pacer: shared by the agents of a machine, so that together they pace their checks, too.
        membership: its place among the components of a `StreamSet`, which gives it.
    """

    def __init__(
        self,
        *,
        role: Role,
        randbytes: Callable[[int], bytes],
        config: IceConfig = _DEFAULT_CONFIG,
        credentials: Credentials | None = None,
        pacer: Pacer | None = None,
        membership: Membership | None = None,
    ) -> None:
        if config.lite and role is not Role.CONTROLLED:
            raise ValueError("a lite agent is controlled (RFC 8445 section 6.1.1)")
        self._randbytes = randbytes
        self._membership = membership
        self._outbox = out = Outbox()
        self._roles = roles = RoleKeeper(role, randbytes) if membership is None else membership.in_set.roles
        self._slots = slots = Slots()
        self.activity = activity = Activity()
        new_facts = partial(SessionFacts, out, roles, randbytes, config, activity=activity, slots=slots)
        new_facts = partial(new_facts, pacer=pacer, membership=membership)
        first = credentials or generate_credentials(randbytes)
        self._sessions = Sessions(out, new_facts, first, slots, membership)
        self._signalled: tuple[Credentials, ...] = ()  # the peer's, in the order of their coming
        self._due: float | None = None  # what `next_timeout` said, good until the next mutation
        self._due_known = False
        self._due_unheard_since: float | None = None
        self._driven_at = float("-inf")  # when a datagram or a timeout was last dealt with

    def current_facts(self) -> SessionFacts:
        """For the checklist set: the facts of the session that candidates and credentials belong to."""
        return self._sessions.current.facts

    def schedules(self) -> tuple[tuple[SessionFacts, Scheduler], ...]:
        """For the checklist set: the facts and the scheduler of each session that may have a check to send."""
        return tuple((session.facts, session.scheduler) for session in self._sessions.live())

    def note_slot_used(self, next_slot_at: float) -> None:
        """For the checklist set: take note that some component has sent a check, and when the next may go."""
        self._due_known = False
        self._slots.postpone(next_slot_at)

    def settle_alone(self, now: float) -> None:
        """For the checklist set: let every session do what the new facts call for."""
        self._due_known = False
        self._sessions.settle(now)

    # What is.

    @property
    def component(self) -> int:
        """The component id of its candidates: 1, but for further components of a `StreamSet`."""
        return 1 if self._membership is None else self._membership.component

    @property
    def credentials(self) -> Credentials:
        """Our username fragment and password, to be sent to the peer; a restart makes new ones."""
        return self._sessions.current.facts.keys.local

    @property
    def remote_credentials(self) -> Credentials | None:
        """The peer's, or None before they came, as after a restart of ours."""
        return self._sessions.current.facts.keys.remote

    @property
    def generation(self) -> int:
        """How many restarts there have been; candidates belong to one generation."""
        return self._sessions.generation

    @property
    def restarting(self) -> bool:
        """Whether a restart is under way that has not led to a path yet."""
        return self._sessions.carrier is not self._sessions.current

    @property
    def stranded(self) -> bool:
        """Whether neither the path in use nor another has answered for a second or two: a restart may find one."""
        return self._sessions.carrier.facts.health.stranded

    @property
    def is_lost(self) -> bool:
        """Whether all paths are lost, and only a restart can find another; until `gives_up_at`, then it fails."""
        return self._sessions.is_lost

    @property
    def path_is_silent(self) -> bool:
        """Whether the path in use goes unanswered, or its socket is gone, though consent to it may have time left."""
        return self._sessions.carrier.facts.health.silent or self.stranded

    @property
    def gives_up_at(self) -> float:
        """When a connected agent fails if nothing answers from now on, as far as that can be known now.

        It may be later: what is being tried as that moment comes is awaited.
        """
        return self._sessions.gives_up_at

    @property
    def heard_at(self) -> float:
        """When the peer last answered on any pair, those of sessions before a restart included; 0 for never."""
        return self._sessions.carrier.facts.health.heard_at

    @property
    def role(self) -> Role:
        """Our present role."""
        return self._roles.role

    @property
    def state(self) -> AgentState:
        """Where the session stands."""
        return self._sessions.standing.state

    @property
    def selected_pair(self) -> CandidatePair | None:
        """The pair both agents agreed on, or None before nomination and after the end."""
        selected = self._sessions.carrier.facts.selected
        return None if selected is None else selected.view()

    @property
    def pairs(self) -> tuple[CandidatePair, ...]:
        """All pairs of the checklist, best first; during a restart those of the session before follow."""
        return tuple(view for session in self._sessions.live() for view in session.views())

    @property
    def current_pairs(self) -> tuple[CandidatePair, ...]:
        """The pairs that were formed since the last restart, best first."""
        return tuple(self._sessions.current.views())

    def pair_reports(self) -> tuple[PairReport, ...]:
        """Return all pairs with what they have counted, in the order of `pairs`."""
        return tuple(report for session in self._sessions.live() for report in session.pair_reports())

    @property
    def signs(self) -> CredentialSigns:
        """What messages say about who holds whose credentials (live object, do not change)."""
        return self._sessions.current.facts.runner.signs

    @property
    def local_candidates(self) -> tuple[Candidate, ...]:
        """Our candidates since the last restart, peer-reflexive ones included, oldest first."""
        return tuple(self._sessions.current.facts.table.local.values())

    @property
    def remote_candidates(self) -> tuple[Candidate, ...]:
        """The peer's candidates since the last restart, peer-reflexive ones included, oldest first."""
        return tuple(self._sessions.current.facts.table.remote.values())

    @property
    def remote_candidates_ended(self) -> bool:
        """Whether the peer has said, since the last restart, that no more candidates follow (RFC 8838 section 13)."""
        return self._sessions.current.facts.table.remote_ended

    @property
    def counters(self) -> Counter[DropReason]:
        """How often each thing was dropped or refused (live object, do not change)."""
        return self._outbox.counters

    @property
    def checks_sent(self) -> int:
        """Requests sent so far: checks, their retransmissions, nomination and consent."""
        return self._sessions.checks_sent

    @property
    def probing(self) -> Probing:
        """What techniques that guess at addresses need of the current session."""
        return Probing(self._sessions.current.facts)

    def is_validated(self, local: TransportAddress, remote: TransportAddress) -> bool:
        """Whether data from `remote` at the socket `local` may reach the user; one set lookup."""
        path = (local, remote)
        return path in self._sessions.current.facts.validated or any(path in paths for paths in self._sessions.older)

    def uses_path(self, local: TransportAddress, remote: TransportAddress) -> bool:
        """Whether a TCP connection is worth keeping: its path is valid, being checked, or was checked by the peer."""
        path = (local, remote)
        return self.is_validated(local, remote) or any(session.uses_path(path) for session in self._sessions.live())

    def data_pair(self) -> tuple[TransportAddress, TransportAddress] | None:
        """Return (local base, remote) to send application data on, or None; one attribute.

        It is the selected pair, or before nomination the best valid one (RFC 8445 section 12.1). It ends with consent.
        """
        return self._sessions.data_path

    def other_paths(self, now: float) -> list[PathAddresses]:
        """Return the other paths over UDP, (local base, remote), on which the peer has granted consent; best first."""
        consented = [pair for session in self._sessions.live() for pair in session.facts.consented(now)]
        pairs = [pair for pair in consented if not pair.is_tcp]
        pairs.sort(key=lambda pair: pair.priority, reverse=True)
        return [path for path in dict.fromkeys(pair.path for pair in pairs) if path != self._sessions.data_path]

    # What changes it.

    def set_remote_credentials(
        self,
        now: float,
        credentials: Credentials,
        *,
        lite: bool = False,
        options: Collection[str] = (),
        pacing_s: float = 0.0,
        ours: Credentials | None = None,
    ) -> None:
        """Take the peer's credentials and begin to check.

        Others than those known mean that the peer has restarted (RFC 8445 section 9): unless we had just begun a
        restart of our own, one begins here, and `Restarted` carries our new credentials, which the peer has to get.

        Args:
            now: the present.
            credentials: the peer's. Setting the same ones again does nothing, however many came since: taken for the
                answer to a later restart, they would have both sides answer each other's answers for ever.
            lite: the peer is a lite implementation, so we are controlling (RFC 8445 section 6.1.1).
                Two lite agents never check anything, so they do not get together here.
            options: the ice-options of the peer's description; "renomination" is the one that matters here.
            pacing_s: the Ta that the peer proposes; the higher one of it and ours is used (RFC 8445 section 14.2).
            ours: our new ones, should a restart begin here; fresh ones by default.
        """
        if self._sessions.standing.over or credentials in self._signalled:
            return
        self._signalled = (*self._signalled, credentials)[-constants.MAX_REMOTE_CREDENTIALS :]
        if self._sessions.current.facts.keys.remote is not None:
            self._sessions.restart(now, ours or generate_credentials(self._randbytes), by_peer=True)
        renomination = "renomination" in options
        self._sessions.current.set_remote_credentials(
            now, credentials, lite=lite, renomination=renomination, pacing_s=pacing_s
        )
        self._settle(now)

    def restart(self, now: float, credentials: Credentials | None = None) -> Credentials:
        """Begin an ICE restart; return the new credentials, which the peer has to get.

        Local candidates are to be added anew. The path in use carries data, and is answered for, until a pair of the
        new session is nominated. While the peer's answer to an earlier restart is awaited, or before the first
        credentials of the peer came, nothing changes and the present credentials are returned.

        Args:
            now: the present.
            credentials: our own; fresh ones by default.

        Raises:
            ValueError: the agent has failed or is closed, or `credentials` are not new.

        Source: RFC 8445 section 9.
        """
        if self._sessions.standing.over:
            raise ValueError("the session is over; a new one needs a new agent")
        if self._sessions.current.facts.keys.remote is None:
            return self.credentials
        if credentials is not None and self._sessions.knows(credentials):
            raise ValueError("a restart needs credentials that were not used before")
        self._sessions.restart(now, credentials or generate_credentials(self._randbytes), by_peer=False)
        self._settle(now)
        return self.credentials

    def give_up(self, now: float) -> None:
        """Let `IceConfig.outage_s` end now, since the peer is known to be gone; a path that works is not touched."""
        self._sessions.give_up()
        self._settle(now)

    def add_local_candidate(self, now: float, candidate: Candidate) -> bool:
        """Use a gathered candidate; return False if it is redundant or unusable (see `counters`).

        Source: RFC 8445 sections 5.1.3 and 6.1.2, RFC 8838 section 10.
        """
        if self._sessions.standing.over:
            return False
        added = self._sessions.current.add_local_candidate(now, candidate)
        if self._sessions.carrier is not self._sessions.current and not self._sessions.carrier.facts.over:
            # A restart may never be answered; then the old session finds the new address of ours by itself.
            self._sessions.carrier.add_local_candidate(now, candidate, report=False)
        self._settle(now)
        return added

    def end_of_local_candidates(self, now: float) -> None:
        """Take note that gathering is over."""
        self._sessions.current.facts.table.local_ended = True
        self._settle(now)

    def add_remote_candidate(self, now: float, candidate: Candidate | None) -> bool:
        """Use a candidate of the peer, or with None its end-of-candidates; return False if it was dropped.

        The address must be an IP literal: names (`.local`) are resolved before. Unusable candidates are counted.

        Source: RFC 8838 sections 11 and 13.
        """
        if self._sessions.standing.over:
            return False
        if candidate is None and self._sessions.awaits_answer:
            # Of the candidates before our restart: its own description comes before its candidates and their end.
            self._sessions.carrier.add_remote_candidate(now, None)
            return True
        added = self._sessions.current.add_remote_candidate(now, candidate)
        self._settle(now)
        return added

    def handle_datagram(self, now: float, local: TransportAddress, remote: TransportAddress, data: bytes) -> Received:
        """Deal with a datagram that came from `remote` at the socket bound to `local`; never raises."""
        if self._sessions.standing.over:
            # A failed agent no longer answers either: answers would keep up the peer's consent to a dead session.
            self._outbox.drop(DropReason.SESSION_OVER)
            return Received.DROPPED
        if not stun.looks_like_stun(data):
            return self._handle_data((local, remote), data)
        generation, due = self._roles.generation, self._drive(now)
        is_due = due is not None and due <= now
        result = self._handle_stun(now, local, remote, data, is_due=is_due)
        if result is Effect.SETTLE or is_due or self._roles.generation != generation:
            self._settle(now)
        if isinstance(result, Effect):
            return Received.CONSUMED
        self._outbox.drop(result)
        return Received.DROPPED

    def handle_unreachable(self, now: float, local: TransportAddress, remote: TransportAddress) -> None:
        """Take note of an ICMP error: a datagram from `local` to `remote` did not arrive, they say.

        It concerns that one path and, not being authenticated, fails nothing: checks that are out end
        sooner if nothing answers. Consent is not touched. At a TCP base it says that a connection could not be opened,
        or broke.
        """
        if self._sessions.standing.over:
            return
        self._outbox.drop(DropReason.UNREACHABLE)
        for session in self._sessions.live():
            session.handle_unreachable(now, (local, remote))
        self._settle(now)

    def handle_base_lost(self, now: float, base: TransportAddress) -> None:
        """Take note that the socket of a base is gone, such as a relayed address whose server was restarted.

        Its candidates and pairs are forgotten. If it carried the data, the other pairs are checked, also those of
        candidates added from now on; the session fails only when none of them works while consent lasts.
        """
        if self._sessions.standing.over:
            return
        for session in self._sessions.live():
            session.consent.lose_base(now, base)
        self._settle(now)

    def handle_network_changed(self, now: float) -> None:
        """Take note that this host's network has changed: paths may be dead, or alive again; all are asked at once."""
        if self._sessions.standing.over:
            return
        for session in self._sessions.live():
            session.facts.health.doubt()
            session.facts.runner.hurry(now)
        self._settle(now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due at `now`; call it when `next_timeout` has come, or at any other time."""
        if self._sessions.standing.over:
            return
        self._drive(now)
        if self._is_lone() and self._sessions.current.repeat_consent(now):
            self._follow_consent(now)
            return
        for session in self._sessions.live():
            session.handle_timeout(now)
        self._settle(now)

    def close(self, now: float) -> None:
        """End the session: nothing is sent or answered any more, and no timer is left. Idempotent."""
        del now
        self._sessions.standing.follow(AgentState.CLOSED)
        self._sessions.wind_up()
        self._outbox.transmits.clear()

    # What comes out.

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` wants to be called, or None."""
        if self._sessions.standing.over:
            return None
        unheard_since = self.activity.unheard_since
        if not self._due_known or unheard_since != self._due_unheard_since:
            self._due = self._sessions.next_timeout()
            self._due_known, self._due_unheard_since = True, unheard_since
        if self._membership is not None and self._membership.slot_at is not None:
            return self._membership.slot_at if self._due is None else min(self._due, self._membership.slot_at)
        return self._due

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._outbox.transmits.popleft() if self._outbox.transmits else None

    def poll_event(self) -> IceEvent | None:
        """Return the next event, or None."""
        return self._outbox.events.popleft() if self._outbox.events else None

    # Within.

    def _drive(self, now: float) -> float | None:
        """Return what is due when, having taken note if it should have been done long ago: then we were stopped.

        The answer to a check may have lain in the socket all that time, so what is out now measures no round trip. A
        stop that ends before anything is due, within the first timeout of a check, looks like a slow path.
        """
        due = self.next_timeout()
        if due is not None and now - max(due, self._driven_at) > constants.STOPPED_S:
            for session in self._sessions.live():
                session.facts.runner.note_stop()
        self._driven_at = now
        return due

    def _handle_data(self, path: PathAddresses, data: bytes) -> Received:
        if self.is_validated(*path):
            return Received.APPLICATION_DATA
        holder = next((session for session in self._sessions.live() if session.has_heard(path)), self._sessions.current)
        return holder.hold_data(path, data)

    def _handle_stun(
        self, now: float, local: TransportAddress, remote: TransportAddress, data: bytes, *, is_due: bool
    ) -> DropReason | Effect:
        message = read_message(data)
        if not isinstance(message, stun.Message):
            return Effect.NONE if message is None else message
        if is_due:  # it may be that consent has run out, and then this message comes too late
            for session in self._sessions.live():
                session.consent.expire(now)
        if message.message_class is stun.MessageClass.REQUEST:
            return self._sessions.called(message).requests.handle(now, local, remote, message)
        effect = self._sessions.asked(message).handle_response(now, local, remote, message)
        if effect is Effect.NONE:
            self._follow_consent(now)
        return effect

    def _is_lone(self) -> bool:
        """Whether there is but one session, and but one component."""
        return self._membership is None and not self._sessions.older

    def _follow_consent(self, now: float) -> None:
        """Learn when something is due next, after a consent check of the path in use, or its answer."""
        due = self._sessions.current.timeout_when_calm(now) if self._is_lone() and self._due_known else None
        self._due_known = due is not None
        self._due, self._due_unheard_since = due, self.activity.unheard_since

    def _settle(self, now: float) -> None:
        """Let every session do what the new facts call for, and those that share its checks; draw the conclusions."""
        self.settle_alone(now)
        if self._membership is not None:
            self._membership.in_set.settle(now)
