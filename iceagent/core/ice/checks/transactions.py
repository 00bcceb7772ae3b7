"""Outgoing check transactions: built, sent, retransmitted, matched with their responses.

RFC 8445 sections 7.2.4 and 7.2.5 without the meaning of a response; RFC 8489 section 6.2.1 for retransmission.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from msgspec import Struct

from iceagent.core import constants, stun
from iceagent.core.address import TransportAddress
from iceagent.core.ice.checks.signs import CredentialSigns
from iceagent.core.ice.events import DropReason
from iceagent.core.ice.model.credentials import KeyRing
from iceagent.core.ice.model.pair import Check, CheckKind, CheckPair
from iceagent.core.ice.model.priority import as_peer_reflexive
from iceagent.core.ice.outbox import Outbox
from iceagent.core.ice.roles import RoleKeeper


class CheckResult(Enum):
    """What an authenticated response says."""

    SUCCESS = "success"
    ROLE_CONFLICT = "role-conflict"
    REVOKED = "revoked"  # 403 to a consent check, RFC 7675 section 5.2
    FAILED = "failed"


class CheckOutcome(Struct, frozen=True):
    """A check that got an answer; on SUCCESS `mapped` is the source that the peer saw, if it reported it."""

    check: Check
    result: CheckResult
    mapped: TransportAddress | None = None


def rto_s(waiting: int, in_progress: int, ta_s: float = constants.TA_S) -> float:
    """Return the first retransmission timeout of a connectivity check.

    Args:
        waiting: pairs in the Waiting state, whole checklist set.
        in_progress: pairs In-Progress.
        ta_s: pacing interval, seconds.

    Returns:
        Seconds, 0.5 to 1. Deviation from the formula of RFC 8445 section 14.3: its factor N ("the total number of
        checks to be performed") makes the timeout quadratic, 500 s for a full checklist. In RFC 5245 N was the number
        of checklists, here 1; and the upper bound keeps one lost packet from costing the best pair.

    Raises:
        ValueError: a count is negative.

    Source: RFC 8445 section 14.3, which allows other mechanisms that stay above 500 ms.
    """
    if waiting < 0 or in_progress < 0:
        raise ValueError("there cannot be fewer than no pairs")
    return min(max(constants.CHECK_RTO_MIN_S, ta_s * (waiting + in_progress)), constants.CHECK_RTO_MAX_S)


class CheckRunner:
    """The transactions in flight. Bounded: the oldest cancelled one gives way."""

    def __init__(self, outbox: Outbox, keys: KeyRing, roles: RoleKeeper, randbytes: Callable[[int], bytes]) -> None:
        self._outbox = outbox
        self._keys = keys
        self._roles = roles
        self._randbytes = randbytes
        self._checks: dict[bytes, Check] = {}
        self.signs = CredentialSigns()
        self._template: stun.Template | None = None  # of the last request
        self._template_key: tuple[object, ...] = ()
        self.checks_sent = 0
        self.answers = 0

    def start(
        self,
        now: float,
        pair: CheckPair,
        kind: CheckKind,
        rto: float,
        *,
        use_candidate: bool,
        nomination: int = 0,
        steady: bool = False,
        sends: int | None = None,
    ) -> Check:
        """Send the first request of a new transaction.

        Args:
            now: the present.
            pair: what to check; the credentials of its remote side must be known.
            kind: what for.
            rto: first retransmission timeout, seconds.
            use_candidate: whether it nominates (RFC 8445 section 7.1.2).
            nomination: the value of its NOMINATION attribute; 0 for none.
            steady: retransmit once a second until the end, instead of ever more seldom.
            sends: how often it is sent at most; None leaves that to the schedule.
        """
        if len(self._checks) >= constants.MAX_TRANSACTIONS:
            self._make_room()
        transaction_id = self._randbytes(12)
        gaps_s, expires_s = _steady_schedule(rto) if steady else _schedule(kind, rto)
        if sends is not None and sends < len(gaps_s):
            gaps_s = (*gaps_s[: sends - 1], rto * constants.CHECK_RM)
            expires_s = min(sum(gaps_s), expires_s)
        check = Check(
            pair=pair,
            kind=kind,
            transaction_id=transaction_id,
            data=self._request(pair, transaction_id, use_candidate, nomination),
            role_generation=self._roles.generation,
            rto_s=rto,
            gaps_s=gaps_s,
            started_at=now,
            expires_at=now + expires_s,
            sent_at=now,
            next_at=min(now + gaps_s[0], now + expires_s),
        )
        self._checks[transaction_id] = check
        if kind in (CheckKind.CONSENT, CheckKind.PROBE):
            pair.consent_requests_sent += 1
        else:
            pair.requests_sent += 1
        self._transmit(now, check)
        return check

    def cancel(self, check: Check | None) -> None:
        """Retransmit no more and expect nothing, but let an answer still count (RFC 8445 section 7.3.1.4)."""
        if check is not None:
            check.cancelled = True
            check.next_at = check.expires_at

    def discard_pair(self, pair: CheckPair) -> None:
        """Forget all transactions of a pair: a later answer means nothing (RFC 7675 section 5.1)."""
        for check in [check for check in self._checks.values() if check.pair is pair]:
            del self._checks[check.transaction_id]

    def clear(self) -> None:
        """Forget everything."""
        self._checks.clear()

    def note_stop(self) -> None:
        """Take note that we were stopped: how long the answers took that come now is not known."""
        for check in self._checks.values():
            check.is_timed = False

    def knows(self, transaction_id: bytes) -> bool:
        """Whether a check with that transaction id waits for its answer."""
        return transaction_id in self._checks

    def handle_response(
        self, now: float, local: TransportAddress, remote: TransportAddress, response: stun.Message
    ) -> CheckOutcome | DropReason:
        """Match a response with its check; anything not authenticated is as if never received.

        What comes from elsewhere than the check went to, or to elsewhere than it came from, means nothing but that the
        check has arrived: it is sent no more. Deviation from RFC 8445 section 7.2.5.2.1, by which the pair has failed
        then: whoever sees the true answer could send a copy of it ahead from another address, and so fail any pair. But
        to go on asking would have two NATs that map per destination and filter nothing keep both sides busy for ever:
        each check comes from an address not known yet, and draws the next one.
        """
        check = self._checks.get(response.transaction_id)
        if check is None:
            return DropReason.RESPONSE_UNKNOWN_TRANSACTION
        if check.pair.path != (local, remote):
            is_success = response.message_class is stun.MessageClass.SUCCESS
            if is_success and check.kind is CheckKind.ORDINARY and response.verify_integrity(self._keys.remote_key):
                check.astray = True
                check.expires_at = min(check.expires_at, now + check.rto_s * constants.CHECK_RM)
                check.next_at = check.expires_at
            return DropReason.RESPONSE_WRONG_PATH
        if not response.has_integrity:
            if _is_refusal(response):
                self.signs.answers_refusing += 1
            return DropReason.STUN_NO_INTEGRITY
        if not response.verify_integrity(self._keys.remote_key):
            if response.verify_fingerprint():  # else it may have been damaged on its way
                self.signs.answers_keyed_wrong += 1
            return DropReason.STUN_BAD_INTEGRITY
        check.pair.responses_received += 1
        self.signs.answers_right += 1
        return self._read(now, check, response)

    def handle_timeout(self, now: float) -> list[Check]:
        """Retransmit what is due; return the checks that ended unanswered, cancelled ones left out."""
        expired: list[Check] = []
        for check in list(self._checks.values()):
            if check.next_at > now:
                continue
            if now >= check.expires_at or check.sends >= len(check.gaps_s):
                del self._checks[check.transaction_id]
                if not check.cancelled:
                    expired.append(check)
                continue
            gap_s = check.gaps_s[check.sends]
            check.sends += 1
            check.next_at = min(now + gap_s, check.expires_at)
            # Over TCP nothing is sent twice (RFC 8489 section 6.2.2), but the schedule is kept: it ends at the same Ti
            # of 39.5 s, and by it everybody else knows how long the path has been silent.
            if not check.pair.is_tcp:
                check.sent_at = now
                self._transmit(now, check)
        return expired

    def handle_unreachable(self, now: float, path: tuple[TransportAddress, TransportAddress]) -> None:
        """Shorten the wait for the checks of one path that ICMP calls unreachable.

        ICMP is not authenticated, so it fails nothing (RFC 8445 section 7.2.5.2.2 would): the check keeps its next
        retransmissions, and an answer to any of them counts.
        """
        for check in self._checks.values():
            if check.pair.path == path and check.kind is CheckKind.ORDINARY and not check.cancelled:
                total = 2 ** (constants.CHECK_UNREACHABLE_RC - 1) - 1 + constants.CHECK_UNREACHABLE_RM
                earliest = max(check.started_at + total * check.rto_s, now + check.rto_s)
                check.expires_at = min(check.expires_at, earliest)
                check.next_at = min(check.next_at, check.expires_at)

    def connection_lost(self, now: float, pair: CheckPair) -> list[Check]:
        """End the checks that went down with a TCP connection; return the ordinary ones, which have failed.

        A nominating or probing one ends soon, and a new one follows; not at once, lest a peer that accepts connections
        and closes them keep us busy.
        """
        failed: list[Check] = []
        for check in [check for check in self._checks.values() if check.pair is pair]:
            if check.kind is CheckKind.ORDINARY:
                del self._checks[check.transaction_id]
                if not check.cancelled:
                    failed.append(check)
            elif check.kind is not CheckKind.CONSENT:
                check.expires_at = min(check.expires_at, max(now, check.started_at + constants.CHECK_RTO_MIN_S))
                check.next_at = min(check.next_at, check.expires_at)
        return failed

    def hurry(self, now: float) -> None:
        """Retransmit what waits for an answer now rather than later: the network has changed.

        The checks leave 5 ms apart, the least Ta of RFC 8445 section 14.2.
        """
        at = now
        for check in self._checks.values():
            if not check.cancelled and check.sends < len(check.gaps_s) and check.next_at > at:
                check.next_at = at
                at += constants.TA_MIN_S

    def next_timeout(self) -> float | None:
        """Return when the next retransmission or expiry is due."""
        return min((check.next_at for check in self._checks.values()), default=None)

    def _read(self, now: float, check: Check, response: stun.Message) -> CheckOutcome | DropReason:
        del self._checks[check.transaction_id]
        if response.unknown_comprehension_required:  # RFC 8489 section 6.3.3: the transaction has failed
            self._outbox.drop(DropReason.STUN_UNKNOWN_ATTRIBUTE)
            return CheckOutcome(check, CheckResult.FAILED)
        if response.message_class is stun.MessageClass.ERROR:
            return self._read_error(check, response)
        mapped = response.get(stun.XorMappedAddress)
        if mapped is None:  # RFC 8445 section 7.3.1.2 wants one; the WHIP client of a widely used program sends none
            self._outbox.drop(DropReason.RESPONSE_NO_ADDRESS)
        self.answers += 1
        if check.is_timed and (check.sends == 1 or check.pair.rtt_s is None or check.pair.is_tcp):
            # A retransmitted check has an ambiguous RTT (Karn); as the very first estimate it is better than none.
            check.pair.measure_rtt(max(0.0, now - check.sent_at))
        return CheckOutcome(check, CheckResult.SUCCESS, None if mapped is None else mapped.address)

    def _read_error(self, check: Check, response: stun.Message) -> CheckOutcome:
        error = response.get(stun.ErrorCode)
        code = 0 if error is None else error.code
        self._outbox.drop(DropReason.RESPONSE_ERROR)
        if code == 487:
            return CheckOutcome(check, CheckResult.ROLE_CONFLICT)
        if code == 403 and check.kind in (CheckKind.CONSENT, CheckKind.PROBE):
            return CheckOutcome(check, CheckResult.REVOKED)
        return CheckOutcome(check, CheckResult.FAILED)

    def _request(self, pair: CheckPair, transaction_id: bytes, use_candidate: bool, nomination: int) -> bytes:
        priority = as_peer_reflexive(pair.local.priority, pair.local.transport)
        key = (priority, use_candidate, nomination, self._roles.generation, self._keys.remote_key)
        if key != self._template_key or self._template is None:  # consent checks of one pair differ in nothing
            self._template_key = key
            attributes: list[stun.Attribute] = [
                stun.Username(self._keys.outgoing_username()),
                stun.Priority(priority),
                self._roles.attribute(),
            ]
            if use_candidate:
                attributes.append(stun.UseCandidate())
                if nomination:
                    attributes.append(stun.Nomination(nomination))
            self._template = stun.Template(stun.MessageClass.REQUEST, stun.Method.BINDING, tuple(attributes))
        return self._template.seal(transaction_id, self._keys.remote_key)

    def _transmit(self, now: float, check: Check) -> None:
        if not check.pair.is_vouched_for:
            if check.pair.granted <= 0:
                return  # and the check ends unanswered
            check.pair.granted -= 1
        self.checks_sent += 1
        check.pair.checks_sent += 1
        check.pair.last_sent_at = now
        self._outbox.send(check.pair.base, check.pair.destination, check.data)

    def _make_room(self) -> None:
        victim = next((check for check in self._checks.values() if check.cancelled), None)
        if victim is None:
            victim = next(iter(self._checks.values()))
        del self._checks[victim.transaction_id]
        self._outbox.drop(DropReason.TRANSACTION_LIMIT)


def _is_refusal(response: stun.Message) -> bool:
    """Return whether an unauthenticated answer says that ours was not accepted (RFC 8489 section 9.1.3)."""
    error = response.get(stun.ErrorCode)
    return response.message_class is stun.MessageClass.ERROR and error is not None and error.code in (400, 401)


def _schedule(kind: CheckKind, rto: float) -> tuple[tuple[float, ...], float]:
    gaps_s: tuple[float, ...]
    if kind is CheckKind.PROBE:  # quick at first, since the path's RTT is known; then every second
        eager = (constants.PROBE_EAGER_GAP_S,) * constants.PROBE_EAGER_SENDS
        gaps_s = (*(rto,) * constants.FALTER_SENDS_LOSSY, *eager, *(constants.CHECK_STEADY_GAP_S,) * 4)
        return gaps_s, sum(gaps_s)
    if kind is CheckKind.CONSENT:  # sent once; any answer while consent could still stand counts
        return (constants.CONSENT_EXPIRY_S,), constants.CONSENT_EXPIRY_S
    if kind is CheckKind.NOMINATION:  # the path is known to work, and the peer waits for it
        gaps_s = (rto, rto, *(constants.CHECK_STEADY_GAP_S,) * constants.NOMINATION_STEADY_SENDS)
        return gaps_s, sum(gaps_s)
    gaps_s = (*(rto * 2**sent for sent in range(constants.CHECK_RC - 1)), rto * constants.CHECK_RM)
    return gaps_s, min(sum(gaps_s), constants.CHECK_TIMEOUT_S)


def _steady_schedule(rto: float) -> tuple[tuple[float, ...], float]:
    count = int(constants.CHECK_TIMEOUT_S / constants.CHECK_STEADY_GAP_S)
    return (rto, *(constants.CHECK_STEADY_GAP_S,) * count), constants.CHECK_TIMEOUT_S
