"""Copies bytes both ways between two streams, each direction for itself: the end of one leaves the other open.

Nothing is buffered here: a slow reader stops the read on the other side, through the link, to the sender. So
memory stays bounded.

A broken connection must not look like one that has ended: half an answer would be taken for a whole one.

Over TCP the peer of a broken connection gets a reset. The system sends an ordinary end for the connections of a killed
process. So every connection is *armed* from its first moment: whoever closes it resets it, also the system after a
`kill -9` (SO_LINGER with a time of zero; RFC 9293 section 3.10.4 calls it ABORT). It is disarmed only for the close
after both directions have ended well.

Unix sockets and pipes have no reset: their reader sees an ordinary end, and only the log can show the difference.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Protocol, runtime_checkable

import trio

from iceagent.net.logs import limited_logger
from iceagent.net.tcp import LINGER_END, LINGER_RESET
from iceagent.session.raw import ByteStream, NamedStream
from iceagent.tunnel.traffic import Traffic

_INTERNET = {socket.AF_INET, socket.AF_INET6}


@runtime_checkable
class Closable(Protocol):
    """What can be closed without waiting."""

    def close(self) -> None:
        """Close at once."""
        ...


def arm(sock: socket.socket | trio.socket.SocketType) -> None:
    """Let closing this socket reset its connection, whether we close it or the end of this process does.

    A listener hands it on to what it accepts where the system does so (Linux, the BSDs); what was accepted is armed
    again. Nothing for a Unix socket, which has no reset.
    """
    _set_linger(sock, LINGER_RESET)


def disarm(stream: ByteStream) -> None:
    """Let closing this stream end it well: what was written is delivered, then comes the end."""
    if isinstance(stream, trio.SocketStream):
        _set_linger(stream.socket, LINGER_END)


def break_off(stream: ByteStream | trio.abc.Stream) -> None:
    """Close a local stream at once; a TCP peer sees a reset, as it would have without the tunnel."""
    if isinstance(stream, trio.SocketStream):
        if stream.socket.fileno() < 0:
            return
        arm(stream.socket)
        stream.socket.close()
    elif isinstance(stream, Closable):
        stream.close()


def has_reset(stream: ByteStream) -> bool:
    """Return whether the reader of a local stream can see that it broke."""
    return not isinstance(stream, trio.SocketStream) or stream.socket.family in _INTERNET


def _set_linger(sock: socket.socket | trio.socket.SocketType, value: bytes) -> None:
    if sock.family in _INTERNET:
        with suppress(OSError):  # some systems refuse once the peer has reset the connection itself
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value)


CHUNK = 256 * 1024  # bytes per read: a bulk flow costs one wake-up per chunk, and a connection holds at most two
LAST_WORD_S = 1.0  # for the answer that comes with, or right after, the refusal to take more
RESET_TUNNEL = 18  # the code of a stream whose other half failed; 0 to 15 are the link's own

_log = limited_logger(__name__)


class Source(Protocol):
    """What can be read from."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what is at hand, `b""` at the end."""
        ...


class Sink(Protocol):
    """What can be written to, and ended."""

    async def send_all(self, data: bytes) -> None:
        """Send, waiting while the other side does not read."""
        ...

    async def send_eof(self) -> None:
        """End this direction."""
        ...


async def copy(source: Source, sink: Sink) -> int:
    """Copy until the source ends, then end the sink; return the number of bytes.

    Raises:
        trio.BrokenResourceError, trio.ClosedResourceError: either broke.
    """
    count = 0
    while data := await source.receive_some(CHUNK):
        await sink.send_all(data)
        count += len(data)
    await sink.send_eof()
    return count


class _Outgoing:
    """The link's stream as a sink that remembers whether it was the one that broke."""

    def __init__(self, far: NamedStream, traffic: Traffic) -> None:
        self.is_broken = False
        self._far = far
        self._traffic = traffic

    async def send_all(self, data: bytes) -> None:
        try:
            await self._far.send_all(data)
            self._traffic.sent += len(data)
        except trio.BrokenResourceError:
            self.is_broken = True
            raise

    async def send_eof(self) -> None:
        try:
            await self._far.send_eof()
        except trio.BrokenResourceError:
            self.is_broken = True
            raise


class _Delivered:
    """The local stream as a sink that remembers how much it took, and whether it got the end."""

    def __init__(self, near: ByteStream, traffic: Traffic) -> None:
        self.count = 0
        self.has_ended = False
        self._near = near
        self._traffic = traffic

    async def send_all(self, data: bytes) -> None:
        await self._near.send_all(data)
        self.count += len(data)
        self._traffic.received += len(data)

    async def send_eof(self) -> None:
        await self._near.send_eof()
        self.has_ended = True


async def pump(
    near: ByteStream, far: NamedStream, *, incoming: Source | None = None, traffic: Traffic | None = None
) -> None:
    """Copy both ways until both directions have ended, then close both streams.

    When one side breaks, the other is broken off too, so that nobody takes half an answer for a whole one; the error
    is raised. The same when cancelled; a local stream that cannot show it, such as a Unix socket, is at least named in
    the log, with how much it got. A far side that takes nothing more may still say why.

    Args:
        near: the local socket.
        far: the stream of the link.
        incoming: where the far side's bytes are read, if not from `far` itself.
        traffic: where what is carried is counted.
    Raises:
        trio.BrokenResourceError, trio.ClosedResourceError: a stream broke.
        Exception: whatever `incoming` raises.
    """
    failures: list[Exception] = []
    traffic = traffic or Traffic()
    outgoing, delivered = _Outgoing(far, traffic), _Delivered(near, traffic)
    incoming_ended = trio.Event()

    async def send() -> None:
        try:
            await copy(near, outgoing)
        except Exception as error:
            if outgoing.is_broken:
                with trio.move_on_after(LAST_WORD_S):
                    await incoming_ended.wait()
            failures.append(error)
            nursery.cancel_scope.cancel()

    async def receive() -> None:
        try:
            await copy(incoming or far, delivered)
        except Exception as error:
            failures.append(error)
            nursery.cancel_scope.cancel()
        incoming_ended.set()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(receive)
        if failures:
            raise failures[0]
        disarm(near)
        await near.aclose()
        await far.aclose()
    except BaseException:
        if delivered.count and not delivered.has_ended and not has_reset(near):
            _log.warning("a connection broke after %d bytes; its program sees an ordinary end there", delivered.count)
        break_off(near)
        far.reset(RESET_TUNNEL)
        raise
