"""ChannelData: four bytes of header and the payload, singly, in batches and in a byte stream. RFC 8656 section 12."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from iceagent.core.stun.raw import COOKIE_BYTES

CHANNEL_MIN: Final = 0x4000  # RFC 8656 section 12
CHANNEL_MAX: Final = 0x4FFF
CHANNEL_MAX_RFC5766: Final = 0x7FFE  # RFC 5766 section 11: what a server may still get from old clients
HEADER_LENGTH: Final = 4
MAX_PAYLOAD: Final = 0xFFFF  # bytes; the length field has 16 bits

_HEADER: Final = struct.Struct("!HH")
_FIRST_BYTES: Final = range(0x40, 0x50)
_FIRST_BYTES_OF: Final = {CHANNEL_MAX: _FIRST_BYTES, CHANNEL_MAX_RFC5766: range(0x40, 0x80)}
_STUN_HEADER_LENGTH: Final = 20
_NEEDED: Final = 8  # bytes until a frame's kind and length are beyond doubt


def is_channel_data(data: bytes) -> bool:
    """Return whether a datagram is ChannelData and not STUN: its first byte is 64 to 79. RFC 8656 section 12."""
    return len(data) >= HEADER_LENGTH and data[0] in _FIRST_BYTES


def encode_channel_data(channel: int, payload: bytes, *, pad: bool = False) -> bytes:
    """Return one ChannelData message.

    Args:
        channel: 0x4000 to 0x4FFF.
        payload: at most 65535 bytes.
        pad: fill up to a multiple of four, as streams need it (RFC 8656 section 12.5).

    Raises:
        ValueError: channel or length do not fit.
    """
    size = len(payload)
    if not CHANNEL_MIN <= channel <= CHANNEL_MAX or size > MAX_PAYLOAD:
        raise ValueError(f"channel 0x{channel:04x} with {size} bytes is not ChannelData")
    message = _HEADER.pack(channel, size) + payload
    return message + bytes(-size & 3) if pad and size & 3 else message


def encode_channel_batch(channel: int, payloads: Sequence[bytes]) -> list[bytes]:
    """Return one unpadded ChannelData message per payload; equal payloads give equal lengths, fit for one GSO call.

    Raises:
        struct.error: the channel is not 16 bits wide or a payload is longer than 65535 bytes.
    """
    size = len(payloads[0]) if payloads else 0
    header = _HEADER.pack(channel, size)
    return [(header if len(payload) == size else _HEADER.pack(channel, len(payload))) + payload for payload in payloads]


def decode_channel_data(data: bytes, highest: int = CHANNEL_MAX) -> tuple[int, bytes] | None:
    """Return channel and payload of one datagram; None if it is not ChannelData or is cut short.

    What follows the payload is padding and is ignored. RFC 8656 section 12.6. `highest` is `CHANNEL_MAX` or
    `CHANNEL_MAX_RFC5766`, here and below.
    """
    if len(data) < HEADER_LENGTH or data[0] not in _FIRST_BYTES_OF[highest]:
        return None
    channel, size = _HEADER.unpack_from(data)
    end = HEADER_LENGTH + size
    return (channel, data[HEADER_LENGTH:end]) if end <= len(data) else None


def strip_channel_batch(data: bytes, segment_size: int, highest: int = CHANNEL_MAX) -> tuple[int, list[bytes]] | None:
    """Return the channel and the payloads of a buffer as UDP_GRO delivers it, if all segments are of one channel.

    Args:
        data: datagrams back to back, each `segment_size` bytes, the last one maybe shorter.
        segment_size: bytes, at least 1.
        highest: channel.

    Returns:
        None where segments differ in channel or in padding, or are no ChannelData: look at each datagram then. All
        payloads have one length, only the last one may be shorter.
    """
    end = len(data)
    if end < HEADER_LENGTH or data[0] not in _FIRST_BYTES_OF[highest]:
        return None
    if end <= segment_size:
        single = decode_channel_data(data, highest)
        return None if single is None else (single[0], [single[1]])
    header = data[:HEADER_LENGTH]
    channel, size = _HEADER.unpack(header)
    if HEADER_LENGTH + size > segment_size:
        return None
    whole = end // segment_size
    tail = whole * segment_size
    # Four strided slices compare all headers at once; no loop of ours.
    if any(data[at:tail:segment_size] != bytes((byte,)) * whole for at, byte in enumerate(header)):
        return None
    payloads = [data[at + HEADER_LENGTH : at + HEADER_LENGTH + size] for at in range(0, tail, segment_size)]
    if tail < end:
        last = decode_channel_data(data[tail:], highest)
        if last is None or last[0] != channel or len(last[1]) > size:
            return None
        payloads.append(last[1])
    return channel, payloads


def frame_length(start: bytes, highest: int = CHANNEL_MAX) -> int | None:
    """Return the length in bytes, padding included, of the frame that begins with `start` in a stream.

    Args:
        start: at least the first 8 bytes of the frame.
        highest: channel.

    Returns:
        None where neither STUN nor ChannelData begins so: the stream is lost.

    Source: RFC 8656 section 12.5, RFC 8489 section 6.2.2.
    """
    kind, size = map(int, _HEADER.unpack_from(start))
    if CHANNEL_MIN <= kind <= highest:
        return HEADER_LENGTH + size + (-size & 3)
    if kind < CHANNEL_MIN and size & 3 == 0 and start[4:8] == COOKIE_BYTES:
        return _STUN_HEADER_LENGTH + size
    return None


class StreamFrames:
    """Cuts a byte stream into STUN and ChannelData messages. Holds at most one unfinished frame.

    Args:
        highest: channel.

    Attributes:
        broken: something else came; nothing more is given out, and the connection must be closed.
    """

    def __init__(self, highest: int = CHANNEL_MAX) -> None:
        self._buffer = bytearray()
        self._highest = highest
        self.broken = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived; return the messages that are complete now, in order, padding included."""
        self._buffer += data
        frames: list[bytes] = []
        at, end = 0, len(self._buffer)
        while not self.broken and end - at >= HEADER_LENGTH:
            length = self._length_at(at, end)
            if length is None or at + length > end:
                break
            frames.append(bytes(self._buffer[at : at + length]))
            at += length
        del self._buffer[: end if self.broken else at]
        return frames

    def take_rest(self) -> bytes:
        """Return and forget what follows the last complete message.

        The data of a peer's TCP connection may follow at once upon a ConnectionBind response. RFC 6062 section 4.4.
        """
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _length_at(self, at: int, end: int) -> int | None:
        """Return the length of the frame at `at`; None while it is not known, or when the stream is lost."""
        if self._buffer[at] not in _FIRST_BYTES_OF[self._highest] and end - at < _NEEDED:
            return None
        length = frame_length(bytes(self._buffer[at : at + _NEEDED]), self._highest)
        self.broken = length is None
        return length
