"""The facts that the parts of one ICE session share, each written by one of them; and what follows from several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iceagent.core import constants
from iceagent.core.ice.checks.pacer import Pacer, Slots
from iceagent.core.ice.checks.transactions import CheckRunner
from iceagent.core.ice.choice.decisions import Decisions
from iceagent.core.ice.config import IceConfig
from iceagent.core.ice.events import AgentState, PairStateChanged
from iceagent.core.ice.health.path import PathHealth
from iceagent.core.ice.model.candidates import CandidateTable
from iceagent.core.ice.model.checklist import Checklist
from iceagent.core.ice.model.credentials import Credentials, KeyRing
from iceagent.core.ice.model.pair import CheckPair, PathAddresses
from iceagent.core.ice.outbox import HeldData, Outbox
from iceagent.core.ice.roles import RoleKeeper

if TYPE_CHECKING:
    from iceagent.core.ice.membership import Membership


@dataclass(slots=True)
class Activity:
    """What application data shows about the path, in addition to all checks.

    `unheard_since`: when the first datagram was sent after the last one, or answer, that came; None if none was. The
    shell sets both ends of it, without a call: see `IceAgent.activity`.
    """

    unheard_since: float | None = None


@dataclass(slots=True)
class Nominations:
    """How nominations of one session are told apart; written by these methods alone.

    Attributes:
        highest: the highest value of NOMINATION sent or received (draft-thatcher-ice-renomination section 4).
        heard: how many nominations the peer has sent, repetitions counted.
    """

    highest: int = 0
    heard: int = 0

    def draw(self) -> None:
        """Let `highest` be the value of a nomination of ours, above all before."""
        self.highest += 1

    def accept(self, value: int) -> bool:
        """Take the value of a nomination of the peer's; return False for one that a newer one has overtaken."""
        if value < self.highest:
            return False
        self.highest = value
        return True

    def count(self) -> int:
        """Return the number of the peer's nomination that has come."""
        self.heard += 1
        return self.heard


class SessionFacts:
    """The facts of a session. Each is written by one of its parts, which the groups here name, and read by many.

    Attributes:
        outbox, roles, activity, slots, pacer: shared by the sessions of an agent; the last one by all agents, or None.
        membership: that this component is one of several in a checklist set, or None if it is the only one.
        keys, table, checklist, runner, held, decisions, health, nominations: parts with facts of their own.
        validated: the paths from which data may reach the user.
        steady: checks are retransmitted every second, not ever more seldom: after a restart the path often is away for
            a while, and the user waits for the moment it is back.

        *Written by `session`:*
        started_at: when the peer's credentials came, from which patience counts; None before.
        ta_s: Ta, the higher one of what the two agents propose.
        renominates: both agents know draft-thatcher-ice-renomination.
        candidate_at: when the last candidate of either side came; those that checks reveal do not count.
        retired: another session carries the data; this one only answers.

        *By `sessions`:*
        restarted_at: for a session begun by a restart, when.
        alone_since: for such a session, since when no older one has carried data; None while one does.
        outage_s: how long the agent may be without a path, seconds; see `IceConfig`.

        *By `choice.nomination`:*
        selected: the nominated pair data goes over, or None.
        data_pair: `selected`, or before nomination the best valid pair, or None.
        data_path: (base, remote) of `data_pair`; kept here so that the data path costs one attribute.
        selected_at: when the selected pair last changed.

        *By `health.lifecycle`:*
        state: of this session alone.
        failure: why the session failed, in words.

        *By `health.consent`:*
        loss: why the last path was lost, in words.
        revoked: the peer itself has ended it: nothing brings the session back (RFC 7675 section 5.2).

        *By `checks.requests`:*
        requests_received: authenticated checks of the peer.
    """

    def __init__(
        self,
        outbox: Outbox,
        roles: RoleKeeper,
        randbytes: Callable[[int], bytes],
        config: IceConfig,
        credentials: Credentials,
        *,
        activity: Activity,
        slots: Slots,
        pacer: Pacer | None = None,
        membership: Membership | None = None,
        steady: bool = False,
    ) -> None:
        self.config = config
        self.randbytes = randbytes
        self.outbox = outbox
        self.roles = roles
        self.activity = activity
        self.slots = slots
        self.pacer = pacer
        self.membership = membership
        component = 1 if membership is None else membership.component
        self.keys = KeyRing(credentials)
        self.table = CandidateTable(config.max_local_candidates, config.max_remote_candidates, component)
        self.checklist = Checklist(config.max_pairs, lambda pair: outbox.emit(PairStateChanged(pair.view())))
        self.runner = CheckRunner(outbox, self.keys, roles, randbytes)
        self.held = HeldData()
        self.decisions = Decisions(config.controller, outbox)
        self.health = PathHealth()
        self.nominations = Nominations()
        self.validated: set[PathAddresses] = set()
        self.steady = steady
        self.started_at: float | None = None
        self.ta_s = config.ta_s
        self.renominates = False
        self.candidate_at = 0.0
        self.retired = False
        self.restarted_at = 0.0
        self.alone_since: float | None = None
        self.outage_s = config.outage_s
        self.selected: CheckPair | None = None
        self.data_pair: CheckPair | None = None
        self.data_path: PathAddresses | None = None
        self.selected_at = 0.0
        self.state = AgentState.NEW
        self.failure = ""
        self.loss = ""
        self.revoked = False
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

    def has_fresh_consent(self, now: float, pair: CheckPair) -> bool:
        """Whether application data may be sent on a pair (RFC 7675 section 5.1)."""
        return pair.is_valid and now < pair.last_response_at + self.config.consent_expiry_s

    def consented(self, now: float) -> list[CheckPair]:
        """Return the pairs on which application data may be sent."""
        return [pair for pair in self.checklist if self.has_fresh_consent(now, pair)]
