"""What the outcome of a check means for pairs, candidates and roles: RFC 8445 section 7.2.5."""

from __future__ import annotations

from iceagent.core.address import TransportAddress
from iceagent.core.ice.checks.transactions import CheckOutcome, CheckResult
from iceagent.core.ice.choice.nomination import Nominator
from iceagent.core.ice.events import DropReason, Effect, LocalCandidateAdded
from iceagent.core.ice.facts import SessionFacts
from iceagent.core.ice.health.consent import ConsentKeeper
from iceagent.core.ice.model.candidate import Candidate, local_prflx_candidate
from iceagent.core.ice.model.candidates import Added
from iceagent.core.ice.model.pair import Check, CheckKind, CheckPair, PairState
from iceagent.core.ice.model.priority import as_peer_reflexive


class ResponseHandler:
    """Applies outcomes of checks."""

    def __init__(self, facts: SessionFacts, nominator: Nominator, consent: ConsentKeeper) -> None:
        self._facts = facts
        self._nominator = nominator
        self._consent = consent

    def apply(self, now: float, outcome: CheckOutcome) -> Effect:
        """Apply an authenticated answer; return what follows."""
        check = outcome.check
        if self._facts.checklist.pairs.get(check.pair.path) is not check.pair or check.pair.consent_lost:
            self._facts.outbox.drop(DropReason.RESPONSE_UNKNOWN_TRANSACTION)  # the pair has been given up meanwhile
        elif outcome.result is CheckResult.SUCCESS:
            return self._succeeded(now, check, check.pair.base if outcome.mapped is None else outcome.mapped)
        elif outcome.result is CheckResult.ROLE_CONFLICT:
            self._role_conflict(now, check)
        elif outcome.result is CheckResult.REVOKED:
            why = "the peer has revoked its consent, and no other path to it works"
            self._consent.lose(now, check.pair, why, revoked=True)
        else:
            self.failed(check)
        return Effect.SETTLE

    def failed(self, check: Check) -> None:
        """Apply that a check got no answer, or one that says no."""
        pair = check.pair
        if check.kind is CheckKind.NOMINATION:
            self._nominator.nomination_ended(check)
        elif check.kind is CheckKind.ORDINARY and pair.check is check:
            pair.check = None
            if pair.state is PairState.IN_PROGRESS:
                self._facts.checklist.set_state(pair, PairState.FAILED)
                if self._facts.held.release(pair.path):
                    self._facts.outbox.drop(DropReason.DATA_UNVALIDATED)

    def _succeeded(self, now: float, check: Check, mapped: TransportAddress) -> Effect:
        facts, pair = self._facts, check.pair
        if check.kind is CheckKind.CONSENT and self._is_routine(pair, mapped):
            pair.last_response_at = now
            facts.health.hear(now)
            self._consent.refreshed(now, pair)
            return Effect.NONE
        facts.checklist.untrigger(pair)
        if pair.check is not None and pair.check is not check:
            facts.runner.cancel(pair.check)
        pair.check = None
        newly_valid = not pair.is_valid
        facts.checklist.set_state(pair, PairState.SUCCEEDED)
        self._nominator.validate(now, pair, self._local_seen_as(check, mapped))
        if newly_valid:
            facts.checklist.thaw_foundation(pair.foundation)
        self._consent.refreshed(now, pair)
        we_nominate = check.kind is CheckKind.NOMINATION and facts.roles.controlling
        they_nominated = pair.nominate_on_success and not facts.roles.controlling
        if we_nominate or they_nominated:
            pair.nominate_on_success = False
            self._nominator.nominated(now, pair)
        else:
            self._nominator.refresh(now)
        return Effect.SETTLE

    def _is_routine(self, pair: CheckPair, mapped: TransportAddress) -> bool:
        """Whether an answer on a pair says but that the path in use works as before: nearly all answers there are."""
        facts = self._facts
        return (
            pair is facts.selected
            and pair is facts.data_pair
            and pair.check is None
            and not (facts.health.faltering or facts.health.silent or facts.health.doubted)
            and not facts.checklist.triggered
            and not pair.nominate_on_success
            and facts.table.local_seen_as(mapped, pair.base) is pair.valid_local is not None
        )

    def _local_seen_as(self, check: Check, mapped: TransportAddress) -> Candidate:
        # RFC 8445 section 7.2.5.3.1: a mapped address nobody knew is a peer-reflexive local candidate.
        facts, pair = self._facts, check.pair
        known = facts.table.local_seen_as(mapped, pair.base)
        if known is None and mapped == pair.base:  # not reported, or no host candidate of ours: nothing is learnt
            known = pair.local
        if known is not None:
            return known
        fresh = local_prflx_candidate(mapped, pair.local, as_peer_reflexive(pair.local.priority, pair.local.transport))
        added = facts.table.add_local(fresh)
        if isinstance(added, Added):
            facts.outbox.emit(LocalCandidateAdded(fresh))
            return fresh
        facts.outbox.drop(added)
        return pair.local

    def _role_conflict(self, now: float, check: Check) -> None:
        """Obey a 487 once, and check the pair again in the role we then have (RFC 8445 section 7.2.5.1)."""
        facts, pair = self._facts, check.pair
        if not facts.config.lite and facts.roles.obey_487(check.role_generation):
            self._nominator.role_changed()
        else:
            facts.outbox.drop(DropReason.RESPONSE_STALE_ROLE_CONFLICT)
        if check.kind is CheckKind.NOMINATION:
            self._nominator.nomination_ended(check)
        elif check.kind is CheckKind.ORDINARY and pair.check is check:
            pair.check = None
            facts.checklist.set_state(pair, PairState.WAITING)
            facts.checklist.trigger(pair)
        self._nominator.refresh(now)
