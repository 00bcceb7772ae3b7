"""What carries TURN messages to a server: UDP in batches, or a stream (TCP, TLS) cut into messages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final, Protocol

import trio

from iceagent.core import turn
from iceagent.core.address import TransportAddress
from iceagent.net.api import UdpSocket
from iceagent.net.batch import Batch
from iceagent.net.queues import SendQueue

STREAM_BUFFER: Final = 256 * 1024
"""Bytes that may wait for a stream before senders do; a few round trips' worth, since more would only add delay."""
CLOSED: Final = "the connection to the TURN server is closed"
_READ_SIZE: Final = 65536


class TurnTransport(Protocol):
    """A connection to one TURN server that keeps the boundaries of messages."""

    @property
    def local_address(self) -> TransportAddress:
        """Our end."""
        ...

    @property
    def server_address(self) -> TransportAddress:
        """The other end; a proxy's, where there is one."""
        ...

    @property
    def is_stream(self) -> bool:
        """Whether messages are padded and nothing is sent twice."""
        ...

    async def run(self) -> None:
        """Do what has to be done in the background, until cancelled."""
        ...

    def send_nowait(self, messages: Sequence[bytes]) -> int:
        """Send as many messages as can go at once; return how many.

        Raises:
            trio.ClosedResourceError: the transport is closed.
        """
        ...

    async def send(self, messages: Sequence[bytes]) -> None:
        """Send all, in order, waiting while there is no room. Raises as `send_nowait` does."""
        ...

    async def receive(self) -> list[Batch]:
        """Wait for messages; return all at hand. Empty where only ICMP errors came.

        Raises:
            trio.ClosedResourceError: the transport is closed.
            trio.BrokenResourceError: the connection is lost.
        """
        ...

    def take_errors(self) -> int:
        """Return how many ICMP errors about the server arrived since the last call."""
        ...

    def close(self) -> None:
        """Close at once. Idempotent."""
        ...


class UdpTransport:
    """UDP: the socket's own batches, to and from one address."""

    is_stream = False

    def __init__(self, sock: UdpSocket, server: TransportAddress) -> None:
        self._socket = sock
        self._server = server

    @property
    def local_address(self) -> TransportAddress:
        """Our end."""
        return self._socket.local_address

    @property
    def server_address(self) -> TransportAddress:
        """The server."""
        return self._server

    async def run(self) -> None:
        """Nothing has to be done in the background."""
        await trio.lowlevel.checkpoint()

    def send_nowait(self, messages: Sequence[bytes]) -> int:
        """Send what the socket takes."""
        return self._socket.send_nowait(messages, self._server)

    async def send(self, messages: Sequence[bytes]) -> None:
        """Send all."""
        await self._socket.send(messages, self._server)

    async def receive(self) -> list[Batch]:
        """Wait for what comes from the server; everybody else's datagrams are dropped."""
        return [batch for batch in await self._socket.receive() if batch.remote == self._server]

    def take_errors(self) -> int:
        """Return how many ICMP errors arrived."""
        return sum(error.remote == self._server for error in self._socket.take_errors())

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class StreamTransport:
    """A byte stream to a server: one writer task, a bounded buffer, and messages cut out of what arrives.

    Args:
        stream: connected; owned from now on.
        local: our end.
        server: the other end.
    """

    is_stream = True

    def __init__(self, stream: trio.abc.Stream, local: TransportAddress, server: TransportAddress) -> None:
        self._stream = stream
        self._local = local
        self._server = server
        self._frames = turn.StreamFrames()
        self._queue = SendQueue(STREAM_BUFFER, len, CLOSED)
        self._scope = trio.CancelScope()

    @property
    def local_address(self) -> TransportAddress:
        """Our end."""
        return self._local

    @property
    def server_address(self) -> TransportAddress:
        """The server, or the proxy in between."""
        return self._server

    async def run(self) -> None:
        """Write what is queued, until closed or cut off."""
        try:
            with self._scope:
                while True:
                    messages = await self._queue.take()
                    await self._stream.send_all(b"".join(messages))
                    self._queue.written(messages)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass  # the reader meets the same, and reports it
        finally:
            self.close()
            await trio.aclose_forcefully(self._stream)

    def send_nowait(self, messages: Sequence[bytes]) -> int:
        """Queue what there is room for; a single message always fits into an empty buffer."""
        return self._queue.send_nowait(messages)

    async def send(self, messages: Sequence[bytes]) -> None:
        """Queue all, waiting for room; senders take their turns in order."""
        await self._queue.send(messages)

    async def receive(self) -> list[Batch]:
        """Wait for whole messages; neighbours of one length make one batch."""
        while True:
            self._queue.check_open()
            try:
                data = await self._stream.receive_some(_READ_SIZE)
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error
            if not data:
                raise trio.BrokenResourceError("the server has closed the connection")
            frames = self._frames.feed(bytes(data))
            if frames:
                return batches_of(self._server, frames)
            if self._frames.broken:
                raise trio.BrokenResourceError("the server sent something that is not TURN")

    def take_errors(self) -> int:
        """Streams have no ICMP errors: they break."""
        return 0

    def close(self) -> None:
        """Stop writing and reading; `run` closes the stream."""
        self._queue.close()
        self._scope.cancel()


def batches_of(server: TransportAddress, messages: Sequence[bytes]) -> list[Batch]:
    """Return messages of a server as batches, in order: neighbours of one length make one."""
    batches: list[Batch] = []
    for size, group in groupby(messages, len):
        same = list(group)
        batches.append(Batch(server, same[0] if len(same) == 1 else b"".join(same), size))
    return batches
