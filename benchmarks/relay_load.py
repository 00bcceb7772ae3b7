"""What one relay process bears, beside a bare trio-websocket echo that the same clients talk to in the same run.

    relay_load.py [--only joins|idle|messages|rooms] [--seconds 30] [--members 10000] [--smoke]

The clients are of one process with one `epoll`, and cost less than the relay: no PAKE, no TLS, websocket frames put
together by hand. Each says by X-Forwarded-For that it comes from a source of its own, as through a load balancer, so
that the limits per source are those of the default. The last column is what counts on a busy machine: how much a second
of the server's processor does.

- joins: pairs that meet (two connections, `allocate`, `join`) and part; a member that has its place counts as one join
- idle: members in rooms, and the memory of the process that each takes
- messages: pairs that send 100 bytes as fast as they are acknowledged, then at half of that, and how long each took
- rooms: 64 rooms of 64; how long a message to all takes to the last
"""

from __future__ import annotations

import argparse
import os
import resource
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from cheap_clients import PATIENCE_S, Client, Loop, Talk, frame_of
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from icesignal import tickets, wire

CONFIG = """
listen = "127.0.0.1:0"
trusted_proxies = ["127.0.0.1"]
[limits]
max_connections = 1000000
max_sources = 1000000
messages = { burst = 1000000000, per_s = 1000000000 }
bytes = { burst = 1000000000000, per_s = 1000000000000 }
first_frame_s = 3600
[rooms]
max_rooms = 1000000
"""
ECHO = """
import trio, trio_websocket
async def echo(request):
    websocket = await request.accept()
    try:
        while True:
            await websocket.send_message(await websocket.get_message())
    except trio_websocket.ConnectionClosed:
        pass
async def main():
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, echo, "127.0.0.1", 0, None)
        print(f"ws://127.0.0.1:{server.port}", flush=True)
trio.run(main)
"""
AT_ONCE = 64
"""Pairs that are on their way to meet at the same time."""
PAIRS = 64
"""Rooms in which messages are sent."""
PAYLOAD_BYTES = 100
OUTSTANDING = 8
"""Messages of a sender that are not acknowledged yet."""
ROOMS, MEMBERS = 64, 64


@dataclass(slots=True)
class Server:
    """A process that serves."""

    pid: int
    url: str

    def cpu_s(self) -> float:
        """Return the processor's time it has had."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mb(self) -> float:
        """Return the memory that it takes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    """Run a server that prints its URL in its first line."""
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(process.pid, process.stdout.readline().split()[-1])
        finally:
            process.terminate()
            process.wait()


