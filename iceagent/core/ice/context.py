"""What the parts of one ICE session share: its facts, in one place, and some properties derived from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iceagent.core import constants
from iceagent.core.ice.checks.pacer import Pacer
from iceagent.core.ice.checks.transactions import Check, CheckKind, CheckRunner, rto_s
from iceagent.core.ice.choice.decisions import Decisions
from iceagent.core.ice.config import IceConfig
from iceagent.core.ice.events import AgentState, DropReason, PairStateChanged, RoleChanged
from iceagent.core.ice.health.path import PathHealth
from iceagent.core.ice.model.candidate import Candidate
from iceagent.core.ice.model.candidates import Added, CandidateTable
from iceagent.core.ice.model.checklist import Checklist
from iceagent.core.ice.model.credentials import Credentials, KeyRing
from iceagent.core.ice.model.pair import CheckPair, PairState, PathAddresses
from iceagent.core.ice.model.priority import CandidateType
from iceagent.core.ice.outbox import HeldData, Outbox
from iceagent.core.ice.roles import RoleKeeper

if TYPE_CHECKING:
    from iceagent.core.ice.membership import Membership


@dataclass(slots=True)
class Slots:
    """The slots of Ta, in which an agent's new checks go: one row of them for all its sessions (RFC 8445 section 14.2).

    Attributes:
        next_at: before this no new check is sent.
        used_by: the session that sent the last one; another that has a check comes first then.
    """

    next_at: float = float("-inf")
    used_by: Context | None = None


@dataclass(slots=True)
class Activity:
    """What application data shows about the path, in addition to all checks.

    `unheard_since`: when the first datagram was sent after the last one, or answer, that came; None if none was. The
    shell sets both ends of it, without a call: see `IceAgent.activity`.
    """

    unheard_since: float | None = None


class Context:
    """The shared facts of a session.

    Attributes:
        decisions: what the controller says.
        selected: the nominated pair data goes over, or None.
        data_pair: `selected`, or before nomination the best valid pair, or None.
        data_path: (base, remote) of `data_pair`; kept here so that the data path costs one attribute.
        validated: the paths from which data may reach the user.
        health: how the data pair fares.
        started_at: when the peer's credentials came, from which patience counts; None before.
        ta_s: Ta, the higher one of what the two agents propose.
        slots: when new checks may be sent (Ta); shared by the sessions of an agent.
        loss: why the last path was lost, in words.
        failure: why the session failed, in words.
        retired: another session carries the data; this one only answers.
        steady: checks are retransmitted every second, not ever more seldom: after a restart the path often is away for
            a while, and the user waits for the moment it is back.
        alone_since: for a session begun by a restart, since when no older one has carried data; None while one does.
        restarted_at: for a session begun by a restart, when.
        candidate_at: when the last candidate of either side came; those that checks reveal do not count.
        selected_at: when the selected pair last changed.
        activity: of application data.
        pacer: paces the checks of all agents of the machine, or None.
        membership: that this component is one of several in a checklist set, or None if it is the only one.
        renominates: both agents know draft-thatcher-ice-renomination.
        nomination: the highest value of NOMINATION sent or received.
        nominations_heard: how many nominations the peer has sent, repetitions counted.
    """

    def __init__(
        self,
        outbox: Outbox,
        roles: RoleKeeper,
        randbytes: Callable[[int], bytes],
        config: IceConfig,
        credentials: Credentials,
        activity: Activity,
        slots: Slots,
        pacer: Pacer | None = None,
        membership: Membership | None = None,
    ) -> None:
        self.config = config
        self.randbytes = randbytes
        self.outbox = outbox
        self.keys = KeyRing(credentials)
        self.roles = roles
        self.decisions = Decisions(config.controller, outbox)
        self.membership = membership
        component = 1 if membership is None else membership.component
        self.table = CandidateTable(config.max_local_candidates, config.max_remote_candidates, component)
        self.checklist = Checklist(config.max_pairs, self._pair_moved)
        self.runner = CheckRunner(self.outbox, self.keys, self.roles, randbytes)
        self.held = HeldData()
        self.state = AgentState.NEW
        self.selected: CheckPair | None = None
        self.data_pair: CheckPair | None = None
        self.data_path: PathAddresses | None = None
        self.validated: set[PathAddresses] = set()
        self.health = PathHealth()
        self.started_at: float | None = None
        self.candidate_at = 0.0
        self.selected_at = 0.0
        self.activity = activity
        self.pacer = pacer
        self.renominates = False
        self.nomination = 0
        self.nominations_heard = 0
        self.ta_s = config.ta_s
        self.slots = slots
        self.loss = ""
        self.failure = ""
        self.retired = False
        self.steady = False
        self.alone_since: float | None = None
        self.restarted_at = 0.0
        self.requests_received = 0

    @property
    def running(self) -> bool:
        """Whether the peer's credentials are known, and the session is neither over nor retired."""
        return self.started_at is not None and not self.over and not self.retired

    @property
    def checks_by_itself(self) -> bool:
        """Whether ordinary checks may be sent: a lite agent sends only those that it needs for consent.

        Deviation from RFC 7675 section 1, by which a lite agent asks for no consent. A check that nominates can be
        replayed from a forged source, and then data would go to somebody who never asked for it. So it asks where the
        peer has nominated, and sends data only while it is answered there.
        """
        return self.running and not self.config.lite

    @property
    def over(self) -> bool:
        """Whether the session has failed."""
        return self.state is AgentState.FAILED

    @property
    def concluded(self) -> bool:
        """Whether a pair is selected and answers, so that no further pairs need checking."""
        return self.selected is not None and not self.health.faltering

    def is_settled(self, now: float) -> bool:
        """Return whether a pair was selected so long ago that checks of others are no leftovers of before."""
        return self.concluded and now >= self.selected_at + constants.NOMINATION_SETTLE_S

    def drop(self, reason: DropReason) -> None:
        """Count something that was not done."""
        self.outbox.drop(reason)

    def add_remote(self, candidate: Candidate) -> Added | DropReason:
        """Add a candidate of the peer to the table, in place of one known from checks alone if there is no room.

        Checks can be replayed from forged sources. What they fill the table with must not keep out an address that the
        peer comes to have later.
        """
        added = self.table.add_remote(candidate)
        if added is DropReason.CANDIDATE_LIMIT and (fruitless := self._fruitless_remote()) is not None:
            for pair in [pair for pair in self.checklist if pair.remote == fruitless]:
                self.forget_pair(pair)
            self.table.forget_remote(fruitless)
            added = self.table.add_remote(candidate)
        return added

    def _fruitless_remote(self) -> Candidate | None:
        """Return the oldest candidate known from checks alone that has never answered, and is not being asked."""
        triggered = self.checklist.triggered
        needed = {
            pair.remote
            for pair in self.checklist
            if pair.responses_received or pair.state is PairState.IN_PROGRESS or pair in triggered
        }
        reflexive = (one for one in self.table.remote.values() if one.type is CandidateType.PRFLX)
        return next((one for one in reflexive if one not in needed), None)

    def forget_pair(self, pair: CheckPair) -> None:
        """Take a pair out of everything, with the checks of it."""
        self.runner.discard_pair(pair)
        self.checklist.forget(pair)
        self.validated.discard(pair.path)

    def start_check(self, now: float, pair: CheckPair, kind: CheckKind) -> Check:
        """Send a check of a pair with the timeout that suits the checklist."""
        steady, sends = False, None
        if kind is CheckKind.ORDINARY:
            in_progress = self.checklist.count(PairState.IN_PROGRESS)
            rto = rto_s(*self._checks_ahead(in_progress), self.ta_s)
            steady = (self.steady or pair.heard) and in_progress < constants.MAX_STEADY_CHECKS
            sends = constants.CHECK_RC if pair.heard else None  # what caused it may have been a replay
        elif kind is CheckKind.PROBE:
            half_rtt_s = (pair.rtt_s or constants.PROBE_RTT_S) / 2
            rto = min(max(constants.PROBE_RTO_MIN_S, half_rtt_s), constants.PROBE_RTO_MAX_S)
            sends = None if pair is self.data_pair else constants.CHECK_RC
        else:
            rto = rto_s(0, 0)
        if kind is CheckKind.NOMINATION and self.renominates:
            self.nomination += 1
        nominates = self._nominates(pair, kind)
        nomination = self.nomination if nominates and self.renominates else 0
        return self.runner.start(
            now, pair, kind, rto, use_candidate=nominates, nomination=nomination, steady=steady, sends=sends
        )

    def _checks_ahead(self, in_progress: int) -> tuple[int, int]:
        """Return how many pairs wait and are being checked, in the whole checklist set (RFC 8445 section 14.3)."""
        if self.checklist.in_set is None:
            return self.checklist.count(PairState.WAITING), in_progress
        lists = self.checklist.in_set.undecided()
        return sum(one.count(PairState.WAITING) for one in lists), sum(
            one.count(PairState.IN_PROGRESS) for one in lists
        )

    def _nominates(self, pair: CheckPair, kind: CheckKind) -> bool:
        # Consent checks of the pair we nominated say so again: an answer to an earlier nomination of another pair may
        # have been lost, and then the peer would use that one. RFC 8445 section 8.1.1 forbids to nominate another
        # pair, not to repeat oneself.
        if kind is CheckKind.NOMINATION:
            return True
        # Over TCP the probe goes first over a connection that replaces a broken one, of which the peer knows nothing.
        repeats = kind is CheckKind.CONSENT or (kind is CheckKind.PROBE and pair.is_tcp)
        return repeats and self.roles.controlling and pair is self.selected and not self.health.faltering

    def has_fresh_consent(self, now: float, pair: CheckPair) -> bool:
        """Whether application data may be sent on a pair (RFC 7675 section 5.1)."""
        return pair.is_valid and now < pair.last_response_at + self.config.consent_expiry_s

    def consented(self, now: float) -> list[CheckPair]:
        """Return the pairs on which application data may be sent."""
        return [pair for pair in self.checklist if self.has_fresh_consent(now, pair)]

    def role_changed(self) -> None:
        """Order the pairs by the new role and report it (RFC 8445 section 7.3.1.1)."""
        self.checklist.rank_all(self.roles.controlling)
        self.outbox.emit(RoleChanged(self.roles.role))

    def _pair_moved(self, pair: CheckPair) -> None:
        self.outbox.emit(PairStateChanged(pair.view()))
