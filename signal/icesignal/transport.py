"""The client's side of a websocket: the one module that touches trio-websocket, and what both sides have in common.

Connections are always read, limit what they keep, and always end. The relay's side is `websocket`.

trio-websocket stops answering pings when its messages are not read, waits without end in `aclose`, and lets errors of
its reader escape into a nursery. `WebsocketConnection` always reads, into a bounded mailbox; writes from an outbox
with a byte budget; pings; and ends within `CLOSE_TIMEOUT_S`, whatever the other side does.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import trio
import trio_websocket

from icesignal.tasks import open_background
from icesignal.wire import MAX_MESSAGE_BYTES, CloseCode

logger = logging.getLogger("icesignal.transport")
HANDSHAKE_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 0.5
WRITE_TIMEOUT_S = 20.0
PING_INTERVAL_S = 20.0
PING_TIMEOUT_S = 20.0
PROBE_TIMEOUT_S = 3.0  # the same where something has happened that connections die of: TCP has repeated the ping twice
MAILBOX_MESSAGES = 512
MAILBOX_BYTES = 4 << 20
OUTBOX_BYTES = 2 << 20  # a window of messages and what a room still has to deliver when it ends: at most its whole log
ABNORMAL = 1006  # RFC 6455 section 7.4.1: the connection just ended
# Between two whole messages a peer needs at most one message, its fragments' headers and some pings. More is an attack
# by endless empty fragments, which trio-websocket would collect.
MAX_BYTES_BETWEEN_MESSAGES = 4 * MAX_MESSAGE_BYTES


class ConnectionEnded(Exception):
    """There will be no more messages.

    Attributes:
        code: the close code of whoever ended it, 1006 if it just died.
        reason: in words, for the log.
        hung_up: it was closed from the other side without a close frame, as a system does for a program that is killed.
            False where nothing came any more, whatever the reason.
    """

    def __init__(self, code: int, reason: str = "", *, hung_up: bool = False) -> None:
        super().__init__(f"the connection ended with code {code}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason
        self.hung_up = hung_up


class OutboxFull(Exception):
    """The other side does not take what it is sent."""


class HandshakeFailed(Exception):
    """The other side is no websocket, or said no. `status` is its HTTP status, 0 without one."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class PrefixedStream(trio.abc.Stream):
    """A stream that first gives bytes that somebody has read before, and watches what comes in."""

    def __init__(self, stream: trio.abc.Stream, prefix: bytes = b"") -> None:
        self._stream = stream
        self._prefix = prefix
        self.received = 0
        self.ended = trio.Event()
        self.hung_up = False  # whether the other side has closed the connection, or refuses what is sent
        self.on_received: Callable[[int], bool] | None = None

    @property
    def local_host(self) -> str | None:
        """The address of this machine that the innermost stream is bound to; None where that is no socket."""
        stream: object = self._stream
        while isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        if not isinstance(stream, trio.SocketStream):
            return None
        try:
            return str(stream.socket.getsockname()[0])
        except OSError:
            return None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return bytes, the prefix first; `b""` at the end or when `on_received` says no."""
        if self._prefix:
            size = len(self._prefix) if max_bytes is None else max_bytes
            data, self._prefix = self._prefix[:size], self._prefix[size:]
            await trio.lowlevel.checkpoint()
        else:
            try:
                data = bytes(await self._stream.receive_some(max_bytes))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.hung_up = self.hung_up or is_reset(error)
                self.ended.set()
                raise
            self.hung_up = self.hung_up or not data
        self.received += len(data)
        if not data or (self.on_received is not None and not self.on_received(len(data))):
            self.ended.set()
            return b""
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all."""
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as error:
            self.hung_up = self.hung_up or is_reset(error)
            raise

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close."""
        self.ended.set()
        await self._stream.aclose()


def is_reset(error: BaseException) -> bool:
    """Return whether a stream broke as the other side's system, or a gateway in its name, said that there is nobody.

    Any other error of the system's is of a network that carries nothing, and no word of the other side.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return isinstance(cause, ConnectionResetError | BrokenPipeError)


