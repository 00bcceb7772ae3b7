"""The real relay and its real clients, joined by memory: what time does to them takes virtual time.

And a relay that says what it is given to say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import icesignal
import trio
from icesignal import http, wire
from icesignal.access import Access, IceServers, servers_for_each
from icesignal.client import open_client
from icesignal.engines import MemoryEngine
from icesignal.rooms import RoomLimits
from icesignal.server import Server
from icesignal.sources import Limits
from icesignal.transport import ConnectionEnded
from icesignal.websocket import Websockets
from trio.testing import memory_stream_pair

URL = "ws://relay.example:8080"


class _Stream(trio.abc.Stream):
    """The relay's end of a connection; it is told where the other end is."""

    def __init__(self, stream: trio.StapledStream[Any, Any], host: str) -> None:
        self._stream = stream
        self.socket = SimpleNamespace(
            getpeername=lambda: (host, 40000), getsockname=lambda: ("192.0.2.1", 8080), close=self._close
        )

    def _close(self) -> None:
        self._stream.send_stream.close()
        self._stream.receive_stream.close()

    async def send_all(self, data: Any) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._stream.aclose()


@dataclass
class MemoryRelay:
    """A relay that runs, and whether its clients reach it.

    Attributes:
        server: the relay.
        is_up: whether connections can be made.
    """

    server: Server
    nursery: trio.Nursery
    is_up: bool = True
    connections: list[trio.StapledStream[Any, Any]] = field(default_factory=list)
    _hosts: int = 0

    @asynccontextmanager
    async def client(self) -> AsyncIterator[icesignal.Client]:
        """Yield a client with an address of its own."""
        async with open_client(URL, open_stream=self.way()) as client:
            yield client

    def way(self) -> icesignal.OpenStream:
        """Return what connects to it, from an address of its own."""
        self._hosts += 1
        host = f"198.51.100.{self._hosts}"

        async def open_stream(_host: str, _port: int) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            if not self.is_up:
                raise OSError("no route to the relay")
            ours, theirs = memory_stream_pair()
            self.connections.append(ours)
            serve: Any = self.server.handle_stream
            self.nursery.start_soon(serve, _Stream(theirs, host))
            return ours

        return open_stream

    async def cut(self) -> None:
        """Break all connections, and let none be made."""
        self.is_up = False
        for stream in self.connections:
            await trio.aclose_forcefully(stream)
        self.connections.clear()

    @asynccontextmanager
    async def channels(self) -> AsyncIterator[tuple[icesignal.SealedChannel, icesignal.SealedChannel]]:
        """Yield the inviter's and the joiner's sealed channel."""
        async with (
            self.client() as first,
            self.client() as second,
            icesignal.open_invitation(first) as invitation,
        ):
            found: list[icesignal.SealedChannel] = []
            met = trio.Event()

            async def wait() -> None:
                found.append(await invitation.wait_peer())
                met.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                async with icesignal.open_join(second, invitation.code) as joiner:
                    await met.wait()
                    yield found[0], joiner


@asynccontextmanager
async def open_memory_relay(
    ice_servers: IceServers = (), limits: RoomLimits | None = None
) -> AsyncIterator[MemoryRelay]:
    """Run a relay that is reached by memory."""
    engine = MemoryEngine(limits=limits)
    server = Server(engine, Limits(), servers_for_each(ice_servers), None, Access.parse((), (), None))
    async with engine.run(), server.websockets.run(), trio.open_nursery() as nursery:
        yield MemoryRelay(server, nursery)
        nursery.cancel_scope.cancel()


async def play_relay(said: list[bytes], stream: trio.abc.Stream) -> None:
    """Be a relay that welcomes, and says what it was given to say upon the first frame."""
    request = await http.read_request(stream)
    assert request is not None
    websockets = Websockets()
    async with websockets.run(), websockets.accept(stream, http.upgrade(request), b"") as connection:
        connection.send_nowait(wire.encode(wire.Welcome(versions=[1])))
        try:
            await connection.receive()
            for message in said:
                connection.send_nowait(message)
            while True:
                await connection.receive()
        except ConnectionEnded:
            pass
