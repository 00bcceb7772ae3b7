"""Receives files over a session: looks at the offer, asks whether it is accepted, writes, verifies, and says so."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from iceagent.errors import LocalIOError
from iceagent.files import wire
from iceagent.files.errors import TransferFailed, TransferRefused
from iceagent.files.incoming import Incoming, OpenPlace, Outlet, finish_folders, make_folders, place_in
from iceagent.files.manifest import Entry, check_all_untrusted
from iceagent.files.plan import Plan, plan_for
from iceagent.files.progress import FileProgress
from iceagent.files.sender import RESET_FILES, ControlFrames, Transferred, reason_of_end
from iceagent.files.target import Target
from iceagent.files.wire import Frame
from iceagent.files.words import format_size, shown
from iceagent.net.tasks import open_background
from iceagent.session.errors import PeerLeft
from iceagent.session.establish import answer_within
from iceagent.session.raw import NamedStream
from iceagent.session.session import Session
from iceagent.session.streams import FILES_SERVICE

OFFER_TIMEOUT_S = 20.0  # for a sender to show that it is one
LAST_WORD_S = 10.0  # for the sender to read that all is well, once it is
MAX_WAITING = 8 << 20  # bytes that wait to be written
MAX_NAMES = 20  # that are shown


@dataclass(frozen=True, slots=True)
class FileOffer:
    """What is offered: for whoever decides whether to accept it.

    Args:
        files: how many.
        size: bytes in all; None for a stream.
        there: bytes of these that are in the target already.
        names: the first of the topmost names, safe to print; a folder's ends with a slash.
        more_names: how many others there are.
        overwrites: paths of what is there and differs, safe to print.
    """

    files: int
    size: int | None
    there: int
    names: tuple[str, ...]
    more_names: int
    overwrites: tuple[str, ...]


Accept = Callable[[FileOffer], Awaitable[bool]]


async def receive_files(
    session: Session,
    into: str | os.PathLike[str] | int = ".",
    *,
    overwrite: bool = False,
    accept: Accept | None = None,
    progress: FileProgress | None = None,
) -> Transferred:
    """Receive what the other side sends; return once it is all verified and written, and the other side knows.

    Args:
        session: to the other side, which sends.
        into: the folder below which everything is written, and made if it is not there; or a descriptor, which gets
            the bytes of one file or of a stream.
        overwrite: whether what is there and differs may be overwritten, if `accept` does not decide.
        accept: is asked before anything is written; True also allows what would be overwritten.
        progress: is kept up to date.
    Raises:
        LocalIOError: there is no room, or this machine cannot write.
        TransferRefused: it was not accepted here.
        TransferFailed: the other side does not send, could not send everything, or broke the protocol.
        PeerLeft, PeerLost: the other side went away.
    """
    progress = progress if progress is not None else FileProgress()
    stream = await _wait_stream(session)
    try:
        return await _Receiving(stream, into, overwrite, accept, progress).run()
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        stream.reset(RESET_FILES)
        raise await reason_of_end(session) from error
    except BaseException:
        stream.reset(RESET_FILES)
        raise


async def _wait_stream(session: Session) -> NamedStream:
    try:
        async with answer_within(session, OFFER_TIMEOUT_S):
            return await session.streams.accept(FILES_SERVICE)
    except trio.TooSlowError:
        raise TransferFailed("the other side is connected but sends nothing; start it with: iceagent send") from None
    except trio.BrokenResourceError as error:
        raise await reason_of_end(session) from error


class _Receiving:
    """One transfer: from the offer to the last word."""

    def __init__(
        self,
        stream: NamedStream,
        into: str | os.PathLike[str] | int,
        overwrite: bool,
        accept: Accept | None,
        progress: FileProgress,
    ) -> None:
        self._stream = stream
        self._into = into
        self._overwrite = overwrite
        self._accept = accept
        self._progress = progress
        self._target: Target | None = None

    async def run(self) -> Transferred:
        """Receive; if that fails for a reason of ours, the other side is told."""
        failure: LocalIOError | TransferRefused | TransferFailed | None = None
        try:
            entries, plan, open_place = await self._agree()
            await self._write_all(entries, plan, open_place)
        except (LocalIOError, TransferRefused, TransferFailed) as error:
            failure = error
        finally:
            if self._target is not None:
                self._target.close()
        if failure is not None:
            refused = isinstance(failure, TransferRefused)
            await self._say(Frame.RESULT, wire.Answer("refused" if refused else "failed", str(failure)))
            raise failure
        await self._say(Frame.RESULT, wire.Answer("ok"))
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._stream.aclose()
        progress = self._progress
        return Transferred(progress.files_done, progress.bytes_done, progress.bytes_moved, tuple(progress.missing))

    async def _agree(self) -> tuple[Sequence[Entry], Plan, OpenPlace]:
        """Come to an answer, and give it.

        Raises:
            LocalIOError, TransferRefused, TransferFailed: it is no.
        """
        await self._stream.send_all(wire.frame(Frame.READY))
        entries = await self._receive_offer()
        await trio.to_thread.run_sync(check_all_untrusted, entries)
        if isinstance(self._into, int):
            plan, open_place = Plan(), _place_at(self._into, entries)
        else:
            self._target = target = await trio.to_thread.run_sync(Target, os.fspath(self._into))
            plan = await trio.to_thread.run_sync(plan_for, target, entries)
            open_place = place_in(target, plan)
            check_room(target, plan)
        await self._ask(entries, plan)
        if self._target is not None:
            await trio.to_thread.run_sync(make_folders, self._target, entries, plan)
        haves = plan.frames()
        for at in range(0, len(haves), wire.ENTRIES_AT_ONCE):
            await self._stream.send_all(wire.packed(Frame.HAVE, haves[at : at + wire.ENTRIES_AT_ONCE]))
        await self._stream.send_all(wire.packed(Frame.ANSWER, wire.Answer("ok")))
        return entries, plan, open_place

    async def _receive_offer(self) -> list[Entry]:
        """Wait for the offer and all its entries."""
        offer: wire.Offer | None = None
        entries: list[Entry] = []
        size = 0
        async for kind, body in ControlFrames(self._stream):
            size += len(body)
            if kind is Frame.OFFER and offer is None:
                offer = wire.unpacked(body, wire.Offer)
                if offer.version != wire.VERSION:
                    raise TransferFailed(f"it speaks version {offer.version} of transfers, this side {wire.VERSION}")
            elif kind is Frame.ENTRIES and offer is not None:
                entries += wire.entries_of(body)
            else:
                raise TransferFailed("the other side broke the protocol of transfers: no offer")
            if len(entries) > offer.entries or size > wire.MAX_MANIFEST:
                raise TransferFailed("the other side offers more names than it has said, or than there may be")
            if len(entries) == offer.entries:
                self._note(offer, entries)
                return entries
        raise PeerLeft("the other side ended before it had offered anything")

    def _note(self, offer: wire.Offer, entries: Sequence[Entry]) -> None:
        progress = self._progress
        progress.files = sum(entry.kind in ("file", "stream") for entry in entries)
        progress.size = sum(entry.size for entry in entries)
        progress.is_stream = any(entry.kind == "stream" for entry in entries)
        is_odd = any(entry.size for entry in entries if entry.kind != "file") or (
            progress.is_stream and len(entries) > 1
        )
        if progress.size != offer.size or is_odd:
            raise TransferFailed("the other side offers sizes that do not fit together")

    async def _ask(self, entries: Sequence[Entry], plan: Plan) -> None:
        offer = offer_of(entries, plan)
        if self._accept is not None:
            if not await self._accept(offer):
                raise TransferRefused("its user said no")
            self._overwrite = True
        elif offer.overwrites and not self._overwrite:
            raise TransferRefused(f"{offer.overwrites[0]!r} is there already and may not be overwritten")

    async def _write_all(self, entries: Sequence[Entry], plan: Plan, open_place: OpenPlace) -> None:
        incoming = Incoming(entries, plan, open_place, self._progress)
        incoming.replace = self._overwrite
        try:
            await _Intake(self._stream, incoming, is_abandoned=isinstance(self._into, int)).run()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(incoming.close)
        if self._target is not None:
            target, replace = self._target, self._overwrite
            await trio.to_thread.run_sync(lambda: finish_folders(target, entries, plan, replace=replace))

    async def _say(self, kind: Frame, answer: wire.Answer) -> None:
        """Say the last word, and wait until the other side has read it: it ends its direction then, or the link."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError), trio.move_on_after(LAST_WORD_S):
            cut = wire.Answer(answer.status, answer.reason[: wire.MAX_REASON])
            await self._stream.send_all(wire.packed(kind, cut))
            while await self._stream.receive_some():
                pass


