"""Copies bytes both ways between two streams, each direction ending when it ends (trap 45).

Nothing is buffered here: a slow reader stops the read on the other side, through the link, to the sender (trap 46).
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Protocol, runtime_checkable

import trio

from iceagent.session.raw import ByteStream, NamedStream

CHUNK = 256 * 1024  # bytes per read: a bulk flow costs one wake-up per chunk, and a connection holds at most two
LAST_WORD_S = 1.0  # for the answer that comes with, or right after, the refusal to take more
RESET_TUNNEL = 18  # the code of a stream whose other half failed; 0 to 15 are the link's own
_LINGER_RESET = struct.pack("ii", 1, 0)


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


@runtime_checkable
class Closable(Protocol):
    """What can be closed without waiting."""

    def close(self) -> None:
        """Close at once."""
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

    def __init__(self, far: NamedStream) -> None:
        self.is_broken = False
        self._far = far

    async def send_all(self, data: bytes) -> None:
        try:
            await self._far.send_all(data)
        except trio.BrokenResourceError:
            self.is_broken = True
            raise

    async def send_eof(self) -> None:
        await self._far.send_eof()


async def pump(near: ByteStream, far: NamedStream, *, incoming: Source | None = None) -> None:
    """Copy both ways until both directions have ended, then close both streams.

    When one side breaks, the other is broken off too, so that nobody takes half an answer for a whole one; the error
    is raised. The same when cancelled. A far side that takes nothing more may still have a last word, such as why.

    Args:
        near: the local socket.
        far: the stream of the link.
        incoming: where the far side's bytes are read, if not from `far` itself.
    Raises:
        trio.BrokenResourceError, trio.ClosedResourceError: a stream broke.
        Exception: whatever `incoming` raises.
    """
    failures: list[Exception] = []
    outgoing = _Outgoing(far)
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
            await copy(incoming or far, near)
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
        await near.aclose()
        await far.aclose()
    except BaseException:
        break_off(near)
        far.reset(RESET_TUNNEL)
        raise


def break_off(stream: ByteStream) -> None:
    """Close a local stream at once; a TCP peer sees a reset, as it would have without the tunnel."""
    if isinstance(stream, trio.SocketStream):
        if stream.socket.fileno() < 0:
            return
        if stream.socket.family in {socket.AF_INET, socket.AF_INET6}:
            with suppress(OSError):  # some systems refuse once the peer has reset the connection itself
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        stream.socket.close()
    elif isinstance(stream, Closable):
        stream.close()
