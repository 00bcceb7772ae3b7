"""The second QUIC backend: `aioquic`."""

from __future__ import annotations

from typing import Any

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from iceagent.link.config import MAX_STREAMS, LinkRole
from iceagent.link.quic import QuicEndpoint
from iceagent.net.batch import Batch


class AioquicEndpoint(QuicEndpoint):
    """`aioquic`: all Python, about a tenth as fast; an independent implementation to test the link with."""

    def _create(self, original_destination_cid: bytes | None) -> Any:
        configuration = QuicConfiguration(**self._settings())
        if self.role is LinkRole.SERVER:
            configuration.certificate = x509.load_pem_x509_certificate(self.identity.certificate_pem)
            configuration.private_key = load_pem_private_key(self.identity.private_key_pem, None)
        connection = QuicConnection(
            configuration=configuration, original_destination_connection_id=original_destination_cid
        )
        limit = connection._local_max_streams_bidi  # noqa: SLF001 - there is no setting
        limit.value = limit.sent = MAX_STREAMS
        return connection

    def _answers(self) -> bool:
        return bool(self._connection._network_paths)  # noqa: SLF001 - set by the first packet that decrypts

    def _receive_batch(self, batch: Batch, now: float) -> None:
        for datagram in batch.datagrams():
            self._connection.receive_datagram(datagram, self._peer_address, now)

    def peer_certificate_fingerprint(self) -> bytes | None:
        """SHA-256 of what the peer presented."""
        certificate = self._connection.tls._peer_certificate  # noqa: SLF001 - not public
        return None if certificate is None else certificate.fingerprint(SHA256())

    def send_buffer_size(self, stream_id: int | None = None) -> int:
        """Bytes not yet sent for the first time."""
        streams = self._connection._streams  # noqa: SLF001 - not public
        chosen = streams.values() if stream_id is None else filter(None, (streams.get(stream_id),))
        return sum(stream.sender._buffer_stop - stream.sender.highest_offset for stream in chosen)  # noqa: SLF001

    @property
    def bytes_in_flight(self) -> int:
        """Bytes sent and not settled."""
        return 0 if self._connection is None else self._connection._loss.bytes_in_flight  # noqa: SLF001 - not public

    @property
    def congestion_window(self) -> int:
        """Bytes that may be in flight."""
        return 0 if self._connection is None else self._connection._loss.congestion_window  # noqa: SLF001 - not public

    @property
    def rtt_s(self) -> float | None:
        """The smoothed round-trip time."""
        if self._connection is None or not self._connection._loss._rtt_initialized:  # noqa: SLF001 - not public
            return None
        rtt: float = self._connection._loss._rtt_smoothed  # noqa: SLF001 - not public
        return rtt

    @property
    def packets_lost(self) -> int:
        """Packets declared lost."""
        return 0

    def forget_path(self) -> None:
        """Start round-trip time and probe back-off afresh, as RFC 9002 section 6.2.2 does for a new path."""
        loss = self._connection._loss  # noqa: SLF001 - not public
        loss._rtt_initialized = False  # noqa: SLF001
        loss._rtt_min = float("inf")  # noqa: SLF001
        loss._pto_count = 0  # noqa: SLF001

    def can_open_stream(self) -> bool:
        """Whether one more stream is allowed."""
        next_id: int = self._connection.get_next_available_stream_id()
        limit: int = self._connection._remote_max_streams_bidi  # noqa: SLF001 - not public
        return next_id // 4 < limit

    def _events(self) -> Any:
        return events
