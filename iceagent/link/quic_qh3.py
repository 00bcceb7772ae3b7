"""The default QUIC backend: `qh3`."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from functools import partial
from types import FunctionType
from typing import Any

from qh3._hazmat import Buffer, QuicConnectionCore
from qh3.quic import connection, events, tls_bridge
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.packet import pull_quic_transport_parameters, push_quic_transport_parameters

from iceagent.errors import LocalError
from iceagent.link.config import MAX_STREAMS, LinkRole
from iceagent.link.quic import QuicEndpoint
from iceagent.net.batch import Batch

_FIXED_LIMITS = (100, 103)  # bidirectional and unidirectional streams, written into qh3 2.x as numbers
_LIMITS_AT = slice(21, 23)  # where its core takes them
_LIMITS = (MAX_STREAMS, 0)
_PARAMETERS_SIZE = 4096
_FEW_STREAMS = 6  # with so many the library was never seen to fail: at each chance it makes frames of sixteen
_HOLD_BYTES = 32 << 20  # received while events are held: what all streams of a link may hold
_HOLD_S = 5.0
_FRAME_OVERHEAD = 64  # what the library leaves of a packet for headers when it cuts a stream into frames


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


class _Waiting:
    """What one stream has to send and the library was not given yet."""

    __slots__ = ("ended", "pieces", "size")

    def __init__(self) -> None:
        self.pieces: deque[memoryview] = deque()
        self.size = 0
        self.ended = False

    def push(self, data: bytes, end_stream: bool) -> None:
        self.pieces.append(memoryview(data))
        self.size += len(data)
        self.ended |= end_stream

    def take(self, count: int) -> tuple[memoryview, bool]:
        """Return up to `count` bytes, and whether they are the stream's last."""
        piece = self.pieces.popleft()
        if len(piece) > count:
            self.pieces.appendleft(piece[count:])
            piece = piece[:count]
        self.size -= len(piece)
        return piece, self.ended and not self.pieces


class _Closing(set[int]):
    """In place of the library's set of our streams, which it discards every finished stream from."""

    def __init__(self) -> None:
        self.open: set[int] = set()  # that we have sent on
        self.ended: set[int] = set()  # whose end or reset was handed over: the peer's may finish them

    @property
    def is_at_risk(self) -> bool:
        """Whether one of many streams may finish."""
        return bool(self.ended) and len(self.open) > _FEW_STREAMS

    def discard(self, element: object, /) -> None:
        super().discard(element)
        self.open.discard(element)
        self.ended.discard(element)


