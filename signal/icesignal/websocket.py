"""The relay's side of its websockets: one task for each, which reads; writing needs none while a client takes it.

What is sent while others have their turn is written in one go, as far as the system takes it: a write costs more than
all else that a frame does. A task writes the rest. What all have in common, to write, to tell who is to know that all
is written, and to see whether the other side is still there, is the work of two tasks for all of them.
Source: RFC 6455.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import islice
from typing import Self

import trio

from icesignal.frames import BadFrames, FrameReader, Opcode, encode, encode_close, read_close
from icesignal.tasks import open_background
from icesignal.transport import (
    ABNORMAL,
    CLOSE_TIMEOUT_S,
    MAX_BYTES_BETWEEN_MESSAGES,
    OUTBOX_BYTES,
    PING_INTERVAL_S,
    PING_TIMEOUT_S,
    WRITE_TIMEOUT_S,
    ConnectionEnded,
    OutboxFull,
    is_reset,
)
from icesignal.wire import CloseCode

errors = logging.getLogger("icesignal.server.errors")
CHECK_EVERY_S = 1.0
WRITES_AT_ONCE = os.name == "posix"  # elsewhere a socket is no file
FRAMES_AT_ONCE = 512  # of one write; systems take 1,024 pieces
WAITING_BYTES = 16_384  # ours: with so much no write is put off
MESSAGES_AT_ONCE = 8  # ours: of a client, before others have their turn; what they lead to is written together
TOLD_AT_ONCE = 64  # ours: owners who are told that all is written before other tasks have their turn
RECEIVE_BYTES = 4_096  # as much as our clients take at once: a burst must not outrun its receiver, see the room's log
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)

Allow = Callable[[int, int], bool]


class ServedWebsocket:
    """A websocket that carries binary messages both ways. Made by `Websockets.accept`; `async with` serves it."""

    __slots__ = (
        "_allow",
        "_at_once",
        "_close_by",
        "_closing",
        "_ended",
        "_frames",
        "_heard",
        "_heard_at",
        "_hung_up",
        "_ignores",
        "_is_cut",
        "_is_writing",
        "_outbox",
        "_outbox_bytes",
        "_pinged_at",
        "_pong",
        "_since_message",
        "_socket",
        "_stream",
        "_websockets",
        "_writing",
        "_written",
        "on_drained",
        "received",
    )

    def __init__(
        self, stream: trio.abc.Stream, answer: bytes, first: bytes, allow: Allow, websockets: Websockets
    ) -> None:
        self.on_drained: Callable[[], None] | None = None  # called each time the outbox has been written
        self.received = self._heard = len(first)
        self._heard_at = trio.current_time()
        self._pinged_at: float | None = None
        self._stream = stream
        self._allow = allow
        self._websockets = websockets
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._frames = FrameReader(first)
        self._since_message = len(first)
        self._at_once = 0  # messages since others had their turn
        self._outbox: deque[bytes] | None = deque([answer])  # None when there is nothing: most of the time, of most
        self._outbox_bytes = len(answer)
        self._is_cut = False  # whether the first of it is the rest of a frame
        self._pong: bytes | None = None
        self._is_writing = False
        self._writing: trio.CancelScope | None = None
        self._written: trio.Event | None = None  # for who waits until a task has written all
        self._hung_up = False
        self._ignores = False
        self._closing: tuple[int, str] | None = None
        self._close_by = math.inf
        self._ended: ConnectionEnded | None = None

    async def __aenter__(self) -> Self:
        self._websockets.add(self)
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            await self._finish()  # noqa: ASYNC102 (shields and bounds itself)
        finally:
            self._websockets.remove(self)

    @property
    def is_open(self) -> bool:
        """Whether messages may still be sent."""
        return self._ended is None and self._closing is None

    @property
    def is_drained(self) -> bool:
        """Whether all that was sent has been written, and there may be more."""
        return self.is_open and not self._outbox and not self._is_writing

    # -- reading

    async def receive(self) -> bytes | str:
        """Return the next message; a `str` if the client sent a text message.

        Raises:
            ConnectionEnded: there will be none.
        """
        if self._at_once >= MESSAGES_AT_ONCE:
            self._at_once = 0
            await trio.lowlevel.checkpoint()
        while True:
            try:
                message = self._next_message()
            except BadFrames as error:
                self.abort(error.code, str(error))
                message = None
            if message is not None:
                self._at_once += 1
                return message
            if self._ended is not None:
                raise self._ended
            self._at_once = 0
            await self._read()

    def _next_message(self) -> bytes | str | None:
        """Return a message that is here; control frames before it are answered."""
        while self._ended is None and not self._ignores and (found := self._frames.next()) is not None:
            opcode, payload = found
            if not self._frames.is_within_message:
                self._since_message = 0
            if opcode is Opcode.BINARY:
                return payload
            if opcode is Opcode.TEXT:
                try:
                    return payload.decode()
                except UnicodeDecodeError:
                    raise BadFrames(1007, "a text that is no UTF-8") from None
            if opcode is Opcode.PING and self.is_open:
                self._answer_ping(payload)
            elif opcode is Opcode.CLOSE:
                self._take_close(*read_close(payload))
        return None

    def _answer_ping(self, payload: bytes) -> None:
        """Send a pong. While something waits before it the newest one is enough (RFC 6455 section 5.5.3)."""
        pong = encode(Opcode.PONG, payload)
        if not self._allow(0, 1):
            self.abort(CloseCode.TOO_FAST, "too many pings")
        elif self._is_writing:
            self._pong = pong
        else:
            self._put(pong)

    def _take_close(self, code: int, reason: str) -> None:
        """Answer the client's close frame, unless it is the answer to ours."""
        if self._closing is None:
            self._end(code, reason)
            self._put(encode_close(code, ""))
        else:
            self._end(*self._closing)

    async def _read(self) -> None:
        """Wait for more bytes, or note the end."""
        try:
            data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except BROKEN as error:
            self._end(ABNORMAL, "the connection broke", hung_up=self._hung_up or is_reset(error))
            return
        if not data:
            self._end(ABNORMAL, "the client hung up", hung_up=True)
            return
        self.received += len(data)
        self._since_message += len(data)
        if self._since_message > MAX_BYTES_BETWEEN_MESSAGES:
            self.abort(CloseCode.TOO_BIG, "a message without end")
        elif not self._allow(len(data), 0):
            self.abort(CloseCode.TOO_FAST, "too many bytes")
        elif not self._ignores:
            self._frames.feed(data)

    # -- writing

    def send_nowait(self, message: bytes) -> None:
        """Send a message, or put into the outbox what cannot be written now. Silently nothing once it ends.

        Raises:
            OutboxFull: more than `OUTBOX_BYTES` would be waiting.
        """
        if not self.is_open:
            return
        if self._outbox_bytes + len(message) > OUTBOX_BYTES:
            raise OutboxFull
        self._put(encode(Opcode.BINARY, message))

    def check(self, now: float) -> None:
        """Ping who has said nothing for `PING_INTERVAL_S`; give up who then says nothing for `PING_TIMEOUT_S`.

        And who does not answer our close frame: the client may be gone, or not take what came before it.
        """
        if self._closing is not None:
            if now >= self._close_by:
                self.give_up(*self._closing)
        elif self.received != self._heard:
            self._heard, self._heard_at, self._pinged_at = self.received, now, None
        elif self._pinged_at is None and now >= self._heard_at + PING_INTERVAL_S:
            self._pinged_at = now
            if not self._outbox:  # else it has something to take
                self._put(encode(Opcode.PING, b""))
        elif self._pinged_at is not None and now >= self._pinged_at + PING_TIMEOUT_S:
            self.give_up(ABNORMAL, "no answer to a ping")

    def close(self, code: int = CloseCode.DONE, reason: str = "") -> None:
        """Close after the outbox is written; returns at once. The first call counts."""
        if self._closing is None:
            self._closing = (code, reason)
            if self._ended is None:
                self._put(encode_close(code, reason))
            self.flush()
            self._close_by = trio.current_time() + (WRITE_TIMEOUT_S if self._is_writing else CLOSE_TIMEOUT_S)

    def abort(self, code: int, reason: str = "") -> None:
        """Close without writing the outbox, which nobody takes, or hearing what else is said; returns at once."""
        if self._ignores:
            return
        self._ignores = True
        if self._closing is None:
            self.flush()  # what it still takes
            if self._outbox:
                rest = (
                    self._outbox.popleft() if self._is_cut else b""
                )  # of a frame that the client has the beginning of
                self._outbox = deque([rest] if rest else [])
                self._outbox_bytes = len(rest)
        self.close(code, reason)

    def give_up(self, code: int, reason: str) -> None:
        """End the connection, which is known to be dead; returns at once."""
        self._end(code, reason)
        self._drop()

    def _drop(self) -> None:
        """Close the stream, which wakes whoever reads or writes."""
        if self._socket is not None:
            self._socket.close()
        else:
            self._websockets.start(trio.aclose_forcefully, self._stream)

    def _put(self, frame: bytes) -> None:
        """Have a frame written: soon, and with what else is sent until then."""
        if self._outbox is None:
            self._outbox = deque()
        self._outbox.append(frame)
        self._outbox_bytes += len(frame)
        if self._outbox_bytes >= WAITING_BYTES:
            self.flush()
        elif not self._is_writing:
            self._websockets.note_waiting(self)

    def flush(self) -> None:
        """Write the outbox, as far as the system takes it; the rest is for a task."""
        if self._is_writing or self._outbox is None:
            return
        while self._outbox and self._socket is not None and WRITES_AT_ONCE:
            try:
                # The descriptor is asked for each time: it is -1 once the socket is closed.
                if len(self._outbox) == 1:
                    written = os.write(self._socket.fileno(), self._outbox[0])
                else:
                    written = os.writev(self._socket.fileno(), list(islice(self._outbox, FRAMES_AT_ONCE)))
            except BlockingIOError:
                break
            except OSError as error:
                if is_reset(error):
                    self._hung_up = True  # the reader learns it as well, and ends
                else:
                    self.give_up(ABNORMAL, "the system takes nothing")
                self._outbox, self._outbox_bytes = None, 0
                return
            if self._take_out(self._outbox, written):
                break
        if self._outbox:
            self._is_writing = True
            self._websockets.start(self._write)
        else:
            self._outbox = None
            self._websockets.note_drained(self)

    def _take_out(self, outbox: deque[bytes], size: int) -> bool:
        """Take so many bytes out of the outbox, which are written; return whether a frame was cut."""
        self._outbox_bytes -= size
        while outbox and size >= len(outbox[0]):
            size -= len(outbox.popleft())
        self._is_cut = size > 0
        if size:
            outbox[0] = outbox[0][size:]
        return self._is_cut

    async def _write(self) -> None:
        """Write the outbox. Shielded, so that a cancelled relay still says goodbye; it is bounded."""
        try:
            with trio.CancelScope(shield=True) as self._writing:
                await self._write_outbox()
        except BROKEN as error:
            self._end(ABNORMAL, "the connection broke", hung_up=is_reset(error))
        except Exception:
            # One connection must never end the others.
            errors.exception("a connection ended by an error of the relay")
            self.give_up(ABNORMAL, "an error of the relay")
        finally:
            self._writing, self._is_writing = None, False
            if self._written is not None:
                self._written.set()
            self._websockets.note_drained(self)

    def _next_frame(self) -> bytes | None:
        if self._outbox:
            frame = self._outbox.popleft()
            self._outbox_bytes -= len(frame)
            self._is_cut = False
            return frame
        self._outbox = None
        pong, self._pong = self._pong, None
        return pong

    async def _write_outbox(self) -> None:
        while (frame := self._next_frame()) is not None:
            with trio.move_on_after(WRITE_TIMEOUT_S) as scope:
                await self._stream.send_all(frame)
            if scope.cancelled_caught:
                self.give_up(CloseCode.TOO_SLOW, "a write took too long")
                return

    # -- the end

    def _end(self, code: int, reason: str = "", *, hung_up: bool = False) -> None:
        """Note that the connection is over; the first time counts."""
        if self._ended is None:
            if self._closing is not None:
                (code, reason), hung_up = self._closing, False
            self._ended = ConnectionEnded(code, reason, hung_up=hung_up)

    async def _finish(self) -> None:
        """Close, and read on for a moment until the client has closed, too. Then nothing is left."""
        self.close()
        try:
            with trio.move_on_after(2 * CLOSE_TIMEOUT_S, shield=True):
                while self._ended is None:
                    await self.receive()
                self.flush()
                if self._is_writing:  # as our answer to its close frame
                    self._written = trio.Event()
                    await self._written.wait()
        except ConnectionEnded:
            pass
        finally:
            self._end(ABNORMAL, "closed here")
            if self._writing is not None:
                self._writing.cancel()
            self._drop()


