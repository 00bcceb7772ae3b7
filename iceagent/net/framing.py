"""Datagrams in a byte stream: two bytes of length before each. RFC 4571 section 2, as RFC 6544 section 3 uses it."""

from __future__ import annotations

from typing import Final

MAX_FRAME: Final = 65535
_HEADER: Final = 2


class FrameError(Exception):
    """The peer announces a frame larger than the reader takes; the stream cannot be read any further."""


def frame(datagram: bytes) -> bytes:
    """Return a datagram with its length before it.

    Raises:
        ValueError: it is longer than 65,535 bytes.
    """
    if len(datagram) > MAX_FRAME:
        raise ValueError(f"{len(datagram)} bytes do not fit into one frame")
    return len(datagram).to_bytes(_HEADER, "big") + datagram


class FrameReader:
    """Cuts the frames out of what arrives; never keeps more than one incomplete frame."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._missing = _HEADER

    @property
    def pending(self) -> int:
        """Bytes of the frame that has not arrived whole."""
        return len(self._rest)

    def feed(self, data: bytes | bytearray, limit: int = MAX_FRAME) -> list[bytes]:
        """Take bytes; return the frames they complete, in order; empty ones, which say nothing, are left out.

        Args:
            data: whatever arrived, cut anywhere; in pieces however small, each byte is looked at once or twice.
            limit: the largest frame taken, bytes.

        Raises:
            FrameError: a longer one was announced.
        """
        if len(data) < self._missing:
            self._rest += data
            self._missing -= len(data)
            return []
        stream = bytes(self._rest + data) if self._rest else bytes(data)
        frames: list[bytes] = []
        at, size, end = 0, len(stream), _HEADER
        while size - at >= _HEADER:
            length = stream[at] << 8 | stream[at + 1]
            if length > limit:
                raise FrameError(f"a frame of {length} bytes is longer than {limit}")
            end = at + _HEADER + length
            if end > size:
                break
            if length:
                frames.append(stream[at + _HEADER : end])
            at, end = end, end + _HEADER
        self._rest = bytearray(stream[at:])
        self._missing = end - size
        return frames
