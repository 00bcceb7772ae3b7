"""The link without I/O: authentication, streams with credit, datagrams, over one QUIC connection.

The shell feeds batches and time, then sends what `datagrams_to_send` returns. Callbacks report what happened, and do no
more than wake a task: `wake_reader` and `wake_writer` of each stream, `wake_link` for whoever waits for anything
else, and `wake_driver` when there is something new to send.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from enum import Enum, auto

from iceagent.errors import IceError, LocalError
from iceagent.link.auth import AuthState, LinkAuthenticator
from iceagent.link.budget import SendBudget
from iceagent.link.config import MIN_WINDOW, LinkConfig, LinkRole
from iceagent.link.control import (
    ControlError,
    ControlFrameReader,
    FrameType,
    decode_credit,
    decode_welcome,
    encode_credit,
    encode_welcome,
)
from iceagent.link.credit import CreditExceeded, Ledger, ReceiveCredit
from iceagent.link.datagrams import Datagrams
from iceagent.link.errors import AuthenticationError, LinkCode, LinkError, LinkUnanswered, StreamCode, error_of_close
from iceagent.link.liveness import Due, Liveness
from iceagent.link.quic import QuicEndpoint
from iceagent.link.streams import BadHeader, StreamState, encode_header
from iceagent.net.batch import Batch

CONTROL_STREAM = 0
_PROBE_GAPS_S = (0.1, 0.3, 1.0)  # a lost ping on a fresh path would leave a transfer to its probe back-off, a minute


class LinkState(Enum):
    """The life of a link."""

    HANDSHAKE = auto()  # QUIC and TLS
    AUTHENTICATING = auto()  # the proofs on stream 0
    OPEN = auto()
    CLOSED = auto()


class LinkProtocol:
    """One end of a link; see the module's docstring for how it is driven."""

    def __init__(
        self,
        endpoint: QuicEndpoint,
        authenticator: LinkAuthenticator,
        config: LinkConfig,
        ledger: Ledger,
        wake_link: Callable[[], object],
        wake_driver: Callable[[], object],
        path_works: Callable[[], bool] | None = None,
    ) -> None:
        self.state = LinkState.HANDSHAKE
        self.error: IceError | None = None
        self.closed_here = False
        self.counters: Counter[str] = Counter()
        self.endpoint = endpoint
        self.incoming: deque[StreamState] = deque()
        self.datagrams = Datagrams(endpoint, config.datagram_queue)
        self._config = config
        self._auth = authenticator
        self._ledger = Ledger(config.link_ceiling, ledger)
        self._wake_link = wake_link
        self._wake_driver = wake_driver
        self._control = ControlFrameReader()
        self._streams: dict[int, StreamState] = {}
        self._next_peer_stream = 4 if endpoint.role is LinkRole.SERVER else 1
        self._send_window = 0  # the peer's initial window, 0 until its WELCOME
        self._budget = SendBudget(endpoint, config)
        self._output_due = False  # whether QUIC may have something to send that it was not asked for yet
        self._probes: deque[float] = deque()  # when to ping again, unless something was acknowledged first
        self._pings = 0
        self._liveness = Liveness(config.idle_timeout_s)
        self._path_works = path_works
        self._opener_waits = False
        self._delivery_awaited = False

    # --- input

    def start(self, now: float) -> None:
        """Begin: the client speaks first."""
        if self.endpoint.role is LinkRole.CLIENT:
            self.endpoint.connect(now)

    def receive_untrusted(self, batches: Iterable[Batch], now: float) -> None:
        """Take what arrived."""
        self.endpoint.receive_untrusted(batches, now)
        self._after_input(now)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        if self._probes and self._probes[0] <= now:
            self._probes.popleft()
            if self.state is not LinkState.CLOSED:
                self._ping()
        timer = self.endpoint.timer()
        if timer is not None and timer <= now:
            self.endpoint.handle_timer(now)
        self._after_input(now)
        self._watch_peer(now)

    def fail(self, error: IceError) -> None:
        """End the link because the world did."""
        self._end(error)

    def close(self, code: LinkCode, reason: str) -> None:
        """End the link on purpose; the next `datagrams_to_send` informs the peer. Idempotent."""
        if self.state is not LinkState.CLOSED:
            self.closed_here = True
            self.endpoint.close(code, reason)
            self._end(LocalError("the link was closed here"))
            self._wake_driver()

    def _after_input(self, now: float) -> None:
        self._output_due = True
        if self.endpoint.drain_events(self):
            self._liveness.heard(now)
        if self._opener_waits and self.can_open_stream():  # the libraries raise the limit without an event
            self._wake_link()
        if self._delivery_awaited and not self.undelivered():
            self._wake_link()
        close = self.endpoint.close_reason
        if close is not None and self.state is not LinkState.CLOSED:
            self._end(error_of_close(close))

    def _watch_peer(self, now: float) -> None:
        if self.state is not LinkState.OPEN:
            return
        match self._liveness.advance(now, path_works=self._path_works is None or self._path_works()):
            case Due.ASK:
                self._ping()
            case Due.GIVE_UP:
                self.endpoint.close(LinkCode.UNANSWERED, "")
                self._end(LinkUnanswered(self._config.idle_timeout_s, path_works=self._path_works is not None))

    # --- output

    def timer(self) -> float | None:
        """When `handle_timer` is due, or None."""
        liveness = self._liveness.due_at if self.state is LinkState.OPEN else None
        timers = [self.endpoint.timer(), *list(self._probes)[:1], liveness]
        return min((timer for timer in timers if timer is not None), default=None)

    def datagrams_to_send(self, now: float) -> list[bytes]:
        """Return what is to be sent now, and wake the writers that found QUIC's buffer full."""
        handed, datagrams = self.datagrams.hand_over(), self.endpoint.datagrams_to_send(now)
        if not datagrams and (more := self.datagrams.hand_over()):  # what they had to wait for has gone
            handed, datagrams = handed + more, self.endpoint.datagrams_to_send(now)
        if handed:
            self.counters["datagrams sent"] += handed
            self._wake_link()
        self.datagrams.note_sent(datagrams)
        self._budget.wake_writers()
        self._output_due = bool(datagrams)
        if self._delivery_awaited and not self.undelivered():
            self._wake_link()
        return datagrams

    def undelivered(self) -> int:
        """Return how many bytes the peer's QUIC does not have yet; `wake_link` is called once it has all."""
        endpoint = self.endpoint
        waits = self._output_due or self.datagrams.pending  # what was lost counts as one byte
        left = endpoint.bytes_in_flight + endpoint.send_buffer_size() + bool(waits)
        self._delivery_awaited = left > 0
        return left

    # --- what the application does

    def can_open_stream(self) -> bool:
        """Return whether the peer's limit on open streams leaves room; if not, `wake_link` is called once it does."""
        self._opener_waits = not self.endpoint.can_open_stream()
        return not self._opener_waits

    def open_stream(self, name: str, header: bytes) -> StreamState:
        """Open a stream and send its name."""
        stream = self._add_stream(self.endpoint.open_stream(), is_local=True, name=name)
        start = encode_header(header)
        self._send(stream.id, start)
        stream.send_credit.sent += len(start)
        self.counters["streams opened"] += 1
        return stream

    def accept_stream(self) -> StreamState | None:
        """Return the oldest stream the peer opened, if any waits."""
        if not self.incoming:
            return None
        stream = self.incoming.popleft()
        stream.accepted = True
        self._consume(stream, stream.header_size)
        return stream

    def writable(self, stream: StreamState) -> int:
        """Return how many bytes credit and buffers allow now; if none, `wake_writer` is called once that changes."""
        room = stream.send_credit.available
        return min(room, self._budget.room(stream)) if room > 0 else 0

    def write(self, stream: StreamState, data: memoryview) -> int:
        """Hand over as much of `data` as credit and buffers allow; return how much that was.

        If it was not all, `wake_writer` is called once more is allowed.
        """
        room = min(len(data), self.writable(stream))
        if room > 0:
            self._send(stream.id, data[:room])
            stream.send_credit.sent += room
            if room < len(data):
                self._budget.wait_for_room(stream)
        return room

    def end_sending(self, stream: StreamState) -> None:
        """Send the end of the stream."""
        if not stream.send_finished:
            stream.send_ended = True
            self.endpoint.end_stream(stream.id)
            self._note_output()
        self._forget_if_finished(stream)

    def reset_sending(self, stream: StreamState, code: int) -> None:
        """Give up sending, also what was written and not yet delivered."""
        if not stream.send_reset:
            stream.send_reset = True
            self.endpoint.reset_stream(stream.id, code)
            self._wake_driver()
            stream.wake_writer()
        self._forget_if_finished(stream)

    def stop_receiving(self, stream: StreamState, code: int) -> None:
        """Want nothing more of the stream."""
        if not stream.receive_stopped:
            if not stream.receive_finished:
                self.endpoint.stop_stream(stream.id, code)
                self._wake_driver()
            stream.receive_stopped = True
            stream.discard()
            stream.credit.close()
            stream.wake_reader()
        self._forget_if_finished(stream)

    def take(self, stream: StreamState, max_bytes: int) -> bytes:
        """Return what has arrived, at most `max_bytes`, and grant the peer as much again."""
        data = stream.take(max_bytes)
        if data:
            self._consume(stream, len(data))
        return data

    def queue_datagram(self, data: bytes) -> None:
        """Queue a datagram of at most `max_datagram_size` bytes; a full queue drops its oldest."""
        self.datagrams.pending.push(data)
        self._wake_driver()

    def detach(self) -> None:
        """Take the link off the process's books."""
        self._ledger.detach()

    def probe_path(self, now: float) -> None:
        """Make both ends notice that another path works: ping at once, and again until something is acknowledged."""
        if self.endpoint.started and self.state is not LinkState.CLOSED:
            self.endpoint.forget_path()
            self._budget.forget_path()
            self._ping()
            self._probes = deque(now + gap for gap in _PROBE_GAPS_S)

    def _ping(self) -> None:
        self._pings += 1
        self.endpoint.ping(self._pings)
        self._wake_driver()

    # --- credit

    def _consume(self, stream: StreamState, count: int) -> None:
        stream.credit.note_consumed(count)
        self._grant(stream)

    def _grant(self, stream: StreamState) -> None:
        if stream.receive_finished or self.state is LinkState.CLOSED:
            return
        limit = stream.credit.next_grant()
        if limit is not None:
            self._send(CONTROL_STREAM, encode_credit(stream.id, limit))

    # --- what QUIC reports (QuicHandler)

    def on_handshake_completed(self) -> None:
        """Check the certificate, then begin the proofs."""
        endpoint = self.endpoint
        if endpoint.role is LinkRole.CLIENT and endpoint.peer_certificate_fingerprint() != endpoint.peer_fingerprint:
            self._refuse(LinkCode.AUTHENTICATION_FAILED, "the certificate is not the announced one")
            return
        if self.state is LinkState.HANDSHAKE:
            self.state = LinkState.AUTHENTICATING
            hello = self._auth.start()
            if hello:
                self.endpoint.open_stream()
                self._send(CONTROL_STREAM, hello)

    def on_stream_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """Take data of any stream; before the proofs only that of the control stream."""
        if self.state is LinkState.CLOSED:
            return
        if stream_id == CONTROL_STREAM:
            self._on_control_untrusted(data, end_stream)
            return
        stream = self._streams.get(stream_id) or self._on_new_stream(stream_id)
        if stream is None:
            return
        try:
            stream.credit.note_received(len(data))
        except CreditExceeded as exc:
            self._refuse(LinkCode.CREDIT_EXCEEDED, str(exc))
            return
        if stream.receive_stopped:
            stream.receive_ended |= end_stream
            self._forget_if_finished(stream)
            return
        self._feed(stream, data, end_stream)

    def _feed(self, stream: StreamState, data: bytes, end_stream: bool) -> None:
        was_quiet = stream.credit.received == len(data)
        try:
            if data and stream.feed_untrusted(data):
                self._offer(stream)
        except BadHeader:
            self._reject(stream, StreamCode.BAD_HEADER)
            return
        if end_stream:
            stream.receive_ended = True
            stream.credit.finish()
            if stream.head is not None:
                self._reject(stream, StreamCode.BAD_HEADER)
                return
            self._forget_if_finished(stream)
        elif was_quiet and stream.accepted:
            self._grant(stream)
        stream.wake_reader()

    def _offer(self, stream: StreamState) -> None:
        """Queue a stream whose name is known for `accept_stream`."""
        if len(self.incoming) >= self._config.accept_backlog:
            self._reject(stream, StreamCode.BACKLOG_FULL)
            return
        self.incoming.append(stream)
        self.counters["streams received"] += 1
        self._wake_link()

    def _reject(self, stream: StreamState, code: StreamCode) -> None:
        self.counters[f"streams rejected: {code.name.lower()}"] += 1
        self.stop_receiving(stream, code)
        self.reset_sending(stream, code)

    def _on_new_stream(self, stream_id: int) -> StreamState | None:
        """Return the state of a stream seen for the first time, None for one that has ended."""
        if self.state is not LinkState.OPEN:
            self._refuse(LinkCode.PROTOCOL_VIOLATION, "data before authentication")
            return None
        if stream_id & 3 != self._next_peer_stream & 3:
            if stream_id & 2:
                self._refuse(LinkCode.PROTOCOL_VIOLATION, "a unidirectional stream")
            return None
        if stream_id < self._next_peer_stream:
            return None
        while self._next_peer_stream <= stream_id:
            self._add_stream(self._next_peer_stream, is_local=False, name="")
            self._next_peer_stream += 4
        return self._streams[stream_id]

    def on_stream_reset(self, stream_id: int, code: int) -> None:
        """The peer gave up sending on a stream."""
        if stream_id == CONTROL_STREAM:
            self._refuse(LinkCode.PROTOCOL_VIOLATION, "the control stream was reset")
            return
        stream = self._streams.get(stream_id) or self._on_new_stream(stream_id)
        if stream is None or stream.receive_ended:
            return
        stream.receive_reset = code
        stream.discard()
        stream.credit.close()
        stream.wake_reader()
        if stream.head is not None:
            self.reset_sending(stream, code)
        self._forget_if_finished(stream)

    def on_stop_sending(self, stream_id: int, code: int) -> None:
        """The peer wants nothing more of a stream."""
        if stream_id == CONTROL_STREAM:
            self._refuse(LinkCode.PROTOCOL_VIOLATION, "the control stream was stopped")
            return
        stream = self._streams.get(stream_id) or self._on_new_stream(stream_id)
        if stream is not None:
            stream.send_stopped = code
            self.endpoint.reset_stream(stream_id, code)
            stream.wake_writer()
            self._forget_if_finished(stream)

    def on_datagram(self, data: bytes) -> None:
        """Queue a datagram for the reader, dropping the oldest if it does not keep up."""
        if self.state is not LinkState.OPEN:
            self.counters["datagrams before authentication"] += 1
            return
        if self.datagrams.feed_untrusted(data):
            self.counters["datagrams received"] += 1
            self._wake_link()

    def on_ping_acknowledged(self) -> None:
        """The path works."""
        self._probes.clear()

    # --- the control stream

    def _on_control_untrusted(self, data: bytes, end_stream: bool) -> None:
        try:
            frames = self._control.feed_untrusted(data)
        except ControlError as exc:
            self._refuse(LinkCode.PROTOCOL_VIOLATION, str(exc))
            return
        for kind, body in frames:
            if self.state is LinkState.CLOSED:
                return
            if self._auth.state is not AuthState.DONE:
                self._on_auth_frame_untrusted(kind, body)
            else:
                self._on_control_frame_untrusted(kind, body)
        if end_stream:
            self._refuse(LinkCode.PROTOCOL_VIOLATION, "the control stream ended")

    def _on_auth_frame_untrusted(self, kind: FrameType, body: bytes) -> None:
        answer = self._auth.handle_frame_untrusted(kind, body)
        if self._auth.state is AuthState.FAILED:
            self._refuse(LinkCode.AUTHENTICATION_FAILED, "the session keys differ")
            return
        if self._auth.state is AuthState.DONE:
            answer += encode_welcome(self._config.initial_window)
        if answer:
            self._send(CONTROL_STREAM, answer)

    def _on_control_frame_untrusted(self, kind: FrameType, body: bytes) -> None:
        if kind is FrameType.WELCOME and self.state is LinkState.AUTHENTICATING:
            self._send_window = decode_welcome(body)
            if self._send_window < MIN_WINDOW:
                self._refuse(LinkCode.PROTOCOL_VIOLATION, "the initial window is too small")
                return
            self.state = LinkState.OPEN
            self._wake_link()
        elif kind is FrameType.CREDIT and self.state is LinkState.OPEN:
            stream_id, limit = decode_credit(body)
            stream = self._streams.get(stream_id)
            if stream is not None and stream.send_credit.raise_to(limit):
                stream.wake_writer()
        else:
            self._refuse(LinkCode.PROTOCOL_VIOLATION, f"an unexpected {kind.name} frame")

    # --- bookkeeping

    def _send(self, stream_id: int, data: bytes | memoryview) -> None:
        self.endpoint.send_stream(stream_id, data)
        self._note_output()

    def _note_output(self) -> None:
        self._output_due = True
        self._wake_driver()

    def _add_stream(self, stream_id: int, *, is_local: bool, name: str) -> StreamState:
        credit = ReceiveCredit(self._ledger, minimum=self._config.initial_window, window=self._config.stream_window)
        stream = StreamState(stream_id, is_local=is_local, name=name, credit=credit, send_limit=self._send_window)
        self._streams[stream_id] = stream
        return stream

    def _forget_if_finished(self, stream: StreamState) -> None:
        """Drop the entry of a stream that neither direction needs; its reader may still hold what has arrived."""
        if stream.send_finished and (stream.receive_ended or stream.receive_reset is not None):
            self._streams.pop(stream.id, None)
            self._budget.forget(stream)

    def _refuse(self, code: LinkCode, reason: str) -> None:
        """End the link because of what the peer did."""
        if self.state is not LinkState.CLOSED:
            self.endpoint.close(code, reason)
            error = AuthenticationError if code is LinkCode.AUTHENTICATION_FAILED else LinkError
            self._end(error(f"the link was refused here: {reason}"))

    def _end(self, error: IceError) -> None:
        if self.state is LinkState.CLOSED:
            return
        self.state = LinkState.CLOSED
        self.error = error
        for stream in list(self._streams.values()):
            stream.credit.finish()
            stream.wake()
        for stream in self.incoming:
            stream.wake()
        self._streams.clear()
        self._budget.clear()
        self._wake_link()
