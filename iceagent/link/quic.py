"""The adapter to the QUIC libraries: `qh3` by default, `aioquic` as the second backend.

Both are sans-IO with nearly the same interface; `quic_qh3` and `quic_aioquic` hold what differs, and only `backends`
knows them. What they lack is done here or in the modules above:

- Each sees one constant pair of invented addresses. ICE alone chooses the path; QUIC must not try to migrate.
- The server's connection starts with the first Initial packet, whose destination connection id it needs.
- The client pins the server's certificate. `qh3` compares inside TLS, `aioquic` right after the handshake.
- Path MTU discovery stays off: neither library notices when a path stops carrying what it once carried.
- A handshake that lost packets in an unlucky order can hang in `qh3`, or end in an error of the library's own. The
  client then begins anew, with a new connection, which the server takes in the place of the unfinished one.
- The end of a stream that is a frame without a byte is lost for ever in `qh3` when bytes before it are lost, too, and
  a stream whose end arrives before its bytes never makes room for another. So each end comes with a byte, `_END`,
  which the receiver takes away.
- With many streams, `qh3` keeps frames that find no room in a packet, and fails, with a packet lost for good, where one
  of their streams finishes meanwhile. `quic_qh3` gives it only what it can send now, and lets no stream finish then.
"""

from __future__ import annotations

import logging
import ssl
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from msgspec import Struct

from iceagent.core.constants import STOPPED_S
from iceagent.link.config import LinkConfig, LinkRole
from iceagent.link.identity import LinkIdentity
from iceagent.net.batch import Batch
from iceagent.net.logs import limited_logger

ALPN = "iceagent-link/2"  # 1: the end of a stream had no byte
_CLIENT_ADDRESS = ("192.0.2.1", 4433)  # RFC 5737: documentation addresses, valid for inet_pton and never real
_SERVER_ADDRESS = ("192.0.2.2", 4433)
_INITIAL_PACKET_SIZE = 1200  # RFC 9000 section 14.1: a smaller Initial must be ignored
_QUIC_VERSION_1 = 1
HANDSHAKE_RETRY_S = 3.0  # the first attempt's time; each further one has twice as long
_MAX_ATTEMPTS = 16  # of a client, that the server can tell apart
# For ever: RFC 9000 section 10.1 has 0 for that, which aioquic takes for no time at all.
_NEVER_S = 100 * 365 * 86_400.0
_PAUSE_S = 0.1  # after an error of the library's own
_CRYPTO_ERROR = 0x100  # RFC 9000 section 20.1: TLS alert n is QUIC error 0x100 + n
_BAD_CERTIFICATE = _CRYPTO_ERROR + 42  # RFC 8446 section 6
_END = b"\0"  # the byte that comes with the end of a stream; its value means nothing
# RFC 9221 section 4; short header with an 8-byte connection id, 4-byte packet number, frame type and length, AEAD tag.
_DATAGRAM_OVERHEAD = 1 + 8 + 4 + 3 + 16 + 4

# `quic` is the logger of both libraries; without a handler Python would print their warnings to stderr.
logging.getLogger("quic").addHandler(logging.NullHandler())


_log = limited_logger(__name__)


class QuicClose(Struct, frozen=True):
    """Why a connection ended: `by_application`: the code is one of the link's, not one of QUIC or TLS."""

    code: int
    reason: str
    by_application: bool

    @property
    def is_bad_certificate(self) -> bool:
        """Whether TLS refused the certificate."""
        return not self.by_application and self.code == _BAD_CERTIFICATE


class QuicHandler(Protocol):
    """Who takes what a connection received."""

    def on_handshake_completed(self) -> None:
        """TLS is done."""
        ...

    def on_stream_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """Bytes of a stream, in order; `end_stream` after the last."""
        ...

    def on_stream_reset(self, stream_id: int, code: int) -> None:
        """The peer gave up sending."""
        ...

    def on_stop_sending(self, stream_id: int, code: int) -> None:
        """The peer wants nothing more."""
        ...

    def on_datagram(self, data: bytes) -> None:
        """A DATAGRAM frame."""
        ...

    def on_ping_acknowledged(self) -> None:
        """A PING arrived at the peer."""
        ...


