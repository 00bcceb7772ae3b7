"""The bytes of a transfer: frames on one stream, of which each has a kind (1 byte) and a size (4 bytes, big-endian).

From the sender:   OFFER, ENTRIES …, then BEGIN, DATA …, END for each file, SKIP for one that it cannot send, LAST
From the receiver: READY, HAVE …, ANSWER, then AGAIN for a file that came out wrong, and RESULT

OFFER, ENTRIES, HAVE, ANSWER and RESULT hold msgpack, the others what their functions below say. After LAST the sender
waits: for AGAIN, after which it sends that file anew, and LAST again; or for RESULT, which ends the transfer. A RESULT
that is no may come at any time, in the place of ANSWER, too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from iceagent.files.digest import DIGEST_SIZE
from iceagent.files.errors import TransferFailed
from iceagent.files.manifest import MAX_ENTRIES, MAX_SIZE, Entry

VERSION: Final = 1
HEADER: Final = struct.Struct(">BI")
BEGIN: Final = struct.Struct(">IQ")
INDEX: Final = struct.Struct(">I")
MAX_DATA: Final = 1 << 20  # bytes of one DATA
MAX_CONTROL: Final = 1 << 20  # of any other frame
MAX_MANIFEST: Final = 64 << 20  # of all ENTRIES together
ENTRIES_AT_ONCE: Final = 500
MAX_REASON: Final = 300  # characters; the other side shows fewer


class Frame(IntEnum):
    """What a frame is."""

    OFFER = 1
    ENTRIES = 2
    BEGIN = 3
    DATA = 4
    END = 5
    SKIP = 6
    LAST = 7
    READY = 16
    HAVE = 17
    ANSWER = 18
    AGAIN = 19
    RESULT = 20


class Offer(msgspec.Struct, frozen=True, omit_defaults=True):
    """How much will be sent: entries, files among them, bytes in all; a stream has 0, since nobody knows."""

    version: int
    entries: Annotated[int, msgspec.Meta(ge=1, le=MAX_ENTRIES)]
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE)]


class Have(msgspec.Struct, frozen=True, array_like=True):
    """How many bytes of the file at an index the receiver has already; whether they are right, the hash will show."""

    index: Annotated[int, msgspec.Meta(ge=0, lt=MAX_ENTRIES)]
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE)]


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the receiver takes what was offered (ANSWER), or has it all, verified and written (RESULT)."""

    status: Literal["ok", "refused", "failed"]
    reason: str = ""


T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()


def frame(kind: Frame, body: bytes = b"") -> bytes:
    """Return a frame."""
    return HEADER.pack(kind, len(body)) + body


def packed(kind: Frame, value: object) -> bytes:
    """Return a frame that holds a value as msgpack."""
    return frame(kind, _encoder.encode(value))


def begin(index: int, offset: int) -> bytes:
    """Return BEGIN: the file at `index` of all entries follows, from byte `offset` on."""
    return frame(Frame.BEGIN, BEGIN.pack(index, offset))


def unpacked(body: bytes, kind: type[T]) -> T:
    """Return the value in a frame of the other side's.

    Raises:
        TransferFailed: it is none.
    """
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TransferFailed(f"the other side broke the protocol of transfers: {error}") from None


def fields(layout: struct.Struct, body: bytes) -> tuple[int, ...]:
    """Return the numbers in a frame of the other side's.

    Raises:
        TransferFailed: it has another size.
    """
    if len(body) != layout.size:
        raise TransferFailed("the other side broke the protocol of transfers: a frame of a wrong size")
    return layout.unpack(body)


def entries_of(body: bytes) -> list[Entry]:
    """Return a part of the entries; see `unpacked`."""
    return unpacked(body, list[Entry])


class FrameReader:
    """Cuts bytes into frames. DATA is handed on in the pieces in which it comes, everything else whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()  # a header, or a control frame, that is not complete
        self._data_left = 0

    def feed(self, data: bytes) -> Iterator[tuple[Frame, memoryview]]:
        """Yield the frames, and pieces of DATA, that come with some bytes.

        Raises:
            TransferFailed: a kind that there is not, or a frame that is too long.
        """
        if self._buffer:
            data = bytes(self._buffer) + data
            self._buffer.clear()
        view, at, end = memoryview(data), 0, len(data)
        while at < end:
            if self._data_left:
                count = min(self._data_left, end - at)
                self._data_left -= count
                yield Frame.DATA, view[at : at + count]
                at += count
                continue
            if end - at < HEADER.size:
                break
            number, size = HEADER.unpack_from(data, at)
            kind = _known(number, size)
            if kind is Frame.DATA:
                self._data_left = size
                at += HEADER.size
                continue
            if end - at < HEADER.size + size:
                break
            yield kind, view[at + HEADER.size : at + HEADER.size + size]
            at += HEADER.size + size
        self._buffer += view[at:]

    @property
    def is_between_frames(self) -> bool:
        """Whether nothing is begun and not complete."""
        return not self._buffer and not self._data_left


_KINDS = {int(kind): kind for kind in Frame}
_EXACT = {Frame.BEGIN: BEGIN.size, Frame.END: DIGEST_SIZE, Frame.LAST: 0, Frame.READY: 0, Frame.AGAIN: INDEX.size}


def _known(number: int, size: int) -> Frame:
    kind = _KINDS.get(number)
    if kind is None or size > (MAX_DATA if kind is Frame.DATA else MAX_CONTROL) or size != _EXACT.get(kind, size):
        raise TransferFailed("the other side broke the protocol of transfers: a frame that cannot be")
    return kind
