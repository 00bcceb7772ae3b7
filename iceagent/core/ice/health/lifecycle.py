"""The state of a session, and the patience before it fails: RFC 8445 section 6.1.3, RFC 8863."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from iceagent.core import constants
from iceagent.core.ice.events import AgentState
from iceagent.core.ice.facts import SessionFacts
from iceagent.core.ice.model.candidate import Candidate
from iceagent.core.ice.model.priority import CandidateType


class Lifecycle:
    """Derives the state from the facts; FAILED is final. `IceAgent` reports the state of the whole agent."""

    def __init__(self, facts: SessionFacts) -> None:
        self._facts = facts
        self._had_path = False

    def advance(self, now: float) -> None:
        """Move to the state the facts call for."""
        facts = self._facts
        if facts.over:
            return
        if facts.data_pair is not None:
            self._had_path = True
        elif self._had_path:
            self.fail(facts.loss)
            return
        fails_at = self._fails_at()
        if fails_at is not None and now >= fails_at:
            self.fail(self._why_no_pair())
            return
        facts.state = self._state()

    def next_timeout(self) -> float | None:
        """Return when patience ends, if it is running out."""
        return None if self._facts.over else self._fails_at()

    def fail(self, reason: str) -> None:
        """End the session, saying why."""
        self._facts.failure = reason
        self._facts.state = AgentState.FAILED

    def _state(self) -> AgentState:
        facts = self._facts
        if facts.data_pair is not None:
            if facts.health.silent:
                return AgentState.DISCONNECTED
            return AgentState.CONNECTED if facts.selected is None else AgentState.COMPLETED
        return AgentState.NEW if facts.started_at is None else AgentState.CHECKING

    def _fails_at(self) -> float | None:
        # RFC 8863 section 4: no failure before patience ends, with failed pairs or with none. Deviation from
        # RFC 8838 section 8: without end-of-candidates we do not wait for ever, but the same patience again after the
        # last candidate of either side.
        facts = self._facts
        if facts.started_at is None:  # only a restart that nobody answers, while nothing else works, fails
            # A peer that died is given up when consent to it ends, 30 s after its last answer, and no later: the
            # restart began in its first seconds of silence. That is its last answer on any path: the one that carried
            # data last may be a backup that was asked long ago.
            if facts.alone_since is None:
                return None
            # An agent that may be without a path for longer goes on for as long as it may.
            allowed_s = max(facts.config.consent_expiry_s, facts.outage_s)
            answered_until = facts.health.heard_at + allowed_s
            return max(facts.alone_since, facts.restarted_at + constants.RESTART_PATIENCE_S, answered_until)
        if facts.data_pair is not None:
            return None
        since = facts.started_at if facts.table.complete else max(facts.started_at, facts.candidate_at)
        if facts.config.lite:  # its pairs wait for the peer's checks, not for its own; the last one counts
            return max(since, facts.health.heard_at) + facts.config.patience_s
        fails_at = since + facts.config.patience_s
        pending = (pair for pair in facts.checklist if pair.is_pending)
        if any(pair.remote.type is not CandidateType.PRFLX for pair in pending):
            return None
        # Each check may come from an address not seen before, and each such address is asked in turn, for ever where
        # two NATs map per destination. So they all have the time of one more check, however many there are.
        is_revealed = any(pair.is_pending for pair in facts.checklist)
        return fails_at + constants.CHECK_TIMEOUT_S if is_revealed else fails_at

    def _why_no_pair(self) -> str:
        facts = self._facts
        pairs, runner = list(facts.checklist), facts.runner
        if facts.started_at is None:
            return "nor has it answered the restart"
        local, remote = _kinds(facts.table.local.values()), _kinds(facts.table.remote.values())
        if not facts.table.local:
            return "no local candidate: there is no address here, and no relay, that may be used"
        if not facts.table.remote:
            return f"the peer sent no usable candidate within {facts.config.patience_s:g} s"
        if not pairs:
            return f"no pair of candidates fits: ours are {local}, the peer's are {remote}"
        if facts.config.lite:
            return (
                f"the peer has nominated no pair of {_number(len(pairs), 'pair')}, which it alone can do, and no check "
                f"of its came for {facts.config.patience_s:g} s, {_number(facts.requests_received, 'check')} before"
                f"; ours: {local}; the peer's: {remote}"
            )
        text = (
            f"no candidate pair answered: {_number(len(pairs), 'pair')} tried, "
            f"{_number(runner.checks_sent, 'check')} sent, {runner.answers} answered, "
            f"{_number(facts.requests_received, 'check')} received; ours: {local}; the peer's: {remote}"
        )
        signs = runner.signs
        if signs.ours_is_not_known or signs.theirs_is_not_known:
            text += "; the two sides do not hold each other's credentials: do both use those exchanged?"
        return text


def _kinds(candidates: Iterable[Candidate]) -> str:
    counts: Counter[str] = Counter()
    for candidate in candidates:
        counts[f"{candidate.type.value} IPv{candidate.address.family}"] += 1
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
