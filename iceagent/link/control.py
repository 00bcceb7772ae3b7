"""The frames of the control stream (QUIC stream 0): type (1 byte), length (2 bytes), body."""

from __future__ import annotations

import struct
from enum import IntEnum

_HEADER = struct.Struct("!BH")
_PAIR = struct.Struct("!QQ")
_SINGLE = struct.Struct("!Q")
MAX_BODY = 1024
NONCE_SIZE = 32
MAC_SIZE = 32


class FrameType(IntEnum):
    """HELLO: a nonce. PROOF: an HMAC. WELCOME: the initial window of every stream. CREDIT: stream, absolute limit."""

    HELLO = 1
    PROOF = 2
    WELCOME = 3
    CREDIT = 4


class ControlError(ValueError):
    """The peer's control stream is malformed."""


_SIZES = {
    FrameType.HELLO: NONCE_SIZE,
    FrameType.PROOF: MAC_SIZE,
    FrameType.WELCOME: _SINGLE.size,
    FrameType.CREDIT: _PAIR.size,
}


def encode_frame(kind: FrameType, body: bytes) -> bytes:
    """Return one frame as it goes on the wire."""
    return _HEADER.pack(kind, len(body)) + body


def encode_welcome(initial_window: int) -> bytes:
    """Return the frame that grants every stream, present and future, its first `initial_window` bytes."""
    return encode_frame(FrameType.WELCOME, _SINGLE.pack(initial_window))


def encode_credit(stream_id: int, limit: int) -> bytes:
    """Return the frame that allows the bytes of `stream_id` up to offset `limit`."""
    return encode_frame(FrameType.CREDIT, _PAIR.pack(stream_id, limit))


def decode_welcome(body: bytes) -> int:
    """Return the initial window of a WELCOME body."""
    window: int = _SINGLE.unpack(body)[0]
    return window


def decode_credit(body: bytes) -> tuple[int, int]:
    """Return stream id and limit of a CREDIT body."""
    stream_id, limit = _PAIR.unpack(body)
    return stream_id, limit


class ControlFrameReader:
    """Cuts the control stream into frames; holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed_untrusted(self, data: bytes) -> list[tuple[FrameType, bytes]]:
        """Return the frames completed by `data`; unknown types are skipped, so that later versions may add some.

        Raises:
            ControlError: a frame is too long, or a known one has the wrong length.
        """
        self._buffer += data
        frames: list[tuple[FrameType, bytes]] = []
        at = 0
        while len(self._buffer) - at >= _HEADER.size:
            kind, size = _HEADER.unpack_from(self._buffer, at)
            if size > MAX_BODY:
                raise ControlError(f"a control frame of {size} bytes")
            end = at + _HEADER.size + size
            if len(self._buffer) < end:
                break
            if kind in _SIZES:
                if size != _SIZES[FrameType(kind)]:
                    raise ControlError(f"a control frame of type {kind} with {size} bytes")
                frames.append((FrameType(kind), bytes(self._buffer[at + _HEADER.size : end])))
            at = end
        del self._buffer[:at]
        return frames
