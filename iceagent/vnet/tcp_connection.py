"""One end of a TCP connection, as a machine without I/O: RFC 9293 as far as reliable bytes, half-close and resets go.

Lost segments are sent again (on three duplicate acknowledgements, or after a time-out that doubles), the window gives
back-pressure, and congestion control is the plain one of RFC 5681. There are no options, no selective acknowledgements
and no sequence numbers to wrap: within, they count from 0; on the wire each end begins at a number of its own, so that
late segments of an earlier connection between the same ports do not fit (RFC 9293 section 3.4.1).
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from iceagent.vnet.packet import Segment

MSS = 1220  # bytes of content in one segment: fits into IPv6's least MTU of 1280
SMALL_MSS = 496  # once something on the way said that a segment was too big
RECEIVE_WINDOW = 256 * 1024
SEND_BUFFER = 256 * 1024
RTO_FIRST_S = 1.0  # RFC 6298 section 2
RTO_MIN_S = 0.2
RTO_MAX_S = 60.0
SYN_TRIES = 6  # as Linux: gives up after a minute or two
GIVE_UP_S = 120.0  # without progress; Linux takes longer, which tests do not want to
FIRST_WINDOW = 10 * MSS  # RFC 6928
FIRST_NUMBERS_A_SECOND = 10**9  # more than bytes can be sent, so that no two connections overlap


class TcpState(Enum):
    """The state of a connection; the machine's flags say which halves are closed."""

    CONNECTING = "connecting"
    ACCEPTING = "accepting"
    OPEN = "open"
    DONE = "done"
    """Both halves are closed and acknowledged; late segments are still answered."""
    BROKEN = "broken"


