"""The server's side of a websocket as bytes: frames in, messages out, and frames made. Sans-IO.

A relay has ten thousand of these, and most of its work is to take frames apart and to make them. A general library
takes several times the memory and the time of this (benchmarks/relay_load.py). There are no extensions, so nothing is
ever compressed. Source: RFC 6455 section 5.
"""

from __future__ import annotations

import enum
from typing import Final

from icesignal.wire import MAX_MESSAGE_BYTES

MAX_CONTROL_BYTES: Final = 125  # RFC 6455 section 5.5
NO_CODE: Final = 1005  # RFC 6455 section 7.4.1: what a close frame without a code counts as
_FINAL, _RESERVED, _MASKED = 0x80, 0x70, 0x80
_16_BITS, _64_BITS = 126, 127  # in place of a length: it follows in so many bits
_MASK_BYTES = 4


class Opcode(enum.IntEnum):
    """What a frame is. Source: RFC 6455 section 5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


_CONTROL = frozenset({Opcode.CLOSE, Opcode.PING, Opcode.PONG})
_DATA = frozenset({Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY})


class BadFrames(Exception):
    """What came is no websocket's. `code` is that of the close frame it is answered with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def encode(opcode: Opcode, payload: bytes) -> bytes:
    """Return a frame as servers send it: whole, and not masked."""
    size, first = len(payload), _FINAL | opcode
    if size < _16_BITS:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return bytes((first, _16_BITS)) + size.to_bytes(2, "big") + payload
    return bytes((first, _64_BITS)) + size.to_bytes(8, "big") + payload


def encode_close(code: int, reason: str) -> bytes:
    """Return a close frame; the reason is cut to what it has place for."""
    text = reason.encode()[: MAX_CONTROL_BYTES - 2].decode(errors="ignore").encode()
    return encode(Opcode.CLOSE, b"" if code == NO_CODE else code.to_bytes(2, "big") + text)


def read_close(payload: bytes) -> tuple[int, str]:
    """Return the code and the reason of a close frame.

    Raises:
        BadFrames: there is half a code, one that must not be sent, or a reason that is no text.
    """
    if not payload:
        return NO_CODE, ""
    code = int.from_bytes(payload[:2], "big")
    # RFC 6455 section 7.4 and the registry that it made; 1004 to 1006 and 1015 never stand in a frame.
    if len(payload) < 2 or not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise BadFrames(1002, "a close frame without a good code")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise BadFrames(1007, "the reason of a close frame is no UTF-8") from None


class FrameReader:
    """Takes bytes as they come, and gives messages and control frames in their order.

    It keeps at most one message and what was fed last.
    """

    __slots__ = ("_data", "_fragments", "_fragments_opcode")

    def __init__(self, data: bytes = b"") -> None:
        self._data = bytearray(data)
        self._fragments: bytearray | None = None  # what has come of a message
        self._fragments_opcode = Opcode.BINARY

    @property
    def is_within_message(self) -> bool:
        """Whether a message has begun, of which fragments follow."""
        return self._fragments is not None

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        self._data += data

    def next(self) -> tuple[Opcode, bytes] | None:
        """Return the next message (`TEXT` or `BINARY`) or control frame; None until more has come.

        Raises:
            BadFrames: the rules are broken, or the message has more than 65,536 bytes. There is no going on after it.
        """
        while (frame := self._next_frame()) is not None:
            opcode, is_final, payload = frame
            if opcode in _CONTROL:
                return opcode, payload
            if self._fragments is None:
                if is_final:
                    return opcode, payload
                self._fragments, self._fragments_opcode = bytearray(), opcode
            self._fragments += payload
            if is_final:
                message, self._fragments = bytes(self._fragments), None
                return self._fragments_opcode, message
        return None

    def _next_frame(self) -> tuple[Opcode, bool, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        first, second = data[0], data[1]
        if first & _RESERVED:
            raise BadFrames(1002, "reserved bits are set")
        if not second & _MASKED:
            raise BadFrames(1002, "a client masks its frames")
        opcode, is_final = first & 0x0F, bool(first & _FINAL)
        size, begin = second & 0x7F, 2
        self._check(opcode, size, is_final=is_final)
        if size >= _16_BITS:
            begin = 4 if size == _16_BITS else 10
            if len(data) < begin:
                return None
            size = int.from_bytes(data[2:begin], "big")
            if size < (_16_BITS if begin == 4 else 1 << 16):
                raise BadFrames(1002, "a length that is longer than it need be")
        if opcode in _DATA and len(self._fragments or b"") + size > MAX_MESSAGE_BYTES:
            raise BadFrames(1009, f"a message has at most {MAX_MESSAGE_BYTES} bytes")
        end = begin + _MASK_BYTES + size
        if len(data) < end:
            return None
        payload = _unmasked(data[begin + _MASK_BYTES : end], data[begin : begin + _MASK_BYTES])
        del data[:end]
        return Opcode(opcode), is_final, payload

    def _check(self, opcode: int, size: int, *, is_final: bool) -> None:
        if opcode in _CONTROL:
            if not is_final or size > MAX_CONTROL_BYTES:
                raise BadFrames(1002, "a control frame is short and whole")
        elif opcode not in _DATA:
            raise BadFrames(1002, "an opcode that nobody knows")
        elif (opcode == Opcode.CONTINUATION) != (self._fragments is not None):
            raise BadFrames(1002, "a message within a message, or the rest of none")


def _unmasked(data: bytearray, mask: bytearray) -> bytes:
    size = len(data)
    whole = (mask * (size // _MASK_BYTES + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(whole, "little")).to_bytes(size, "little")
