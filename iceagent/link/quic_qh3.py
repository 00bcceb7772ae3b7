"""The default QUIC backend: `qh3`."""

from __future__ import annotations

import hashlib
import logging
from types import FunctionType
from typing import Any

from qh3._hazmat import Buffer, QuicConnectionCore
from qh3.quic import connection, events, tls_bridge
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.packet import pull_quic_transport_parameters, push_quic_transport_parameters

from iceagent.errors import LocalError
from iceagent.link.config import MAX_STREAMS, LinkRole
from iceagent.link.quic import QuicEndpoint
from iceagent.net.api import Batch

_FIXED_LIMITS = (100, 103)  # bidirectional and unidirectional streams, written into qh3 2.x as numbers
_LIMITS_AT = slice(21, 23)  # where its core takes them
_LIMITS = (MAX_STREAMS, 0)
_PARAMETERS_SIZE = 4096


class _Log(logging.LoggerAdapter[logging.Logger]):
    """Filters the library's log: it warns of each end of a connection, which the link itself reports."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        super().log(min(level, logging.DEBUG), msg, *args, **kwargs)


_log = _Log(logging.getLogger("iceagent.link.qh3"))


def _core(*arguments: Any) -> QuicConnectionCore:
    """Return qh3's core, which keeps the peer to `_LIMITS`."""
    if arguments[_LIMITS_AT] != _FIXED_LIMITS:
        raise LocalError("this version of qh3 is not known to work with iceagent: pip install 'qh3>=2.1,<3'")
    values: Any = (*arguments[: _LIMITS_AT.start], *_LIMITS, *arguments[_LIMITS_AT.stop :])
    return QuicConnectionCore(*values)


class _Bridge(tls_bridge.QuicTlsBridge):
    """qh3's TLS, which announces `_LIMITS` to the peer."""

    def serialize_transport_parameters(self) -> bytes:
        parameters = pull_quic_transport_parameters(Buffer(data=super().serialize_transport_parameters()))
        parameters.initial_max_streams_bidi, parameters.initial_max_streams_uni = _LIMITS
        buffer = Buffer(capacity=_PARAMETERS_SIZE)
        push_quic_transport_parameters(buffer, parameters)
        return buffer.data


def _with_names(method: Any) -> Any:
    """Return `method` with `_core`, `_Bridge` and `_log` in place of the library's."""
    names = {**method.__globals__, "QuicConnectionCore": _core, "QuicTlsBridge": _Bridge, "logger": _log}
    return FunctionType(method.__code__, names, method.__name__, method.__defaults__, method.__closure__)


class _Connection(connection.QuicConnection):
    """A connection on which the peer may open `MAX_STREAMS` at once.

    `qh3` has no setting for its limit of 100, which one browser behind a tunnel exhausts. The methods that name core,
    TLS and log are the library's own, looking these names up here.
    """

    _create_core = _with_names(connection.QuicConnection._create_core)  # noqa: SLF001
    _create_tls = _with_names(connection.QuicConnection._create_tls)  # noqa: SLF001
    _drain_core = _with_names(connection.QuicConnection._drain_core)  # noqa: SLF001


class Qh3Endpoint(QuicEndpoint):
    """`qh3`: the protocol in Rust, whole GRO buffers in one call, post-quantum key exchange by default."""

    def _create(self, original_destination_cid: bytes | None) -> Any:
        configuration = QuicConfiguration(**self._settings(), probe_datagram_size=False)
        if self.role is LinkRole.CLIENT:
            configuration.assert_fingerprint = self.peer_fingerprint.hex()
        else:
            configuration.load_cert_chain(self.identity.certificate_pem, self.identity.private_key_pem)
        return _Connection(configuration=configuration, original_destination_connection_id=original_destination_cid)

    def _core(self) -> Any:
        return None if self._connection is None else self._connection._core  # noqa: SLF001 - no public statistics

    def _answers(self) -> bool:
        core = self._core()
        return core is not None and core.received_authenticated_packet

    def _receive_batch(self, batch: Batch, now: float) -> None:
        self._connection.receive_gro_buffer(batch.data, batch.segment_size, self._peer_address, now)

    def peer_certificate_fingerprint(self) -> bytes | None:
        """SHA-256 of what the peer presented."""
        certificate = self._connection.get_peercert()
        return None if certificate is None else hashlib.sha256(certificate.public_bytes()).digest()

    def send_buffer_size(self, stream_id: int | None = None) -> int:
        """Bytes not yet sent for the first time."""
        size: int = self._connection.get_send_buffer_size(stream_id)
        return size

    @property
    def bytes_in_flight(self) -> int:
        """Bytes sent and not settled."""
        core = self._core()
        return 0 if core is None else core.bytes_in_flight

    @property
    def congestion_window(self) -> int:
        """Bytes that may be in flight."""
        core = self._core()
        return 0 if core is None else core.congestion_window

    @property
    def rtt_s(self) -> float | None:
        """The smoothed round-trip time."""
        core = self._core()
        return None if core is None else core.smoothed_rtt

    @property
    def packets_lost(self) -> int:
        """Packets declared lost."""
        core = self._core()
        return 0 if core is None else core.loss_total

    def forget_path(self) -> None:
        """Nothing: the library has no setter. The first acknowledgement ends the probe back-off, which hurts most."""

    def can_open_stream(self) -> bool:
        """Whether one more stream is allowed."""
        next_id: int = self._connection.get_next_available_stream_id()
        limit: int = self._connection.max_concurrent_bidi_streams
        return next_id // 4 < limit

    def _events(self) -> Any:
        return events
