"""The valid list, nomination and the selected pair: RFC 8445 sections 7.2.5.3.2 to 7.2.5.3.4, 7.3.1.5 and 8.1."""

from __future__ import annotations

from iceagent.core import constants
from iceagent.core.ice.candidate import Candidate
from iceagent.core.ice.checks import Check, CheckKind
from iceagent.core.ice.context import Context
from iceagent.core.ice.events import HeldDataReleased, PairNominated, PairValidated, SelectedPairChanged
from iceagent.core.ice.pair import CheckPair, PairState
from iceagent.core.ice.policy import NominationQuestion, SwitchQuestion


class Nominator:
    """Keeps the valid list and decides, with the policy, which of it carries data."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._nominating: Check | None = None
        self._deadline: float | None = None
        self._first_valid_at: float | None = None

    # The valid list.

    def validate(self, now: float, pair: CheckPair, local: Candidate) -> None:
        """Put a pair on the valid list: its check was answered, and the peer sees us as `local`."""
        context = self._context
        pair.last_response_at = now
        known, pair.valid_local = pair.valid_local, local
        pair.rank(context.roles.controlling)
        if known is None:
            if self._first_valid_at is None:
                self._first_valid_at = now
            context.validated.add(pair.path)
            context.outbox.emit(PairValidated(pair.view()))
            held = context.held.release(pair.path)
            if held:
                context.outbox.emit(HeldDataReleased(pair.base, pair.destination, held))

    def invalidate(self, now: float, pair: CheckPair) -> None:
        """Take a pair off the valid list, for good.

        What still arrives on it is delivered: RFC 7675 forbids to send, and the peer may well have consent.
        """
        context = self._context
        pair.consent_lost = True
        pair.valid_local = None
        pair.nominated = pair.nominate_on_success = False
        context.checklist.untrigger(pair)
        context.runner.discard_pair(pair)
        if self._nominating is not None and self._nominating.pair is pair:
            self._nominating = None
        context.checklist.set_state(pair, PairState.FAILED)
        self.refresh(now)

    # Nominating.

    def nominated(self, now: float, pair: CheckPair) -> None:
        """Set the nominated flag of a valid pair, and select it if it is the one to use."""
        context = self._context
        selected = context.selected
        if self._nominating is not None and self._nominating.pair is pair:
            self._nominating = None
        if selected is pair:
            return
        # With renomination the newest counts: values have been compared (draft-thatcher-ice-renomination section 4).
        # RFC 8445 section 8.1.1: of several nominated pairs, that is of an aggressive peer's, the one with the highest
        # priority counts. Deviation: three seconds after the first (section 8.3.1) a further nomination means that the
        # peer's path broke, so then, and whenever we nominated, the newest one counts alone.
        settled = selected is not None and now >= context.selected_at + constants.NOMINATION_SETTLE_S
        if selected is not None and (settled or context.roles.controlling or context.renominates or context.faltering):
            selected.nominated = False
        for other in context.checklist:
            other.nominate_on_success = False
        if not pair.nominated:
            pair.nominated = True
            context.outbox.emit(PairNominated(pair.view()))
        self.refresh(now)

    def nominated_to_lite(self, now: float, pair: CheckPair) -> None:
        """Take what the peer nominates as valid, without a check of our own (RFC 8445 section 7.3.2)."""
        self._context.checklist.set_state(pair, PairState.WAITING)
        self._context.checklist.set_state(pair, PairState.SUCCEEDED)
        self.validate(now, pair, pair.local)
        self.nominated(now, pair)

    def nomination_ended(self, check: Check) -> None:
        """A nominating check got no answer, or an unusable one: the next best valid pair is nominated, or it again."""
        if self._nominating is check:
            self._nominating = None
            check.pair.nomination_failures += 1

    def role_changed(self) -> None:
        """Stop nominating if it is no longer ours to do."""
        if not self._context.roles.controlling:
            self._context.runner.cancel(self._nominating)
            self._nominating = self._deadline = None

    def advance(self, now: float) -> None:
        """Nominate if it is time to."""
        self._deadline = None
        context = self._context
        if not context.roles.controlling or not context.checking or self._nominating is not None:
            return
        best = self._better_than_selected(now) if context.concluded else self._best_to_nominate(now)
        if best is None:
            return
        at = now if context.selected is not None else context.config.nomination.nominate_at(self._question(now, best))
        if at > now:
            self._deadline = at
            return
        # Deviation from RFC 8445 section 8.1.1: the nominating check does not wait for a slot of Ta. Pacing protects
        # the network from checks that may go nowhere; this one repeats a check that has just been answered.
        self._nominating = context.start_check(now, best, CheckKind.NOMINATION)

    def next_timeout(self) -> float | None:
        """Return when the policy wants to be asked again."""
        return self._deadline

    # Selecting.

    def refresh(self, now: float) -> None:
        """Choose anew which pair is selected and which carries data."""
        context = self._context
        usable = [pair for pair in context.checklist if context.has_fresh_consent(now, pair)]
        silent = context.data_pair if context.faltering else None
        selected = max(
            (pair for pair in usable if pair.nominated), key=lambda p: (p is not silent, p.priority), default=None
        )
        if selected is not context.selected:
            context.selected = selected
            context.selected_at = now
            if selected is not None:
                self._conclude(selected)
            context.outbox.emit(SelectedPairChanged(None if selected is None else selected.view()))
        data_pair = selected or max(usable, key=lambda p: (p is not silent, p.priority), default=None)
        if data_pair is not context.data_pair:
            context.data_pair = data_pair
            context.data_path = None if data_pair is None else data_pair.path
            context.silent = context.faltering = False

    def recovered(self) -> None:
        """Stop looking for other paths: the one in use answers again."""
        if self._context.selected is not None:
            self._conclude(self._context.selected)

    def _conclude(self, selected: CheckPair) -> None:
        # RFC 8445 section 8.1.2. Pairs not yet checked stay in the list, unchecked: they are what is left to try
        # should the selected path go silent.
        context = self._context
        for pair in context.checklist:
            if pair is selected:
                continue
            if context.renominates and selected.is_relayed and not pair.is_relayed and pair.is_pending:
                if pair.state is not PairState.IN_PROGRESS:  # a direct path found late is still worth having
                    context.checklist.set_state(pair, PairState.WAITING)
                    context.checklist.trigger(pair)
                continue
            context.checklist.untrigger(pair)
            if pair.state is PairState.IN_PROGRESS:
                context.runner.cancel(pair.check)
                pair.check = None
                context.checklist.set_state(pair, PairState.WAITING)

    def _best_to_nominate(self, now: float) -> CheckPair | None:
        context = self._context
        silent = context.data_pair if context.faltering else None
        usable = [
            pair
            for pair in context.checklist
            if context.has_fresh_consent(now, pair)
            and pair is not context.selected
            and (silent is None or pair.last_response_at > max(silent.last_response_at, context.suspected_at))
        ]
        return max(usable, key=lambda p: (-p.nomination_failures, p.priority), default=None)

    def _better_than_selected(self, now: float) -> CheckPair | None:
        """Return the valid pair to switch to for its own sake, if both agents know renomination."""
        context, selected = self._context, self._context.selected
        if not context.renominates or selected is None or now < context.selected_at + constants.SWITCH_INTERVAL_S:
            return None
        switching = context.config.switching
        better = [
            pair
            for pair in context.checklist
            if pair is not selected
            and context.has_fresh_consent(now, pair)
            and switching.is_clearly_better(_switch_question(selected, pair))
        ]
        return min(better, key=lambda p: (p.is_relayed, p.nomination_failures, p.rtt_s or 0.0), default=None)

    def _question(self, now: float, best: CheckPair) -> NominationQuestion:
        context = self._context
        better = [pair for pair in context.checklist if pair.is_pending and pair.priority > best.priority]
        better.sort(key=lambda pair: pair.priority, reverse=True)
        return NominationQuestion(
            local=best.valid_local or best.local,
            remote=best.remote,
            rtt_s=best.rtt_s,
            first_valid_at=now if self._first_valid_at is None else self._first_valid_at,
            better_sent_at=tuple(pair.checked_at for pair in better),
            next_slot_at=context.next_slot_at,
            ta_s=context.config.ta_s,
            all_candidates_known=context.table.complete,
            now=now,
        )


def _switch_question(selected: CheckPair, other: CheckPair) -> SwitchQuestion:
    return SwitchQuestion(selected.is_relayed, selected.rtt_s, other.is_relayed, other.rtt_s, other.rtt_samples)
