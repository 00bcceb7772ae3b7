"""The hash of a file: SHA-256 over its size and the SHA-256 of each of its pieces of 1 MiB.

Pieces can be hashed in any order. So what an earlier attempt has left is hashed in a thread while the rest arrives.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from hashlib import sha256

PIECE = 1 << 20  # bytes
DIGEST_SIZE = 32
HAS_PREAD = hasattr(os, "preadv")  # without it a thread would move the position under whoever writes

ReadAt = Callable[[memoryview, int], int]


class FileDigest:
    """Collects the hashes of a file's pieces. Bytes come in order from `start` on; those before come from `read`.

    Args:
        start: how many bytes are there already.
        read: fills a buffer from an offset and returns how much that was; only needed if `start` is not 0.
    """

    def __init__(self, start: int = 0, read: ReadAt | None = None) -> None:
        self.position = start
        self._leaves: dict[int, bytes] = {}
        self._open = sha256()
        self._before: threading.Thread | None = None
        self._failure: OSError | None = None
        self._is_closed = False
        if start and read is not None:
            whole, rest = divmod(start, PIECE)
            if rest:
                self._open.update(_read_piece(read, whole * PIECE, rest))
            if whole:
                self._before = threading.Thread(target=self._hash_before, args=(read, whole), daemon=True)
                self._before.start()
                if not HAS_PREAD:
                    self._before.join()

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        at = 0
        while at < len(data):
            room = PIECE - self.position % PIECE
            part = data[at : at + room]
            self._open.update(part)
            self.position += len(part)
            at += len(part)
            if self.position % PIECE == 0:
                self._leaves[self.position // PIECE - 1] = self._open.digest()
                self._open = sha256()

    def digest(self) -> bytes:
        """Return the hash of everything, once what was there before has been hashed, too.

        Raises:
            OSError: that could not be read.
        """
        if self._before is not None:
            self._before.join()
        if self._failure is not None:
            raise self._failure
        count, rest = divmod(self.position, PIECE)
        root = sha256(self.position.to_bytes(8, "big"))
        for index in range(count):
            root.update(self._leaves[index])
        if rest:
            root.update(self._open.digest())
        return root.digest()

    def close(self) -> None:
        """End the thread, if there is one."""
        self._is_closed = True
        if self._before is not None:
            self._before.join()

    def _hash_before(self, read: ReadAt, count: int) -> None:
        try:
            for index in range(count):
                if self._is_closed:
                    return
                self._leaves[index] = sha256(_read_piece(read, index * PIECE, PIECE)).digest()
        except OSError as error:
            self._failure = error


def digest_of(data: bytes | memoryview) -> bytes:
    """Return the hash of a file that is these bytes."""
    size = len(data)
    if size <= PIECE:
        leaf = sha256(data).digest() if size else b""
        return sha256(size.to_bytes(8, "big") + leaf).digest()
    whole = FileDigest()
    whole.update(memoryview(data))
    return whole.digest()


def reader_of(descriptor: int) -> ReadAt:
    """Return what reads an open file at an offset; its position stays where it is."""
    if HAS_PREAD:
        return lambda buffer, offset: os.preadv(descriptor, [buffer], offset)

    def seek_and_read(buffer: memoryview, offset: int) -> int:
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, offset, os.SEEK_SET)
        data = os.read(descriptor, len(buffer))
        os.lseek(descriptor, before, os.SEEK_SET)
        buffer[: len(data)] = data
        return len(data)

    return seek_and_read


def _read_piece(read: ReadAt, offset: int, size: int) -> memoryview:
    """Return `size` bytes from an offset.

    Raises:
        OSError: the file has fewer.
    """
    buffer = memoryview(bytearray(size))
    filled = 0
    while filled < size:
        count = read(buffer[filled:], offset + filled)
        if not count:
            raise OSError("the file has become shorter")
        filled += count
    return buffer
