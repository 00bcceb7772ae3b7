"""Application datagrams over QUIC DATAGRAM frames: fragmented if they do not fit, in a bounded queue.

A whole datagram is a frame of type 0 and its bytes. A larger one is cut: type 1, id (4 bytes), index and count (1 byte
each). Fragments are lost like packets; a datagram with a lost fragment is dropped, as with IP fragmentation.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Protocol

from iceagent.link.config import MAX_DATAGRAM_SIZE, MIB

_WHOLE = b"\x00"
_FRAGMENT = struct.Struct("!BIBB")
_MAX_PARTIAL = 64
_QUEUE_BYTES = 4 * MIB


def max_size(frame_size: int) -> int:
    """Return the largest datagram that fits into 255 frames of `frame_size` bytes."""
    return 255 * (frame_size - _FRAGMENT.size)


def split(data: bytes, number: int, frame_size: int) -> list[bytes]:
    """Return the frames that carry `data`; `number` distinguishes its fragments from those of other datagrams."""
    if len(data) < frame_size:
        return [_WHOLE + data]
    size = frame_size - _FRAGMENT.size
    count = -(-len(data) // size)
    step = -(-len(data) // count)
    return [
        _FRAGMENT.pack(1, number & 0xFFFFFFFF, index, count) + data[index * step : (index + 1) * step]
        for index in range(count)
    ]


class Reassembler:
    """Puts fragments together; keeps at most 64 incomplete datagrams and `max_bytes`, the oldest go first."""

    def __init__(self, max_bytes: int) -> None:
        self.dropped = 0
        self._max_bytes = max_bytes
        self._size = 0
        self._partial: dict[tuple[int, int], dict[int, bytes]] = {}

    def feed_untrusted(self, frame: bytes) -> bytes | None:
        """Return the datagram that `frame` completes, if any; malformed frames are dropped and counted."""
        if frame[:1] == _WHOLE:
            return frame[1:]
        if len(frame) < _FRAGMENT.size:
            self.dropped += 1
            return None
        kind, number, index, count = _FRAGMENT.unpack_from(frame)
        if kind != 1 or index >= count:
            self.dropped += 1
            return None
        key = (number, count)
        parts = self._partial.setdefault(key, {})
        if index in parts:
            return None
        parts[index] = frame[_FRAGMENT.size :]
        self._size += len(frame)
        if len(parts) == count:
            self._forget(key)
            return b"".join(parts[at] for at in range(count))
        while len(self._partial) > _MAX_PARTIAL or self._size > self._max_bytes:
            self._forget(next(iter(self._partial)))
            self.dropped += 1
        return None

    def _forget(self, key: tuple[int, int]) -> None:
        self._size -= sum(len(part) + _FRAGMENT.size for part in self._partial.pop(key).values())


class DatagramQueue:
    """A queue bounded in count and bytes, which drops its oldest entry rather than grow."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self.dropped = 0
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._size = 0
        self._items: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_full(self) -> bool:
        """Whether one more entry would push out the oldest."""
        return len(self._items) >= self._max_count or self._size >= self._max_bytes

    def push(self, data: bytes) -> None:
        """Append `data`, dropping the oldest entries while there is no room."""
        while self._items and self.is_full:
            self._size -= len(self._items.popleft())
            self.dropped += 1
        self._items.append(data)
        self._size += len(data)

    def peek_size(self) -> int:
        """Return the size of the oldest entry, which must exist."""
        return len(self._items[0])

    def pop(self) -> bytes:
        """Return and remove the oldest entry, which must exist."""
        data = self._items.popleft()
        self._size -= len(data)
        return data


class FrameCarrier(Protocol):
    """What the datagrams need of a QUIC connection."""

    max_datagram_size: int

    @property
    def congestion_window(self) -> int:
        """Bytes that may be in flight."""
        ...

    @property
    def bytes_in_flight(self) -> int:
        """Bytes sent and not settled."""
        ...

    @property
    def takes_datagrams(self) -> bool:
        """Whether DATAGRAM frames may be queued now; what sends does away with what they must not overtake."""
        ...

    def send_buffer_size(self) -> int:
        """Bytes of streams not yet sent for the first time."""
        ...

    def send_datagram(self, data: bytes) -> None:
        """Queue one DATAGRAM frame."""
        ...


class Datagrams:
    """Both directions of a link's datagrams: bounded queues on top of a QUIC connection that has none."""

    def __init__(self, carrier: FrameCarrier, queue: int) -> None:
        self.pending = DatagramQueue(queue, _QUEUE_BYTES)
        self.received = DatagramQueue(queue, _QUEUE_BYTES)
        self.max_size = min(MAX_DATAGRAM_SIZE, max_size(carrier.max_datagram_size))
        self._carrier = carrier
        self._reassembler = Reassembler(MIB)
        self._number = 0
        self._backlog = 0  # bytes of frames that QUIC has not sent yet, estimated from above
        self._lead = 0  # bytes that datagrams were given more than streams, while both had something to send

    @property
    def dropped(self) -> int:
        """Datagrams given up here, in either direction."""
        return self.pending.dropped + self.received.dropped + self._reassembler.dropped

    def hand_over(self) -> int:
        """Give QUIC what the congestion window has room for; return how many datagrams that was.

        The rest waits where it is bounded: neither library reports how many frames it holds back. Both libraries send
        datagrams before what streams have, so that a flow of datagrams as fast as the path would leave them nothing:
        while those wait, datagrams get one half of what is sent.
        """
        count = 0
        carrier = self._carrier
        streams_wait = bool(self.pending) and carrier.send_buffer_size() > 0
        if not streams_wait:
            self._lead = 0
        if not self.pending or not carrier.takes_datagrams:
            return 0
        room = carrier.congestion_window - carrier.bytes_in_flight - self._backlog
        while self.pending and room > 0 and (self._lead <= 0 or not streams_wait):
            self._number += 1
            for frame in split(self.pending.pop(), self._number, carrier.max_datagram_size):
                carrier.send_datagram(frame)
                room -= len(frame)
                self._backlog += len(frame)
                self._lead += len(frame)
            count += 1
        return count

    def note_sent(self, packets: list[bytes]) -> None:
        """Count what QUIC sent: DATAGRAM frames go out before stream data, so the bytes were theirs first."""
        if self._backlog or self._lead:
            size = sum(map(len, packets))
            of_streams = max(0, size - self._backlog)
            self._backlog = max(0, self._backlog - size)
            self._lead = max(self._lead - of_streams, -self._carrier.congestion_window // 2)

    def feed_untrusted(self, frame: bytes) -> bool:
        """Take a frame of the peer; return whether a datagram is now complete and queued."""
        whole = self._reassembler.feed_untrusted(frame)
        if whole is None:
            return False
        self.received.push(whole)
        return True
