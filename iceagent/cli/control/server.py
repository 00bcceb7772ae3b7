"""The side of the running command: listens at its control socket, and answers its owner."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from iceagent.cli.control import folder as places
from iceagent.cli.control import leftovers
from iceagent.cli.control.messages import MAX_ANSWER, MAX_REQUEST, Answer, BadMessage, read_request_untrusted, to_line
from iceagent.cli.control.running import Running
from iceagent.cli.exits import Exit, exit_of
from iceagent.errors import IceError
from iceagent.net.accepting import serve_connections
from iceagent.net.tasks import contained, open_background

MAX_ASKERS: Final = 8  # ours: at once; further ones are turned away
PATIENCE_S: Final = 5.0  # ours: for a request to come, and for an answer to be taken
HANDLER_S: Final = 60.0  # ours: for a wish to be granted; the other side may have to be asked, over a path that is slow

_log = logging.getLogger(__name__)


@asynccontextmanager
async def open_control(running: Running) -> AsyncIterator[Path | None]:
    """Let this user ask what the command does, while the body runs; yields where the socket is.

    A command that cannot have one does without: None, and a line at debug says why.
    """
    try:
        folder = places.control_folder()
        places.sweep(folder)
        sock, path = places.bind_control(folder)
    except OSError as error:
        _log.debug("no control socket: %s", error)
        yield None
        return
    leftovers.paths.add(path)
    try:
        async with open_background() as nursery:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
            nursery.start_soon(_serve, listener, running)
            yield path
    finally:
        sock.close()
        leftovers.remove(path)


async def _serve(listener: trio.SocketListener, running: Running) -> None:
    slots = trio.Semaphore(MAX_ASKERS)

    async def handle(stream: trio.SocketStream) -> None:
        try:
            slots.acquire_nowait()
        except trio.WouldBlock:
            return
        try:
            with contained("an answer at the control socket"):
                await _handle(stream, running)
        finally:
            slots.release()

    await serve_connections(listener, handle)


async def _handle(stream: trio.SocketStream, running: Running) -> None:
    """Answer one request, of this user's; nobody else gets a byte."""
    if not places.is_own_peer(stream.socket):
        _log.warning("somebody else's process asked at the control socket, and was turned away")
        return
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        try:
            with trio.fail_after(PATIENCE_S):
                line = await _receive_line(stream)
            with trio.fail_after(HANDLER_S):
                answer = await _answer(line, running)
        except BadMessage as error:
            answer = Answer(ok=False, error=str(error))
        with trio.fail_after(PATIENCE_S):
            await stream.send_all(_line_of(answer))


async def _receive_line(stream: trio.SocketStream) -> bytes:
    """Return one line.

    Raises:
        BadMessage: it is too long, or does not end.
    """
    received = bytearray()
    while b"\n" not in received:
        part = await stream.receive_some(MAX_REQUEST)
        received += part
        if not part or len(received) > MAX_REQUEST:
            raise BadMessage(f"a request is one line of at most {MAX_REQUEST} bytes")
    return bytes(received.partition(b"\n")[0])


async def _answer(line: bytes, running: Running) -> Answer:
    request = read_request_untrusted(line)
    if request.request == "status":
        return Answer(value=running.status())
    handler = running.handlers.get(request.request)
    if handler is None:
        known = ", ".join(sorted({"status", *running.handlers}))
        raise BadMessage(f"`iceagent {running.verb}` cannot do that while it runs; it knows: {known}")
    try:
        return Answer(value=await handler(request.arguments))
    except (IceError, ValueError) as error:
        code = exit_of(error) if isinstance(error, IceError) else Exit.USAGE
        return Answer(ok=False, error=str(error), exit=int(code))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return Answer(ok=False, error="the session has ended meanwhile", exit=int(Exit.NO_PATH))


def _line_of(answer: Answer) -> bytes:
    line = to_line(answer)
    return line if len(line) <= MAX_ANSWER else to_line(Answer(ok=False, error="the answer is too long"))
