"""Checks of other pairs while one is selected, in search of a better one."""

from __future__ import annotations

import math

from iceagent.core import constants
from iceagent.core.ice.choice.controller import SearchQuestion
from iceagent.core.ice.choice.decisions import best_first, facts_of
from iceagent.core.ice.facts import SessionFacts
from iceagent.core.ice.model.pair import CheckPair, PairState


class PairSearch:
    """Asks the controller which pairs to check beside the selected one, and triggers their checks.

    RFC 8445 section 8.1.2 ends all checks once a pair is selected. Deviation: where both agents know renomination, a
    direct path that comes late is still worth having; a line that loses packets may have cost it its first checks.
    """

    def __init__(self, facts: SessionFacts) -> None:
        self._facts = facts
        self._rounds = 0
        self._last_at = 0.0
        self._at: float | None = None
        self._asked: tuple[float, int] = (float("-inf"), 0)  # when, and how many pairs there were
        self._selected: CheckPair | None = None

    def begin(self, now: float) -> set[CheckPair]:
        """A pair was selected, or answers again: return the pairs whose checks go on beside it."""
        if self._facts.selected is not self._selected:
            self._selected = self._facts.selected
            self._rounds, self._last_at = 0, now
        return self._ask(now, (PairState.FROZEN, PairState.WAITING, PairState.IN_PROGRESS))

    def advance(self, now: float) -> None:
        """Ask when the answer of last time has fallen due, or may have become another one."""
        asked_at, pairs = self._asked
        due = self._at is not None and now >= self._at
        if due or len(self._facts.checklist.pairs) != pairs or now >= asked_at + constants.SEARCH_FLOOR_S:
            self._ask(now, (PairState.FROZEN, PairState.WAITING))

    def next_timeout(self) -> float | None:
        """Return when the next round is due."""
        return self._at if self._facts.concluded else None

    def _ask(self, now: float, states: tuple[PairState, ...]) -> set[CheckPair]:
        facts = self._facts
        self._at = None
        if not facts.renominates or facts.config.lite or facts.selected is None:
            return set()
        self._asked = (now, len(facts.checklist.pairs))
        others = best_first(pair for pair in facts.checklist if pair is not facts.selected and not pair.consent_lost)
        unchecked = [pair for pair in others if pair.state in states]
        failed = [pair for pair in others if pair.state is PairState.FAILED and pair.is_vouched_for]
        question = SearchQuestion(
            facts.selected.facts(), facts_of(unchecked), facts_of(failed), self._rounds, self._last_at, now
        )
        plan = facts.decisions.search(question, (*unchecked, *failed))
        if plan is None:
            return set()
        pairs, at = plan
        if any(pair.state is PairState.FAILED for pair in pairs):
            at = max(at, self._last_at + constants.SEARCH_FLOOR_S)
        if at > now:
            self._at = at if math.isfinite(at) else None
            return set()
        return self._check(now, pairs)

    def _check(self, now: float, pairs: list[CheckPair]) -> set[CheckPair]:
        checklist = self._facts.checklist
        again = [pair for pair in pairs if pair.state is PairState.FAILED][: constants.MAX_SEARCHED]
        if again:
            self._rounds += 1
            self._last_at = now
        wanted = [pair for pair in pairs if pair.state is not PairState.FAILED] + again
        for pair in wanted:
            if pair.state is not PairState.IN_PROGRESS:
                checklist.set_state(pair, PairState.WAITING)
                checklist.trigger(pair)
        return set(wanted)
