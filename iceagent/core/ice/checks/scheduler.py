"""The pacing of checks: RFC 8445 sections 6.1.4.2 and 14.2."""

from __future__ import annotations

from iceagent.core.ice.checks.transactions import CheckKind
from iceagent.core.ice.choice.controller import CheckQuestion
from iceagent.core.ice.choice.decisions import facts_of
from iceagent.core.ice.context import Context
from iceagent.core.ice.model.pair import CheckPair, PairState


class Scheduler:
    """Sends one new check per Ta, triggered ones first; after a pause of Ta the first one goes at once.

    Where several components share the slots, `checklist_set` says whose turn it is, and calls `send_next`.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reserved_at: float | None = None  # when all agents together leave us room for one check

    def advance(self, now: float) -> None:
        """Send the next check if its slot has come."""
        context = self._context
        if (
            context.membership is not None
            or not context.running
            or now < context.slots.next_at
            or not self._has_check()
        ):
            return
        if self._reserved_at is None:
            self._reserved_at = now if context.pacer is None else context.pacer.reserve(now)
        if now < self._reserved_at:
            return
        self._reserved_at = None
        self.send_next(now)

    def send_next(self, now: float) -> None:
        """Use the slot for the check that the controller chooses, if any."""
        context = self._context
        context.slots.next_at, context.slots.used_by = now + context.ta_s, context
        pair = self._choose(now)
        if pair is not None:
            context.checklist.untrigger(pair)
            self._check(now, pair)

    def next_timeout(self) -> float | None:
        """Return the time of the next slot if a check is there to use it."""
        context = self._context
        if context.membership is not None or not context.running:
            return None
        if self._has_check():
            # The other session of a restart may have used the slot of a reserved time.
            next_at = context.slots.next_at
            return next_at if self._reserved_at is None else max(next_at, self._reserved_at)
        return None

    def _has_check(self) -> bool:
        checklist = self._context.checklist
        return bool(checklist.triggered) or (self._may_check() and checklist.has_ordinary())

    def _may_check(self) -> bool:
        return self._context.checks_by_itself and not self._context.concluded

    def _choose(self, now: float) -> CheckPair | None:
        context = self._context
        triggered = context.checklist.triggered
        waiting = context.checklist.waiting() if self._may_check() else []
        selected = None if context.selected is None else context.selected.facts()
        question = CheckQuestion(facts_of(triggered), facts_of(waiting), selected, now)
        return context.decisions.check(question, (*triggered, *waiting))

    def _check(self, now: float, pair: CheckPair) -> None:
        context = self._context
        if pair.checked_at is None:
            pair.checked_at = now
        if pair.state is PairState.SUCCEEDED:  # asked to confirm a backup whose consent has aged
            context.start_check(now, pair, CheckKind.PROBE)
            return
        context.checklist.set_state(pair, PairState.WAITING)
        pair.check = context.start_check(now, pair, CheckKind.ORDINARY)
        context.checklist.set_state(pair, PairState.IN_PROGRESS)