@contextmanager
def relay() -> Iterator[Server]:
    """Run a relay as `icesignal-relay` does."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "relay.toml")
        config.write_text(CONFIG)
        code = "import sys; sys.stderr = sys.stdout; from icesignal.main import main; main()"
        with serving("-c", code, "--config", str(config)) as server:
            yield server


def rate(name: str, server: Server, loop: Loop, seconds: float, step: Callable[[], float], done: list[int]) -> float:
    """Step until the time is over, and wait as long as a step says; print and return how many a second were done."""
    began, cpu, before = time.perf_counter(), server.cpu_s(), done[0]
    while time.perf_counter() - began < seconds:
        loop.turn(step())
    took, used, number = time.perf_counter() - began, server.cpu_s() - cpu, done[0] - before
    each = f"{number / used:9.0f} each second of the processor's" if used else ""
    print(f"{name:44}{number / took:9.0f}/s {each}", flush=True)
    return number / took


def echoes(seconds: float) -> float:
    """Measure the yardstick: connections, each with one message and its echo."""
    with serving("-c", ECHO) as server:
        loop, done, open_now = Loop(server.url), [0], [0]

        def talk(client: Client) -> Talk:
            yield
            client.send_bytes(b"x" * PAYLOAD_BYTES)
            yield
            done[0] += 1
            open_now[0] -= 1

        def greet() -> float:
            while open_now[0] < 2 * AT_ONCE:
                open_now[0] += 1
                loop.connect(talk)
            return PATIENCE_S

        result = rate("bare echo: connections with one message", server, loop, seconds, greet, done)
        loop.close()
    return result


def joins(seconds: float) -> None:
    """Measure how fast pairs meet."""
    yardstick = echoes(seconds / 3)
    with relay() as server:
        loop, done, open_now = Loop(server.url), [0], [0]

        def invite(client: Client) -> Talk:
            yield
            yield  # welcome
            client.send(wire.Allocate(session=secrets.token_bytes(16), opening=b"o" * 33))
            room = str(frame_of((yield))["room"])
            done[0] += 1
            loop.connect(lambda other: join(other, room))
            yield  # the peer is there
            client.send(wire.Close(reason="done"))
            yield

        def join(client: Client, room: str) -> Talk:
            yield
            yield
            client.send(wire.Join(session=secrets.token_bytes(16), nameplate=room, opening=b"o" * 33))
            answer = frame_of((yield))
            if answer["type"] != "joined":
                raise SystemExit(f"no join: {answer}")
            done[0] += 1
            yield  # closed by the inviter
            open_now[0] -= 1

        def meet() -> float:
            while open_now[0] < AT_ONCE:
                open_now[0] += 1
                loop.connect(invite)
            return PATIENCE_S

        result = rate("joins", server, loop, seconds, meet, done)
        print(f"    {result / yardstick:.2f} joins for each of the echo's connections")
        loop.close()


def idle(members: int, seconds: float) -> None:
    """Measure what members take who do nothing."""
    with relay() as server:
        loop, here = Loop(server.url), [0]

        def stay(client: Client) -> Talk:
            yield
            yield
            client.send(wire.Allocate(session=secrets.token_bytes(16), opening=b"o" * 33))
            yield
            here[0] += 1
            while True:
                yield

        before = server.resident_mb()
        for asked in range(members):
            loop.connect(stay)
            while asked - here[0] > AT_ONCE:
                loop.turn()
        while here[0] < members:
            loop.turn()
        cpu, began = server.cpu_s(), time.perf_counter()
        while time.perf_counter() - began < seconds:
            loop.turn()
        share = (server.cpu_s() - cpu) / (time.perf_counter() - began)
        now = server.resident_mb()
        print(
            f"{members} idle members: {now:.0f} MB in all, {1024 * (now - before) / members:.1f} KB each, "
            f"{share:.1%} of a core (target for 10,000: 250 MB)"
        )
        loop.close()


class Pairs:
    """Rooms of two in which messages go one way."""

    def __init__(self, server: Server, number: int) -> None:
        """Have all of them meet."""
        self.loop, self.done, self.took_s = Loop(server.url), [0], list[float]()
        self.senders: list[Client] = []
        self.free: deque[Client] = deque()  # senders, once for each message that they may send
        self._numbers: dict[int, int] = {}
        for _ in range(number):
            self.loop.connect(self._invite)
        while len(self.senders) < number:
            self.loop.turn()

    def _invite(self, client: Client) -> Talk:
        yield
        yield
        client.send(wire.Allocate(session=secrets.token_bytes(16), opening=b"o" * 33))
        room = str(frame_of((yield))["room"])
        self.loop.connect(lambda other: self._join(other, room))
        yield
        self.senders.append(client)
        self.free.extend(OUTSTANDING * [client])
        while True:
            if frame_of((yield))["type"] == "ack":
                self.free.append(client)

    def _join(self, client: Client, room: str) -> Talk:
        yield
        yield
        client.send(wire.Join(session=secrets.token_bytes(16), nameplate=room, opening=b"o" * 33))
        yield
        while True:
            frame = frame_of((yield))
            if frame["type"] == "message":
                sent_at = float(cast("bytes", frame["payload"])[:20])
                self.took_s.append(time.perf_counter() - sent_at)
                self.done[0] += 1

    def send(self) -> float:
        """Send what may be sent, at most once for each sender; return how long to wait for more."""
        for _ in range(min(len(self.free), PAIRS)):
            self.send_one()
        return PATIENCE_S

    def send_one(self) -> None:
        """Send one message."""
        client = self.free.popleft()
        number = self._numbers[id(client)] = self._numbers.get(id(client), 0) + 1
        payload = f"{time.perf_counter():020.9f}".encode().ljust(PAYLOAD_BYTES)
        client.send(wire.Send(client_seq=number, payload=payload))


def messages(seconds: float) -> None:
    """Measure how many messages are relayed, and how long they take at half of that."""
    with relay() as server:
        pairs = Pairs(server, PAIRS)
        full = rate("messages, as many as go", server, pairs.loop, seconds, pairs.send, pairs.done)
        while len(pairs.free) < PAIRS * OUTSTANDING:
            pairs.loop.turn()
        pairs.took_s.clear()
        due = time.perf_counter()

        def pace() -> float:
            nonlocal due
            while due < time.perf_counter() and pairs.free:
                pairs.send_one()
                due += 2 / full
            return max(0.0, due - time.perf_counter())

        rate("messages, at half of that", server, pairs.loop, seconds, pace, pairs.done)
        times = sorted(pairs.took_s)
        print(f"    median {1e3 * statistics.median(times):.2f} ms, p99 {1e3 * times[len(times) * 99 // 100]:.2f} ms")
        pairs.loop.close()


class Many:
    """Rooms of many."""

    def __init__(self, server: Server, rooms: int, members: int) -> None:
        """Have everybody come in."""
        self.loop, self.heard = Loop(server.url), 0
        self.speakers: list[Client] = []
        self._entered = 0
        for number in range(rooms):
            key = Ed25519PrivateKey.generate()
            for place in range(members):
                self.loop.connect(partial(self._enter, room=key, is_first=place == 0))
            while self._entered < (number + 1) * members:
                self.loop.turn()

    def _enter(self, client: Client, *, room: Ed25519PrivateKey, is_first: bool) -> Talk:
        key, session = Ed25519PrivateKey.generate(), secrets.token_bytes(16)
        yield
        welcome = frame_of((yield))
        ticket = tickets.issue(
            room,
            tickets.Ticket(
                room=room.public_key().public_bytes_raw(),
                id=secrets.token_bytes(16),
                key=key.public_key().public_bytes_raw(),
                role="member",
                expires=int(time.time()) + 3600,
            ),
        )
        proof = tickets.prove(key, cast("bytes", welcome["challenge"]), session, ticket)
        client.send(wire.Enter(session=session, ticket=ticket, proof=proof, opening=b"o" * 33))
        while True:
            kind = frame_of((yield))["type"]
            if kind == "entered":
                self._entered += 1
                if is_first:
                    self.speakers.append(client)
            elif kind == "message":
                self.heard += 1


def rooms(number: int, members: int, rounds: int) -> None:
    """Measure how long a message to all takes to the last."""
    with relay() as server:
        many, took_ms = Many(server, number, members), list[float]()
        cpu = server.cpu_s()
        for count in range(1, rounds + 1):
            for speaker in many.speakers:
                began, many.heard = time.perf_counter(), 0
                speaker.send(wire.Send(client_seq=count, payload=bytes(PAYLOAD_BYTES)))
                while many.heard < members - 1:
                    many.loop.turn()
                took_ms.append(1e3 * (time.perf_counter() - began))
        each_ms = 1e3 * (server.cpu_s() - cpu) / len(took_ms)
        print(
            f"{number} rooms of {members}: a message to all is with the last after {statistics.median(took_ms):.1f} ms "
            f"(median), {max(took_ms):.1f} ms (worst); {each_ms:.1f} ms of the processor (target 50 ms)"
        )
        many.loop.close()


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("joins", "idle", "messages", "rooms"))
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, 2 * (resource.getrlimit(resource.RLIMIT_NOFILE)[1],))
    seconds, members = (1.0, 200) if options.smoke else (options.seconds, options.members)
    runs: dict[str, Callable[[], None]] = {
        "joins": lambda: joins(seconds),
        "idle": lambda: idle(members, min(seconds, 10.0)),
        "messages": lambda: messages(seconds / 3),
        "rooms": lambda: rooms(*((2, 8, 2) if options.smoke else (ROOMS, MEMBERS, 4))),
    }
    for name, run in runs.items():
        if options.only in (None, name):
            run()


if __name__ == "__main__":
    main()
