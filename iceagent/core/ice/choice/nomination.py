"""The valid list, nomination and the selected pair: RFC 8445 sections 7.2.5.3.2 to 7.2.5.3.4, 7.3.1.5 and 8.1."""

from __future__ import annotations

import math

from iceagent.core import constants
from iceagent.core.ice.checks.scheduler import start_check
from iceagent.core.ice.choice.controller import NominationQuestion, SwitchQuestion
from iceagent.core.ice.choice.decisions import best_first, facts_of
from iceagent.core.ice.choice.search import PairSearch
from iceagent.core.ice.events import HeldDataReleased, PairNominated, PairValidated, RoleChanged, SelectedPairChanged
from iceagent.core.ice.facts import SessionFacts
from iceagent.core.ice.model.candidate import Candidate
from iceagent.core.ice.model.pair import Check, CheckKind, CheckPair, PairState


class Nominator:
    """Keeps the valid list and decides, with the controller, which of it carries data."""

    def __init__(self, facts: SessionFacts) -> None:
        self._facts = facts
        self._nominating: Check | None = None
        self._deadline: float | None = None
        self._first_valid_at: float | None = None
        self._search = PairSearch(facts)

    # The valid list.

    def validate(self, now: float, pair: CheckPair, local: Candidate) -> None:
        """Put a pair on the valid list: its check was answered, and the peer sees us as `local`."""
        facts = self._facts
        pair.last_response_at = now
        facts.health.hear(now)
        known, pair.valid_local = pair.valid_local, local
        pair.rank(facts.roles.controlling)
        if known is None:
            if self._first_valid_at is None:
                self._first_valid_at = now
            facts.validated.add(pair.path)
            facts.outbox.emit(PairValidated(pair.view()))
            held = facts.held.release(pair.path)
            if held:
                facts.outbox.emit(HeldDataReleased(pair.base, pair.destination, held))

    def invalidate(self, now: float, pair: CheckPair) -> None:
        """Take a pair off the valid list, for good.

        What still arrives on it is delivered: RFC 7675 forbids to send, and the peer may well have consent.
        """
        facts = self._facts
        pair.consent_lost = True
        pair.valid_local = None
        pair.nominated = pair.nominate_on_success = False
        facts.checklist.untrigger(pair)
        facts.runner.discard_pair(pair)
        if self._nominating is not None and self._nominating.pair is pair:
            self._nominating = None
        facts.checklist.set_state(pair, PairState.FAILED)
        self.refresh(now)

    # Nominating.

    def nominated(self, now: float, pair: CheckPair) -> None:
        """Set the nominated flag of a valid pair, and select it if it is the one to use."""
        facts = self._facts
        selected = facts.selected
        if self._nominating is not None and self._nominating.pair is pair:
            self._nominating = None
        if selected is pair:
            return
        # With renomination the newest counts: values have been compared (draft-thatcher-ice-renomination section 4).
        # RFC 8445 section 8.1.1: of several nominated pairs, that is of an aggressive peer's, the one with the highest
        # priority counts. Deviation: three seconds after the first (section 8.3.1) a further nomination means that the
        # peer's path broke, so then, and whenever we nominated, the newest one counts alone. When the peer nominated
        # is what matters; our own check of the pair may have been answered long after.
        settled_at = facts.selected_at + constants.NOMINATION_SETTLE_S
        if selected is not None and now >= settled_at and self._was_overtaken(pair, selected):
            self.refresh(now)
            return
        said_at = now if facts.roles.controlling else pair.nominated_at
        settled = selected is not None and said_at >= settled_at
        is_ours = facts.roles.controlling or facts.renominates
        if is_ours or settled or facts.health.faltering:
            if selected is not None:
                selected.nominated = False
            self._overtake(pair)
        if not pair.nominated:
            pair.nominated = True
            facts.outbox.emit(PairNominated(pair.view()))
        self.refresh(now)

    def _was_overtaken(self, pair: CheckPair, selected: CheckPair) -> bool:
        """Return whether the peer nominated a pair before the selected one, and it is only answered now."""
        return not self._facts.roles.controlling and pair.nominated_as < selected.nominated_as

    def _overtake(self, newest: CheckPair) -> None:
        """Forget the nominations before this one whose pairs still wait for an answer; those after it stand."""
        for other in self._facts.checklist:
            if self._facts.roles.controlling or other.nominated_as <= newest.nominated_as:
                other.nominate_on_success = False

    def nomination_ended(self, check: Check) -> None:
        """A nominating check got no answer, or an unusable one: the next best valid pair is nominated, or it again."""
        if self._nominating is check:
            self._nominating = None
            check.pair.nomination_failures += 1

    def role_changed(self, *, told: bool = False) -> None:
        """Order the pairs by the new role (RFC 8445 section 7.3.1.1), and stop nominating if that is ours no longer.

        Args:
            told: another session of the agent has reported the new role already.
        """
        facts = self._facts
        facts.checklist.rank_all(facts.roles.controlling)
        if not told:
            facts.outbox.emit(RoleChanged(facts.roles.role))
        if not facts.roles.controlling:
            facts.runner.cancel(self._nominating)
            self._nominating = self._deadline = None

    def advance(self, now: float) -> None:
        """Nominate and look for better pairs if it is time to."""
        self._deadline = None
        facts = self._facts
        if not facts.checks_by_itself:
            return
        if facts.concluded:
            self._search.advance(now)
        if not facts.roles.controlling or self._nominating is not None:
            return
        chosen = self._choose_switch(now) if facts.concluded else self._choose_nomination(now)
        if chosen is None:
            return
        pair, at = chosen
        if at > now:
            self._deadline = at if math.isfinite(at) else None
            return
        # Deviation from RFC 8445 section 8.1.1: the nominating check does not wait for a slot of Ta. Pacing protects
        # the network from checks that may go nowhere; this one repeats a check that has just been answered.
        self._nominating = start_check(facts, now, pair, CheckKind.NOMINATION)

    def next_timeout(self) -> float | None:
        """Return when the controller wants to be asked again."""
        times = (self._deadline, self._search.next_timeout())
        return min((at for at in times if at is not None), default=None)

    # Selecting.

    def forget(self) -> None:
        """Select nothing any more: the session is over."""
        facts = self._facts
        facts.data_pair = facts.selected = None
        facts.data_path = None

    def refresh(self, now: float) -> None:
        """Choose anew which pair is selected and which carries data."""
        facts = self._facts
        usable = facts.consented(now)
        silent = facts.data_pair if facts.health.faltering else None
        selected = max(
            (pair for pair in usable if pair.nominated), key=lambda p: (p is not silent, p.priority), default=None
        )
        if selected is not facts.selected:
            facts.selected = selected
            facts.selected_at = now
            if selected is not None:
                self._conclude(now, selected)
            facts.outbox.emit(SelectedPairChanged(None if selected is None else selected.view()))
        data_pair = selected or max(usable, key=lambda p: (p is not silent, p.priority), default=None)
        if data_pair is not facts.data_pair:
            facts.data_pair = data_pair
            facts.data_path = None if data_pair is None else data_pair.path
            facts.health.recover()

    def recovered(self, now: float) -> None:
        """Stop looking for other paths: the one in use answers again."""
        if self._facts.selected is not None:
            self._conclude(now, self._facts.selected)

    def _conclude(self, now: float, selected: CheckPair) -> None:
        # RFC 8445 section 8.1.2. Pairs not yet checked stay in the list, unchecked: they are what is left to try
        # should the selected path go silent.
        facts = self._facts
        wanted = self._search.begin(now)
        for pair in facts.checklist:
            if pair is selected or pair in wanted or pair.nominate_on_success:
                continue
            facts.checklist.untrigger(pair)
            if pair.state is PairState.IN_PROGRESS:
                facts.runner.cancel(pair.check)
                pair.check = None
                facts.checklist.set_state(pair, PairState.WAITING)

    def _usable(self, now: float) -> list[CheckPair]:
        """Return the valid pairs that are not selected, best first."""
        facts = self._facts
        if facts.selected is not None and len(facts.validated) < 2:
            return []
        usable = [pair for pair in facts.consented(now) if pair is not facts.selected]
        usable.sort(key=lambda pair: (pair.nomination_failures, -pair.priority))
        return usable

    def _choose_nomination(self, now: float) -> tuple[CheckPair, float] | None:
        facts = self._facts
        silent = facts.data_pair if facts.health.faltering else None
        offered = [
            pair
            for pair in self._usable(now)
            if silent is None or pair.last_response_at > max(silent.last_response_at, facts.health.suspected_at)
        ]
        if not offered:
            return None
        question = NominationQuestion(
            valid=facts_of(offered),
            pending=facts_of(best_first(pair for pair in facts.checklist if pair.is_pending)),
            selected=None if facts.selected is None else facts.selected.facts(),
            first_valid_at=now if self._first_valid_at is None else self._first_valid_at,
            next_slot_at=facts.slots.next_at,
            ta_s=facts.ta_s,
            all_candidates_known=facts.table.complete,
            renominates=facts.renominates,
            now=now,
            turns=1 if facts.membership is None else facts.membership.in_set.turns(facts.membership.stream),
        )
        return facts.decisions.nomination(question, offered)

    def _choose_switch(self, now: float) -> tuple[CheckPair, float] | None:
        """Return the valid pair to switch to for its own sake, if both agents know renomination."""
        facts, selected = self._facts, self._facts.selected
        if not facts.renominates or selected is None:
            return None
        offered = self._usable(now)
        if not offered:
            return None
        question = SwitchQuestion(selected.facts(), facts_of(offered), facts.selected_at, now)
        chosen = facts.decisions.switch(question, offered)
        if chosen is None:
            return None
        return chosen[0], max(chosen[1], facts.selected_at + constants.SWITCH_FLOOR_S)
