"""The client's data connections: after a ConnectionBind all bytes are the peer's. RFC 6062 section 4.3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.turn.channel_data import frame_length
from iceagent.core.turn.client_auth import ClientAuthenticator
from iceagent.core.turn.client_requests import Requester, RequestOutcome

_HEADER_LENGTH: Final = 20


class ConnectionBinder:
    """Turns one fresh connection to the server into one to a peer, with the credentials of the allocation.

    Use: `start`, send what `poll_transmit` gives, `feed` what arrives until `outcome` is there. `rest` is then the
    beginning of what the peer sent.

    Args:
        local: our end of the new connection.
        server: its other end.
        auth: the allocation's (`TurnClient.authenticator`).
        connection_id: of `Connected` or `ConnectionAttempted`.
        randbytes: source of transaction ids.
    """

    def __init__(
        self,
        local: TransportAddress,
        server: TransportAddress,
        auth: ClientAuthenticator,
        connection_id: int,
        randbytes: Callable[[int], bytes],
    ) -> None:
        self._requests = Requester(local, server, auth, randbytes, reliable=True)
        self._connection_id = connection_id
        self._buffer = b""
        self.outcome: RequestOutcome | None = None
        self.rest = b""

    def start(self, now: float) -> None:
        """Ask the server to bind this connection to the peer's."""
        attributes = (stun.ConnectionId(self._connection_id),)
        self._requests.start(now, stun.Method.CONNECTION_BIND, attributes, self._done)

    def poll_transmit(self) -> bytes | None:
        """Return what to send next, or None."""
        transmit = self._requests.poll_transmit()
        return None if transmit is None else transmit.data

    def feed(self, now: float, data: bytes) -> None:
        """Take what arrived. What is no STUN ends the attempt; it never raises."""
        self._buffer += data
        while self.outcome is None and len(self._buffer) >= _HEADER_LENGTH:
            length = frame_length(self._buffer)
            if length is None:
                self.outcome = RequestOutcome()
            elif len(self._buffer) < length:
                return
            else:
                message, self._buffer = self._buffer[:length], self._buffer[length:]
                self._handle(now, message)
        if self.outcome is not None:
            self.rest, self._buffer = self._buffer, b""

    def _handle(self, now: float, data: bytes) -> None:
        try:
            message = stun.decode(data)
        except stun.StunError:
            self.outcome = RequestOutcome()
            return
        self._requests.handle_message(now, message)

    def _done(self, _now: float, outcome: RequestOutcome) -> None:
        self.outcome = outcome
