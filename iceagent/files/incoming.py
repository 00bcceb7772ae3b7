"""The receiver's side of a transfer, without its link: takes bytes, writes files, says what has to come again.

Nothing here waits: it is run in a thread, piece by piece.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Protocol

from iceagent.core.printable import printable
from iceagent.errors import LocalIOError
from iceagent.files import wire
from iceagent.files.digest import FileDigest, reader_of
from iceagent.files.errors import TransferFailed
from iceagent.files.manifest import Entry
from iceagent.files.plan import Plan
from iceagent.files.progress import FileProgress
from iceagent.files.target import OWNER_FOLDER, PartFile, Target
from iceagent.files.wire import Frame, FrameReader
from iceagent.files.words import shown


class Place(Protocol):
    """Where the bytes of one file go."""

    descriptor: int

    def write(self, data: memoryview) -> None:
        """Write all of it."""
        ...

    def publish(self, *, replace: bool) -> None:
        """The file is complete and verified: make it the file of its name."""
        ...

    def discard(self) -> None:
        """Remove what there is of it."""
        ...

    def close(self) -> None:
        """Let go of it, and leave what is there."""
        ...


class Present:
    """A file that is there already, and only has to be proved right."""

    def __init__(self, target: Target, entry: Entry) -> None:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # what was a file when it was looked at may be a pipe now
        self.descriptor = target.folder(entry.parts[:-1]).open(entry.parts[-1], flags)

    def write(self, data: memoryview) -> None:
        """Refuse: there is nothing to write."""
        raise TransferFailed("the other side broke the protocol of transfers: more than the file has")

    def publish(self, *, replace: bool) -> None:
        """Close it: it has its name."""
        self.close()

    def discard(self) -> None:
        """Close it: its successor will replace it."""
        self.close()

    def close(self) -> None:
        """Close it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Outlet:
    """An open descriptor that is written to as bytes come, such as standard output."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def write(self, data: memoryview) -> None:
        """Write all of it, waiting for its reader."""
        written = 0
        while written < len(data):
            written += os.write(self.descriptor, data[written:])

    def publish(self, *, replace: bool) -> None:
        """Nothing to do: it is written."""

    def discard(self) -> None:
        """Refuse: what is written cannot be taken back."""
        raise TransferFailed("the stream came out wrong, and what was written of it cannot be taken back")

    def close(self) -> None:
        """Leave it open: it is somebody else's."""


class _Current:
    """The file that is under way."""

    __slots__ = ("digest", "entry", "index", "limit", "place")

    def __init__(self, index: int, entry: Entry, place: Place, digest: FileDigest, limit: int | None) -> None:
        self.index = index
        self.entry = entry
        self.place = place
        self.digest = digest
        self.limit = limit

    def close(self) -> None:
        self.digest.close()
        self.place.close()


OpenPlace = Callable[[int, Entry, int], Place]