class Websockets:
    """What the websockets of a relay have in common."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        self._waiting: dict[ServedWebsocket, None] = {}  # to be written
        self._drained: dict[ServedWebsocket, None] = {}  # whose owner is to be told
        self._some_waiting = trio.Event()  # of either
        self._open: dict[ServedWebsocket, None] = {}
        self._some_open = trio.Event()

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None, None]:
        """Do what is common while the block lasts, in which all of them end."""
        async with open_background() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._write)
            nursery.start_soon(self._check)
            yield

    def accept(
        self, stream: trio.abc.Stream, answer: bytes, first: bytes, *, allow: Allow = lambda size, pings: True
    ) -> ServedWebsocket:
        """Return the server's side of a websocket, which is served while an `async with` of it lasts, and then closed.

        Args:
            stream: where the request came from.
            answer: to the request; see `http.upgrade`. It goes out with what is sent first.
            first: what has come after the request.
            allow: called with the bytes that came and the pings that are to be answered; False closes with 4004.
        """
        return ServedWebsocket(stream, answer, first, allow, self)

    # -- for the websockets

    def add(self, websocket: ServedWebsocket) -> None:
        """Note that a websocket is served from now on, and has an answer to write."""
        self._open[websocket] = None
        self._some_open.set()
        self.note_waiting(websocket)

    def remove(self, websocket: ServedWebsocket) -> None:
        """Forget a websocket."""
        del self._open[websocket]
        self._waiting.pop(websocket, None)
        self._drained.pop(websocket, None)

    def start(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run a task of a websocket's."""
        assert self._nursery is not None, "websockets are accepted while `run` does"
        self._nursery.start_soon(task, *arguments)

    def note_waiting(self, websocket: ServedWebsocket) -> None:
        """Have a websocket be written when the others have had their turn."""
        self._waiting[websocket] = None
        self._some_waiting.set()

    def note_drained(self, websocket: ServedWebsocket) -> None:
        """Have a websocket's owner be told that all is written."""
        if websocket.on_drained is not None:
            self._drained[websocket] = None
            self._some_waiting.set()

    # -- tasks

    async def _write(self) -> None:
        """Write what waits, and tell owners, who may send more, as long as there are any."""
        while True:
            await self._some_waiting.wait()
            self._some_waiting = trio.Event()
            while self._waiting or self._drained:
                self._flush()
                await trio.lowlevel.checkpoint()

    def _flush(self) -> None:
        """Write what waits, and tell some of the owners."""
        waiting, self._waiting = self._waiting, {}
        for websocket in waiting:
            websocket.flush()
        for websocket in list(islice(self._drained, TOLD_AT_ONCE)):
            del self._drained[websocket]
            self._tell(websocket)

    @staticmethod
    def _tell(websocket: ServedWebsocket) -> None:
        if not websocket.is_drained or websocket.on_drained is None:
            return
        try:
            websocket.on_drained()
        except Exception:
            errors.exception("a connection ended by an error of the relay")
            websocket.abort(CloseCode.GOING_AWAY)

    async def _check(self) -> None:
        """Look once a second at who is still there."""
        while True:
            await self._some_open.wait()
            await trio.sleep(CHECK_EVERY_S)
            now = trio.current_time()
            for websocket in list(self._open):
                websocket.check(now)
            if not self._open:
                self._some_open = trio.Event()
