"""When checks go, and how long they wait for an answer: RFC 8445 sections 6.1.4.2, 14.2 and 14.3."""

from __future__ import annotations

from iceagent.core import constants
from iceagent.core.ice.checks.transactions import rto_s
from iceagent.core.ice.choice.controller import CheckQuestion
from iceagent.core.ice.choice.decisions import facts_of
from iceagent.core.ice.facts import SessionFacts
from iceagent.core.ice.model.checklist import Checklist
from iceagent.core.ice.model.pair import Check, CheckKind, CheckPair, PairState


class Scheduler:
    """Sends one new check per Ta, triggered ones first; after a pause of Ta the first one goes at once.

    Where several components share the slots, `checklist_set` says whose turn it is, and calls `send_next`.
    """

    def __init__(self, facts: SessionFacts) -> None:
        self._facts = facts
        self._reserved_at: float | None = None  # when all agents together leave us room for one check

    def advance(self, now: float) -> None:
        """Send the next check if its slot has come."""
        facts = self._facts
        if facts.membership is not None or not facts.running or now < facts.slots.next_at or not self._has_check():
            return
        if self._reserved_at is None:
            self._reserved_at = now if facts.pacer is None else facts.pacer.reserve(now)
        if now < self._reserved_at:
            return
        self._reserved_at = None
        self.send_next(now)

    def send_next(self, now: float) -> None:
        """Use the slot for the check that the controller chooses, if any."""
        facts = self._facts
        facts.slots.use(facts, now + facts.ta_s)
        pair = self._choose(now)
        if pair is not None:
            facts.checklist.untrigger(pair)
            self._check(now, pair)

    def next_timeout(self) -> float | None:
        """Return the time of the next slot if a check is there to use it."""
        facts = self._facts
        if facts.membership is not None or not facts.running:
            return None
        if self._has_check():
            # The other session of a restart may have used the slot of a reserved time.
            next_at = facts.slots.next_at
            return next_at if self._reserved_at is None else max(next_at, self._reserved_at)
        return None

    def _has_check(self) -> bool:
        checklist = self._facts.checklist
        return bool(checklist.triggered) or (self._may_check() and checklist.has_ordinary())

    def _may_check(self) -> bool:
        return self._facts.checks_by_itself and not self._facts.concluded

    def _choose(self, now: float) -> CheckPair | None:
        facts = self._facts
        triggered = facts.checklist.triggered
        waiting = facts.checklist.waiting() if self._may_check() else []
        selected = None if facts.selected is None else facts.selected.facts()
        question = CheckQuestion(facts_of(triggered), facts_of(waiting), selected, now)
        return facts.decisions.check(question, (*triggered, *waiting))

    def _check(self, now: float, pair: CheckPair) -> None:
        facts = self._facts
        if pair.checked_at is None:
            pair.checked_at = now
        if pair.state is PairState.SUCCEEDED:  # asked to confirm a backup whose consent has aged
            start_check(facts, now, pair, CheckKind.PROBE)
            return
        facts.checklist.set_state(pair, PairState.WAITING)
        pair.check = start_check(facts, now, pair, CheckKind.ORDINARY)
        facts.checklist.set_state(pair, PairState.IN_PROGRESS)


def start_check(facts: SessionFacts, now: float, pair: CheckPair, kind: CheckKind) -> Check:
    """Send a check of a pair with the timeout that suits the checklist."""
    steady, sends = False, None
    if kind is CheckKind.ORDINARY:
        in_progress = facts.checklist.count(PairState.IN_PROGRESS)
        rto = rto_s(*_checks_ahead(facts.checklist, in_progress), facts.ta_s)
        steady = (facts.steady or pair.heard) and in_progress < constants.MAX_STEADY_CHECKS
        sends = constants.CHECK_RC if pair.heard else None  # what caused it may have been a replay
    elif kind is CheckKind.PROBE:
        half_rtt_s = (pair.rtt_s or constants.PROBE_RTT_S) / 2
        rto = min(max(constants.PROBE_RTO_MIN_S, half_rtt_s), constants.PROBE_RTO_MAX_S)
        sends = None if pair is facts.data_pair else constants.CHECK_RC
    else:
        rto = rto_s(0, 0)
    if kind is CheckKind.NOMINATION and facts.renominates:
        facts.nominations.draw()
    nominates = _nominates(facts, pair, kind)
    nomination = facts.nominations.highest if nominates and facts.renominates else 0
    return facts.runner.start(
        now, pair, kind, rto, use_candidate=nominates, nomination=nomination, steady=steady, sends=sends
    )


def _checks_ahead(checklist: Checklist, in_progress: int) -> tuple[int, int]:
    """Return how many pairs wait and are being checked, in the whole checklist set (RFC 8445 section 14.3)."""
    if checklist.in_set is None:
        return checklist.count(PairState.WAITING), in_progress
    lists = checklist.in_set.undecided()
    return sum(one.count(PairState.WAITING) for one in lists), sum(one.count(PairState.IN_PROGRESS) for one in lists)


def _nominates(facts: SessionFacts, pair: CheckPair, kind: CheckKind) -> bool:
    # Consent checks of the pair we nominated say so again: an answer to an earlier nomination of another pair may
    # have been lost, and then the peer would use that one. RFC 8445 section 8.1.1 forbids to nominate another
    # pair, not to repeat oneself.
    if kind is CheckKind.NOMINATION:
        return True
    # Over TCP the probe goes first over a connection that replaces a broken one, of which the peer knows nothing.
    repeats = kind is CheckKind.CONSENT or (kind is CheckKind.PROBE and pair.is_tcp)
    return repeats and facts.roles.controlling and pair is facts.selected and not facts.health.faltering