class _Connection(connection.QuicConnection):
    """A connection on which the peer may open `MAX_STREAMS` at once, and the end of a stream harms no other.

    `qh3` has no setting for its limit of 100, which one browser behind a tunnel exhausts. The methods that name core,
    TLS and log are the library's own, looking these names up here.

    Once its congestion window has room for a packet, the library makes frames of sixteen streams; for a probe, of all.
    Those for which there is no room then wait, and acknowledgements behind them. If one of their streams finishes
    meanwhile (a repetition waits, and the original is acknowledged), the library forgets that stream as its event is
    read, and fails when the frame's turn comes ("reserved stream is missing"): all that was in the packet is lost, and
    the streams of the other frames that waited send nothing more. So

    - it is given no more than the window takes now: what it makes frames of leaves at once. Frames wait only after
      losses or a probe, or where a stream is given up; then it is given nothing until they have left.
    - as long as they wait, and one of many streams is ending, its events are not read. That takes a round trip or so,
      in which nothing is received; where it takes long (our packets alone are lost, or a peer acknowledges nothing),
      they are read all the same, since memory and patience have bounds. A few streams do not pay for it: with them it
      has not been seen to happen.
    - as long as they wait, it is given no datagrams, which would overtake them in each packet.

    No frame waits if, in the end, there is room for a packet; or if none waited before, nothing is to be repeated or
    given up, and all that was given is sent.
    """

    _create_core = _with_names(connection.QuicConnection._create_core)  # noqa: SLF001
    _create_tls = _with_names(connection.QuicConnection._create_tls)  # noqa: SLF001
    _read_events = _with_names(connection.QuicConnection._drain_core)  # noqa: SLF001

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._created_local_stream_ids = self._closing = _Closing()
        self._packet_size = self._configuration.max_datagram_size
        self._waiting: dict[int, _Waiting] = {}
        self._sent: list[tuple[Any, ...]] = []
        self._none_waits = True  # whether every frame that the library had made was sent when it was last asked
        self._settled = 0  # what `_repetitions` was then
        self._failure: Exception | None = None
        self._now = 0.0
        self._held_since: float | None = None
        self._held_bytes = 0  # received since then

    @property
    def none_waits(self) -> bool:
        """Whether every frame that the library has made was sent."""
        return self._none_waits or not self._handshake_complete

    # --- what the application sends waits here

    def send_stream_data(self, stream_id: int, data: Any, end_stream: bool = False) -> None:
        """Take data of a stream."""
        if not self._handshake_complete:
            super().send_stream_data(stream_id, data, end_stream)
            return
        if stream_id == self.get_next_available_stream_id():
            super().send_stream_data(stream_id, b"")  # opens it
        elif stream_id not in self._waiting and not self._give(stream_id, b"", False):
            return
        self._closing.open.add(stream_id)
        self._waiting.setdefault(stream_id, _Waiting()).push(bytes(data), end_stream)

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        """Give up sending, also what waits."""
        self._waiting.pop(stream_id, None)
        self._none_waits = False
        super().reset_stream(stream_id, error_code)
        self._closing.ended.add(stream_id)

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        """Ask the peer to give up sending."""
        self._none_waits = False
        super().stop_stream(stream_id, error_code)

    def get_send_buffer_size(self, stream_id: int | None = None) -> int:
        """Return how much waits here or there to be sent for the first time."""
        size: int = super().get_send_buffer_size(stream_id)
        if self._close_event is not None:
            return size
        if stream_id is None:
            return size + sum(waiting.size for waiting in self._waiting.values())
        return size + self._waiting[stream_id].size if stream_id in self._waiting else size

    def _room(self) -> int:
        """Return for how many packets the window has room."""
        core = self._require_core()
        return (core.congestion_window - core.bytes_in_flight) // self._packet_size

    def _repetitions(self) -> int:
        """Return a number that changes when the library may have something to send again."""
        core = self._require_core()
        return core.loss_total + core.pto_total

    def _feed(self) -> bool:
        """Give the library as many frames as it can send now, each stream its share; return whether that was any."""
        if not self._waiting:
            return False
        size = self._packet_size - _FRAME_OVERHEAD
        frames = self._room() + -self._require_core().get_send_buffer_size() // size
        fed = frames > 0
        while frames > 0 and self._waiting:
            share = max(1, frames // len(self._waiting))
            for stream_id in list(self._waiting)[:frames]:
                frames -= self._feed_stream(stream_id, share, size)
        return fed

    def _feed_stream(self, stream_id: int, frames: int, size: int) -> int:
        waiting = self._waiting.pop(stream_id)
        count = min(frames, max(1, -(-waiting.size // size)))
        left = count * size
        while left and waiting.pieces:
            data, is_last = waiting.take(left)
            left -= len(data)
            if not self._give(stream_id, data, is_last):
                return count
        if waiting.pieces:
            self._waiting[stream_id] = waiting  # behind the others
        return count

    def _give(self, stream_id: int, data: Any, end_stream: bool) -> bool:
        """Return whether the library takes it. Not once the peer wants no more, which may be an event not yet read."""
        try:
            super().send_stream_data(stream_id, data, end_stream)
        except (ValueError, connection.QuicConnectionError):
            return False
        if end_stream:
            self._closing.ended.add(stream_id)
        return True

    # --- what the library sends, and says. Its own methods parse each packet for a log, even if nobody keeps one.

    def datagrams_to_send(self, now: float) -> list[tuple[Any, ...]]:
        """Return what is to be sent now; what a failure interrupts stays for the next call."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if self._core is not None:
            self._poll(now)
        datagrams, self._sent = self._sent, []
        return datagrams

    def _poll(self, now: float) -> None:
        send, poll = self._sent.extend, partial(self._require_core().poll_transmit, now)
        none_waits, self._none_waits = self._none_waits and self._settled == self._repetitions(), False
        if none_waits:
            self._feed()
        send(transmit[:2] for transmit in iter(poll, None))
        none_waits |= self._room() > 0
        while none_waits and self._feed():
            send(transmit[:2] for transmit in iter(poll, None))
        if self._room() > 0 or (none_waits and not self._require_core().get_send_buffer_size()):
            self._none_waits, self._settled = True, self._repetitions()

    def receive_gro_buffer(self, buffer: bytes, segment_size: int, addr: Any, now: float) -> None:
        """Take a batch."""
        self._now = now
        self._held_bytes += len(buffer)
        if self._core is None or not self._handshake_complete:
            super().receive_gro_buffer(buffer, segment_size, addr, now)
        else:
            self._core.receive_gro_buffer(buffer, segment_size, addr, now)
            self._drain_core()

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self._now = now
        super().handle_timer(now)

    def _drain_core(self) -> None:
        core = self._require_core()
        if not self._none_waits and self._closing.is_at_risk and core.state == "connected":
            try:
                self._poll(self._now)
            except Exception as error:
                self._failure = error
            else:
                if not self._none_waits and not self._has_held_enough():
                    return
        self._held_since, self._held_bytes = None, 0
        self._read_events()

    def _has_held_enough(self) -> bool:
        """Return whether events have been held for so long, or so much has come meanwhile, that they must be read."""
        if self._held_since is None:
            self._held_since = self._now
        return self._held_bytes > _HOLD_BYTES or self._now >= self._held_since + _HOLD_S


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
    def takes_datagrams(self) -> bool:
        """Not while frames of streams wait."""
        return self._connection is None or self._connection.none_waits

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
