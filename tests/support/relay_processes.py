"""Servers in processes of their own, whose processor time and memory are looked at: relays, a bare echo, Redis."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cheap_clients import Loop

CONFIG = """
listen = "127.0.0.1:0"
trusted_proxies = ["127.0.0.1"]
engine = "ENGINE"
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
CORES = sorted(os.sched_getaffinity(0))
RELAY = "import sys; sys.stderr = sys.stdout; from icesignal.main import main; main()"


@dataclass(slots=True)
class Server:
    """A process that serves."""

    pid: int
    url: str

    def cpu_s(self) -> float:
        """Return the processor's time it has had."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def pause(self) -> None:
        """Have it do nothing until `go_on`."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it do again what there is to do."""
        os.kill(self.pid, signal.SIGCONT)

    def resident_mb(self) -> float:
        """Return the memory that it takes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@contextmanager
def serving(*arguments: str, core: int = 0) -> Iterator[Server]:
    """Run a server that prints its URL in its first line, on the first core of ours or on another one."""
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            server = Server(process.pid, process.stdout.readline().split()[-1])
            os.sched_setaffinity(process.pid, {CORES[core % len(CORES)]})
            yield server
        finally:
            process.terminate()
            process.wait()


def leave_first_core() -> None:
    """Have this process, and what it starts but does not place, run beside the server and not instead of it."""
    os.sched_setaffinity(0, CORES[1:] or CORES)


@contextmanager
def echo() -> Iterator[Server]:
    """Run the yardstick: a bare echo of trio-websocket."""
    with serving("-c", ECHO) as server:
        yield server


@contextmanager
def relay(engine: str = "memory", core: int = 0) -> Iterator[Server]:
    """Run a relay as `icesignal-relay` does."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "relay.toml")
        config.write_text(CONFIG.replace("ENGINE", engine))
        with serving("-c", RELAY, "--config", str(config), core=core) as server:
            yield server


@dataclass(slots=True)
class Redis:
    """A Redis of the system's."""

    port: int

    @property
    def url(self) -> str:
        """What relays are told."""
        return f"redis://127.0.0.1:{self.port}"

    def information(self) -> dict[str, float]:
        """Return the numbers of INFO."""
        with socket.create_connection(("127.0.0.1", self.port)) as sock, sock.makefile("rwb") as file:
            file.write(b"INFO everything\r\n")
            file.flush()
            size = int(file.readline()[1:])
            lines = (line.partition(":") for line in file.read(size).decode().splitlines())
            # Of a command the number of calls: `cmdstat_get:calls=21,usec=175,…`
            numbers = ((key, value.removeprefix("calls=").partition(",")[0]) for key, _, value in lines)
            return {key: float(value) for key, value in numbers if value.replace(".", "", 1).isdigit()}


@contextmanager
def running_redis() -> Iterator[Redis]:
    """Run a Redis as `deploy/redis.conf` has it: what it is told is on disk within a second."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
        with subprocess.Popen([*command, *durable], stdout=subprocess.DEVNULL) as process:
            try:
                redis = Redis(port)
                while True:
                    try:
                        redis.information()
                        break
                    except OSError:
                        time.sleep(0.05)
                yield redis
            finally:
                process.terminate()
                process.wait()


@dataclass(frozen=True, slots=True)
class Rate:
    """How much was done: each second, and each second of the servers' processor time."""

    per_s: float
    per_cpu_s: float

    def rounded(self) -> dict[str, int]:
        """Return both for people."""
        return {"per_s": round(self.per_s), "per_cpu_s": round(self.per_cpu_s)}


def rate_of(servers: list[Server], loop: Loop, seconds: float, step: Callable[[], float], done: list[int]) -> Rate:
    """Step until the time is over, and wait as long as a step says; return how much was done."""
    began, before = time.perf_counter(), done[0]
    cpu = [server.cpu_s() for server in servers]
    while time.perf_counter() - began < seconds:
        loop.turn(step())
    took, number = time.perf_counter() - began, done[0] - before
    used = sum(server.cpu_s() - was for server, was in zip(servers, cpu, strict=True))
    return Rate(number / took, number / max(used, 0.01))


def tell(measure: str, *, is_met: bool | None, **figures: object) -> None:
    """Print one measure as a line of JSON. `is_met` is None where there is no target."""
    print(json.dumps({"measure": measure, **({} if is_met is None else {"met": is_met}), **figures}), flush=True)
