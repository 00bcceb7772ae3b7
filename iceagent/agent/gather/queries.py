"""Binding requests to STUN servers: the gatherer's half of the sockets' STUN traffic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import trio

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.transmit import Transmit

_ID_SIZE: Final = 12


@dataclass(slots=True, eq=False)
class Query:
    """One question to one server: how does it see the socket at `base`?

    `done` is set when `mapped` or `failure` is there; a cancelled query is never done.
    """

    base: TransportAddress
    server: TransportAddress
    started_at: float
    transaction_id: bytes = b""
    done: trio.Event = field(default_factory=trio.Event)
    mapped: TransportAddress | None = None
    failure: str = ""


class Queries:
    """The open queries of one agent; the driver feeds it with datagrams and time.

    Args:
        randbytes: source of the transaction ids.

    Attributes:
        busy: whether there is anything to do or to wait for; if not, none of the other methods need be called. An
            attribute, since it is looked at four times a datagram.
    """

    def __init__(self, randbytes: Callable[[int], bytes]) -> None:
        self._randbytes = randbytes
        self._open: dict[bytes, Query] = {}
        self._paths: Counter[tuple[TransportAddress, TransportAddress]] = Counter()
        self._keepalives: list[Transmit] = []
        self.busy = False

    @cached_property
    def _client(self) -> stun.StunClient:
        return stun.StunClient()  # most agents ask nobody, and each would carry two kilobytes of empty queues

    def start(self, now: float, base: TransportAddress, server: TransportAddress) -> Query:
        """Ask `server` how it sees the socket at `base`."""
        query = Query(base, server, now)
        request = stun.binding_request(self._randbytes(_ID_SIZE))
        query.transaction_id = self._client.start(now, base, server, request)
        self._open[query.transaction_id] = query
        self._paths[base, server] += 1
        self.busy = True
        return query

    def cancel(self, query: Query) -> None:
        """Forget a query, answered or not."""
        if self._open.pop(query.transaction_id, None) is not None:
            self._client.cancel(query.transaction_id)
        path = (query.base, query.server)
        self._paths[path] -= 1
        if self._paths[path] <= 0:
            del self._paths[path]
        self._note_busy()

    def keep_alive(self, base: TransportAddress, server: TransportAddress) -> None:
        """Send a Binding indication, which keeps a NAT's binding open and is not answered."""
        indication = stun.binding_indication(self._randbytes(_ID_SIZE))
        self._keepalives.append(Transmit(base, server, stun.encode(indication)))
        self.busy = True

    def handle_datagram(self, now: float, base: TransportAddress, remote: TransportAddress, data: bytes) -> bool:
        """Return whether the datagram was an answer to an open query; never raises."""
        if (base, remote) not in self._paths or not stun.looks_like_stun(data):
            return False
        try:
            message = stun.decode(data)
        except stun.StunError:
            return False
        handled = self._client.handle_message(now, base, remote, message)
        self._finish_answered()
        return handled

    def handle_refused(self, base: TransportAddress, server: TransportAddress) -> None:
        """Take note that nobody listens at a server's port: what is asked there from this base has its answer.

        Source: RFC 8489 section 6.2.1, of ICMP errors that are no matter of the moment.
        """
        if (base, server) not in self._paths:
            return
        for query in [one for one in self._open.values() if (one.base, one.server) == (base, server)]:
            del self._open[query.transaction_id]
            self._client.cancel(query.transaction_id)
            query.failure = "refused: nobody listens at its port"
            query.done.set()

    def handle_timeout(self, now: float) -> None:
        """Retransmit or give up what is due."""
        due = self._client.next_timeout()
        if due is not None and due <= now:
            self._client.handle_timeout(now)
            self._finish_answered()

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` wants to be called, or None."""
        return self._client.next_timeout()

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        if not self._keepalives:
            return self._client.poll_transmit()
        keepalive = self._keepalives.pop(0)
        self._note_busy()
        return keepalive

    def close(self) -> None:
        """Forget all; no timer is left."""
        for query in list(self._open.values()):
            self.cancel(query)
        self._keepalives.clear()
        self._note_busy()

    def _note_busy(self) -> None:
        self.busy = bool(self._paths or self._keepalives)

    def _finish_answered(self) -> None:
        while (event := self._client.poll_event()) is not None:
            query = self._open.pop(event.transaction_id, None)
            if query is None:
                continue
            if isinstance(event, stun.Response):
                query.mapped, query.failure = read_binding_response(event.message)
            else:
                query.failure = event.reason.value
            query.done.set()


def read_binding_response(message: stun.Message) -> tuple[TransportAddress | None, str]:
    """Return the mapped address of a Binding response, or why it has none.

    MAPPED-ADDRESS is read where XOR-MAPPED-ADDRESS is missing: servers of RFC 3489's time send only that
    (RFC 8489 section 11).
    """
    if message.message_class is not stun.MessageClass.SUCCESS:
        error = message.get(stun.ErrorCode)
        return None, "refused" if error is None else f"refused with {error.code}"
    if message.unknown_comprehension_required:
        return None, "answered with attributes nobody knows"
    found = message.get(stun.XorMappedAddress) or message.get(stun.MappedAddress)
    return (None, "answered without an address") if found is None else (found.address, "")
