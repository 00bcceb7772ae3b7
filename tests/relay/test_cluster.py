"""Three relays behind haproxy and one Redis, real processes, killed and started while clients talk.

A part of it by default; all of it, as the Makefile says, with `make cluster`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import icesignal
import pytest
import trio
from coturn import free_port
from icesignal import MemberKey, RoomKey
from icesignal.room_events import MessagesMissed, RoomEnded, RoomMessage
from redis_process import RunningRedis, running_redis

IS_WHOLE = bool(os.environ.get("ICEAGENT_CLUSTER"))
PAIRS, CROWDS, MESSAGES, KILLS = (200, 20, 50, 9) if IS_WHOLE else (4, 1, 10, 3)
MEMBERS = 8
NODES = 3
LIMITS = """
[limits]
max_connections_per_source = 4000
connections = { burst = 100000, per_s = 100000 }
joins = { burst = 100000, per_s = 100000 }
messages = { burst = 1000000, per_s = 100000 }
bytes = { burst = 1000000000, per_s = 100000000 }
[rooms]
rooms_per_source = 4000
"""
HAPROXY = """
defaults
  mode tcp
  timeout connect 1s
  timeout client 1h
  timeout server 1h
  retries 3
  option redispatch
frontend relay
  bind 127.0.0.1:{port}
  maxconn 4000
  default_backend nodes
backend nodes
  balance leastconn
  option httpchk GET /readyz
  default-server check inter 200ms fall 2 rise 1 on-marked-down shutdown-sessions
