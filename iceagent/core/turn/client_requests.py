"""A TURN client's requests, repeated with credentials after each challenge. RFC 8489 sections 6.2 and 9.2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.printable import printable
from iceagent.core.transmit import Transmit
from iceagent.core.turn.client_auth import Challenge, ClientAuthenticator
from iceagent.core.turn.client_values import MAX_CHALLENGES, REASON_OF_CODE, SCHEDULE, EndReason
from iceagent.core.turn.credentials import TurnCredentials

_ID_SIZE: Final = 12
_MAX_REQUESTS: Final = 512  # ours: more than permissions and channels can have under way
# RFC 8489 section 9.2.5 lets 401 and 438 come without integrity. 441 does so from coturn, whose key is not ours.
_UNAUTHENTICATED: Final = frozenset({401, 438, 441})

Done = Callable[[float, "RequestOutcome"], None]


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """How a request ended.

    Attributes:
        response: the success response, or None.
        error: the error response, or None; both are None for silence.
        reason: why there is no success; None where there is one.
    """

    response: stun.Message | None = None
    error: stun.Message | None = None
    reason: EndReason | None = None

    @property
    def code(self) -> int | None:
        """The error code, or None."""
        found = None if self.error is None else self.error.get(stun.ErrorCode)
        return None if found is None else found.code

    @property
    def detail(self) -> str:
        """The server's words."""
        found = None if self.error is None else self.error.get(stun.ErrorCode)
        return "" if found is None else printable(found.reason)

    @property
    def is_ambiguous(self) -> bool:
        """Whether the server may or may not have done what was asked: there was no response."""
        return self.response is None and self.error is None


@dataclass(slots=True, eq=False)
class PendingRequest:
    """A request under way, through as many challenges as it takes."""

    method: stun.Method
    attributes: tuple[stun.Attribute, ...]
    done: Done
    schedule: stun.RetransmissionSchedule
    credentials: TurnCredentials | None  # others than the allocation's, when they are being changed
    transaction_id: bytes = b""
    sent_nonce: str = ""
    sent_key: bytes | None = field(default=None, repr=False)
    challenges: int = 0


