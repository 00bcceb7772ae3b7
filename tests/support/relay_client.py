"""Clients of a relay that say exactly what they are told to, from wherever they are told to be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import icesignal
import trio
from icesignal import wire
from icesignal.dial import OpenStream, dial
from icesignal.engines import MemoryEngine
from icesignal.server import serve
from icesignal.transport import ConnectionEnded, WebsocketConnection
from icesignal.url import parse_relay_url


@dataclass
class RawClient:
    """A connection that says exactly what it is told to."""

    connection: WebsocketConnection
    welcome: wire.Welcome

    async def ask(self, frame: wire.Frame) -> wire.Frame:
        self.say(frame)
        return await self.hear()

    def say(self, frame: wire.Frame) -> None:
        self.connection.send_nowait(wire.encode(frame))

    def say_bytes(self, data: bytes) -> None:
        self.connection.send_nowait(data)

    async def hear(self) -> wire.Frame:
        return wire.decode_relay_untrusted(await self.connection.receive())

    async def end(self) -> int:
        """Wait for the end, return its close code."""
        try:
            while True:
                await self.connection.receive()
        except ConnectionEnded as ended:
            return ended.code


@asynccontextmanager
async def sealed_pair(
    url: str, *, timeout_s: float = 10.0
) -> AsyncIterator[tuple[icesignal.SealedChannel, icesignal.SealedChannel]]:
    """Two peers that have met: the inviter's channel, the joiner's. `timeout_s`: for the relay to answer."""
    channels: list[icesignal.SealedChannel] = []
    async with icesignal.open_invitation(url, timeout_s=timeout_s) as invitation, trio.open_nursery() as nursery:

        async def wait() -> None:
            channels.append(await invitation.wait_peer())

        nursery.start_soon(wait)
        async with icesignal.open_join(url, invitation.code, timeout_s=timeout_s) as joined:
            while not channels:
                await trio.sleep(0)
            yield channels[0], joined


@asynccontextmanager
async def connect_raw(url: str, *, source: str | None = None) -> AsyncIterator[RawClient]:
    """Connect to a relay; as `source`, if given, which the relay believes if it trusts loopback as a proxy."""
    open_stream = None if source is None else speaking_for(source)
    place = parse_relay_url(url)
    async with dial(place, ssl_context=None, timeout_s=5, open_stream=open_stream) as (connection, welcome):
        yield RawClient(connection, welcome)


def speaking_for(source: str) -> OpenStream:
    """Return what opens connections that begin with a PROXY header for `source`."""

    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        stream = await trio.open_tcp_stream(host, port)
        family, here = ("TCP6", "::1") if ":" in source else ("TCP4", "127.0.0.1")
        await stream.send_all(f"PROXY {family} {source} {here} 4711 {port}\r\n".encode())
        return stream

    return open_stream


class Restartable:
    """A relay that goes away and comes back on its port."""

    def __init__(self, nursery: trio.Nursery, engine: MemoryEngine | None = None) -> None:
        self.url = ""
        self._nursery = nursery
        self._engine = engine
        self._port = 0

    async def start(self) -> None:
        self._stop, self._stopped = trio.Event(), trio.Event()
        await self._nursery.start(self._run)

    async def stop(self) -> None:
        self._stop.set()
        await self._stopped.wait()

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        async with serve(port=self._port, engine=self._engine) as server:
            self.url, self._port = server.url, server.port
            task_status.started()
            await self._stop.wait()
        self._stopped.set()


def cut(client: icesignal.Client | icesignal.Room) -> None:
    """Kill a client's connection as the network does: without a word."""
    connection: Any = client._keeper.connection
    connection._stream._stream.socket.close()
