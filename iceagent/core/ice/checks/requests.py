"""Incoming checks: authenticated, answered, and what they trigger. RFC 8445 section 7.3."""

from __future__ import annotations

from typing import NamedTuple

from iceagent.core import constants, stun
from iceagent.core.address import TransportAddress, without_zone
from iceagent.core.ice.checks.reflexive import learn_remote
from iceagent.core.ice.checks.scheduler import start_check
from iceagent.core.ice.choice.nomination import Nominator
from iceagent.core.ice.events import DropReason, Effect
from iceagent.core.ice.facts import SessionFacts
from iceagent.core.ice.model.candidate import Candidate
from iceagent.core.ice.model.candidates import can_reach, is_usable
from iceagent.core.ice.model.checklist import path_of
from iceagent.core.ice.model.pair import CheckKind, CheckPair, PairState, PathAddresses
from iceagent.core.ice.model.priority import CandidateType
from iceagent.core.ice.roles import Conflict


class IncomingCheck(NamedTuple):
    """What an authenticated check has shown, kept while the peer's credentials are unknown."""

    local: TransportAddress
    remote: TransportAddress
    remote_ufrag: str
    priority: int
    use_candidate: bool
    nomination: int  # value of NOMINATION; 0: none


class RequestHandler:
    """Answers every authenticated check, whatever the state of its pair."""

    def __init__(self, facts: SessionFacts, nominator: Nominator) -> None:
        self._facts = facts
        self._nominator = nominator
        self._early: list[IncomingCheck] = []  # not a deque, which takes 700 bytes of each agent for ever
        self._answered: TransportAddress | None = None  # whom the last success response went to,
        self._template: stun.Template | None = None  # and what it was like

    def handle(
        self, now: float, local: TransportAddress, remote: TransportAddress, request: stun.Message
    ) -> DropReason | Effect:
        """Deal with a Binding request; return why it was dropped without an answer, or what follows."""
        ufrag_or_reason = self._authenticate(remote, request)
        if isinstance(ufrag_or_reason, DropReason):
            # Deviation from RFC 8489 section 9.1.3, which answers 400 or 401: nothing is sent to whom we do not know,
            # so that nobody can find our ports or use us as a reflector.
            return ufrag_or_reason
        facts = self._facts
        if not self._may_be_answered(local, remote):
            return DropReason.CANDIDATE_UNUSABLE
        facts.requests_received += 1
        if request.unknown_comprehension_required:
            facts.outbox.drop(DropReason.STUN_UNKNOWN_ATTRIBUTE)
            unknown = stun.UnknownAttributes(request.unknown_comprehension_required)
            self._answer(local, remote, stun.error(request, 420, "Unknown Attribute", unknown))
            return Effect.SETTLE
        priority = request.get(stun.Priority)
        if priority is None and self._find_remote(local, remote) is None:
            facts.outbox.drop(DropReason.STUN_NO_PRIORITY)
            self._answer(local, remote, stun.error(request, 400, "Bad Request"))
            return Effect.SETTLE
        check = self._read(local, remote, ufrag_or_reason, request)
        if self._settle_roles(local, remote, request):
            self._succeed(local, remote, request)
        else:
            # Deviation from RFC 8445 section 7.3.1.1, by which nothing follows: from behind a NAT that maps per
            # destination the 487 comes from another address than was asked, and is dropped. Our own check of where the
            # peer's came from asks it to switch as well, and gets there.
            check = check._replace(use_candidate=False, nomination=0)
        if facts.keys.remote is None:
            self._keep_early(check)
            return Effect.SETTLE
        return self._process(now, check)

    @staticmethod
    def _read(local: TransportAddress, remote: TransportAddress, ufrag: str, request: stun.Message) -> IncomingCheck:
        priority, nomination = request.get(stun.Priority), request.get(stun.Nomination)
        return IncomingCheck(
            local,
            remote,
            ufrag,
            0 if priority is None else priority.value,
            request.get(stun.UseCandidate) is not None,
            0 if nomination is None else nomination.value,
        )

    def process_early(self, now: float) -> None:
        """Act upon the checks that came before the peer's credentials."""
        while self._early:
            self._process(now, self._early.pop(0))

    def has_early(self, path: PathAddresses) -> bool:
        """Whether an authenticated check from there waits for the peer's credentials."""
        return any((check.local, check.remote) == path for check in self._early)

    def clear(self) -> None:
        """Forget the checks kept."""
        self._early.clear()

    def _authenticate(self, remote: TransportAddress, request: stun.Message) -> str | DropReason:
        # Cheapest tests first. Nothing is done before the last of them, which authenticates the request.
        if not request.has_integrity:
            return DropReason.STUN_NO_INTEGRITY
        username = request.get(stun.Username)
        if username is None:
            return DropReason.STUN_NO_USERNAME
        ours, colon, theirs = username.value.partition(":")
        if not colon or ours != self._facts.keys.local.ufrag:
            if self._seems_the_peers(remote, theirs, request):
                self._facts.runner.signs.requests_naming_old += 1
            return DropReason.STUN_WRONG_USERNAME
        if not request.verify_integrity(self._facts.keys.local_key):
            if self._seems_the_peers(remote, theirs, request):
                self._facts.runner.signs.requests_keyed_wrong += 1
            return DropReason.STUN_BAD_INTEGRITY
        return theirs

    def _may_be_answered(self, local: TransportAddress, remote: TransportAddress) -> bool:
        """Whether a check came from where a candidate can be: an answer to anywhere else is for somebody else."""
        if (local, remote) in self._facts.checklist.pairs:
            return True
        return remote.port != 0 and is_usable(remote.host) and can_reach(local.host, remote.host)

    def _seems_the_peers(self, remote: TransportAddress, ufrag: str, request: stun.Message) -> bool:
        """Whether a check that failed authentication is the peer's: it names it, and is from a host of its.

        From an address that the peer has signalled, one that names somebody else is worth remembering, too. What was
        damaged on its way, its FINGERPRINT perhaps so that it is none, says nothing.
        """
        facts = self._facts
        if facts.keys.remote is None or not request.verify_fingerprint():
            return False
        if ufrag == facts.keys.local.ufrag:
            return False  # our own: the peer's address is one of ours, too, in a network numbered like its own
        source = without_zone(remote)
        candidates = facts.table.remote.values()
        if facts.keys.remote.ufrag != ufrag:
            if any(one.address == source and one.type is not CandidateType.PRFLX for one in candidates):
                facts.runner.signs.requests_of_nobody += 1
            return False
        return any(candidate.address.host == source.host for candidate in candidates)

    def _settle_roles(self, local: TransportAddress, remote: TransportAddress, request: stun.Message) -> bool:
        """Send 487 or switch, never both (RFC 8445 section 7.3.1.1); return whether to go on."""
        facts = self._facts
        conflict = facts.roles.judge(request)
        # A lite agent cannot lead (RFC 8445 section 6.1.1), so the other one has to, whatever the tiebreakers.
        if conflict is Conflict.REFUSE or (conflict is Conflict.SWITCH and facts.config.lite):
            facts.outbox.drop(DropReason.ROLE_CONFLICT_REFUSED)
            self._answer(local, remote, stun.error(request, 487, "Role Conflict"))
            return False
        if conflict is Conflict.SWITCH:
            facts.roles.switch()
            self._nominator.role_changed()
        return True

    def _succeed(self, local: TransportAddress, remote: TransportAddress, request: stun.Message) -> None:
        facts = self._facts
        if remote.family == 6:  # an XORed IPv6 address is another for each transaction
            self._answer(local, remote, stun.success(request, _mapped(remote)))
            return
        if remote != self._answered or self._template is None:
            self._answered = remote
            self._template = stun.Template(stun.MessageClass.SUCCESS, stun.Method.BINDING, (_mapped(remote),))
        self._send(local, remote, self._template.seal(request.transaction_id, facts.keys.local_key))

    def _answer(self, local: TransportAddress, remote: TransportAddress, response: stun.Message) -> None:
        self._send(local, remote, stun.encode(response, key=self._facts.keys.local_key))

    def _send(self, local: TransportAddress, remote: TransportAddress, response: bytes) -> None:
        pair = self._facts.checklist.pairs.get((local, remote))
        if pair is not None:
            pair.requests_received += 1
            pair.responses_sent += 1
        self._facts.outbox.send(local, remote, response)

    def _keep_early(self, check: IncomingCheck) -> None:
        for index, known in enumerate(self._early):
            if (known.local, known.remote, known.remote_ufrag) == (check.local, check.remote, check.remote_ufrag):
                if check.use_candidate or not known.use_candidate:
                    self._early[index] = check
                return
        if len(self._early) >= constants.MAX_EARLY_CHECKS:
            self._facts.outbox.drop(DropReason.CHECK_EARLY_OVERFLOW)
            return
        self._early.append(check)

    def _process(self, now: float, check: IncomingCheck) -> Effect:
        facts = self._facts
        if not facts.running:
            return Effect.SETTLE
        assert facts.keys.remote is not None
        if check.remote_ufrag != facts.keys.remote.ufrag:
            facts.runner.signs.requests_of_another += 1
            facts.outbox.drop(DropReason.CHECK_OTHER_GENERATION)
            return Effect.SETTLE
        facts.runner.signs.requests_right += 1
        pair = facts.checklist.pairs.get((check.local, check.remote)) or self._new_pair(now, check)
        if pair is None or pair.consent_lost:
            return Effect.SETTLE
        is_first, pair.heard, pair.granted = not pair.heard, True, constants.CHECK_RC
        nominates = self._nominates(check)
        if nominates:
            pair.nominated_as, pair.nominated_at = facts.nominations.count(), now
        if facts.config.lite:
            facts.health.hear(now)
            if not nominates:
                return Effect.NONE if pair is facts.data_pair else Effect.SETTLE
        elif pair is not facts.data_pair and facts.is_settled(now):
            facts.health.doubt()
        if is_first and pair is facts.selected and facts.roles.controlling:
            # A peer that answers checks before it has our description may keep only the first one of each pair, and
            # miss what later ones say. Now it has our description: so one more, at once.
            start_check(facts, now, pair, CheckKind.CONSENT)
            return Effect.SETTLE
        if pair.state is PairState.SUCCEEDED:  # RFC 8445 section 7.3.1.4: no triggered check
            if pair is facts.data_pair and (not nominates or pair is facts.selected):
                return Effect.NONE
            self._nominate_valid(now, pair, nominates)
            return Effect.SETTLE
        if nominates:
            pair.nominate_on_success = True
        # Also after a pair was selected (RFC 8445 section 8.3.1 speaks of triggered checks then): where the peer checks
        # it may soon send.
        self._trigger(pair)
        return Effect.SETTLE

    def _nominates(self, check: IncomingCheck) -> bool:
        """Return whether a check nominates its pair; one overtaken by a newer nomination does not.

        Source: draft-thatcher-ice-renomination section 4.
        """
        facts = self._facts
        if facts.roles.controlling:
            return False
        if check.nomination and facts.renominates:
            return facts.nominations.accept(check.nomination)
        return check.use_candidate

    def _nominate_valid(self, now: float, pair: CheckPair, nominates: bool) -> None:
        facts = self._facts
        if not nominates or pair is facts.selected:
            return
        if now < pair.last_response_at + facts.config.consent_expiry_s / 2:
            self._nominator.nominated(now, pair)
        else:  # a backup last checked long ago: it is used once our own check is answered
            pair.nominate_on_success = True
            facts.checklist.trigger(pair)

    def _trigger(self, pair: CheckPair) -> None:
        """Queue a triggered check; one that is in progress is cancelled for it (RFC 8445 section 7.3.1.4)."""
        facts = self._facts
        if pair.state is PairState.IN_PROGRESS:
            facts.runner.cancel(pair.check)
            pair.check = None
        facts.checklist.set_state(pair, PairState.WAITING)
        facts.checklist.trigger(pair)

    def _new_pair(self, now: float, check: IncomingCheck) -> CheckPair | None:
        facts = self._facts
        local = facts.table.local_at(check.local)
        if local is None:
            facts.outbox.drop(DropReason.CHECK_UNKNOWN_LOCAL)
            return None
        remote = self._find_remote(check.local, check.remote) or learn_remote(
            facts, self._nominator, now, local, (check.local, check.remote), check.priority
        )
        if remote is None or path_of(local, remote) is None:
            return None
        pair = CheckPair(local, remote, check.local, check.remote, priority=0)
        pair.requests_received = pair.responses_sent = 1  # the one that revealed it
        pair.rank(facts.roles.controlling)
        if not facts.checklist.insert(pair, needed=True):
            facts.outbox.drop(DropReason.PAIR_LIMIT)
        return facts.checklist.pairs.get(pair.path)

    def _find_remote(self, local: TransportAddress, remote: TransportAddress) -> Candidate | None:
        table = self._facts.table
        return table.find_remote(remote, table.transport_of(local))


def _mapped(remote: TransportAddress) -> stun.XorMappedAddress:
    """Return what tells the peer its address as we see it; zones are ours, not its."""
    return stun.XorMappedAddress(without_zone(remote))
