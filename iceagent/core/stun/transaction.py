"""One request: when it is sent again, and what may answer it. RFC 8489 sections 6.2, 6.3.3, 6.3.4, 9.1.4 and 9.2.5."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate
from typing import Final, Self

from iceagent.core.address import TransportAddress
from iceagent.core.constants import STUN_MAX_RC, STUN_RC, STUN_RM, STUN_RTO_S, STUN_TI_S
from iceagent.core.stun.error_attributes import ErrorCode
from iceagent.core.stun.message import Message
from iceagent.core.stun.raw import Integrity, MessageClass


@dataclass(frozen=True, slots=True)
class RetransmissionSchedule:
    """The send times of one transaction, relative to its start.

    Each wait is twice the one before, but no longer than `max_gap_s`; after the last request the client waits `rm`
    times `rto_s`.

    Attributes:
        rto_s: the first wait, seconds.
        rc: requests sent in all, 1 to 32.
        rm: how many `rto_s` to wait after the last request.
        max_gap_s: the longest wait between two requests, seconds; RFC 8489 section 6.2.1 has no such limit.
        offsets: seconds after the start of each request; the first is 0.
        timeout_s: seconds after the start when the transaction fails.
    """

    rto_s: float = STUN_RTO_S
    rc: int = STUN_RC
    rm: float = STUN_RM
    max_gap_s: float = math.inf
    offsets: tuple[float, ...] = field(init=False, compare=False, repr=False)
    timeout_s: float = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        is_sound = math.isfinite(self.rto_s) and self.rto_s > 0 and 1 <= self.rc <= STUN_MAX_RC and self.rm > 0
        if not is_sound or not self.max_gap_s >= self.rto_s:
            raise ValueError(f"no schedule is {self.rto_s=}, {self.rc=}, {self.rm=}, {self.max_gap_s=}")
        gaps = (min(self.rto_s * 2**sent, self.max_gap_s) for sent in range(self.rc - 1))
        offsets = tuple(accumulate(gaps, initial=0.0))
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "timeout_s", offsets[-1] + self.rm * self.rto_s)

    @classmethod
    def reliable(cls, timeout_s: float = STUN_TI_S) -> Self:
        """Return the schedule over TCP or TLS: one request, then patience. RFC 8489 section 6.2.2."""
        return cls(rto_s=timeout_s, rc=1, rm=1)

    def next_after(self, started_at: float, now: float) -> float:
        """Return the first send time later than `now`, or when there is none the time of failure.

        All are computed as `started_at + offset`, so that a timer set to the result finds it due and not almost due.
        """
        times = (started_at + offset for offset in self.offsets)
        return next((at for at in times if at > now), started_at + self.timeout_s)


DEFAULT_SCHEDULE: Final = RetransmissionSchedule()


class FailureReason(Enum):
    """Why a transaction ended without a response that counts."""

    NO_ANSWER = "no_answer"
    INTEGRITY_VIOLATED = "integrity_violated"  # RFC 8489 section 9.1.4: answers came, none of them authentic
    UNKNOWN_ATTRIBUTES = "unknown_attributes"  # RFC 8489 sections 6.3.3 and 6.3.4
    NO_ERROR_CODE = "no_error_code"  # RFC 8489 section 6.3.4


class Judgement(Enum):
    """What a message means to the transaction whose id it bears."""

    ACCEPTED = "accepted"
    WRONG_SOURCE = "wrong_source"
    NO_RESPONSE = "no_response"
    WRONG_METHOD = "wrong_method"
    BAD_FINGERPRINT = "bad_fingerprint"
    NOT_AUTHENTIC = "not_authentic"
    UNKNOWN_ATTRIBUTES = "unknown_attributes"
    NO_ERROR_CODE = "no_error_code"


_ENDS_WITH = {
    Judgement.UNKNOWN_ATTRIBUTES: FailureReason.UNKNOWN_ATTRIBUTES,
    Judgement.NO_ERROR_CODE: FailureReason.NO_ERROR_CODE,
}
"""The judgements that end a transaction at once; after the others it goes on as if nothing had come."""


@dataclass(slots=True)
class ClientTransaction:
    """A request under way. It knows when to send and what to believe; its owner sends.

    Attributes:
        transaction_id: 12 bytes.
        local: the address it is sent from, and where its answer must arrive.
        remote: the address it is sent to, and where its answer must come from.
        method: of request and answer.
        data: the encoded request.
        key: what authenticates the answer; None where the usage knows no authentication.
        integrity: what the request carries; the answer must match it.
        schedule: when to send.
        started_at: seconds, on the caller's clock.
        unauthenticated_errors: codes believed without integrity, such as 401 and 438 of the long-term mechanism.
        due_at: when to send again or give up.
        sent: how often the request has been sent.
        forgeries: answers thrown away because they were not authentic.
    """

    transaction_id: bytes
    local: TransportAddress
    remote: TransportAddress
    method: int
    data: bytes
    key: bytes | None = field(repr=False)
    integrity: Integrity
    schedule: RetransmissionSchedule
    started_at: float
    unauthenticated_errors: frozenset[int] = frozenset()
    due_at: float = 0.0
    sent: int = 0
    forgeries: int = 0

    def send(self, now: float) -> None:
        """Note that the request is being sent; missed send times are not made up for."""
        self.sent += 1
        self.due_at = self.schedule.next_after(self.started_at, now)

    def is_expired(self, now: float) -> bool:
        """Return whether the last wait is over."""
        return now >= self.started_at + self.schedule.timeout_s

    def rtt_s(self, now: float) -> float | None:
        """Return the round-trip time; None where a retransmission makes it ambiguous (Karn's algorithm).

        One that was due and not sent says that we were stopped, and that the answer has waited for us.
        """
        return now - self.started_at if self.sent == 1 and now <= self.due_at else None

    @property
    def failure(self) -> FailureReason:
        """What to report when time is up."""
        return FailureReason.INTEGRITY_VIOLATED if self.forgeries else FailureReason.NO_ANSWER

    def judge(self, local: TransportAddress, remote: TransportAddress, message: Message) -> Judgement:
        """Return what a message with this transaction's id is worth. A forgery is counted."""
        if remote != self.remote or local != self.local:
            return Judgement.WRONG_SOURCE
        if message.message_class not in (MessageClass.SUCCESS, MessageClass.ERROR):
            return Judgement.NO_RESPONSE
        if message.method != self.method:
            return Judgement.WRONG_METHOD
        if message.verify_fingerprint() is False:
            return Judgement.BAD_FINGERPRINT
        if not self._is_authentic(message):
            self.forgeries += 1
            return Judgement.NOT_AUTHENTIC
        if message.unknown_comprehension_required:
            return Judgement.UNKNOWN_ATTRIBUTES
        if message.message_class is MessageClass.ERROR and message.get(ErrorCode) is None:
            return Judgement.NO_ERROR_CODE
        return Judgement.ACCEPTED

    def _is_authentic(self, message: Message) -> bool:
        if self.key is None:
            return True
        if not message.has_integrity:
            code = message.get(ErrorCode) if message.message_class is MessageClass.ERROR else None
            return code is not None and code.code in self.unauthenticated_errors
        # RFC 8489 section 9.1.4: who sent one algorithm gets that one back, or is being bid down.
        if self.integrity is not Integrity.BOTH and message.integrity is not self.integrity:
            return False
        return message.verify_integrity(self.key)


def ends_with(judgement: Judgement) -> FailureReason | None:
    """Return why the judgement ends the transaction; None where it does not."""
    return _ENDS_WITH.get(judgement)