class Incoming:
    """Takes the sender's frames after the answer. Close it."""

    def __init__(self, entries: Sequence[Entry], plan: Plan, open_place: OpenPlace, progress: FileProgress) -> None:
        """`open_place` opens the file at an index from an offset on."""
        self.is_complete = False
        self.replace = False  # whether what is there and differs may be overwritten
        self._entries = entries
        self._plan = plan
        self._open_place = open_place
        self.progress = progress
        self._reader = FrameReader()
        self._current: _Current | None = None
        self._left = {index for index, entry in enumerate(entries) if entry.kind in ("file", "stream")}
        self._again: set[int] = set()
        self._wrong: set[int] = set()

    def feed(self, data: bytes) -> bytes:
        """Take bytes; return what is to be sent back.

        Raises:
            TransferFailed: the other side broke the protocol, or a file came out wrong twice.
            LocalIOError: this machine cannot write.
        """
        answers = bytearray()
        for kind, body in self._reader.feed(data):
            if kind is Frame.DATA:
                self._take_data(body)
            else:
                answers += self._take(kind, bytes(body))
        return bytes(answers)

    def close(self) -> None:
        """Close what is open; what there is of an incomplete file stays, to be gone on with."""
        if self._current is not None:
            self._current.close()
            self._current = None

    def _take(self, kind: Frame, body: bytes) -> bytes:
        if kind is Frame.BEGIN:
            self._begin(*wire.fields(wire.BEGIN, body))
        elif kind is Frame.END:
            return self._end(body)
        elif kind is Frame.SKIP:
            self._skip(body)
        elif kind is Frame.LAST:
            if self._current is not None:
                raise _broken("the end in the middle of a file")
            if not self._again:
                if self._left:
                    raise _broken("not all files were sent")
                self.is_complete = True
        else:
            raise _broken("a frame out of place")
        return b""

    def _begin(self, index: int, offset: int) -> None:
        if self._current is not None or index not in self._left or self.is_complete:
            raise _broken("a file that was not to be sent")
        expected = 0 if index in self._again else self._plan.have.get(index, 0)
        if offset != expected:
            raise _broken("a place in a file where nothing was to be sent")
        entry = self._entries[index]
        self.progress.current = entry.path
        try:
            place = self._open_place(index, entry, offset)
        except OSError as error:
            raise _cannot_write(entry, error) from error
        digest = FileDigest(offset, reader_of(place.descriptor)) if offset else FileDigest()
        limit = None if entry.kind == "stream" else entry.size
        self._current = _Current(index, entry, place, digest, limit)
        self.progress.bytes_done += offset
        self.progress.bytes_there += offset

    def _take_data(self, data: memoryview) -> None:
        current = self._current
        if current is None:
            raise _broken("bytes of no file")
        if current.limit is not None and current.digest.position + len(data) > current.limit:
            raise _broken("more bytes than the file has")
        try:
            current.place.write(data)
        except OSError as error:
            raise _cannot_write(current.entry, error) from error
        current.digest.update(data)
        self.progress.bytes_done += len(data)

    def _end(self, theirs: bytes) -> bytes:
        current = self._current
        if current is None:
            raise _broken("the end of no file")
        if current.limit is not None and current.digest.position != current.limit:
            raise _broken("fewer bytes than the file has")
        try:
            if current.digest.digest() != theirs:
                return self._ask_again(current)
            current.place.publish(replace=self.replace)
        except OSError as error:
            raise _cannot_write(current.entry, error) from error
        self._close_current(current)
        self.progress.files_done += 1
        return b""

    def _ask_again(self, current: _Current) -> bytes:
        """Let a file that came out wrong be sent anew, once: perhaps what was there before was not what it seemed."""
        index, entry = current.index, current.entry
        if index in self._wrong:
            raise TransferFailed(f"{shown(entry.path)!r} came out wrong twice; it is not kept. Send it again")
        if index in self._plan.present and not self.replace:
            raise LocalIOError(
                f"{shown(entry.path)!r} is there with the same size and time, and with other content; "
                "move it away, or overwrite it with --yes"
            )
        self.progress.bytes_done -= current.digest.position
        self.progress.bytes_there -= self._plan.have.get(index, 0)
        current.place.discard()
        self._close_current(current)
        self._left.add(index)
        self._again.add(index)
        self._wrong.add(index)
        return wire.frame(Frame.AGAIN, wire.INDEX.pack(index))

    def _skip(self, body: bytes) -> None:
        (index,) = wire.fields(wire.INDEX, body[: wire.INDEX.size])
        current = self._current
        if index not in self._left or (current is not None and current.index != index):
            raise _broken("a file left out that was not to be sent")
        if current is not None:
            current.place.discard()
            self._close_current(current)
        self._left.discard(index)
        self._again.discard(index)
        reason = printable(body[wire.INDEX.size :].decode(errors="replace"))
        if len(self.progress.missing) < MAX_MISSING:
            self.progress.missing.append(f"{shown(self._entries[index].path)}: {reason}")

    def _close_current(self, current: _Current) -> None:
        current.close()
        self._current = None
        self._left.discard(current.index)
        self._again.discard(current.index)


MAX_MISSING = 1000  # names that are kept


def make_folders(target: Target, entries: Sequence[Entry], plan: Plan) -> None:
    """Make the folders that are not there, and remove what earlier attempts with other versions have left.

    Raises:
        LocalIOError: this machine cannot write.
    """
    for index in sorted(plan.made):
        entry = entries[index]
        try:
            folder = target.folder(entry.parts[:-1])
            folder.make_folder(entry.parts[-1], (entry.mode & 0o777) | OWNER_FOLDER)
        except OSError as error:
            raise _cannot_write(entry, error) from error
    for parts, name in plan.stale:
        target.folder(parts).remove(name)


def finish_folders(target: Target, entries: Sequence[Entry], plan: Plan, *, replace: bool) -> None:
    """Make the links, and give new folders their permissions and times: all else would trip over them.

    Raises:
        LocalIOError: this machine cannot write.
    """
    for entry in entries:
        if entry.kind == "link":
            try:
                _make_link(target, entry, replace=replace)
            except OSError as error:
                raise _cannot_write(entry, error) from error
    for index in sorted(plan.made, reverse=True):
        entry = entries[index]
        try:
            target.folder(entry.parts).finish(entry)
        except OSError as error:
            raise _cannot_write(entry, error) from error


def _make_link(target: Target, entry: Entry, *, replace: bool) -> None:
    folder, name = target.folder(entry.parts[:-1]), entry.parts[-1]
    if folder.status(name) is not None:
        try:
            if folder.read_link(name) == entry.target:
                return
        except OSError:
            pass  # it is no link
        if replace:
            folder.remove(name)
    folder.make_link(name, entry.target)


def place_in(target: Target, plan: Plan) -> OpenPlace:
    """Return what opens the places of files below a target."""

    def open_place(index: int, entry: Entry, offset: int) -> Place:
        if index in plan.present and offset == entry.size:
            return Present(target, entry)
        return PartFile(target.folder(entry.parts[:-1]), entry, offset)

    return open_place


def _broken(what: str) -> TransferFailed:
    return TransferFailed(f"the other side broke the protocol of transfers: {what}")


def _cannot_write(entry: Entry, error: OSError) -> LocalIOError:
    return LocalIOError(f"cannot write {shown(entry.path)!r}: {error.strerror or error}")
