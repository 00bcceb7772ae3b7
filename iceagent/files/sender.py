"""Sends files over a session: offers them, waits for the answer, sends, and waits until all is verified over there."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from iceagent.core.printable import printable
from iceagent.errors import IceError
from iceagent.files import wire
from iceagent.files.errors import TransferFailed, TransferRefused
from iceagent.files.manifest import STREAM_NAME, Entry, Scan, Source, scan
from iceagent.files.outgoing import Outgoing
from iceagent.files.progress import FileProgress
from iceagent.files.wire import Frame
from iceagent.net.tasks import open_background
from iceagent.session.errors import PeerLeft
from iceagent.session.establish import answer_within
from iceagent.session.raw import NamedStream
from iceagent.session.session import Session
from iceagent.session.streams import FILES_SERVICE

READY_TIMEOUT_S = 20.0  # for a receiver to show that it is one
AHEAD = 4  # batches that are read before the link takes them
RESET_FILES = 19  # the code of a stream whose transfer failed; 0 to 15 are the link's own
REASON_TIMEOUT_S = 2.0  # for the link to say that it has ended, when a stream breaks


@dataclass(frozen=True, slots=True)
class Transferred:
    """What a transfer came to.

    Args:
        files: how many are complete and verified.
        size: bytes in all of them.
        moved: bytes of these that went over the link; the others were there.
        missing: names of files that could not be sent, each with the reason.
    """

    files: int
    size: int
    moved: int
    missing: tuple[str, ...] = ()


def stream_scan() -> Scan:
    """Return standard input as what is to be sent."""
    entry = Entry(STREAM_NAME, "stream", mode=0o644)
    return Scan([Source(entry, Path("-"))], [])


async def send_files(
    session: Session,
    what: Sequence[str | os.PathLike[str]] | Scan,
    progress: FileProgress | None = None,
) -> Transferred:
    """Send files and folders; return once the other side has them all, verified and written.

    Args:
        session: to the other side, which receives.
        what: paths, or what `scan` has made of them.
        progress: is kept up to date.
    Raises:
        LocalIOError: a path cannot be read.
        TransferRefused: the other side does not want them.
        TransferFailed: the other side does not receive, or could not write.
        PeerLeft, PeerLost: the other side went away.
    """
    found = what if isinstance(what, Scan) else await trio.to_thread.run_sync(scan, what)
    progress = progress if progress is not None else FileProgress()
    sending = _Sending(session, found.sources, progress)
    async with open_background() as nursery:
        nursery.start_soon(_refuse_other_sender, session)
        stream = await session.streams.open_service(FILES_SERVICE)
        try:
            done = await sending.run(stream)
            await stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            stream.reset(RESET_FILES)
            raise await reason_of_end(session) from error
        except BaseException:
            stream.reset(RESET_FILES)
            raise
    return done


async def _refuse_other_sender(session: Session) -> None:
    """Say so if the other side sends, too: otherwise both would wait."""
    try:
        stream = await session.streams.accept(FILES_SERVICE)
    except trio.BrokenResourceError:
        return
    stream.reset(RESET_FILES)
    raise TransferFailed("the other side sends, too; one of the two must be started with: iceagent receive")


class _Sending:
    def __init__(self, session: Session, sources: Sequence[Source], progress: FileProgress) -> None:
        self._session = session
        self._sources = sources
        self._progress = progress
        self._have: dict[int, int] = {}
        entries = [one.entry for one in sources]
        progress.files = sum(entry.kind in ("file", "stream") for entry in entries)
        progress.size = sum(entry.size for entry in entries)
        progress.is_stream = any(entry.kind == "stream" for entry in entries)

    async def run(self, stream: NamedStream) -> Transferred:
        answers = ControlFrames(stream)
        await self._offer(stream)
        await self._wait_accepted(answers)
        outgoing = Outgoing(self._sources, self._have, self._progress)
        result: list[bytes] = []
        try:
            await self._send(stream, outgoing, answers, result)
        finally:
            with trio.CancelScope(shield=True):  # a thread may be reading still, for a moment
                await trio.to_thread.run_sync(outgoing.close)
        _raise_unless_ok(wire.unpacked(result[0], wire.Answer))
        progress = self._progress
        return Transferred(progress.files_done, progress.bytes_done, progress.bytes_moved, tuple(progress.missing))

    async def _offer(self, stream: NamedStream) -> None:
        entries = [one.entry for one in self._sources]
        await stream.send_all(wire.packed(Frame.OFFER, wire.Offer(wire.VERSION, len(entries), self._progress.size)))
        for at in range(0, len(entries), wire.ENTRIES_AT_ONCE):
            await stream.send_all(wire.packed(Frame.ENTRIES, entries[at : at + wire.ENTRIES_AT_ONCE]))

    async def _wait_accepted(self, answers: ControlFrames) -> None:
        try:
            async with answer_within(self._session, READY_TIMEOUT_S):
                kind, body = await _next(answers)
        except trio.TooSlowError:
            raise TransferFailed(
                "the other side is connected but receives no files; start it with: iceagent receive"
            ) from None
        if kind is Frame.READY:
            kind, body = await _next(answers)  # its user may be asked
        while kind is Frame.HAVE:
            self._note(wire.unpacked(body, list[wire.Have]))
            kind, body = await _next(answers)
        if kind not in (Frame.ANSWER, Frame.RESULT):
            raise TransferFailed("the other side broke the protocol of transfers: no answer")
        _raise_unless_ok(wire.unpacked(body, wire.Answer))

    def _note(self, haves: Sequence[wire.Have]) -> None:
        for have in haves:
            if have.index >= len(self._sources) or have.size > self._sources[have.index].entry.size:
                raise TransferFailed("the other side broke the protocol of transfers: it has more than there is")
            self._have[have.index] = have.size

    async def _send(
        self,
        stream: NamedStream,
        outgoing: Outgoing,
        answers: ControlFrames,
        result: list[bytes],
    ) -> None:
        """Send until the other side says how it came out: files that came out wrong come once more."""
        again: list[int] = []
        changed = trio.Event()

        async def listen() -> None:
            nonlocal changed
            async for kind, body in answers:
                if kind is Frame.AGAIN:
                    (index,) = wire.fields(wire.INDEX, body)
                    if index >= len(self._sources) or self._sources[index].entry.kind != "file":
                        raise TransferFailed("the other side broke the protocol of transfers: no such file")
                    again.append(index)
                elif kind is Frame.RESULT:
                    result.append(body)
                    nursery.cancel_scope.cancel()
                    return
                else:
                    raise TransferFailed("the other side broke the protocol of transfers: a frame out of place")
                if len(again) > len(self._sources):
                    raise TransferFailed("the other side broke the protocol of transfers: too much comes again")
                changed.set()
            raise PeerLeft("the other side ended before it had everything; start both again to go on where it was")

        async with open_background() as nursery:
            nursery.start_soon(listen)
            while True:
                await _send_batches(stream, outgoing)
                await changed.wait()
                changed = trio.Event()
                for index in again:
                    self._progress.files_done -= 1
                    self._progress.bytes_done -= self._sources[index].entry.size
                    outgoing.send_again(index)
                again.clear()


async def _send_batches(stream: NamedStream, outgoing: Outgoing) -> None:
    """Send all that there is, reading ahead while the link sends."""
    give, take = trio.open_memory_channel[bytes | bytearray](AHEAD)

    async def read() -> None:
        async with give:
            while (batch := await trio.to_thread.run_sync(outgoing.next_batch)) is not None:
                await give.send(batch)

    async with open_background() as nursery:
        nursery.start_soon(read)
        async for batch in take:
            await stream.send_all(bytes(batch))


class ControlFrames:
    """Iterates over the frames of a side that sends no DATA.

    Raises (the iteration):
        TransferFailed: what comes is no frame, or ends in the middle of one.
    """

    def __init__(self, stream: NamedStream) -> None:
        self._stream = stream
        self._reader = wire.FrameReader()
        self._ready: deque[tuple[Frame, bytes]] = deque()

    def __aiter__(self) -> ControlFrames:
        return self

    async def __anext__(self) -> tuple[Frame, bytes]:
        while not self._ready:
            data = await self._stream.receive_some()
            if not data and self._reader.is_between_frames:
                raise StopAsyncIteration
            if not data:
                raise TransferFailed("the other side broke the protocol of transfers: half a frame")
            self._ready.extend((kind, bytes(body)) for kind, body in self._reader.feed(data))
        return self._ready.popleft()


async def _next(answers: ControlFrames) -> tuple[Frame, bytes]:
    async for one in answers:
        return one
    raise PeerLeft("the other side ended before it had said whether it accepts the files")


def _raise_unless_ok(answer: wire.Answer) -> None:
    reason = printable(answer.reason) or "no reason given"
    if answer.status == "refused":
        raise TransferRefused(f"the other side does not accept the files: {reason}")
    if answer.status == "failed":
        raise TransferFailed(f"the other side cannot receive: {reason}")


async def reason_of_end(session: Session) -> Exception:
    """Return why a transfer's stream broke: the session's end, if it ends now, or the other side's decision."""
    try:
        with trio.move_on_after(REASON_TIMEOUT_S):
            await session.wait_closed()
    except IceError as error:
        return error
    return PeerLeft("the other side broke off; start both again to go on where it was")
