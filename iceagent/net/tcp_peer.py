"""One TCP connection of a TCP base: opened or accepted, framed, with one reader and one writer."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import trio

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.net.framing import MAX_FRAME, FrameError, FrameReader
from iceagent.net.queues import SendQueue
from iceagent.net.tcp import reset_connection

SEND_BUFFER: Final = 128 * 1024
"""Bytes that may wait for one connection before senders do, and as many in the system: more would only add delay."""
CONNECT_S: Final = 39.5  # RFC 6544 section 7.1: no longer than a check is waited for
INSIST_S: Final = 15.0  # ours: for so long refused simultaneous opens are tried again; the peer may not have begun
STALL_S: Final = 6.0  # ours: silence after which one more datagram goes over a new connection; consent is asked sooner
SLOW_CONNECT_S: Final = 3.0  # ours: the same for one being opened, whose SYNs the system repeats ever more seldom
STRANGER_FRAME: Final = 2048  # ours: bytes; a check has some 150
STRANGER_BYTES: Final = 16 * 1024  # ours: all that is read before an authenticated check
_READ_SIZE: Final = 65536
_WRITE_SIZE: Final = 65536
_FIRST_PAUSE_S: Final = 0.1
_LAST_PAUSE_S: Final = 1.0
_TCP_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # linux/tcp.h

TcpStream = trio.abc.HalfCloseableStream


class Owner(Protocol):
    """Who has a connection: its TCP base.

    Attributes:
        refused: counts what was wrong with connections.
    """

    refused: Counter[str]

    def knows(self, peer: TcpPeer) -> bool:
        """Return whether an authenticated check has come over a connection."""
        ...

    async def take_frames(self, remote: TransportAddress, frames: list[bytes]) -> None:
        """Take what has arrived; returns when there is room for more."""
        ...


class TcpPeer:
    """A connection with one remote address.

    Args:
        now: the present.
        remote: the other end.
        stream: an accepted connection, or
        connect: what opens one.
        insists: for a simultaneous open: a refusal is tried again for a while.

    Attributes:
        opened_at: when it was opened, or before that begun.
        is_known: it has shown an authenticated check.
    """

    def __init__(
        self,
        now: float,
        remote: TransportAddress,
        *,
        stream: TcpStream | None = None,
        connect: Callable[[], Awaitable[TcpStream]] | None = None,
        insists: bool = False,
    ) -> None:
        self.remote = remote
        self.opened_at = now
        self.was_accepted = stream is not None
        self.is_known = False
        self.is_open = stream is not None
        self._stream = stream
        self._connect = connect
        self._insists = insists
        self._queue = SendQueue(SEND_BUFFER, len, "the connection is gone")
        self._frames = FrameReader()
        self._stranger_bytes = 0
        self._unheard_since: float | None = None
        self._attempt = trio.CancelScope()
        self._scope = trio.CancelScope()

    def send_nowait(self, now: float, frames: Sequence[bytes]) -> int:
        """Queue what there is room for; return how many.

        Raises:
            trio.ClosedResourceError: it is closed.
        """
        self._note_sending(now)
        return self._queue.send_nowait(frames)

    async def send(self, now: float, frames: Sequence[bytes]) -> None:
        """Queue all, and wait until the system has them. Raises as `send_nowait` does."""
        self._note_sending(now)
        await self._queue.send(frames)
        await self._queue.flush()

    def is_stalled(self, now: float) -> bool:
        """Whether another connection had better take its place: what is sent gets no answer."""
        if not self.is_open:
            return now >= self.opened_at + SLOW_CONNECT_S and not self._insists
        return self._unheard_since is not None and now >= self._unheard_since + STALL_S

    def adopt(self, stream: TcpStream) -> bool:
        """Use a connection that came in from where we are connecting to; return whether it was needed."""
        if self.is_open or self._stream is not None or self._queue.closed:
            return False
        self._stream = stream
        self._attempt.cancel()
        return True

    def close(self) -> None:
        """Close; `run` ends. Idempotent."""
        self._queue.close()
        self._scope.cancel()

    def reset(self) -> None:
        """Close, and free the ports at once: another connection between the same two is to take its place."""
        self.close()
        if self._stream is not None:
            reset_connection(self._stream)

    async def run(self, base: Owner) -> int:
        """Open, read and write until it ends; return the errno of why, or 0 when it was closed here."""
        code = 0
        with self._scope:
            try:
                code = await self._open()
                if not code:
                    assert self._stream is not None
                    code = await self._carry(base, self._stream)
            finally:
                self._queue.close()
                if self._stream is not None:
                    with trio.CancelScope(shield=True):
                        await trio.aclose_forcefully(self._stream)
        return code

    # Opening

    async def _open(self) -> int:
        if self._stream is None and self._connect is not None:
            code = await self._try_connect(self._connect)
            if self._stream is None:
                return code
        self.is_open = True
        self.opened_at = trio.current_time()
        self._unheard_since = None
        if isinstance(self._stream, trio.SocketStream):
            with suppress(OSError):  # keeps the system's buffer as short as ours; elsewhere it is merely longer
                self._stream.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, SEND_BUFFER)
        return 0

    async def _try_connect(self, connect: Callable[[], Awaitable[TcpStream]]) -> int:
        code = errno.ETIMEDOUT
        give_up_at = trio.current_time() + (INSIST_S if self._insists else 0.0)
        pause_s = _FIRST_PAUSE_S
        with trio.move_on_after(CONNECT_S), self._attempt:
            while True:
                try:
                    stream = await connect()
                except OSError as error:
                    code = error.errno or errno.EHOSTUNREACH
                else:
                    if self._stream is None:
                        self._stream = stream
                    else:  # adopted one in the same moment
                        await trio.aclose_forcefully(stream)
                    return 0
                if trio.current_time() + pause_s > give_up_at:
                    return code
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LAST_PAUSE_S)
        return code

    # Carrying

    async def _carry(self, base: Owner, stream: TcpStream) -> int:
        code = errno.ECONNRESET
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, stream, nursery.cancel_scope)
            try:
                await self._read(base, stream)
            except FrameError:
                base.refused["frame too long"] += 1
            except _NotStun:
                base.refused["not STUN"] += 1
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()
        return code

    async def _read(self, base: Owner, stream: TcpStream) -> None:
        while True:
            data = await stream.receive_some(_READ_SIZE)
            if not data:
                return
            self._unheard_since = None
            if base.knows(self) or not self.was_accepted:
                frames = self._frames.feed(data, MAX_FRAME)
            else:
                frames = self._listen_to_stranger(data)
            await base.take_frames(self.remote, frames)

    def _listen_to_stranger(self, data: bytes | bytearray) -> list[bytes]:
        self._stranger_bytes += len(data)
        frames = self._frames.feed(data, STRANGER_FRAME)
        if self._stranger_bytes > STRANGER_BYTES or not all(map(stun.looks_like_stun, frames[:1])):
            raise _NotStun
        return frames

    async def _write(self, stream: TcpStream, ending: trio.CancelScope) -> None:
        try:
            while True:
                frames = await self._queue.take()
                data = memoryview(b"".join(frames))
                for at in range(0, len(data), _WRITE_SIZE):
                    await stream.wait_send_all_might_not_block()
                    await stream.send_all(data[at : at + _WRITE_SIZE])
                self._queue.written(frames)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            ending.cancel()

    def _note_sending(self, now: float) -> None:
        if self._unheard_since is None:
            self._unheard_since = now


class _NotStun(Exception):
    """A connection that came in begins with something else than a check, or never gets to one."""
