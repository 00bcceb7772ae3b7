"""When to nominate: policy, apart from the mechanism in `nomination.py`, so that it can be replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from iceagent.core import constants
from iceagent.core.ice.candidate import Candidate
from iceagent.core.ice.priority import CandidateType


@dataclass(frozen=True, slots=True)
class NominationQuestion:
    """What is known when the controlling agent has a valid pair.

    Attributes:
        local: local candidate of the best valid pair.
        remote: its remote candidate.
        rtt_s: its round-trip time, seconds, or None.
        first_valid_at: when the first pair became valid.
        better_sent_at: for every pair of higher priority whose check may yet succeed, when that check was first sent,
            or None if it is still to be sent; highest priority first.
        next_slot_at: when the next check may be sent; later ones follow `ta_s` apart.
        ta_s: the pacing, seconds.
        all_candidates_known: both sides have signalled end-of-candidates.
        now: the present.
    """

    local: Candidate
    remote: Candidate
    rtt_s: float | None
    first_valid_at: float
    better_sent_at: tuple[float | None, ...]
    next_slot_at: float
    ta_s: float
    all_candidates_known: bool
    now: float


class NominationPolicy(Protocol):
    """Decides when the best valid pair is nominated."""

    def nominate_at(self, question: NominationQuestion) -> float:
        """Return the time at which to nominate; a time not after `question.now` means at once."""
        ...


@dataclass(frozen=True, slots=True)
class PatientNomination:
    """Wait only while a better pair is still likely, and never long.

    A better pair is likely until its check has been out for the valid pair's RTT plus `slack_s`: a path that is
    better has, as a rule, answered by then. Pairs whose checks are still to be sent are given the time their slots
    take. A relayed pair also waits for candidates not yet known. Nothing is waited for beyond `patience_s` after the
    first pair became valid. So hosts that see each other nominate at once, and two peers behind NATs one RTT after
    the dead host pair was tried.
    """

    slack_s: float = constants.NOMINATION_SLACK_S
    patience_s: float = constants.NOMINATION_PATIENCE_S

    def nominate_at(self, question: NominationQuestion) -> float:
        """Return the time at which to nominate."""
        window_s = (question.rtt_s or 0.0) + self.slack_s
        latest = question.first_valid_at + self.patience_s
        wait_until = question.first_valid_at
        if not question.all_candidates_known and CandidateType.RELAY in (question.local.type, question.remote.type):
            wait_until = latest
        slot_at = max(question.next_slot_at, question.now)
        for sent_at in question.better_sent_at:
            if sent_at is None:
                wait_until = max(wait_until, slot_at + window_s)
                slot_at += question.ta_s
            else:
                wait_until = max(wait_until, sent_at + window_s)
            if wait_until >= latest:
                return latest
        return min(wait_until, latest)


@dataclass(frozen=True, slots=True)
class SwitchQuestion:
    """Two valid pairs: the one in use, and another. RTTs in seconds, smoothed; `other_samples` is how many made it."""

    current_relayed: bool
    current_rtt_s: float | None
    other_relayed: bool
    other_rtt_s: float | None
    other_samples: int


class SwitchPolicy(Protocol):
    """Decides whether a path is so much better that data should move there."""

    def is_clearly_better(self, question: SwitchQuestion) -> bool:
        """Return whether to switch."""
        ...


@dataclass(frozen=True, slots=True)
class ClearGain:
    """Direct beats relayed; else a round trip must be shorter by a quarter and by 10 ms, and seen three times."""

    def is_clearly_better(self, question: SwitchQuestion) -> bool:
        """Return whether to switch."""
        if question.current_relayed != question.other_relayed:
            return question.current_relayed
        if question.current_rtt_s is None or question.other_rtt_s is None:
            return False
        if question.other_samples < constants.SWITCH_SAMPLES:
            return False
        gain_s = question.current_rtt_s - question.other_rtt_s
        return gain_s > max(constants.SWITCH_GAIN_S, constants.SWITCH_GAIN * question.current_rtt_s)
