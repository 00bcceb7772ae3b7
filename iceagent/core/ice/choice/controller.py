"""The controller of an ICE session: its policy, separate from the mechanism in the other files.

The mechanism keeps what RFC 8445 demands: pairs and their states, pacing, authentication, consent. A `Controller` is
asked, wherever the RFC leaves a choice, with an immutable question, and answers with one of the pairs in it. It keeps
no state of its own and has no side effects, so that equal questions get equal answers.

`DefaultController` is ours. To change one decision, inherit from it and override one method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from msgspec import Struct

from iceagent.core import constants
from iceagent.core.ice.model.likelihood import Likelihood, by_likelihood, of_pair
from iceagent.core.ice.model.pair import PairFacts
from iceagent.core.ice.model.priority import CandidateType


class CheckQuestion(Struct, frozen=True):
    """A slot of the pacing is free: which pair is checked in it? (RFC 8445 section 6.1.4.2)

    Attributes:
        triggered: pairs that the peer has checked, or that are to be confirmed as backups; first come first.
        waiting: pairs in the Waiting state, highest priority first; none once a pair is selected that answers.
        selected: the selected pair, or None.
        now: the present.
    """

    triggered: tuple[PairFacts, ...]
    waiting: tuple[PairFacts, ...]
    selected: PairFacts | None
    now: float


class Choice(NamedTuple):
    """A pair to nominate and when, absolute seconds; a time not after the question's `now` means at once."""

    pair: PairFacts
    at: float


class NominationQuestion(Struct, frozen=True):
    """We are controlling and have valid pairs: which is nominated, and when? (RFC 8445 section 8.1.1)

    Data may flow on the best valid pair already, so that waiting delays no byte.

    Attributes:
        valid: the pairs that may be nominated; those whose nomination went unanswered most often last, then by
            priority. While the selected pair falters, those that have answered since.
        pending: pairs whose check may yet succeed, highest priority first.
        selected: the selected pair, which falters; None before the first nomination.
        first_valid_at: when the first pair became valid.
        next_slot_at: when the next check may be sent; ours of later ones follow `ta_s * turns` apart.
        ta_s: the pacing, seconds.
        all_candidates_known: both sides have signalled end-of-candidates.
        renominates: another pair may be nominated later; else the first nomination is for good.
        now: the present.
        turns: how many components, we among them, have checks to send and take turns with the slots.
    """

    valid: tuple[PairFacts, ...]
    pending: tuple[PairFacts, ...]
    selected: PairFacts | None
    first_valid_at: float
    next_slot_at: float
    ta_s: float
    all_candidates_known: bool
    renominates: bool
    now: float
    turns: int = 1


class SwitchQuestion(Struct, frozen=True):
    """We are controlling and the selected pair works: does data move to another one for its own sake?

    Asked only where both agents know renomination.

    Attributes:
        selected: the pair in use.
        others: the other valid pairs, in the order of `NominationQuestion.valid`.
        selected_at: when the pair in use was selected; no switch happens within `constants.SWITCH_FLOOR_S` of it.
        now: the present.
    """

    selected: PairFacts
    others: tuple[PairFacts, ...]
    selected_at: float
    now: float


class Search(NamedTuple):
    """Pairs to check although one is selected, and when, absolute seconds."""

    pairs: tuple[PairFacts, ...]
    at: float


class SearchQuestion(Struct, frozen=True):
    """A pair is selected: which others are checked nonetheless, and when?

    Asked on both sides (a NAT may have to be opened from both), where both agents know renomination.

    Attributes:
        selected: the pair in use.
        unchecked: pairs whose check may yet succeed, highest priority first.
        failed: pairs whose check has failed, highest priority first.
        rounds: how often a search was made since the pair in use was selected.
        last_at: when the last round was made, or when the pair was selected; no round happens within
            `constants.SEARCH_FLOOR_S` of the last one, and each checks `constants.MAX_SEARCHED` pairs at most.
        now: the present.
    """

    selected: PairFacts
    unchecked: tuple[PairFacts, ...]
    failed: tuple[PairFacts, ...]
    rounds: int
    last_at: float
    now: float