"""


@dataclass
class Cluster:
    """The processes."""

    redis: RunningRedis
    folder: Path
    ports: list[int]
    port: int = 0
    relays: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    haproxy: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def start_relay(self, at: int) -> None:
        config = self.folder / "relay.toml"
        config.write_text(f'engine = "{self.redis.url}"\n{LIMITS}')
        command = [sys.executable, "-c", "from icesignal.main import main; main()"]
        where = ["--listen", f"127.0.0.1:{self.ports[at]}", "--config", str(config)]
        with (self.folder / f"relay{at}.log").open("ab") as log:
            self.relays[at] = subprocess.Popen([*command, *where], stdout=log, stderr=log)

    def kill_relay(self, at: int) -> None:
        self.relays[at].send_signal(signal.SIGKILL)
        self.relays[at].wait()

    async def wait_ready(self, port: int) -> None:
        with trio.fail_after(120):
            while not await is_ready(port):
                await trio.sleep(0.1)

    def start_haproxy(self) -> None:
        config = self.folder / "haproxy.cfg"
        servers = "".join(f"  server n{port} 127.0.0.1:{port}\n" for port in self.ports)
        config.write_text(HAPROXY.format(port=self.port) + servers)
        self.haproxy = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stderr=subprocess.DEVNULL)

    def end(self) -> None:
        for process in (*self.relays.values(), self.haproxy):
            if process is not None:
                process.kill()
                process.wait()


async def is_ready(port: int) -> bool:
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET /readyz HTTP/1.1\r\nHost: relay\r\n\r\n")
            return (await stream.receive_some(12)) == b"HTTP/1.1 200"
    except (OSError, trio.BrokenResourceError):
        return False


@asynccontextmanager
async def running_cluster(folder: Path) -> AsyncIterator[Cluster]:
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed")
    async with running_redis() as redis:
        cluster = Cluster(redis, folder, [free_port() for _ in range(NODES)], free_port())
        try:
            for at in range(NODES):
                cluster.start_relay(at)
            for port in cluster.ports:
                await cluster.wait_ready(port)
            cluster.start_haproxy()
            await cluster.wait_ready(cluster.port)
            yield cluster
        finally:
            cluster.end()


@dataclass
class Progress:
    """How many messages have been heard."""

    heard: int = 0
    changed: trio.Event = field(default_factory=trio.Event)

    def step(self) -> None:
        self.heard += 1
        self.changed.set()
        self.changed = trio.Event()

    async def wait(self, count: float) -> None:
        while self.heard < count:
            await self.changed.wait()


async def talk_as_pair(url: str, number: int, met: Callable[[], None], begin: trio.Event, progress: Progress) -> None:
    """One says a number, the other says it back; what is heard is each number once, in order."""
    name = number.to_bytes(32, "big")
    async with icesignal.open_client(url) as inviter, icesignal.open_client(url) as joiner:
        await inviter.meet(name, "inviter")
        await joiner.meet(name, "joiner")
        met()
        await begin.wait()
        for message in range(MESSAGES):
            await inviter.send(b"%d" % message)
            assert await joiner.receive() == b"%d" % message
            await joiner.send(b"back %d" % message)
            assert await inviter.receive() == b"back %d" % message
            progress.step()


async def talk_in_crowd(url: str, met: Callable[[], None], begin: trio.Event, progress: Progress) -> None:
    """All hear all of each other, each message once and in order."""
    key = RoomKey.generate()
    members = [MemberKey.generate() for _ in range(MEMBERS)]
    rooms: list[icesignal.Room] = []
    async with AsyncExitStack() as stack:
        for member in members:
            ticket = key.ticket(member.public)
            rooms.append(await stack.enter_async_context(icesignal.open_room(url, ticket, member)))
        heard: dict[int, dict[bytes, list[bytes]]] = {at: {} for at in range(MEMBERS)}
        acquainted = trio.Event()

        async def listen(at: int, room: icesignal.Room) -> None:
            with trio.fail_after(3_000):
                while True:
                    event = await room.__anext__()
                    assert not isinstance(event, MessagesMissed | RoomEnded), event
                    if isinstance(event, RoomMessage):
                        heard[at].setdefault(event.sender, []).append(event.payload)
                        progress.step()
                    if all(len(one.members) == MEMBERS - 1 for one in rooms):
                        acquainted.set()
                    if sum(map(len, heard[at].values())) == (MEMBERS - 1) * MESSAGES:
                        return

        async with trio.open_nursery() as nursery:
            for at, room in enumerate(rooms):
                nursery.start_soon(listen, at, room)
            await acquainted.wait()
            met()
            await begin.wait()
            for message in range(MESSAGES):
                for room in rooms:
                    await room.send(b"%04d" % message)
        expected = [b"%04d" % message for message in range(MESSAGES)]
        assert all(said == expected for by_sender in heard.values() for said in by_sender.values())


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.timeout(3_600 if IS_WHOLE else 600)
async def test_rooms_outlive_nodes_and_a_restart_of_redis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nodes are killed and started in turn, Redis once: every room finishes, nothing is lost and nothing doubled."""
    count = 0
    all_met, begin, progress = trio.Event(), trio.Event(), Progress()

    def met() -> None:
        nonlocal count
        count += 1
        if count == PAIRS + CROWDS:
            all_met.set()

    async with running_cluster(tmp_path) as cluster, trio.open_nursery() as nursery:
        for number in range(PAIRS):
            nursery.start_soon(talk_as_pair, cluster.url, number, met, begin, progress)
        for _ in range(CROWDS):
            nursery.start_soon(talk_in_crowd, cluster.url, met, begin, progress)
        await all_met.wait()
        begin.set()
        total = PAIRS * MESSAGES + CROWDS * MEMBERS * (MEMBERS - 1) * MESSAGES
        for kill in range(KILLS):
            await progress.wait(total * (kill + 1) / (KILLS + 2))
            cluster.kill_relay(kill % NODES)
            if kill == KILLS // 2:
                cluster.redis.kill()
                await cluster.redis.start()
            cluster.start_relay(kill % NODES)
            await cluster.wait_ready(cluster.ports[kill % NODES])
    with capsys.disabled():
        print(f"\n{PAIRS} rooms of two and {CROWDS} of {MEMBERS}: {total:,} messages heard, {KILLS} nodes killed")
