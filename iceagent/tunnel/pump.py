"""Copies bytes both ways between two streams, each direction ending when it ends (trap 45).

Nothing is buffered here: a slow reader stops the read on the other side, through the link, to the sender (trap 46).
"""

from __future__ import annotations

import socket
import struct
from typing import Protocol, runtime_checkable

import trio

from iceagent.session.raw import ByteStream, NamedStream

CHUNK = 256 * 1024  # bytes per read: a bulk flow costs one wake-up per chunk, and a connection holds at most two
RESET_TUNNEL = 3  # the code of a stream whose other half failed
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


async def pump(near: ByteStream, far: NamedStream, *, incoming: Source | None = None) -> None:
    """Copy both ways until both directions have ended, then close both streams.

    When one side breaks, the other is broken off too, so that nobody takes half an answer for a whole one; the error
    is raised. The same when cancelled.

    Args:
        near: the local socket.
        far: the stream of the link.
        incoming: where the far side's bytes are read, if not from `far` itself.
    Raises:
        trio.BrokenResourceError, trio.ClosedResourceError: a stream broke.
        Exception: whatever `incoming` raises.
    """
    finished = False
    failure: Exception | None = None

    async def direction(source: Source, sink: Sink) -> None:
        nonlocal failure
        try:
            await copy(source, sink)
        except Exception as error:
            failure = failure or error
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(direction, near, far)
            nursery.start_soon(direction, incoming or far, near)
        if failure is not None:
            raise failure
        await near.aclose()
        await far.aclose()
        finished = True
    finally:
        if not finished:
            break_off(near)
            far.reset(RESET_TUNNEL)


def break_off(stream: ByteStream) -> None:
    """Close a local stream at once; a TCP peer sees a reset, as it would have without the tunnel."""
    if isinstance(stream, trio.SocketStream):
        if stream.socket.fileno() < 0:
            return
        if stream.socket.family in {socket.AF_INET, socket.AF_INET6}:
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        stream.socket.close()
    elif isinstance(stream, Closable):
        stream.close()
