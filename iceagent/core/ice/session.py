"""One ICE session: a checklist with its candidates, credentials, checks and consent, until a restart replaces it.

In RFC 8445 section 4 a session is all that happens between two restarts. `IceAgent` holds the current session, and
during a restart also the earlier one, which carries the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from iceagent.core import constants, stun
from iceagent.core.address import TransportAddress
from iceagent.core.ice.checks.reflexive import add_remote
from iceagent.core.ice.checks.requests import RequestHandler
from iceagent.core.ice.checks.responses import ResponseHandler
from iceagent.core.ice.checks.scheduler import Scheduler
from iceagent.core.ice.choice.nomination import Nominator
from iceagent.core.ice.events import DropReason, Effect, LocalCandidateAdded, Received, RemoteCandidateAdded
from iceagent.core.ice.facts import SessionFacts
from iceagent.core.ice.health.consent import ConsentKeeper, Keepalive
from iceagent.core.ice.health.lifecycle import Lifecycle
from iceagent.core.ice.model.candidate import Candidate
from iceagent.core.ice.model.candidates import Added
from iceagent.core.ice.model.credentials import Credentials
from iceagent.core.ice.model.pair import CandidatePair, PairState, PathAddresses
from iceagent.core.ice.report import PairReport, report_pair

if TYPE_CHECKING:
    pass


class IceSession:
    """The parts of one session, and the order in which they act.

    Args:
        facts: what the parts share; of this session alone.
    """

    def __init__(self, facts: SessionFacts) -> None:
        self.facts = facts
        self._nominator = Nominator(facts)
        self.consent = ConsentKeeper(facts, self._nominator)
        self._responses = ResponseHandler(facts, self._nominator, self.consent)
        self.requests = RequestHandler(facts, self._nominator)
        self._keepalive = Keepalive(facts)
        self.scheduler = Scheduler(facts)
        self.lifecycle = Lifecycle(facts)
        self._ranked_generation = facts.roles.generation
        self._calm_until = -math.inf  # until then, and the next `settle`, nothing but consent can have anything to do

    def views(self) -> list[CandidatePair]:
        """Return the pairs as they are now, best first."""
        ranked = sorted(self.facts.checklist, key=lambda pair: pair.priority, reverse=True)
        return [pair.view() for pair in ranked]

    def pair_reports(self) -> list[PairReport]:
        """Return the pairs with what they have counted, best first."""
        facts = self.facts
        remote = facts.keys.remote
        ufrags = (facts.keys.local.ufrag, "" if remote is None else remote.ufrag)
        ranked = sorted(facts.checklist, key=lambda pair: pair.priority, reverse=True)
        return [report_pair(pair, *ufrags, selected=pair is facts.selected) for pair in ranked]

    # What changes it; `settle` is to follow.

    def set_remote_credentials(
        self, now: float, credentials: Credentials, *, lite: bool, renomination: bool, pacing_s: float
    ) -> None:
        """Take the peer's credentials and begin to check."""
        facts = self.facts
        facts.ta_s = max(facts.config.ta_s, min(pacing_s, constants.TA_MAX_S))
        facts.renominates = renomination and facts.config.renomination
        facts.keys.set_remote(credentials)
        facts.started_at = now
        if lite and not facts.roles.controlling:
            facts.roles.switch()
            self._nominator.role_changed()
        facts.checklist.start()
        self.requests.process_early(now)

    def add_local_candidate(self, now: float, candidate: Candidate, *, report: bool = True) -> bool:
        """Use a gathered candidate; False if it is redundant or unusable (RFC 8445 section 5.1.3, RFC 8838 section 10).

        Its pairs are formed with all remote candidates known.
        """
        facts = self.facts
        added = facts.table.add_local(candidate)
        if not isinstance(added, Added):
            facts.outbox.drop(added)
            return False
        facts.candidate_at = now
        if report:
            facts.outbox.emit(LocalCandidateAdded(candidate))
        if added is Added.UPGRADED:
            self._upgrade_local(candidate)
        self._form((candidate, remote) for remote in facts.table.remote.values())
        return True

    def add_remote_candidate(self, now: float, candidate: Candidate | None) -> bool:
        """Use a candidate of the peer or, with None, its end-of-candidates; False if it was dropped."""
        facts = self.facts
        if candidate is None:
            facts.table.remote_ended = True
            return True
        added = add_remote(facts, candidate)
        if not isinstance(added, Added):
            facts.outbox.drop(added)
            return False
        facts.candidate_at = now
        facts.outbox.emit(RemoteCandidateAdded(candidate))
        if added is Added.UPGRADED:
            self._upgrade_remote(candidate)
        self._form((local, candidate) for local in list(facts.table.local.values()))
        if added is Added.NEW and facts.is_settled(now):
            self._check_late(candidate)
        self._nominator.refresh(now)
        return True

    def handle_response(
        self, now: float, local: TransportAddress, remote: TransportAddress, response: stun.Message
    ) -> DropReason | Effect:
        """Deal with an answer to a check of ours; return why it was dropped, or what follows."""
        outcome = self.facts.runner.handle_response(now, local, remote, response)
        return outcome if isinstance(outcome, DropReason) else self._responses.apply(now, outcome)

    def has_heard(self, path: PathAddresses) -> bool:
        """Whether an authenticated check came from there, so that its data may be held until ours is answered."""
        pair = self.facts.checklist.pairs.get(path)
        return self.requests.has_early(path) if pair is None else pair.heard and not pair.consent_lost

    def hold_data(self, path: PathAddresses, data: bytes) -> Received:
        """Keep data of a path that is not validated, if an authenticated check came from there; else drop it."""
        facts = self.facts
        if not self.has_heard(path):
            facts.outbox.drop(DropReason.DATA_UNVALIDATED)
            return Received.DROPPED
        if not facts.held.hold(path, data):
            facts.outbox.drop(DropReason.DATA_HELD_OVERFLOW)
            return Received.DROPPED
        return Received.HELD

    def uses_path(self, path: PathAddresses) -> bool:
        """Whether a pair of that path waits for its check, or an authenticated check came from there."""
        pair = self.facts.checklist.pairs.get(path)
        return self.has_heard(path) or (pair is not None and pair.is_pending)

    def handle_unreachable(self, now: float, path: PathAddresses) -> None:
        """Take note of an ICMP error, or at a TCP base of a connection that is gone or cannot be opened."""
        facts = self.facts
        pair = facts.checklist.pairs.get(path)
        if pair is None or not pair.is_tcp:
            facts.runner.handle_unreachable(now, path)
            return
        # Other than ICMP, nobody off the path can say so. RFC 6544 section 7.1: the check has failed.
        for check in facts.runner.connection_lost(now, pair):
            self._responses.failed(check)
        if pair is facts.data_pair:
            facts.health.doubt()  # the probing check that follows opens another connection, where that is ours to do
        elif pair.is_valid and pair.is_passive:
            self._nominator.invalidate(now, pair)

    def handle_timeout(self, now: float) -> None:
        """Retransmit, and take note of the checks that nobody answered."""
        for check in self.facts.runner.handle_timeout(now):
            self._responses.failed(check)

    def settle(self, now: float) -> None:
        """Let every part do what the new facts call for; afterwards nothing is due at or before `now`."""
        facts = self.facts
        self._calm_until = -math.inf
        if facts.over or facts.retired:
            return
        if self._ranked_generation != facts.roles.generation:
            # The role is the agent's; another session of it may have learned of a conflict, and told of it.
            self._ranked_generation = facts.roles.generation
            self._nominator.role_changed(told=True)
        self.consent.advance(now)
        self._nominator.advance(now)
        self._keepalive.advance(now)
        self.scheduler.advance(now)
        self.lifecycle.advance(now)
        if facts.over:
            self.wind_up()

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` and `settle` want to be called, or None."""
        if self.facts.over or self.facts.retired:
            return None
        parts = (
            self.facts.runner.next_timeout(),
            self.scheduler.next_timeout(),
            self._nominator.next_timeout(),
            self._keepalive.next_timeout(),
            self.lifecycle.next_timeout(),
        )
        others = min((at for at in parts if at is not None), default=math.inf)
        self._calm_until = others if self._is_calm() else -math.inf
        consent = self.consent.next_timeout()
        at = others if consent is None else min(others, consent)
        return at if math.isfinite(at) else None

    def repeat_consent(self, now: float) -> bool:
        """Send a consent check if that is all that `handle_timeout` and `settle` would do; return whether it was."""
        return now < self._calm_until and self.consent.repeat(now)

    def timeout_when_calm(self, now: float) -> float | None:
        """Return what `next_timeout` returns, where only consent can have changed; None where it has to be asked."""
        if now >= self._calm_until:
            return None
        consent = self.consent.next_timeout()
        return None if consent is None else min(self._calm_until, consent)

    def _is_calm(self) -> bool:
        """Whether one pair is selected, no other one is valid, and no check of any is wanted: nearly always."""
        facts = self.facts
        return (
            facts.selected is not None
            and facts.selected is facts.data_pair
            and len(facts.validated) < 2
            and len(facts.checklist.pairs) < 2  # with others there is the search for a better one
            and not (facts.health.doubted or facts.checklist.triggered)
        )

    def retire(self) -> None:
        """Send nothing on its own any more, but answer checks and deliver data."""
        facts = self.facts
        facts.retired = True
        facts.runner.clear()
        facts.held.clear()
        self.requests.clear()

    def wind_up(self) -> None:
        """Forget what only a living session needs."""
        facts = self.facts
        facts.runner.clear()
        facts.held.clear()
        facts.validated.clear()
        self.requests.clear()
        self._nominator.forget()

    # Within.

    def _form(self, candidates: Iterable[tuple[Candidate, Candidate]]) -> None:
        if not self.facts.checklist.form(candidates, self.facts.roles.controlling):
            self.facts.outbox.drop(DropReason.PAIR_LIMIT)

    def _check_late(self, candidate: Candidate) -> None:
        """Check the pairs of a candidate that comes long after a pair was selected: the peer may have lost its path.

        Without that a peer whose relay was restarted could not be reached until our side has noticed, too.
        """
        self.facts.health.doubt()
        for pair in self.facts.checklist:
            if pair.remote is candidate:
                self.facts.checklist.set_state(pair, PairState.WAITING)
                self.facts.checklist.trigger(pair)

    def _upgrade_remote(self, candidate: Candidate) -> None:
        """Let the pairs of a peer-reflexive candidate show its signalled twin, nomination kept."""
        for pair in self.facts.checklist:
            if (pair.remote.transport, pair.remote.address) == (candidate.transport, candidate.address):
                pair.remote = candidate
                pair.rank(self.facts.roles.controlling)

    def _upgrade_local(self, candidate: Candidate) -> None:
        for pair in self.facts.checklist:
            valid = pair.valid_local
            if valid is not None and (valid.address, valid.base) == (candidate.address, candidate.base):
                pair.valid_local = candidate
                pair.rank(self.facts.roles.controlling)