class Requester:
    """The requests of one client.

    Args:
        local: our end of the 5-tuple.
        server: the other end.
        auth: what authenticates them.
        randbytes: source of transaction ids.
        reliable: the transport is TCP or TLS: nothing is sent twice.
    """

    def __init__(
        self,
        local: TransportAddress,
        server: TransportAddress,
        auth: ClientAuthenticator,
        randbytes: Callable[[int], bytes],
        *,
        reliable: bool,
    ) -> None:
        self._local = local
        self._server = server
        self._auth = auth
        self._randbytes = randbytes
        self._reliable = reliable
        self._client = stun.StunClient(max_transactions=_MAX_REQUESTS)
        self._open: dict[bytes, PendingRequest] = {}
        self._schedule = stun.RetransmissionSchedule.reliable() if reliable else SCHEDULE

    def __len__(self) -> int:
        return len(self._open)

    @property
    def is_full(self) -> bool:
        """Whether no further request can be started now."""
        return len(self._open) >= _MAX_REQUESTS - 1

    def start(
        self,
        now: float,
        method: stun.Method,
        attributes: tuple[stun.Attribute, ...],
        done: Done,
        *,
        timeout_s: float | None = None,
        credentials: TurnCredentials | None = None,
    ) -> PendingRequest:
        """Send a request; `done` is called once with its outcome, unless it is cancelled.

        Args:
            now: seconds.
            method: of the request.
            attributes: its own, those of authentication not among them.
            done: takes time and outcome.
            timeout_s: send it once and wait this long; None for the usual schedule.
            credentials: others than the allocation's.
        """
        schedule = self._schedule if timeout_s is None else stun.RetransmissionSchedule.reliable(timeout_s)
        request = PendingRequest(method, attributes, done, schedule, credentials)
        self._send(now, request)
        return request

    def indicate(self, method: stun.Method, *attributes: stun.Attribute) -> bytes:
        """Return an indication, encoded; it is neither authenticated nor answered."""
        message = stun.Message(stun.MessageClass.INDICATION, method, self._randbytes(_ID_SIZE), attributes)
        return stun.encode(message, fingerprint=False)

    def cancel(self, request: PendingRequest) -> None:
        """Forget a request."""
        if self._open.pop(request.transaction_id, None) is not None:
            self._client.cancel(request.transaction_id)

    def close(self) -> None:
        """Forget all; no timer is left."""
        self._open.clear()
        self._client.close()

    def handle_message(self, now: float, message: stun.Message) -> bool:
        """Take a message of the server; return whether it belongs to a request."""
        taken = self._client.handle_message(now, self._local, self._server, message)
        self._settle(now)
        return taken

    def handle_timeout(self, now: float) -> None:
        """Retransmit and give up what is due."""
        due = self._client.next_timeout()
        if due is not None and due <= now:
            self._client.handle_timeout(now)
            self._settle(now)

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` wants to be called."""
        return self._client.next_timeout()

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._client.poll_transmit()

    def _send(self, now: float, request: PendingRequest) -> None:
        auth = self._auth
        key = auth.key(request.credentials)
        request.sent_nonce = "" if key is None else auth.nonce
        request.sent_key = key
        request.transaction_id = self._randbytes(_ID_SIZE)
        attributes = (*request.attributes, *auth.attributes(request.credentials))
        if key is None and request.method == stun.Method.ALLOCATE and not self._reliable:
            attributes = _padded(attributes)
        message = stun.Message(stun.MessageClass.REQUEST, request.method, request.transaction_id, attributes)
        self._open[request.transaction_id] = request
        self._client.start(
            now,
            self._local,
            self._server,
            message,
            key,
            request.schedule,
            integrity=auth.integrity,
            fingerprint=False,  # as in RFC 8656 section 20: nothing else than TURN is on this connection
            unauthenticated_errors=_UNAUTHENTICATED,
        )

    def _settle(self, now: float) -> None:
        while (event := self._client.poll_event()) is not None:
            request = self._open.pop(event.transaction_id, None)
            if request is None:
                continue
            if isinstance(event, stun.TimedOut):
                request.done(now, RequestOutcome(reason=_reason_of_silence(event.reason)))
            elif event.message.message_class is stun.MessageClass.SUCCESS:
                self._auth.handle_success(event.message)
                request.done(now, RequestOutcome(event.message))
            else:
                self._refused(now, request, event.message)

    def _refused(self, now: float, request: PendingRequest, response: stun.Message) -> None:
        outcome = RequestOutcome(error=response, reason=EndReason.REFUSED)
        code = outcome.code or 0
        if code not in (401, 438):
            request.done(now, RequestOutcome(error=response, reason=REASON_OF_CODE.get(code, EndReason.REFUSED)))
            return
        request.challenges += 1
        # Another request may have brought a newer nonce meanwhile; that one is to be tried first.
        if request.sent_nonce != self._auth.nonce and request.challenges <= MAX_CHALLENGES and request.sent_nonce:
            self._send(now, request)
            return
        challenge = self._auth.handle_challenge(response, request.sent_nonce)
        if challenge is Challenge.RETRY and code == 401 and request.challenges > 2:
            challenge = Challenge.REFUSED  # a fresh nonce each time, and still not satisfied
        if challenge is Challenge.RETRY and request.challenges <= MAX_CHALLENGES:
            self._send(now, request)
            return
        request.done(now, RequestOutcome(error=response, reason=_REASON_OF_CHALLENGE[challenge]))


def _padded(attributes: tuple[stun.Attribute, ...]) -> tuple[stun.Attribute, ...]:
    """Lengthen an unauthenticated request, by blanks in SOFTWARE, which each server knows and none needs.

    A server that is flooded by forged sources answers strangers with no more bytes than they have sent, or it would hit
    somebody with more than the flood itself: a question that is longer than its 401 is answered in any case.
    """
    software = next((one.value for one in attributes if isinstance(one, stun.Software)), "")
    others = tuple(one for one in attributes if not isinstance(one, stun.Software))
    return (stun.Software(software.ljust(stun.Software.MAX_CHARACTERS)), *others)


_REASON_OF_CHALLENGE: Final = {
    Challenge.RETRY: EndReason.CREDENTIALS_REFUSED,  # after MAX_CHALLENGES
    Challenge.REFUSED: EndReason.CREDENTIALS_REFUSED,
    Challenge.NO_CREDENTIALS: EndReason.CREDENTIALS_NEEDED,
    Challenge.BID_DOWN: EndReason.BID_DOWN,
}


def _reason_of_silence(reason: stun.FailureReason) -> EndReason:
    if reason is stun.FailureReason.INTEGRITY_VIOLATED:
        return EndReason.NOT_AUTHENTIC
    return EndReason.NO_ANSWER if reason is stun.FailureReason.NO_ANSWER else EndReason.REFUSED
