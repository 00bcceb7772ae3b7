"""What the relay's tests share: engines under contract, a running relay, raw websockets."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeVar

import pytest
import trio
import trio.testing
from icesignal import wire
from icesignal.engines import Engine, MemoryEngine
from icesignal.engines.redis import RedisStore
from icesignal.engines.redis_url import parse_redis_url
from icesignal.engines.shared import SharedEngine
from icesignal.room import LogEntry
from icesignal.rooms import RoomLimits
from icesignal.server import Server, serve
from listeners import Listener, settled
from local_store import SharedLocalStore
from redis_process import running_redis
from relay_client import RawClient, connect_raw


def seeded(seed: int) -> Callable[[int], bytes]:
    """Return a source of bytes that is the same each time."""
    count = 0

    def randbytes(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{seed}/{count}".encode()).digest(size)

    return randbytes


class ContractNode:
    """A node that is asked for one thing at a time, and then waited for until all nodes know of it.

    `only_log` gives the log of the only room.
    """

    def __init__(
        self, engine: Engine, settle: Callable[[], Awaitable[None]], only_log: Callable[[], Sequence[LogEntry]]
    ) -> None:
        self.engine = engine
        self.settle = settle
        self.only_log = only_log
        self.is_ready = engine.is_ready

    async def handle_frame(self, subscriber: Listener, frame: wire.Frame) -> None:
        await self.engine.handle_frame(subscriber, frame)
        await self.settle()

    async def drained(self, subscriber: Listener) -> None:
        self.engine.drained(subscriber)
        await trio.lowlevel.checkpoint()
        await self.settle()

    async def disconnect(self, subscriber: Listener, *, hung_up: bool = False) -> None:
        await self.engine.disconnect(subscriber, hung_up=hung_up)
        await self.settle()


def only(rooms: Mapping[str, T]) -> T:
    (room,) = rooms.values()
    return room


def shared_node(engine: SharedEngine, settle: Callable[[], Awaitable[None]]) -> ContractNode:
    return ContractNode(engine, settle, lambda: only(engine.node._desks).state.log)


T = TypeVar("T")
MakeNodes = Callable[..., AbstractAsyncContextManager[tuple[ContractNode, ContractNode]]]


@asynccontextmanager
async def memory_nodes(limits: RoomLimits | None = None) -> AsyncIterator[tuple[ContractNode, ContractNode]]:
    """The memory engine is one node, however often it is asked for."""
    engine = MemoryEngine(limits=limits)
    async with engine.run():
        node = ContractNode(engine, trio.lowlevel.checkpoint, lambda: only(engine._table._registry.rooms).log)
        yield node, node


@asynccontextmanager
async def shared_nodes(limits: RoomLimits | None = None) -> AsyncIterator[tuple[ContractNode, ContractNode]]:
    """Two nodes of the shared engine, over a store in memory."""
    store = SharedLocalStore()
    one, other = (SharedEngine(store, limits=limits) for _ in range(2))
    async with one.run(), other.run():
        await trio.testing.wait_all_tasks_blocked()
        settle = trio.testing.wait_all_tasks_blocked
        yield shared_node(one, settle), shared_node(other, settle)


@asynccontextmanager
async def redis_nodes(limits: RoomLimits | None = None) -> AsyncIterator[tuple[ContractNode, ContractNode]]:
    """Two nodes of the shared engine over a Redis that runs for one test."""
    async with running_redis() as redis:
        stores = [RedisStore(parse_redis_url(redis.url), max_rooms=128) for _ in range(2)]
        one, other = (SharedEngine(store, limits=limits) for store in stores)
        async with one.run(), other.run(), redis.client() as client:
            settle = partial(settled, client, one, other)
            await settle()
            yield shared_node(one, settle), shared_node(other, settle)


# Each engine brings a function that yields two nodes which share their rooms.
ENGINES: dict[str, MakeNodes] = {"memory": memory_nodes, "shared": shared_nodes, "redis": redis_nodes}


@pytest.fixture(params=sorted(ENGINES))
def make_nodes(request: pytest.FixtureRequest) -> MakeNodes:
    if request.param == "redis" and "autojump_clock" in request.fixturenames:
        pytest.skip("the time of a real Redis cannot be jumped over")
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
