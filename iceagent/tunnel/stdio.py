"""Standard input and output as one stream, and the pipe between two commands that is made of two of them.

Each direction ends when its input ends. A side is done when both directions have ended; it reports that to the other (a
stream with `op: done`) and closes once it has received the same. So neither can cut off bytes that the other has still
to read.
A side that is done and sees the link closed has succeeded, too: the other side closes only after it has heard that we
are done.
"""

from __future__ import annotations

import os
from contextlib import suppress

import trio

from iceagent.errors import IceError
from iceagent.link import LinkClosedByPeer
from iceagent.net.logs import limited_logger
from iceagent.net.tasks import open_background
from iceagent.session.errors import PeerLeft
from iceagent.session.establish import answer_within
from iceagent.session.raw import ByteStream, NamedStream
from iceagent.session.session import Session
from iceagent.session.streams import TUNNEL_SERVICE
from iceagent.tunnel import wire
from iceagent.tunnel.errors import FailedError, LocalIOError
from iceagent.tunnel.pump import CHUNK, RESET_TUNNEL, copy
from iceagent.tunnel.serve import answer_and_close, serve_requests
from iceagent.tunnel.spec import PipeTarget, Target

REASON_TIMEOUT_S = 2.0  # for the link to say that it has ended, when a stream breaks
MAX_REQUESTS = 8

_log = limited_logger(__name__)


class StandardStreams:
    """Standard input and output. In threads: they may be files, which no event loop can wait for."""

    def __init__(self, stdin: int = 0, stdout: int = 1) -> None:
        """File descriptors; they are not closed, except that `send_eof` lets stdout's reader see the end."""
        self._stdin = stdin
        self._stdout = stdout

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what is at hand on standard input; `b""` at its end, also when it was closed from the start."""
        try:
            return await trio.to_thread.run_sync(os.read, self._stdin, max_bytes or CHUNK, abandon_on_cancel=True)
        except OSError as error:
            _log.info("standard input: %s", error.strerror)
            return b""

    async def send_all(self, data: bytes) -> None:
        """Write everything to standard output, waiting while its reader does not read.

        Raises:
            LocalIOError: the reader is gone, or the disk full.
        """
        view = memoryview(data)
        while view:
            try:
                written = await trio.to_thread.run_sync(os.write, self._stdout, view, abandon_on_cancel=True)
            except OSError as error:
                raise LocalIOError(f"cannot write to standard output: {error.strerror}") from error
            view = view[written:]

    async def send_eof(self) -> None:
        """Let the reader of standard output see the end, while standard input goes on."""
        await trio.lowlevel.checkpoint()
        with suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stdout)  # not close(): the number must not be given to a socket
            os.close(null)

    async def aclose(self) -> None:
        """Nothing to do: the process's own streams end with it."""
        await trio.lowlevel.checkpoint()


class _PipeService:
    """Answers the other side's requests while a pipe runs: at most one pipe, and the word that it is done."""

    def __init__(self, *, accepts: bool) -> None:
        self.done = trio.Event()
        self.finished = False  # our side has read and written everything
        self._accepts = accepts
        self._offered = trio.open_memory_channel[NamedStream](1)

    async def handle(self, stream: NamedStream, request: wire.StreamRequest, target: Target) -> None:
        if request.op == "done":
            self.done.set()
            await answer_and_close(stream, wire.OK)
        elif not isinstance(target, PipeTarget):
            await answer_and_close(stream, wire.Answer("refused", "it offers a pipe; use: iceagent connect"))
        elif not self._accepts:
            await answer_and_close(stream, wire.Answer("refused", "it has the pipe it wants"))
        elif request.op == "check":
            await answer_and_close(stream, wire.OK)
        else:
            self._accepts = False
            await wire.send_answer(stream, wire.OK)
            self._offered[0].send_nowait(stream)

    async def wait_stream(self) -> NamedStream:
        return await self._offered[1].receive()


async def run_pipe(session: Session, local: ByteStream, *, opener: bool, begun: trio.Event | None = None) -> None:
    """Join `local` with the other side's standard streams until both directions have ended.

    Args:
        session: the session to the other side, which runs this too.
        local: usually `StandardStreams()`.
        opener: true on the side of the joiner, false on the side of the inviter.
        begun: set once the two are joined; nothing has been read before.
    Raises:
        RefusedError, FailedError: the other side offers no pipe.
        PeerLeft: the other side closed before both directions had ended.
        PeerLost: the other side fell silent.
        LocalIOError: `local` broke.
    """
    service = _PipeService(accepts=not opener)
    async with open_background() as nursery:
        nursery.start_soon(serve_requests, session, service.handle, MAX_REQUESTS)
        nursery.start_soon(_watch_closed, session, service)
        try:
            stream = await _open_pipe(session) if opener else await service.wait_stream()
            if begun is not None:
                begun.set()
            await _copy_both(local, stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise await reason_of_end(session) from error
        service.finished = True
        await _say_farewell(session, stream, service)


async def _open_pipe(session: Session) -> NamedStream:
    stream = await session.streams.open_service(TUNNEL_SERVICE)
    try:
        async with answer_within(session, wire.ANSWER_TIMEOUT_S):
            await wire.send_request(stream, wire.request_for(PipeTarget()))
            (await wire.receive_answer(stream)).raise_unless_ok(PipeTarget())
    except trio.TooSlowError:
        raise FailedError("the other side is connected but offers no pipe; start it with: iceagent listen") from None
    return stream


async def _copy_both(local: ByteStream, stream: NamedStream) -> None:
    try:
        async with open_background() as nursery:
            outgoing_ended = trio.Event()

            async def send() -> None:
                await copy(local, stream)
                outgoing_ended.set()

            nursery.start_soon(send)
            await copy(stream, local)
            await outgoing_ended.wait()
    except BaseException:
        stream.reset(RESET_TUNNEL)
        raise


async def _watch_closed(session: Session, service: _PipeService) -> None:
    """Wait for the end of the session, and report what it means for the pipe: nothing more, or that data was cut off.

    Who was interrupted had perhaps not read everything, unless it had said so before.
    """
    await session.wait_closed()
    reason = session.close_reason
    interrupted = isinstance(reason, LinkClosedByPeer) and reason.interrupted and not service.done.is_set()
    if interrupted or not service.finished:
        raise PeerLeft(f"{reason or 'the session was closed'} before the end of the data")
    service.done.set()


async def reason_of_end(session: Session) -> Exception:
    """Return why the pipe's stream broke: the link, if it ends now, or the other side's decision."""
    try:
        with trio.move_on_after(REASON_TIMEOUT_S):
            await session.wait_closed()
    except IceError as error:
        return error
    return PeerLeft("the other side broke off before the end of the data")


async def _say_farewell(session: Session, stream: NamedStream, service: _PipeService) -> None:
    """Say that we are done, and wait for the same word: a slow reader over there may take its time over what is left.

    What ends the wait otherwise is the end of the session, of which `_watch_closed` knows what it means.
    """
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError, IceError):
        await stream.aclose()
        word = await session.streams.open_service(TUNNEL_SERVICE)
        await wire.send_request(word, wire.request_for(PipeTarget(), op="done"))
        await word.send_eof()
    await service.done.wait()
