"""What the relay's tests share: engines under contract, a running relay, raw websockets."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio
from icesignal import wire
from icesignal.engines import Engine, MemoryEngine
from icesignal.rooms import RoomLimits
from icesignal.server import Server, serve
from icesignal.sources import Levels
from relay_client import RawClient, connect_raw


def seeded(seed: int) -> Callable[[int], bytes]:
    """Return a source of bytes that is the same each time."""
    count = 0

    def randbytes(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{seed}/{count}".encode()).digest(size)

    return randbytes


@dataclass(eq=False)
class Listener:
    """A subscriber that remembers."""

    frames: list[wire.Frame] = field(default_factory=list)
    closed: wire.CloseCode | None = None
    levels: Levels = (("test", 1.0),)
    confirmed: int = 0
    challenge: bytes = b"c" * 32

    copies: int = 0

    def confirm(self) -> None:
        self.confirmed += 1

    def charge(self, copies: int, size: int) -> None:
        self.copies += copies

    def deliver(self, frame: wire.Frame) -> None:
        assert self.closed is None, "nothing is delivered after the close"
        self.frames.append(frame)

    def close(self, code: wire.CloseCode) -> None:
        self.closed = code

    def take(self, kind: type[wire.Frame] | None = None) -> list[wire.Frame]:
        """Return and forget the frames, of one kind if asked."""
        taken = [frame for frame in self.frames if kind is None or type(frame) is kind]
        self.frames = [frame for frame in self.frames if frame not in taken] if kind is not None else []
        return taken

    def one(self, kind: type[wire.Frame]) -> wire.Frame:
        """Return the only frame of a kind, and forget it."""
        (frame,) = self.take(kind)
        return frame


MakeNodes = Callable[..., AbstractAsyncContextManager[tuple[Engine, Engine]]]


@asynccontextmanager
async def memory_nodes(limits: RoomLimits | None = None) -> AsyncIterator[tuple[Engine, Engine]]:
    """The memory engine is one node, however often it is asked for."""
    engine = MemoryEngine(limits=limits)
    async with engine.run():
        yield engine, engine


# Each engine brings a function that yields two nodes which share their rooms.
ENGINES: dict[str, MakeNodes] = {"memory": memory_nodes}


@pytest.fixture(params=sorted(ENGINES))
def make_nodes(request: pytest.FixtureRequest) -> MakeNodes:
    return ENGINES[request.param]


@pytest.fixture
def new_listener() -> type[Listener]:
    return Listener


@pytest.fixture
def make_seeded() -> Callable[[int], Callable[[int], bytes]]:
    return seeded


@pytest.fixture
async def relay() -> AsyncIterator[Server]:
    async with serve(ice_servers=[{"urls": ["stun::3478"]}]) as server:
        yield server


@pytest.fixture
def raw(relay: Server) -> Callable[[], AbstractAsyncContextManager[RawClient]]:
    return partial(connect_raw, relay.url)


@pytest.fixture
def raw_to() -> Callable[[str], AbstractAsyncContextManager[RawClient]]:
    return connect_raw


async def http_get(port: int, request: bytes) -> bytes:
    """Send bytes to the relay's port, return everything it answers."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(request)
        answer = b""
        with trio.fail_after(60):
            while data := await stream.receive_some():
                answer += data
        return answer


@pytest.fixture
def http_exchange() -> Callable[[int, bytes], object]:
    return http_get
