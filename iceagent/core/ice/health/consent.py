"""Consent of the pair that carries data, and what happens while it falters: RFC 7675. Keepalives of the other pairs.

Consent doubles as keepalive on that pair (RFC 8445 section 11). The timeline of a path that dies:

- *Suspicion*: a consent check (4 to 6 s apart, sent once each) stays unanswered for a tenth of a second and three round
  trips; or data was sent and nothing at all came back for 0.2 to 0.5 s, depending on the round trip; or the peer looks
  for other paths. A check with quick retransmissions, half a round trip apart, probes the path; when the answer to the
  first of them is overdue, or on a line that loses packets that to a later one, the best backups are asked, too.
- *Faltering*: three of them (up to six on a line that loses packets) got no answer. Now the controlling agent nominates
  the best pair that has answered since; pairs never checked are checked, too. All of it takes less than a second.
- *Stranded*: eight of them (up to twelve), and no other pair has answered. The agent's addresses may have changed for
  the outside, so a restart is worth it, which is the shell's to begin. It takes less than two seconds to here.
- *Silence*: nothing for 7 s. The agent is DISCONNECTED, and the backups are asked again and again.
- *Loss*: 30 s after the last answer consent is lost, and nothing is sent on the pair any more.

Any authenticated answer in between, early or late, to any of these checks, ends it all. Data that arrives quiets
suspicion, but refreshes nothing: it is not authenticated.
"""

from __future__ import annotations

import math

from iceagent.core import constants, stun
from iceagent.core.address import TransportAddress
from iceagent.core.ice.checks.reflexive import forget_pair
from iceagent.core.ice.checks.scheduler import start_check
from iceagent.core.ice.choice.nomination import Nominator
from iceagent.core.ice.events import ConsentLost, PathUnanswered
from iceagent.core.ice.facts import SessionFacts
from iceagent.core.ice.model.pair import Check, CheckKind, CheckPair, PairState


