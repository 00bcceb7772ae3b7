"""Many client transactions behind one pair of polls. RFC 8489 section 6.2."""

from __future__ import annotations

from collections import Counter, deque

from msgspec import Struct

from iceagent.core.address import TransportAddress
from iceagent.core.constants import STUN_MAX_TRANSACTIONS
from iceagent.core.stun.message import Message, encode
from iceagent.core.stun.raw import Integrity
from iceagent.core.stun.transaction import (
    DEFAULT_SCHEDULE,
    ClientTransaction,
    FailureReason,
    Judgement,
    RetransmissionSchedule,
    ends_with,
)
from iceagent.core.transmit import Transmit
from iceagent.errors import LocalError


class Response(Struct, frozen=True):
    """The answer to a request, success or error, believed.

    Attributes:
        transaction_id: what `start` returned.
        local: where the request left from.
        remote: the server.
        message: the response.
        rtt_s: seconds from request to response; None where the request was sent more than once.
    """

    transaction_id: bytes
    local: TransportAddress
    remote: TransportAddress
    message: Message
    rtt_s: float | None


class TimedOut(Struct, frozen=True):
    """A transaction failed: nothing came in time, or nothing that may be believed or understood.

    Attributes:
        transaction_id: what `start` returned.
        local: where the request left from.
        remote: the server.
        reason: silence is not the only one.
    """

    transaction_id: bytes
    local: TransportAddress
    remote: TransportAddress
    reason: FailureReason = FailureReason.NO_ANSWER


class StunClient:
    """Sends requests, again and again as their schedules say, until each has its answer or its time is up.

    After each call drain `poll_transmit` and `poll_event`, then wait until `next_timeout`.

    Args:
        max_transactions: bound of what is outstanding, unread events included.
    """

    def __init__(self, *, max_transactions: int = STUN_MAX_TRANSACTIONS) -> None:
        self._max_transactions = max_transactions
        self._transactions: dict[bytes, ClientTransaction] = {}
        # A transaction not drained in time loses its oldest datagram, as a network would.
        self._transmits: deque[Transmit] = deque(maxlen=2 * max_transactions)
        self._events: deque[Response | TimedOut] = deque()
        self.counters: Counter[str] = Counter()

    def start(
        self,
        now: float,
        local: TransportAddress,
        server: TransportAddress,
        message: Message,
        key: bytes | None = None,
        schedule: RetransmissionSchedule = DEFAULT_SCHEDULE,
        *,
        integrity: Integrity = Integrity.SHA1,
        fingerprint: bool = True,
        unauthenticated_errors: frozenset[int] = frozenset(),
    ) -> bytes:
        """Send a request at once and watch for its answer.

        Args:
            now: seconds.
            local: the socket to send from.
            server: where to.
            message: the request, with a transaction id nobody can guess.
            key: protects the request and must protect the answer.
            schedule: when to send again.
            integrity: which integrity attributes the request carries.
            fingerprint: whether it carries FINGERPRINT.
            unauthenticated_errors: error codes believed without integrity although there is a key.

        Returns:
            The transaction id.

        Raises:
            LocalError: too many transactions are outstanding, or this id is.
            ValueError: the message cannot be encoded.
        """
        transaction_id = message.transaction_id
        if transaction_id in self._transactions:
            raise LocalError("a transaction with this id is under way; take a new random id for each request")
        if len(self._transactions) + len(self._events) >= self._max_transactions:
            raise LocalError(f"{self._max_transactions} STUN transactions are outstanding; poll events or wait")
        data = encode(message, key=key, integrity=integrity, fingerprint=fingerprint)
        transaction = ClientTransaction(
            transaction_id=transaction_id,
            local=local,
            remote=server,
            method=message.method,
            data=data,
            key=key,
            integrity=integrity,
            schedule=schedule,
            started_at=now,
            unauthenticated_errors=unauthenticated_errors,
        )
        self._transactions[transaction_id] = transaction
        self._send(now, transaction)
        return transaction_id

    def handle_message(self, now: float, local: TransportAddress, remote: TransportAddress, message: Message) -> bool:
        """Take a decoded message; return whether it is for one of this client's transactions.

        A message that is, but may not be believed, is counted and otherwise treated as never received.
        """
        transaction = self._transactions.get(message.transaction_id)
        if transaction is None:
            return False
        judgement = transaction.judge(local, remote, message)
        self.counters[judgement.value] += 1
        if judgement is Judgement.ACCEPTED:
            del self._transactions[transaction.transaction_id]
            rtt_s = transaction.rtt_s(now)
            self._events.append(Response(transaction.transaction_id, local, remote, message, rtt_s))
        else:
            reason = ends_with(judgement)
            if reason is not None:
                self._fail(transaction, reason)
        return judgement is not Judgement.WRONG_SOURCE

    def handle_timeout(self, now: float) -> None:
        """Send what is due, give up what is over. Safe to call at any time."""
        for transaction in list(self._transactions.values()):
            if transaction.is_expired(now):
                self.counters["timed_out"] += 1
                self._fail(transaction, transaction.failure)
            elif transaction.due_at <= now:
                self._send(now, transaction)

    def next_timeout(self) -> float | None:
        """Return when to call `handle_timeout` next, seconds; None while nothing is outstanding."""
        return min((transaction.due_at for transaction in self._transactions.values()), default=None)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> Response | TimedOut | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else None

    def cancel(self, transaction_id: bytes) -> bool:
        """Forget a transaction without an event; return whether it was under way."""
        return self._transactions.pop(transaction_id, None) is not None

    def close(self) -> None:
        """Forget everything; no timer is left."""
        self._transactions.clear()
        self._transmits.clear()
        self._events.clear()

    def _send(self, now: float, transaction: ClientTransaction) -> None:
        transaction.send(now)
        self._transmits.append(Transmit(transaction.local, transaction.remote, transaction.data))

    def _fail(self, transaction: ClientTransaction, reason: FailureReason) -> None:
        del self._transactions[transaction.transaction_id]
        self._events.append(TimedOut(transaction.transaction_id, transaction.local, transaction.remote, reason))