class _Intake:
    """Two tasks: one takes bytes from the link, the other gives them to a thread that writes.

    What arrives while the thread writes is given to it together.
    """

    def __init__(self, stream: NamedStream, incoming: Incoming, *, is_abandoned: bool) -> None:
        """`is_abandoned`: when cancelled, a thread that waits for a reader of its output is left to itself."""
        self._stream = stream
        self._incoming = incoming
        self._is_abandoned = is_abandoned
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._has_ended = False
        self._changed = trio.Event()

    async def run(self) -> None:
        """Run until all is written."""
        async with open_background() as nursery:
            nursery.start_soon(self._take)
            await self._write()

    async def _take(self) -> None:
        while data := await self._stream.receive_some():
            self._waiting.append(data)
            self._size += len(data)
            self._wake()
            while self._size > MAX_WAITING:
                await self._changed.wait()
        self._has_ended = True
        self._wake()

    async def _write(self) -> None:
        while not self._incoming.is_complete:
            while not self._waiting:
                if self._has_ended:
                    raise PeerLeft("the other side ended before all was sent; start both again to go on where it was")
                await self._changed.wait()
            taken = list(self._waiting)
            self._waiting.clear()
            answers = await trio.to_thread.run_sync(self._feed, taken, abandon_on_cancel=self._is_abandoned)
            self._size -= sum(map(len, taken))
            self._wake()
            if answers:
                await self._stream.send_all(answers)

    def _feed(self, taken: Sequence[bytes]) -> bytes:
        return b"".join(map(self._incoming.feed, taken))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def check_room(target: Target, plan: Plan) -> None:
    """Refuse what does not fit.

    Raises:
        LocalIOError: so it is; the sentence has both figures.
    """
    free = target.free_bytes()
    if free is not None and plan.needed > free:
        raise LocalIOError(
            f"there is no room in {shown(target.root)}: {format_size(plan.needed)} are needed, "
            f"{format_size(free)} are free"
        )


def offer_of(entries: Sequence[Entry], plan: Plan) -> FileOffer:
    """Return what is shown of an offer."""
    is_stream = any(entry.kind == "stream" for entry in entries)
    tops = [f"{entry.path}/" if entry.kind == "folder" else entry.path for entry in entries if "/" not in entry.path]
    return FileOffer(
        files=sum(entry.kind in ("file", "stream") for entry in entries),
        size=None if is_stream else sum(entry.size for entry in entries),
        there=sum(plan.have.values()),
        names=tuple(map(shown, tops[:MAX_NAMES])),
        more_names=max(0, len(tops) - MAX_NAMES),
        overwrites=tuple(map(shown, plan.taken)),
    )


def _place_at(descriptor: int, entries: Sequence[Entry]) -> OpenPlace:
    """Return what opens the one file that goes to a descriptor.

    Raises:
        TransferRefused: it is not one file.
    """
    if len(entries) != 1 or entries[0].kind not in ("file", "stream"):
        raise TransferRefused("it writes to a stream, which takes one file; name a folder with --into")
    return lambda index, entry, offset: Outlet(descriptor)