class FalterQuestion(Struct, frozen=True):
    """The pair in use is probed and has not answered: when may another one take over?

    Attributes:
        pair: the pair in use.
        probed_at: when the probing check was first sent.
        gaps_s: the waits after each of its sends, seconds.
        is_lossy: 0 to 1: how often quick answers to earlier probes failed to come although the path worked.
        now: the present.
    """

    pair: PairFacts
    probed_at: float
    gaps_s: tuple[float, ...]
    is_lossy: float
    now: float


class Controller(Protocol):
    """Decides what to check, nominate and switch to. Each answer names pairs of its question.

    If a method raises or answers with anything else, the event `ControllerFailed` says so, once, and
    `DefaultController` decides for the rest of the session.
    """

    def choose_check(self, question: CheckQuestion) -> PairFacts | None:
        """Return the pair to check in this slot; None leaves the slot empty, and the next one asks again."""
        ...

    def choose_nomination(self, question: NominationQuestion) -> Choice | None:
        """Return the pair to nominate and when; None waits for something to change."""
        ...

    def choose_switch(self, question: SwitchQuestion) -> Choice | None:
        """Return the pair to move to and when; None stays."""
        ...

    def search_on(self, question: SearchQuestion) -> Search | None:
        """Return what else to check and when; None checks nothing."""
        ...

    def gives_way_at(self, question: FalterQuestion) -> float:
        """Return when the pair in use, unless it has answered by then, may be replaced."""
        ...