def initial_cids_untrusted(datagram: bytes) -> tuple[bytes, bytes] | None:
    """Return destination and source connection id of a QUIC version 1 Initial packet, or None if it is none.

    Source: RFC 9000 sections 14.1, 17.2 and 17.2.2.
    """
    if len(datagram) < _INITIAL_PACKET_SIZE or datagram[0] & 0xF0 != 0xC0:
        return None
    if int.from_bytes(datagram[1:5], "big") != _QUIC_VERSION_1:
        return None
    end = 6 + datagram[5]
    destination = datagram[6:end]
    source = datagram[end + 1 : end + 1 + datagram[end]]
    return (destination, source) if 8 <= len(destination) <= 20 and len(source) <= 20 else None


class QuicEndpoint(ABC):
    """One end of a QUIC connection: datagrams and time in, datagrams and events out."""

    def __init__(self, role: LinkRole, identity: LinkIdentity, peer_fingerprint: bytes, config: LinkConfig) -> None:
        self.role = role
        self.identity = identity
        self.peer_fingerprint = peer_fingerprint
        self.config = config
        self.packet_size = config.packet_size
        self.max_datagram_size = config.packet_size - _DATAGRAM_OVERHEAD
        self.invalid_datagrams = 0
        self._connection: Any = None
        self._peer_address = _SERVER_ADDRESS if role is LinkRole.CLIENT else _CLIENT_ADDRESS
        self._local_close: QuicClose | None = None
        self.handshake_done = False
        self.handshakes = 0
        self.library_errors = 0
        self._retry_at: float | None = None
        self._pause_until: float | None = None
        self._seen_clients: deque[bytes] = deque(maxlen=_MAX_ATTEMPTS)
        self._asked_at = float("-inf")  # when the library last got the time
        self._stopped_s = 0.0  # by how much its time is behind ours

    # --- what differs between the libraries

    @abstractmethod
    def _create(self, original_destination_cid: bytes | None) -> Any:
        """Return the library's connection object."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether a server's connection took its first datagram for a real Initial packet."""

    @abstractmethod
    def _receive_batch(self, batch: Batch, now: float) -> None:
        """Feed a batch to the connection."""

    @abstractmethod
    def peer_certificate_fingerprint(self) -> bytes | None:
        """SHA-256 of the certificate the peer presented; None when there is none (a client's)."""

    @abstractmethod
    def send_buffer_size(self, stream_id: int | None = None) -> int:
        """Bytes handed over and not yet sent for the first time, of one stream or of all."""

    @property
    @abstractmethod
    def bytes_in_flight(self) -> int:
        """Bytes sent and neither acknowledged nor given up."""

    @property
    def takes_datagrams(self) -> bool:
        """Whether DATAGRAM frames may be queued now."""
        return True

    @property
    @abstractmethod
    def congestion_window(self) -> int:
        """Bytes that may be in flight."""

    @property
    @abstractmethod
    def rtt_s(self) -> float | None:
        """The smoothed round-trip time, None before the first measurement."""

    @property
    @abstractmethod
    def packets_lost(self) -> int:
        """Packets declared lost; 0 where the library does not count."""

    @abstractmethod
    def forget_path(self) -> None:
        """Reset round-trip time and congestion window, as far as the library allows."""

    @abstractmethod
    def can_open_stream(self) -> bool:
        """Whether the peer's limit on open streams leaves room for one more."""

    @abstractmethod
    def _events(self) -> Any:
        """The library's module of event classes."""

    # --- what they share

    @property
    def started(self) -> bool:
        """Whether there is a connection: at once for the client, after the first Initial for the server."""
        return self._connection is not None

    def connect(self, now: float) -> None:
        """Begin the client's handshake, and begin anew, ever more patiently, as long as it does not come to an end."""
        time = self._time(now)
        self._connection = self._create(None)
        self._connection.connect(self._peer_address, time)
        self._retry_at = now + HANDSHAKE_RETRY_S * 2**self.handshakes
        self.handshakes += 1

    def receive_untrusted(self, batches: Iterable[Batch], now: float) -> None:
        """Take what arrived; what no QUIC connection can use is dropped and counted."""
        time = self._time(now)
        for batch in batches:
            if not batch.data:
                self.invalid_datagrams += 1
                continue
            try:
                if self.role is LinkRole.SERVER and not self.handshake_done:
                    self._accept_untrusted(batch, time)
                else:
                    self._receive_batch(batch, time)
            except Exception:  # a library's bug must not end the process because of bytes from outside
                self.invalid_datagrams += 1

    def _accept_untrusted(self, batch: Batch, now: float) -> None:
        """Start the server's connection with the first datagram that proves to be an Initial packet.

        A client that begins anew is recognized by its source connection id, which is another for each connection.
        """
        for datagram in batch.datagrams():
            cids = initial_cids_untrusted(datagram)
            if cids is not None and cids[1] not in self._seen_clients:
                self._begin_untrusted(datagram, cids[0], cids[1], now)
            elif self._connection is not None:
                self._connection.receive_datagram(datagram, self._peer_address, now)
            else:
                self.invalid_datagrams += 1

    def _begin_untrusted(self, datagram: bytes, original_cid: bytes, client_cid: bytes, now: float) -> None:
        unfinished, self._connection = self._connection, self._create(original_cid)
        try:
            self._connection.receive_datagram(datagram, self._peer_address, now)
        finally:
            if self._answers():
                self._seen_clients.append(client_cid)
                self.handshakes += 1
            else:
                self._connection = unfinished
                self.invalid_datagrams += 1

    def drain_events(self, handler: QuicHandler) -> bool:
        """Hand every pending event to `handler`, in order; return whether the peer said or acknowledged anything."""
        if self._connection is None:
            return False
        heard = False
        events = self._events()
        next_event = self._connection.next_event
        while (event := next_event()) is not None:
            kind = type(event)
            heard |= kind is not events.ConnectionTerminated
            if kind is events.StreamDataReceived:
                data = event.data[: -len(_END)] if event.end_stream else event.data
                handler.on_stream_data(event.stream_id, data, event.end_stream)
            elif kind is events.DatagramFrameReceived:
                handler.on_datagram(event.data)
            elif kind is events.StreamReset:
                handler.on_stream_reset(event.stream_id, event.error_code)
            elif kind is events.StopSendingReceived:
                handler.on_stop_sending(event.stream_id, event.error_code)
            elif kind is events.PingAcknowledged:
                handler.on_ping_acknowledged()
            elif kind is events.HandshakeCompleted:
                self.handshake_done = True
                self._retry_at = None
                handler.on_handshake_completed()
        return heard

    def datagrams_to_send(self, now: float) -> list[bytes]:
        """Return what is to be sent now."""
        if self._connection is None or (self._pause_until is not None and now < self._pause_until):
            return []
        time = self._time(now)
        datagrams = self._attempt(now, lambda: self._connection.datagrams_to_send(time))
        return [datagram for datagram, _ in datagrams or ()]

    def timer(self) -> float | None:
        """When `handle_timer` is due, or None."""
        timer: float | None = None if self._connection is None else self._connection.get_timer()
        timer = None if timer is None else timer + self._stopped_s
        if timer is not None and self._pause_until is not None:
            timer = max(timer, self._pause_until)
        if self._retry_at is not None and self._local_close is None:
            timer = self._retry_at if timer is None else min(timer, self._retry_at)
        return timer

    def handle_timer(self, now: float) -> None:
        """Retransmit, give up, begin anew or finish, whatever is due."""
        if self._retry_at is not None and now >= self._retry_at and self._local_close is None:
            self.connect(now)
        elif self._connection is not None:
            time = self._time(now)
            self._attempt(now, lambda: self._connection.handle_timer(time))

    def _time(self, now: float) -> float:
        """Return the library's time, which stands still while this program does.

        It takes all the time until an acknowledgement is read for the path's. Where something of its was due long
        before, we were stopped, or the machine slept: what lay in the socket meanwhile says nothing about the path.
        """
        if now - self._asked_at > STOPPED_S:
            due = self.timer()
            late_s = 0.0 if due is None else now - max(due, self._asked_at)
            self._stopped_s += late_s if late_s > STOPPED_S else 0.0
        self._asked_at = now
        return now - self._stopped_s

    def _attempt(self, now: float, action: Callable[[], Any]) -> Any:
        """Return what the library does; None if it fails of itself, and then it is left alone for a moment."""
        self._pause_until = None
        try:
            return action()
        except Exception as error:  # seen of qh3: "packet builder capacity exhausted", with handshake packets lost
            self.library_errors += 1
            if self.handshake_done:  # "reserved stream is missing", with many streams and packets out of order
                _log.warning(
                    "the QUIC library failed (%s): a stream may stand still from now on; if one does, connect again",
                    error,
                )
            self._pause_until = now + _PAUSE_S
            return None

    @property
    def close_reason(self) -> QuicClose | None:
        """Why the connection ended or is ending; None while it lives."""
        if self._local_close is not None or self._connection is None:
            return self._local_close
        event = self._connection._close_event  # noqa: SLF001 - the public event comes three probe timeouts later
        if event is None:
            return None
        return QuicClose(event.error_code, event.reason_phrase, event.frame_type is None)

    def close(self, code: int, reason: str) -> None:
        """End the connection; the next `datagrams_to_send` informs the peer. Idempotent."""
        if self._local_close is None and self.close_reason is None:
            self._local_close = QuicClose(code, reason, True)
            if self._connection is not None:
                self._connection.close(error_code=code, reason_phrase=reason)

    def open_stream(self) -> int:
        """Return the id of the stream that the next write opens; write to it before opening another."""
        stream_id: int = self._connection.get_next_available_stream_id()
        return stream_id

    # A batch may hold a frame that asks for an answer and, after it, the CONNECTION_CLOSE. The libraries raise when
    # asked to send anything on a connection that is over, so from then on none of these says anything.

    def send_stream(self, stream_id: int, data: bytes | bytearray | memoryview) -> None:
        """Hand over stream data; it is copied."""
        if self.close_reason is None:
            self._connection.send_stream_data(stream_id, data)

    def end_stream(self, stream_id: int) -> None:
        """Hand over the end of a stream."""
        if self.close_reason is None:
            self._connection.send_stream_data(stream_id, _END, True)

    def reset_stream(self, stream_id: int, code: int) -> None:
        """Give up sending; nothing happens if all was sent and acknowledged."""
        if self.close_reason is not None:
            return
        try:
            self._connection.reset_stream(stream_id, code)
        except (ValueError, AssertionError):
            return

    def stop_stream(self, stream_id: int, code: int) -> None:
        """Ask the peer to give up sending; nothing happens if all has arrived."""
        if self.close_reason is not None:
            return
        try:
            self._connection.stop_stream(stream_id, code)
        except (ValueError, AssertionError):
            return

    def send_datagram(self, data: bytes) -> None:
        """Queue one DATAGRAM frame of at most `max_datagram_size` bytes."""
        if self.close_reason is None:
            self._connection.send_datagram_frame(data)

    def ping(self, uid: int) -> None:
        """Make the peer acknowledge something now."""
        if self.close_reason is None:
            self._connection.send_ping(uid)

    def _settings(self) -> dict[str, Any]:
        return {
            "is_client": self.role is LinkRole.CLIENT,
            "alpn_protocols": [ALPN],
            "idle_timeout": _NEVER_S,  # silence is judged by `iceagent.link.liveness`
            # QUIC's own windows must never be the bottleneck: the link's credit is.
            "max_data": 2 * self.config.link_ceiling,
            "max_stream_data": 2 * self.config.stream_window,
            "max_datagram_size": self.config.packet_size,
            "max_datagram_frame_size": 65535,
            "initial_rtt": self.config.initial_rtt_s,
            "supported_versions": [_QUIC_VERSION_1],
            "verify_mode": ssl.CERT_NONE,  # the fingerprint is the identity; names and authorities mean nothing here
            "server_name": "iceagent" if self.role is LinkRole.CLIENT else None,
        }