class ConsentKeeper:
    """Watches `facts.data_pair`."""

    def __init__(self, facts: SessionFacts, nominator: Nominator) -> None:
        self._facts = facts
        self._nominator = nominator
        self._pair: CheckPair | None = None
        self._next_at = 0.0
        self._unanswered_since: float | None = None
        self._probe: Check | None = None
        self._backups_at = 0.0
        self._asked_backups = False
        self._sends_granted = constants.FALTER_SENDS
        self._gives_way_at = math.inf  # if the probing check stays unanswered

    def advance(self, now: float) -> None:
        """Do what is due."""
        facts = self._facts
        self.expire(now)
        if self._pair is None or facts.over:
            return
        if now < self._next_at and self._is_at_ease():
            return
        if now >= self._next_at:
            start_check(facts, now, self._pair, CheckKind.CONSENT)
            self._next_at = self._next_check_at(now)
            if self._unanswered_since is None:
                self._unanswered_since = now
        if self._probe is not None and now >= self._probe.expires_at:
            # Nobody answered it: the next one follows at once. On a line that loses 30 % each way, consent checks alone
            # (six in 30 s, one packet each) would lose consent to a living peer every half hour.
            self._probe = None
        if self._probe is None and (now >= self._suspicious_at() or facts.health.doubted):
            self._suspect(now, self._pair)
        facts.health.allay()
        if now >= self._asks_backups_at():
            self._ask_backups(self._pair)
        if not facts.health.faltering and now >= self._falters_at():
            facts.health.falter()
        if now >= self._stranded_at():
            facts.health.strand()
            facts.outbox.emit(PathUnanswered(self._pair.view()))
        if not facts.health.silent and now >= self._silent_at():
            facts.health.fall_silent()
            self._backups_at = now
        if facts.health.silent and now >= self._backups_at:
            self._probe_backups()
            self._backups_at = now + constants.BACKUP_PROBE_S

    def repeat(self, now: float) -> bool:
        """Send the next check if that is all there is to do; return whether it was."""
        pair, facts = self._pair, self._facts
        if pair is None or pair is not facts.data_pair:
            return False
        if now < self._next_at or now >= self._expires_at() or not self._is_at_ease():
            return False
        start_check(facts, now, pair, CheckKind.CONSENT)
        self._next_at = self._next_check_at(now)
        self._unanswered_since = now
        return True

    def expire(self, now: float) -> None:
        """Give up the pairs whose consent has run out; to be called before a late answer is looked at."""
        self._follow(now)
        while self._pair is not None and not self._facts.over and now >= self._expires_at():
            seconds = self._facts.config.consent_expiry_s
            self.lose(now, self._pair, f"the peer has not answered for {seconds:g} s, and no other path to it works")
            self._follow(now)

    def next_timeout(self) -> float | None:
        """Return when `advance` will have something to do."""
        if self._pair is None or self._facts.over:
            return None
        if self._is_at_ease():
            return min(self._next_at, self._expires_at())
        times = [self._expires_at(), self._next_at, self._asks_backups_at(), self._falters_at(), self._stranded_at()]
        times.append(self._suspicious_at() if self._probe is None else self._probe.expires_at)
        if self._facts.health.silent:
            times.append(self._backups_at)
        else:
            times.append(self._silent_at())
        return min(times)

    def refreshed(self, now: float, pair: CheckPair) -> None:
        """Take note of an authenticated answer on a pair; nothing else refreshes consent."""
        if pair is self._pair:
            self._learn_loss(now, pair)
            self._quiet()
            if self._facts.health.faltering:
                self._facts.health.recover()
                self._nominator.recovered(now)

    def lose_base(self, now: float, base: TransportAddress) -> None:
        """Give up the pairs of a socket that is gone.

        The one that carries data counts as silent where no other works yet, so that the others are checked and the
        session lives on for as long as consent would have.
        """
        facts = self._facts
        facts.table.forget_base(base)
        has_other = any(pair.base != base and facts.has_fresh_consent(now, pair) for pair in facts.checklist)
        for pair in [pair for pair in facts.checklist if pair.base == base]:
            if pair is facts.data_pair and not has_other:
                facts.health.fall_silent()
                self._backups_at = now
                continue
            if pair.is_valid:
                facts.loss = "the socket it used is gone, and no other path to the peer works"
                self._nominator.invalidate(now, pair)
            forget_pair(facts, pair)

    def _suspect(self, now: float, pair: CheckPair) -> None:
        """Ask whether the path works."""
        self._facts.health.suspect(now)
        self._probe = start_check(self._facts, now, pair, CheckKind.PROBE)
        self._gives_way_at = self._facts.decisions.gives_way_at(pair, self._probe, self._is_lossy(), now)
        self._asked_backups = False

    def _ask_backups(self, pair: CheckPair) -> None:
        """Ask the best backups whether they work, now that the path in use does not answer at once.

        No sooner: to the peer a check elsewhere is a reason to doubt the path, too.
        """
        self._asked_backups = True
        facts = self._facts
        ranked = sorted(facts.checklist, key=lambda other: other.priority, reverse=True)
        backups = [other for other in ranked if other is not pair and other.is_valid]
        for backup in backups[: constants.WARM_BACKUPS]:
            facts.checklist.trigger(backup)

    def _quiet(self) -> None:
        self._unanswered_since = None
        self._facts.activity.unheard_since = None
        self._facts.runner.cancel(self._probe)
        self._probe = None

    def _learn_loss(self, now: float, pair: CheckPair) -> None:
        """Grant a line that loses packets more of them before it counts as faltering."""
        if self._probe is not None:
            step = 1 if now >= self._overdue_at(self._probe, pair, sends=1) else -1
            granted = min(max(self._sends_granted + step, constants.FALTER_SENDS), constants.FALTER_SENDS_LOSSY)
            self._sends_granted = granted

    def lose(self, now: float, pair: CheckPair, why: str, *, revoked: bool = False) -> None:
        """Stop sending on a pair: consent has expired, or the peer has revoked it (RFC 7675 sections 5.1 and 5.2)."""
        if not pair.is_valid:
            return
        view = pair.view()
        self._facts.loss = why
        self._facts.revoked = revoked
        self._nominator.invalidate(now, pair)
        self._facts.outbox.emit(ConsentLost(view, revoked))

    def _follow(self, now: float) -> None:
        pair = self._facts.data_pair
        if pair is not self._pair:
            self._pair = pair
            # A backup that takes over may have answered last long ago: then its consent is checked at once.
            self._next_at = now if pair is None else max(now, self._next_check_at(pair.last_response_at))
            self._quiet()

    def _is_at_ease(self) -> bool:
        """Whether there is nothing to do but the next check and, without answers, the loss: nearly always."""
        facts = self._facts
        return (
            self._probe is None
            and self._unanswered_since is None
            and facts.activity.unheard_since is None
            and not (facts.health.doubted or facts.health.silent or facts.health.faltering)
        )

    def _expires_at(self) -> float:
        assert self._pair is not None
        return self._pair.last_response_at + self._facts.config.consent_expiry_s

    def _suspicious_at(self) -> float:
        if self._pair is None:
            return math.inf
        rtt_s = self._pair.rtt_s or constants.PROBE_RTT_S
        at = math.inf
        if self._unanswered_since is not None:
            at = self._unanswered_since + constants.CONSENT_SUSPICION_S + 3 * rtt_s
        unheard_since = self._facts.activity.unheard_since
        if unheard_since is not None:
            window_s = max(constants.DATA_SUSPICION_MIN_S, constants.CONSENT_SUSPICION_S + 1.5 * rtt_s)
            at = min(at, unheard_since + min(window_s, constants.DATA_SUSPICION_MAX_S))
        return at

    def _asks_backups_at(self) -> float:
        """Return when the answer to the first probing check is overdue; on a line that loses packets, to a later one.

        That a check was repeated says nothing: where a round trip takes longer than the gap, it is repeated before any
        answer can have come. The peer, who doubts the path on seeing its backups asked, would then ask its own, and so
        on for ever.
        """
        if self._asked_backups or self._probe is None or self._pair is None:
            return math.inf
        return self._overdue_at(self._probe, self._pair, sends=1 + self._sends_granted - constants.FALTER_SENDS)

    @staticmethod
    def _overdue_at(probe: Check, pair: CheckPair, *, sends: int) -> float:
        """Return when the answer to one of the packets of a probing check should have come.

        Over TCP, where nothing is lost, it is repeated only after long.
        """
        if pair.is_tcp:
            return probe.started_at if probe.sends > 1 else math.inf
        rtt_s = pair.rtt_s or constants.PROBE_RTT_S
        return probe.started_at + sum(probe.gaps_s[: sends - 1]) + rtt_s + constants.FALTER_SLACK_S

    def _falters_at(self) -> float:
        return math.inf if self._facts.health.faltering or self._probe is None else self._gives_way_at

    def _stranded_at(self) -> float:
        """Return when the answer to the eighth to twelfth probing check is overdue; over TCP one is sent, so never.

        As for any other time, infinite if that is not going to happen, or has happened.
        """
        facts, probe, pair = self._facts, self._probe, self._pair
        if not facts.health.faltering or facts.health.stranded or probe is None or pair is None or pair.is_tcp:
            return math.inf
        if any(other is not pair and other.last_response_at > facts.health.suspected_at for other in facts.checklist):
            return math.inf
        spread = constants.STRANDED_SENDS_LOSSY - constants.STRANDED_SENDS
        sends = constants.STRANDED_SENDS + round(self._is_lossy() * spread)
        answer_s = 1.5 * (pair.rtt_s or constants.PROBE_RTT_S) + constants.FALTER_SLACK_S
        return probe.started_at + sum(probe.gaps_s[: sends - 1]) + answer_s

    def _is_lossy(self) -> float:
        """Return 0 to 1: how often quick answers to earlier probes failed to come although the path worked."""
        spread = constants.FALTER_SENDS_LOSSY - constants.FALTER_SENDS
        return (self._sends_granted - constants.FALTER_SENDS) / spread

    def _silent_at(self) -> float:
        if self._pair is None or self._probe is None:
            return math.inf
        quiet_until = self._pair.last_response_at + self._facts.config.disconnected_after_s
        return max(quiet_until, self._probe.started_at + constants.DISCONNECTED_PROBE_S)

    def _probe_backups(self) -> None:
        checklist = self._facts.checklist
        for pair in checklist:
            if pair is not self._pair and pair.state is PairState.SUCCEEDED:
                checklist.trigger(pair)

    def _next_check_at(self, now: float) -> float:
        # RFC 7675 section 5.1: 0.8 to 1.2 times the basic period, at random. The times of all agents fall on one grid,
        # so that a thousand of them wake their process a few times a second and not two hundred times.
        config = self._facts.config
        period_s = config.consent_interval_s
        if config.lite:
            period_s = max(period_s, min(constants.CONSENT_INTERVAL_LITE_S, config.consent_expiry_s / 2))
        part = int.from_bytes(self._facts.randbytes(4), "big") / 2**32
        at = now + period_s * (1 + constants.CONSENT_JITTER * (2 * part - 1))
        at -= at % constants.CONSENT_GRID_S
        earliest = now + period_s * (1 - constants.CONSENT_JITTER)
        return at if at >= earliest else at + constants.CONSENT_GRID_S