class WebsocketConnection:
    """A websocket that carries binary messages both ways. Made by `request_websocket`."""

    def __init__(self, stream: PrefixedStream, timeout_s: float) -> None:
        self._messages_in = 0
        self._stream = stream
        self._websocket: trio_websocket.WebSocketConnection
        self._mailbox: deque[bytes | str] = deque()
        self._mailbox_bytes = 0
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._wake_reader = trio.Event()
        self._wake_writer = trio.Event()
        self._over = trio.Event()
        self._ended: ConnectionEnded | None = None
        self._closing: tuple[int, str] | None = None
        self._scope = trio.CancelScope(deadline=trio.current_time() + timeout_s)  # until the handshake is done
        self._begun = trio.Event()
        self._finished = trio.Event()
        self._failure: HandshakeFailed | None = None
        self._probed = trio.Event()
        self._ping_scope = trio.CancelScope()

    @property
    def local_host(self) -> str | None:
        """The address of this machine that the connection is bound to; None where the stream is no socket."""
        return self._stream.local_host

    @property
    def is_open(self) -> bool:
        """Whether messages may still be sent."""
        return self._ended is None and self._closing is None

    async def receive(self) -> bytes | str:
        """Return the next message; a `str` if the peer sent a text message.

        Raises:
            ConnectionEnded: there will be none.
        """
        while not self._mailbox:
            if self._ended is not None:
                raise self._ended
            self._wake_reader = trio.Event()
            await self._wake_reader.wait()
        await trio.lowlevel.checkpoint()
        message = self._mailbox.popleft()
        self._mailbox_bytes -= len(message)
        return message

    def send_nowait(self, message: bytes) -> None:
        """Put a message into the outbox. Silently nothing once the connection ends.

        Raises:
            OutboxFull: more than `OUTBOX_BYTES` would be waiting.
        """
        if not self.is_open:
            return
        if self._outbox_bytes + len(message) > OUTBOX_BYTES:
            raise OutboxFull
        self._outbox.append(message)
        self._outbox_bytes += len(message)
        self._wake_writer.set()

    def close(self, code: int = CloseCode.DONE, reason: str = "") -> None:
        """Close after the outbox is written; returns at once. The first call counts."""
        if self._closing is None:
            self._closing = (code, reason)
            self._wake_writer.set()

    def abort(self, code: int, reason: str = "") -> None:
        """Close without writing the outbox, which nobody takes; returns at once."""
        self._outbox.clear()
        self.close(code, reason)

    def probe(self, reason: str = "") -> None:
        """See whether the other side still answers, at once: end the connection if it says nothing for 3 s."""
        self._ping_scope.deadline = min(self._ping_scope.deadline, trio.current_time() + PROBE_TIMEOUT_S)
        self._probed.set()
        logger.debug("is the other side there? %s", reason)

    def give_up(self, reason: str) -> None:
        """End the connection, which is known to be dead: nothing is said to the other side. Returns at once."""
        self._end(ABNORMAL, reason)

    @asynccontextmanager
    async def running(
        self, wrap: Callable[[trio.Nursery], Awaitable[trio_websocket.WebSocketConnection]]
    ) -> AsyncGenerator[WebsocketConnection, None]:
        """Shake hands as `wrap` does, and close when the body ends; for `request_websocket`.

        Raises:
            HandshakeFailed: there is no websocket to be had.
        """
        self._stream.on_received = self._watch()
        async with open_background() as nursery:
            try:
                nursery.start_soon(self._host, wrap)
                await self._begun.wait()
                if self._failure is not None:
                    raise self._failure
                yield self
            finally:
                self.close()
                with trio.move_on_after(2 * CLOSE_TIMEOUT_S, shield=True):
                    await self._finished.wait()
                self._scope.cancel()
                await trio.aclose_forcefully(self._stream)

    # -- inside

    def _end(self, code: int, reason: str = "", *, hung_up: bool = False) -> None:
        """Note that the connection is over: `receive` raises once the mailbox is empty."""
        if self._ended is None:
            self._ended = ConnectionEnded(code, reason, hung_up=hung_up)
        self._wake_reader.set()
        self._over.set()

    async def _host(self, wrap: Callable[[trio.Nursery], Awaitable[trio_websocket.WebSocketConnection]]) -> None:
        """Run the websocket and our tasks. Shielded once it runs, so that a cancelled owner can still say goodbye."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._websocket = await wrap(nursery)
                    self._scope.deadline = math.inf
                    self._scope.shield = True
                    for task in (self._read, self._write, self._ping):
                        nursery.start_soon(task)
                    self._begun.set()
                    await self._over.wait()
                    nursery.cancel_scope.cancel()
            if not hasattr(self, "_websocket"):
                self._failure = HandshakeFailed("the other side did not answer in time")
        except BaseExceptionGroup as group:
            # trio-websocket's reader raises what wsproto thinks of odd input; any of it is the end of one connection.
            cancelled, errors = group.split(trio.Cancelled)
            if errors is not None:
                self._failure = _handshake_failure(errors)
                logger.debug("a websocket failed: %s", self._failure)
                self._end(ABNORMAL, "the websocket failed")
            if cancelled is not None:
                raise cancelled from None
        finally:
            self._end(ABNORMAL, "closed here")
            self._finished.set()
            self._begun.set()

    async def _read(self) -> None:
        """Move messages into the mailbox until the end, never waiting for whoever takes them out."""
        while True:
            try:
                message = await self._websocket.get_message()
            except trio_websocket.ConnectionClosed as closed:
                reason = closed.reason
                if self._closing is not None:  # trio-websocket calls every end that we began 1000
                    self._end(*self._closing)
                else:
                    code, text = (ABNORMAL, "") if reason is None else (reason.code, reason.reason or "")
                    self._end(code, text, hung_up=code == ABNORMAL and self._stream.hung_up)
                return
            self._messages_in += 1
            if len(self._mailbox) >= MAILBOX_MESSAGES or self._mailbox_bytes + len(message) > MAILBOX_BYTES:
                self.abort(CloseCode.TOO_FAST, "too many messages at once")
                return
            self._mailbox.append(message)
            self._mailbox_bytes += len(message)
            self._wake_reader.set()

    async def _write(self) -> None:
        """Write the outbox until the connection ends or is closed, then say goodbye, bounded."""
        while True:
            while self._outbox:
                message = self._outbox.popleft()
                self._outbox_bytes -= len(message)
                with trio.move_on_after(WRITE_TIMEOUT_S) as scope:
                    try:
                        await self._websocket.send_message(message)
                    except trio_websocket.ConnectionClosed:
                        return
                if scope.cancelled_caught:
                    self._end(CloseCode.TOO_SLOW, "a write took too long")
                    return
            if self._closing is not None:
                with trio.move_on_after(CLOSE_TIMEOUT_S):
                    await self._websocket.aclose(*self._closing)
                self._end(*self._closing)
                return
            self._wake_writer = trio.Event()
            await self._wake_writer.wait()

    async def _ping(self) -> None:
        """End the connection when nothing at all comes from the other side, not even the answer to a ping."""
        while True:
            before = self._stream.received
            with trio.move_on_after(PING_INTERVAL_S):
                await self._probed.wait()
            is_probe, self._probed = self._probed.is_set(), trio.Event()
            if self._stream.received != before and not is_probe:
                continue
            with trio.move_on_after(PROBE_TIMEOUT_S if is_probe else PING_TIMEOUT_S) as scope:
                self._ping_scope = scope
                try:
                    await self._websocket.ping()
                except trio_websocket.ConnectionClosed:
                    return
            if scope.cancelled_caught:
                self._end(ABNORMAL, "no answer to a ping")
                return

    def _watch(self) -> Callable[[int], bool]:
        """Return what `PrefixedStream.on_received` is to be: it ends what is a message without end."""
        seen_messages, since = 0, 0

        def on_received(size: int) -> bool:
            nonlocal seen_messages, since
            if self._messages_in != seen_messages:
                seen_messages, since = self._messages_in, 0
            since += size
            if since > MAX_BYTES_BETWEEN_MESSAGES:
                self._end(CloseCode.TOO_BIG, "a message without end")
                return False
            return True

        return on_received


def _handshake_failure(group: BaseExceptionGroup[BaseException]) -> HandshakeFailed:
    refusals, _ = group.split((trio_websocket.ConnectionRejected, HandshakeFailed))
    leaf: BaseException = group if refusals is None else refusals
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    if isinstance(leaf, HandshakeFailed):
        return leaf
    if isinstance(leaf, trio_websocket.ConnectionRejected):
        return HandshakeFailed(f"HTTP status {leaf.status_code}", leaf.status_code)
    return HandshakeFailed(f"no websocket: {type(leaf).__name__}")


@asynccontextmanager
async def request_websocket(
    stream: trio.abc.Stream,
    host: str,
    target: str,
    *,
    headers: Sequence[tuple[bytes, bytes]] = (),
    timeout_s: float = HANDSHAKE_TIMEOUT_S,
) -> AsyncGenerator[WebsocketConnection, None]:
    """Run the client's side of a websocket.

    Args:
        stream: connected to the relay, with TLS if need be.
        host: for the `Host` header.
        target: path and query of the request.
        headers: further ones.
        timeout_s: for the handshake.
    Raises:
        HandshakeFailed: the other side is no websocket, or said no.
    """
    prefixed = PrefixedStream(stream)

    async def wrap(nursery: trio.Nursery) -> trio_websocket.WebSocketConnection:
        # trio-websocket waits for ever when the other side hangs up instead of answering.
        async with trio.open_nursery() as watch:

            async def until_hung_up() -> None:
                await prefixed.ended.wait()
                raise HandshakeFailed("the connection was closed during the handshake")

            watch.start_soon(until_hung_up)
            websocket = await trio_websocket.wrap_client_stream(
                nursery,
                cast("trio.SocketStream", prefixed),  # its annotation is too narrow: any stream does
                host,
                target,
                extra_headers=list(headers),
                max_message_size=MAX_MESSAGE_BYTES,
            )
            watch.cancel_scope.cancel()
        return websocket

    async with WebsocketConnection(prefixed, timeout_s).running(wrap) as connection:
        yield connection