@dataclass(frozen=True, slots=True)
class DefaultController:
    """Best pair first; nominated once no better kind of pair is likely; direct rather than relayed, also later.

    **Checks**: triggered ones first, then those likely to work, then by priority (`likelihood.by_likelihood`).

    **Nomination** waits only while a better pair is likely, and never long. A better pair is likely until its check has
    been out for the valid pair's RTT plus `slack_s`, or Ta: a path that is better has, as a rule, answered by then.
    Those of a better kind (host before reflexive before relayed) that are still to be sent are given the time of their
    slots; those of the same kind have `slack_s` after the first answer. Pairs whose addresses make them unlikely are
    waited for only if the peer is as near as on a LAN. A relayed pair also waits for candidates not yet known. Nothing
    is waited for beyond `patience_s` after the first pair became valid; beyond `relayed_patience_s` where the peer does
    not know renomination, so that a relayed pair would be for good. So hosts that see each other, and two peers behind
    NATs, nominate after one round trip.

    **Switching**: from relayed to direct as soon as a direct pair is valid; else a round trip must be shorter by a
    quarter and by 10 ms, seen three times, at most every 10 s.

    **Search**: while a relayed pair is in use, direct ones are checked to the end, and those that failed again after
    10 s, 20 s, 40 s and so on, at most every 10 minutes.

    **Faltering**: three probing checks unanswered, up to six on a line that loses packets.
    """

    slack_s: float = constants.NOMINATION_SLACK_S
    patience_s: float = constants.NOMINATION_PATIENCE_S
    relayed_patience_s: float = constants.NOMINATION_PATIENCE_RELAYED_S

    def choose_check(self, question: CheckQuestion) -> PairFacts | None:
        """Return the first triggered pair, else the likeliest waiting one."""
        if question.triggered:
            return question.triggered[0]
        return next(iter(by_likelihood(question.waiting)), None)

    def choose_nomination(self, question: NominationQuestion) -> Choice | None:
        """Return the first pair and when no better one is likely any more."""
        best = next(iter(question.valid), None)
        if best is None:
            return None
        if question.selected is not None:
            return Choice(best, question.now)
        return Choice(best, self._nominate_at(question, best))

    def _nominate_at(self, question: NominationQuestion, best: PairFacts) -> float:
        for_good = best.is_relayed and not question.renominates
        latest = question.first_valid_at + (self.relayed_patience_s if for_good else self.patience_s)
        better = [pair for pair in question.pending if pair.priority > best.check_priority]
        if question.renominates and best.local.transport != "tcp":
            # Direct pairs over TCP rank above a relayed one; they may take over later, and nobody waits for them.
            better = [pair for pair in better if pair.local.transport != "tcp"]
        if for_good and any(not pair.is_relayed for pair in better):
            return latest
        if best.is_relayed and not question.all_candidates_known:
            return latest
        if (best.rtt_s or 0.0) > constants.NEAR_RTT_S:
            better = [pair for pair in better if of_pair(pair) is not Likelihood.UNLIKELY]
        slack_s = min(self.slack_s, question.ta_s)
        window_s = (best.rtt_s or 0.0) + slack_s
        wait_until = question.first_valid_at
        slot_at = max(question.next_slot_at, question.now)
        for pair in better:
            is_better_kind = kind_of(pair) > kind_of(best)
            sent_at = pair.checked_at
            if sent_at is None:
                sent_at, slot_at = slot_at, slot_at + question.ta_s * question.turns
                if not is_better_kind:
                    continue
            answered_by = sent_at + window_s
            wait_until = max(
                wait_until, answered_by if is_better_kind else min(answered_by, question.first_valid_at + slack_s)
            )
            if wait_until >= latest:
                return latest
        return wait_until

    def choose_switch(self, question: SwitchQuestion) -> Choice | None:
        """Return a clearly better pair."""
        selected = question.selected
        if selected.is_relayed:
            direct = next((pair for pair in question.others if not pair.is_relayed), None)
            if direct is not None:
                return Choice(direct, question.now)
        quicker = [pair for pair in question.others if _is_clearly_quicker(pair, selected)]
        if not quicker:
            return None
        best = min(quicker, key=lambda pair: (pair.nomination_failures, pair.rtt_s or 0.0))
        return Choice(best, question.selected_at + constants.SWITCH_INTERVAL_S)

    def search_on(self, question: SearchQuestion) -> Search | None:
        """Return the direct pairs, while the one in use is relayed."""
        if not question.selected.is_relayed:
            return None
        fresh = tuple(pair for pair in question.unchecked if not pair.is_relayed)
        if question.rounds == 0 and fresh:
            return Search(fresh, question.now)
        wait_s = min(constants.SEARCH_S * 2**question.rounds, constants.SEARCH_MAX_S)
        direct = tuple(pair for pair in question.failed if not pair.is_relayed)
        return Search(_likeliest_first(direct), question.last_at + wait_s) if direct else None

    def gives_way_at(self, question: FalterQuestion) -> float:
        """Return when the answer to the third to sixth probing check is overdue."""
        spread = constants.FALTER_SENDS_LOSSY - constants.FALTER_SENDS
        sends = constants.FALTER_SENDS + round(question.is_lossy * spread)
        answer_s = 1.5 * (question.pair.rtt_s or constants.PROBE_RTT_S) + constants.FALTER_SLACK_S
        return question.probed_at + sum(question.gaps_s[: sends - 1]) + answer_s


def kind_of(pair: PairFacts) -> int:
    """Return 2 for a pair of host candidates, 1 where a NAT is between, 0 for a relayed one."""
    if pair.is_relayed:
        return 0
    kinds = (pair.local.type, pair.remote.type)
    return 2 if kinds == (CandidateType.HOST, CandidateType.HOST) else 1


def _is_clearly_quicker(other: PairFacts, selected: PairFacts) -> bool:
    if other.is_relayed and not selected.is_relayed:
        return False
    if selected.rtt_s is None or other.rtt_s is None or other.rtt_samples < constants.SWITCH_SAMPLES:
        return False
    return selected.rtt_s - other.rtt_s > max(constants.SWITCH_GAIN_S, constants.SWITCH_GAIN * selected.rtt_s)


def _likeliest_first(pairs: tuple[PairFacts, ...]) -> tuple[PairFacts, ...]:
    # Pairs the peer was heard on, then reflexive ones: between NATs a host pair of private addresses never works.
    return tuple(sorted(pairs, key=lambda pair: (not pair.heard, kind_of(pair) == 2)))