class Keepalive:
    """Sends a Binding indication on each valid pair that has sent nothing for Tr; on the best two of them a check.

    The answers keep consent to those two, and show their round-trip times, so that data can move there at once.

    The pair that carries data is left out: its consent checks keep it alive. Deviation from RFC 8445 section 11, by
    which keepalives end on other pairs once one is selected: those are the backups, and their NAT bindings must live.
    """

    def __init__(self, facts: SessionFacts) -> None:
        self._facts = facts

    def advance(self, now: float) -> None:
        """Send what is due."""
        facts = self._facts
        pairs = self._pairs()
        if not pairs or now < min(pair.last_sent_at for pair in pairs) + facts.config.keepalive_s:
            return
        warm = (
            []
            if facts.config.lite
            else sorted(pairs, key=lambda pair: pair.priority, reverse=True)[: constants.WARM_BACKUPS]
        )
        for pair in pairs:
            if now >= pair.last_sent_at + facts.config.keepalive_s:
                pair.last_sent_at = now
                if pair in warm:
                    facts.checklist.trigger(pair)
                    continue
                indication = stun.binding_indication(facts.randbytes(12))
                facts.outbox.send(pair.base, pair.destination, stun.encode(indication))

    def next_timeout(self) -> float | None:
        """Return when the next one is due."""
        return min((pair.last_sent_at + self._facts.config.keepalive_s for pair in self._pairs()), default=None)

    def _pairs(self) -> list[CheckPair]:
        facts = self._facts
        if not facts.running:
            return []
        if len(facts.checklist.pairs) == 1 and facts.data_pair is not None:
            return []
        return [pair for pair in facts.checklist if pair.is_valid and pair is not facts.data_pair]