class TcpConnection:
    """One end. Feed it segments, writes, reads and time; then take what `poll_segment` gives and mind `timeout_at`.

    Args:
        now: the present, seconds.
        is_client: whether it begins, or answers a SYN.
    """

    def __init__(self, now: float, *, is_client: bool) -> None:
        self.state = TcpState.CONNECTING if is_client else TcpState.ACCEPTING
        self.error = ""
        self.timeout_at: float | None = None
        self.is_eof_received = False
        self._first = int(now * FIRST_NUMBERS_A_SECOND)
        self._peers_first: int | None = None
        self._out: deque[tuple[Segment, bytes]] = deque()
        self._unsent = bytearray()  # from `_unacknowledged` on: sent and not acknowledged, then not yet sent
        self._unacknowledged = 0
        self._next = 0
        self._highest = 0
        self._ending = False
        self._end_at: int | None = None  # sequence number of our FIN
        self._peer_window = MSS
        self._window = float(FIRST_WINDOW)
        self._threshold = float(RECEIVE_WINDOW)
        self._recover_at = 0
        self._duplicates = 0
        self._tries = 0
        self._rto_s = RTO_FIRST_S
        self._progress_at = now
        self._timed: tuple[int, float] | None = None
        self._is_probing = False
        self._mss = MSS
        self._received = bytearray()
        self._expected = 0
        self._early: dict[int, tuple[bytes, bool]] = {}
        self._advertised_window = RECEIVE_WINDOW
        if is_client:
            self._send_syn(now)

    # What a user does

    @property
    def room(self) -> int:
        """How many bytes a writer may hand over now."""
        return max(0, SEND_BUFFER - len(self._unsent))

    @property
    def readable(self) -> int:
        """How many bytes a reader may take now."""
        return len(self._received)

    @property
    def is_ending(self) -> bool:
        """Whether our side has said that nothing follows."""
        return self._ending

    def write(self, now: float, data: bytes) -> None:
        """Take bytes to be sent, as many as there is `room` for."""
        if not self._unsent:
            self._progress_at = now
        self._unsent += data
        self._fill(now)

    def end(self, now: float) -> None:
        """Say that nothing follows."""
        if not self._ending:
            self._ending = True
            self._progress_at = now
            self._fill(now)

    def read(self, limit: int) -> bytes:
        """Return up to `limit` of the bytes received; informs the peer when there is room again."""
        data = bytes(self._received[:limit])
        del self._received[:limit]
        if self._advertised_window < RECEIVE_WINDOW // 2 <= self._room_to_receive():
            self._acknowledge()
        return data

    def abort(self) -> None:
        """Reset the connection."""
        if self.state not in (TcpState.BROKEN, TcpState.DONE):
            self._out.append((Segment("AR", self._next, self._expected, 0), b""))
            self._break("aborted here")

    # What the network does

    def handle_segment(self, now: float, segment: Segment, data: bytes) -> None:
        """Take a segment from the peer."""
        if self.state is TcpState.BROKEN:
            return
        if "S" in segment.flags and not self._take_first(segment):
            return
        segment = segment._replace(
            sequence=segment.sequence - (self._peers_first or 0), acknowledged=segment.acknowledged - self._first
        )
        if "R" in segment.flags:
            if self.state is not TcpState.DONE and self._is_current(segment):
                self._break("connection refused" if self.state is TcpState.CONNECTING else "connection reset by peer")
            return
        if "S" in segment.flags:
            self._handle_syn(now, segment)
            return
        if self.state is TcpState.CONNECTING or not self._is_current(segment):
            return  # of an earlier connection
        if self.state is TcpState.ACCEPTING:
            self._opened(now)
        self._handle_acknowledgement(now, segment, is_pure=not data and "F" not in segment.flags)
        if data or "F" in segment.flags:
            self._handle_content(segment.sequence, data, ends="F" in segment.flags)
            self._acknowledge()
        self._fill(now)
        if self.is_eof_received and self._end_at is not None and self._unacknowledged > self._end_at:
            self.state = TcpState.DONE
            self.timeout_at = None

    def handle_too_big(self, now: float) -> None:
        """Send smaller segments from now on, what is under way again at once."""
        if self._mss > SMALL_MSS:
            self._mss = SMALL_MSS
            self._next = self._unacknowledged
            self._fill(now)

    def handle_timeout(self, now: float) -> None:
        """Send again what was not acknowledged in time, or probe a closed window."""
        self.timeout_at = None
        if self.state in (TcpState.BROKEN, TcpState.DONE):
            return
        self._tries += 1
        connecting = self.state in (TcpState.CONNECTING, TcpState.ACCEPTING)
        if (connecting and self._tries >= SYN_TRIES) or now - self._progress_at >= GIVE_UP_S:
            self._break("timed out")
            return
        self._timed = None
        if connecting:
            self._send_syn(now)
            return
        self._threshold, self._window = max(2.0 * MSS, self._window / 2), float(MSS)
        self._recover_at, self._duplicates = self._highest, 0
        self._next = self._unacknowledged
        if self._peer_window == 0 and self._unsent:
            self._peer_window, self._is_probing = 1, True
        self._fill(now)

    def poll_segment(self) -> tuple[Segment, bytes] | None:
        """Return the next segment to send with its content, or None."""
        if not self._out:
            return None
        segment, data = self._out.popleft()
        sequence, acknowledged = segment.sequence + self._first, segment.acknowledged + (self._peers_first or 0)
        return segment._replace(sequence=sequence, acknowledged=acknowledged), data

    # Within

    def _take_first(self, segment: Segment) -> bool:
        """Learn from a SYN where the peer begins; return whether it is of this connection."""
        is_answer = "A" in segment.flags
        if is_answer and segment.acknowledged != self._first:
            return False
        if self.state in (TcpState.CONNECTING, TcpState.ACCEPTING):
            self._peers_first = segment.sequence
        return True

    def _is_current(self, segment: Segment) -> bool:
        """Return whether a segment can be of this connection: what it acknowledges, and where it stands."""
        answers = 0 <= segment.acknowledged <= max(self._highest, self._next) + 1
        if self._peers_first is None:
            return answers
        within = 0 <= segment.sequence <= self._expected + RECEIVE_WINDOW + MSS
        return within and (answers or "A" not in segment.flags)

    def _send_syn(self, now: float) -> None:
        flags = "S" if self.state is TcpState.CONNECTING else "SA"
        self._out.append((Segment(flags, 0, 0, RECEIVE_WINDOW), b""))
        self.timeout_at = now + self._patience_s()

    def _handle_syn(self, now: float, segment: Segment) -> None:
        if self.state is TcpState.CONNECTING and "A" in segment.flags:
            self._peer_window = segment.window
            self._opened(now)
            self._acknowledge()
        elif self.state is TcpState.ACCEPTING and "A" in segment.flags:
            self._peer_window = segment.window
            self._opened(now)  # both have opened at once (RFC 9293 section 3.5): this acknowledges our SYN
            self._acknowledge()
        elif self.state in (TcpState.CONNECTING, TcpState.ACCEPTING):
            self.state = TcpState.ACCEPTING  # a connecting one, too: the SYNs have crossed
            self._peer_window = segment.window
            self._send_syn(now)
        else:
            self._acknowledge()  # ours was lost, and the peer says it again

    def _opened(self, now: float) -> None:
        if self._tries == 0 and self.timeout_at is not None:
            self._rto_s = max(RTO_MIN_S, 2 * (now - self.timeout_at + self._rto_s))
        self.state, self.timeout_at, self._tries, self._progress_at = TcpState.OPEN, None, 0, now
        self._fill(now)

    def _handle_acknowledgement(self, now: float, segment: Segment, *, is_pure: bool) -> None:
        acknowledged = segment.acknowledged
        if segment.window == 0:
            self._progress_at = now  # alive, and its reader slow: that may last
        elif self._is_probing:
            self._is_probing, self._tries = False, 0
            self._next, self._recover_at, self.timeout_at = self._unacknowledged, self._unacknowledged, None
        is_repeat = acknowledged == self._unacknowledged and segment.window == self._peer_window
        self._peer_window = segment.window
        if acknowledged > self._unacknowledged:
            self._advance(now, acknowledged)
        elif is_repeat and is_pure and self._next > self._unacknowledged:
            self._duplicates += 1
            if self._duplicates == 3 and self._unacknowledged >= self._recover_at:
                self._recover_at = self._next
                self._threshold = self._window = max(2.0 * MSS, self._window / 2)
                self._send_again()

    def _advance(self, now: float, acknowledged: int) -> None:
        gained = min(acknowledged - self._unacknowledged, len(self._unsent))
        del self._unsent[:gained]
        self._unacknowledged = acknowledged
        self._next = max(self._next, acknowledged)
        self._duplicates = self._tries = 0
        self._progress_at = now
        if self._timed is not None and acknowledged >= self._timed[0]:
            self._rto_s = max(RTO_MIN_S, 2 * (now - self._timed[1]))
            self._timed = None
        if acknowledged < self._recover_at:
            self._send_again()  # RFC 6582: a partial acknowledgement shows the next hole
        else:
            slow = self._window < self._threshold
            self._window += gained if slow else MSS * gained / self._window
        outstanding = self._next > self._unacknowledged or self._unsent
        self.timeout_at = now + self._patience_s() if outstanding else None

    def _send_again(self) -> None:
        data = bytes(self._unsent[: self._mss])
        ends = self._end_at is not None and self._unacknowledged + len(data) == self._end_at
        self._emit(self._unacknowledged, data, ends=ends)

    def _handle_content(self, sequence: int, data: bytes, *, ends: bool) -> None:
        if sequence + len(data) <= self._expected + RECEIVE_WINDOW + MSS:
            self._early[sequence] = max(self._early.get(sequence, (b"", False)), (data, ends), key=_length)
        for start in sorted(self._early):
            if start > self._expected:
                return
            content, is_last = self._early.pop(start)
            fresh = content[self._expected - start :][: self._room_to_receive()]  # the rest will be sent again
            self._received += fresh
            self._expected += len(fresh)
            if is_last and not self.is_eof_received and self._expected == start + len(content):
                self.is_eof_received = True
                self._expected += 1

    def _fill(self, now: float) -> None:
        """Send what the windows permit."""
        if self.state is not TcpState.OPEN:
            return
        limit = self._unacknowledged + min(int(self._window), self._peer_window)
        end = self._unacknowledged + len(self._unsent)
        while self._next < min(limit, end):
            offset = self._next - self._unacknowledged
            data = bytes(self._unsent[offset : offset + min(self._mss, limit - self._next)])
            if self._timed is None and self._next >= self._highest:
                self._timed = (self._next + len(data), now)
            ends = self._ending and self._next + len(data) == end
            self._emit(self._next, data, ends=ends)
            self._next += len(data) + ends
        if self._ending and self._next == end and (self._end_at is None or self._unacknowledged <= self._end_at):
            self._emit(self._next, b"", ends=True)
            self._next += 1
        self._highest = max(self._highest, self._next)
        if self.timeout_at is None and (self._next > self._unacknowledged or self._unsent):
            self.timeout_at = now + self._patience_s()

    def _patience_s(self) -> float:
        return min(RTO_MAX_S, self._rto_s * 2.0**self._tries)

    def _emit(self, sequence: int, data: bytes, *, ends: bool) -> None:
        if ends:
            self._end_at = sequence + len(data)
        self._advertised_window = self._room_to_receive()
        self._out.append((Segment("AF" if ends else "A", sequence, self._expected, self._advertised_window), data))

    def _acknowledge(self) -> None:
        self._emit(self._next, b"", ends=False)

    def _room_to_receive(self) -> int:
        return max(0, RECEIVE_WINDOW - len(self._received))

    def _break(self, why: str) -> None:
        self.state, self.error, self.timeout_at = TcpState.BROKEN, why, None
        self._unsent.clear()


def _length(entry: tuple[bytes, bool]) -> tuple[int, bool]:
    return len(entry[0]), entry[1]
