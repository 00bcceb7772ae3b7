"""The sender's side of a transfer, without its link: reads files and makes the bytes that are sent.

Nothing here waits for the link: it is run in a thread, one batch after the other. Small files are put together, so that
many of them cost as little as one large one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence

from iceagent.errors import LocalIOError
from iceagent.files import wire
from iceagent.files.digest import FileDigest, digest_of, reader_of
from iceagent.files.manifest import Source
from iceagent.files.progress import FileProgress
from iceagent.files.wire import Frame
from iceagent.files.words import shown

BATCH = 512 * 1024  # bytes that are read ahead of the link at a time
SMALL = 64 * 1024  # files up to this size are put together
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)


class Outgoing:
    """Makes the sender's frames, from the answer on. Close it."""

    def __init__(self, sources: Sequence[Source], have: Mapping[int, int], progress: FileProgress) -> None:
        """`have`: by index, from which byte on the receiver wants a file."""
        self._sources = sources
        self._have = have
        self._progress = progress
        self._queue = deque(index for index, one in enumerate(sources) if one.entry.kind in ("file", "stream"))
        self._has_ended = False
        self._descriptor = -1
        self._index = 0
        self._digest = FileDigest()

    def send_again(self, index: int) -> None:
        """Put a file into the queue anew, whole."""
        self._queue.append(index)
        self._have = {**self._have, index: 0}
        self._has_ended = False

    def next_batch(self) -> bytes | bytearray | None:
        """Return what is to be sent next, None after LAST.

        Raises:
            LocalIOError: a stream cannot be read.
        """
        if self._descriptor >= 0:
            return self._more()
        if self._has_ended:
            return None
        batch = bytearray()
        while self._queue and len(batch) < BATCH:
            index = self._queue.popleft()
            entry, offset = self._sources[index].entry, self._have.get(index, 0)
            self._progress.current = entry.path
            if entry.kind == "file" and entry.size <= SMALL:
                self._add_small(batch, index, offset)
            elif self._open(batch, index, offset):
                return batch
        if not self._queue and len(batch) < BATCH:
            batch += wire.frame(Frame.LAST)
            self._has_ended = True
        return batch

    def close(self) -> None:
        """Close what is open."""
        if self._descriptor >= 0:
            self._digest.close()
            if self._sources[self._index].entry.kind == "file":
                os.close(self._descriptor)
            self._descriptor = -1

    def _add_small(self, batch: bytearray, index: int, offset: int) -> None:
        source = self._sources[index]
        entry = source.entry
        try:
            descriptor = os.open(source.place, _FLAGS)
            try:
                data = _read_whole(descriptor, entry.size + 1)
                is_same = len(data) == entry.size and os.fstat(descriptor).st_mtime_ns == entry.mtime_ns
            finally:
                os.close(descriptor)
        except OSError as error:
            self._skip(batch, index, error.strerror or str(error))
            return
        if not is_same:
            self._skip(batch, index, CHANGED)
            return
        batch += wire.begin(index, offset)
        if offset < len(data):
            batch += wire.HEADER.pack(Frame.DATA, len(data) - offset)
            batch += data[offset:] if offset else data
        batch += wire.frame(Frame.END, digest_of(data))
        self._count(offset, len(data))
        self._progress.files_done += 1

    def _open(self, batch: bytearray, index: int, offset: int) -> bool:
        """Begin a large file; return whether that was possible."""
        source = self._sources[index]
        try:
            self._descriptor = 0 if source.entry.kind == "stream" else os.open(source.place, _FLAGS)
            if offset:
                os.lseek(self._descriptor, offset, os.SEEK_SET)
            self._digest = FileDigest(offset, reader_of(self._descriptor)) if offset else FileDigest()
        except OSError as error:
            self._index = index
            self.close()
            self._skip(batch, index, error.strerror or str(error))
            return False
        self._index = index
        self._count(offset, offset)
        batch += wire.begin(index, offset)
        return True

    def _more(self) -> bytearray:
        """Return the next piece of a large file, or its end."""
        entry = self._sources[self._index].entry
        batch = bytearray(wire.HEADER.size + BATCH)
        with memoryview(batch) as view:
            try:
                count = os.readv(self._descriptor, [view[wire.HEADER.size :]]) if HAS_READV else self._read(view)
            except OSError as error:
                return self._break(error.strerror or str(error))
            wire.HEADER.pack_into(batch, 0, Frame.DATA, count)
            self._digest.update(view[wire.HEADER.size : wire.HEADER.size + count])
        if count:
            if entry.kind == "file" and self._digest.position > entry.size:
                return self._break(CHANGED)
            self._count(0, count)
            del batch[wire.HEADER.size + count :]
            return batch
        return self._end()

    def _read(self, view: memoryview) -> int:
        data = os.read(self._descriptor, BATCH)
        view[wire.HEADER.size : wire.HEADER.size + len(data)] = data
        return len(data)

    def _end(self) -> bytearray:
        entry = self._sources[self._index].entry
        try:
            digest = self._digest.digest()
            changed = entry.kind == "file" and (
                self._digest.position != entry.size or os.fstat(self._descriptor).st_mtime_ns != entry.mtime_ns
            )
        except OSError as error:
            return self._break(error.strerror or str(error))
        if changed:
            return self._break(CHANGED)
        self.close()
        self._progress.files_done += 1
        return bytearray(wire.frame(Frame.END, digest))

    def _break(self, reason: str) -> bytearray:
        """Give the file up that is under way."""
        entry = self._sources[self._index].entry
        self.close()
        if entry.kind == "stream":
            raise LocalIOError(f"cannot read standard input: {reason}")
        batch = bytearray()
        self._skip(batch, self._index, reason)
        return batch

    def _skip(self, batch: bytearray, index: int, reason: str) -> None:
        batch += wire.frame(Frame.SKIP, wire.INDEX.pack(index) + reason[: wire.MAX_REASON].encode())
        self._progress.missing.append(f"{shown(self._sources[index].entry.path)}: {reason}")

    def _count(self, there: int, done: int) -> None:
        self._progress.bytes_done += done
        self._progress.bytes_there += there


CHANGED = "it has changed since it was offered"
HAS_READV = hasattr(os, "readv")


def _read_whole(descriptor: int, size: int) -> bytes:
    """Return up to `size` bytes, fewer only at the end of the file."""
    data = os.read(descriptor, size)
    while data and len(data) < size:
        more = os.read(descriptor, size - len(data))
        if not more:
            break
        data += more
    return data
