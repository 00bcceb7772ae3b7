"""Frames of a websocket as clients send them, also such as no library sends."""

from __future__ import annotations

MASK = b"\x37\xfa\x21\x3d"


def frame(first: int, payload: bytes = b"", *, size: bytes | None = None, mask: bytes = MASK) -> bytes:
    """Return a client's frame with this first byte."""
    if size is None:
        number = len(payload)
        size = bytes((number,)) if number < 126 else b"\x7e" + number.to_bytes(2, "big")
    head = bytes((first, 0x80 | size[0])) + size[1:]
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
