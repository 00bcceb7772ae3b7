"""What sessions cost at one shared UDP port, beside sessions with a socket each: one run, one machine, one table.

shared_port.py [--sessions 10000] [--beside 1000] [--seconds 10] [--smoke]

Each kind is measured in a server process of its own: lite agents, which is what servers are. Their peers, full ones,
are in yet another process: bare ICE cores, each with a socket of its own and without Trio. CPU is the server's own, so
it says something on a busy machine, too. What opening costs is taken from the first thousand, since later the consent
checks of those already open would count with it.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import os
import resource
import secrets
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import trio

from iceagent.agent import Agent, AgentConfig, Role, open_agent, open_shared_port
from iceagent.core import ice
from iceagent.errors import NetworkError
from iceagent.net import SystemUdpSocket, open_udp_socket

HOST = "127.0.0.1"
AT_ONCE = 50
FIRST = 1000
CHUNK = [bytes([255]) * 1200] * 50
PATIENCE_S = 120.0  # to open one session, waiting for room included not
ANSWER_S = 60.0  # of the peers' process
PROGRESS = 500
ALIVE = {ice.AgentState.CONNECTED, ice.AgentState.COMPLETED}
TIMERS_AT_ONCE = 32  # of the peers, between two looks at their sockets


# The peers' process


class Peer:
    """An ICE core and its socket.

    Its clock is its own, as those of peers on other machines are: consent checks fall on a grid of the clock, so ten
    thousand peers by one clock would ask in bursts, which nobody's ten thousand peers do.
    """

    def __init__(self, description: dict[str, str]) -> None:
        self.sock: SystemUdpSocket = open_udp_socket(HOST)
        self.ice = ice.IceAgent(role=Role.CONTROLLING, randbytes=secrets.token_bytes)
        self._ahead_s = secrets.randbelow(1_000_000) / 100_000
        now = self.now()
        self.ice.add_local_candidate(now, ice.host_candidate(self.sock.local_address, 65535))
        self.ice.end_of_local_candidates(now)
        self.ice.set_remote_credentials(now, ice.Credentials(description["ufrag"], description["pwd"]), lite=True)
        self.ice.add_remote_candidate(now, ice.Candidate.from_sdp(description["candidate"]))
        self.ice.add_remote_candidate(now, None)
        self.at: float | None = None

    def now(self) -> float:
        return time.monotonic() + self._ahead_s

    def describe(self) -> dict[str, str]:
        own = self.ice.credentials
        return {"ufrag": own.ufrag, "pwd": own.pwd, "candidate": self.ice.local_candidates[0].to_sdp()}

    def settle(self) -> float | None:
        while (transmit := self.ice.poll_transmit()) is not None:
            self.sock.send_nowait((transmit.data,), transmit.remote)
        while self.ice.poll_event() is not None:
            pass
        at = self.ice.next_timeout()
        return None if at is None else at - self._ahead_s

    def receive(self) -> None:
        for batch in self.sock.receive_nowait(1):
            for datagram in batch.datagrams():
                self.ice.handle_datagram(self.now(), self.sock.local_address, batch.remote, datagram)


class Peers:
    """All peers, one loop. Commands come as lines of JSON: a description to answer, or seconds to send for."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.epoll.register(0, select.EPOLLIN)
        self.peers: dict[int, Peer] = {}
        self.timers: list[tuple[float, int]] = []

    def run(self) -> None:
        while True:
            wait_s = max(0.0, self.timers[0][0] - time.monotonic()) if self.timers else -1
            for fd, _ in self.epoll.poll(wait_s):
                if fd:
                    self.peers[fd].receive()
                    self.arm(fd)
                elif not self.obey():
                    return
            for _ in range(TIMERS_AT_ONCE):
                if not self.timers or self.timers[0][0] > time.monotonic():
                    break
                at, fd = heapq.heappop(self.timers)
                if self.peers[fd].at == at:
                    self.peers[fd].ice.handle_timeout(self.peers[fd].now())
                    self.peers[fd].at = None
                    self.arm(fd)

    def arm(self, fd: int) -> None:
        peer = self.peers[fd]
        at = peer.settle()
        if at is not None and at != peer.at:
            heapq.heappush(self.timers, (at, fd))
        peer.at = at

    def obey(self) -> bool:
        text = os.read(0, 65536)
        for line in text.splitlines():
            command = json.loads(line)
            if "send_s" in command:
                self.send(command["send_s"])
            else:
                self.answer(command)
        return bool(text)

    def answer(self, description: dict[str, str]) -> None:
        peer = Peer(description)
        fd = peer.sock.fileno()
        self.peers[fd] = peer
        self.epoll.register(fd, select.EPOLLIN)
        sys.stdout.write(json.dumps(peer.describe()) + "\n")
        sys.stdout.flush()
        self.arm(fd)

    def send(self, seconds: float) -> None:
        """Send bulk data from the first peer, as fast as its socket takes it."""
        peer = next(iter(self.peers.values()))
        path = peer.ice.data_pair()
        assert path is not None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not peer.sock.send_nowait(CHUNK, path[1]):
                time.sleep(0.0001)


# The server's process


@dataclass
class Cost:
    """What was measured of one kind."""

    sessions: int = 0
    kb: float = 0.0
    open_ms: float = 0.0
    rate: float = 0.0
    idle: float = 0.0
    datagrams_per_cpu_s: float = 0.0
    lost: int = 0


class PeersProcess:
    """The other process, one question at a time."""

    def __init__(self) -> None:
        command = [sys.executable, __file__, "--peers"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._lock = trio.StrictFIFOLock()

    def order(self, command: dict[str, object]) -> None:
        self._in.write(json.dumps(command).encode() + b"\n")
        self._in.flush()

    async def ask(self, command: dict[str, object]) -> dict[str, str]:
        async with self._lock:
            self.order(command)
            with trio.fail_after(ANSWER_S):
                await trio.lowlevel.wait_readable(self._out)
            answer: dict[str, str] = json.loads(os.read(self._out.fileno(), 65536))
            return answer

    def close(self) -> None:
        self._in.close()
        try:
            self._process.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def resident_kb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024


class Sessions:
    """The sessions of one measurement: those that are open, and what became of the others.

    Args:
        config: of each agent.
        peers: where their other ends are.
        wanted: how many there will be, for the progress shown.
    """

    def __init__(self, config: AgentConfig, peers: PeersProcess, wanted: int) -> None:
        self.agents: list[Agent] = []
        self.failures: Counter[str] = Counter()
        self._config = config
        self._peers = peers
        self._wanted = wanted
        self._began = time.perf_counter()

    @asynccontextmanager
    async def open(self, count: int) -> AsyncIterator[None]:
        """Open sessions, `AT_ONCE` at a time; each is connected, or was given up, when the body starts."""
        done = trio.Event()
        room, settled = trio.Semaphore(AT_ONCE), trio.Semaphore(0)
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(self._hold, room, settled, done)
            for _ in range(count):
                await settled.acquire()
            yield
            done.set()

    def lost(self) -> int:
        """Return how many were never connected, or are not any more."""
        ended = Counter(str(agent.state.value) for agent in self.agents if agent.state not in ALIVE)
        return self.failures.total() + ended.total()

    async def _hold(self, room: trio.Semaphore, settled: trio.Semaphore, done: trio.Event) -> None:
        """Open one session, and keep it until the end."""
        async with AsyncExitStack() as stack:
            async with room:
                agent = await stack.enter_async_context(open_agent(self._config, role=Role.CONTROLLED))
                try:
                    with trio.fail_after(PATIENCE_S):
                        await self._connect(agent)
                    self.agents.append(agent)
                except (trio.TooSlowError, NetworkError) as error:
                    self.failures[str(error) or "not connected in time"] += 1
            self._tell()
            settled.release()
            await done.wait()

    async def _connect(self, agent: Agent) -> None:
        own = agent.credentials
        # An address that is on the loopback interface besides is a candidate, too; the peers are at this one.
        candidate = next(one for one in [each async for each in agent.local_candidates()] if one.address.host == HOST)
        text = {"ufrag": own.ufrag, "pwd": own.pwd, "candidate": candidate.to_sdp()}
        theirs = await self._peers.ask(dict(text))
        agent.set_remote_credentials(ice.Credentials(theirs["ufrag"], theirs["pwd"]))
        agent.add_remote_candidate(theirs["candidate"])
        agent.add_remote_candidate(None)
        await agent.wait_connected()

    def _tell(self) -> None:
        settled = len(self.agents) + self.failures.total()
        if settled % PROGRESS == 0:
            took_s = time.perf_counter() - self._began
            print(f"{settled:,} of {self._wanted:,} after {took_s:.0f} s, {self.lost()} lost", file=sys.stderr)


async def receive_bulk(agent: Agent, peers: PeersProcess, seconds: float) -> float:
    """Return the datagrams received per second of this process's CPU."""
    received = 0
    peers.order({"send_s": seconds})
    cpu = time.process_time()
    with trio.move_on_after(seconds + 0.2):
        while True:
            received += sum(map(len, await agent.receive_batches()))
    return received / (time.process_time() - cpu)


async def measure(config: AgentConfig, count: int, seconds: float) -> Cost:
    """Open `count` sessions and measure what they cost."""
    cost = Cost(count)
    peers = PeersProcess()
    try:
        sessions = Sessions(config, peers, count + 1)
        async with sessions.open(1):  # what is loaded and made only once is not counted
            cost.datagrams_per_cpu_s = await receive_bulk(sessions.agents[0], peers, min(seconds, 3.0))
            gc.collect()
            first = min(count, FIRST)
            kb, cpu, wall = resident_kb(), time.process_time(), time.perf_counter()
            async with sessions.open(first), AsyncExitStack() as stack:
                cost.open_ms = (time.process_time() - cpu) / first * 1000
                cost.rate = first / (time.perf_counter() - wall)
                await stack.enter_async_context(sessions.open(count - first))
                gc.collect()
                cost.kb = (resident_kb() - kb) / count
                await trio.sleep(1)
                cpu, wall = time.process_time(), time.perf_counter()
                await trio.sleep(seconds)
                cost.idle = (time.process_time() - cpu) / (time.perf_counter() - wall)
                cost.lost = sessions.lost()
                for reason, times in sessions.failures.items():
                    print(f"{times} times: {reason}", file=sys.stderr)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(peers.close)
    return cost


async def serve(kind: str, count: int, seconds: float) -> None:
    """Measure one kind, and print what was found as JSON."""
    config = AgentConfig(include_loopback=True, interfaces=["lo"], families=(4,), ice_lite=True)
    async with AsyncExitStack() as stack:
        if kind == "shared":
            port = await stack.enter_async_context(open_shared_port(hosts=[HOST]))
            config = replace(config, shared_port=port)
        print(json.dumps(asdict(await measure(config, count, seconds))))


def main(count: int, beside: int, seconds: float) -> None:
    """Measure both kinds and print them."""
    found: list[Cost] = []
    for kind, number in (("alone", beside), ("shared", count)):
        command = [sys.executable, __file__, "--kind", kind, "--sessions", str(number), "--seconds", str(seconds)]
        found.append(Cost(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)))
    alone, shared = found
    print(f"{'':24}{'a socket each':>16}{'one port':>16}{'ratio':>8}")
    row("sessions", alone.sessions, shared.sessions, ",.0f")
    print(f"{'lost':24}{alone.lost:>16}{shared.lost:>16}")
    row("memory, KB each", alone.kb, shared.kb, ".1f")
    row("opening, CPU ms each", alone.open_ms, shared.open_ms, ".2f")
    row("opening, per second", alone.rate, shared.rate, ".0f")
    thousand = [cost.idle * 1000 / cost.sessions for cost in (alone, shared)]
    row("idle, % core per 1,000", thousand[0] * 100, thousand[1] * 100, ".2f")
    row("bulk, datagrams/CPU s", alone.datagrams_per_cpu_s, shared.datagrams_per_cpu_s, ",.0f")
    print(f"idle, all {count:,} at one port: {shared.idle:.1%} of a core")


def row(name: str, alone: float, shared: float, form: str) -> None:
    print(f"{name:24}{alone:>16{form}}{shared:>16{form}}{shared / alone:>8.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--beside", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--kind", choices=("alone", "shared"), help=argparse.SUPPRESS)
    parser.add_argument("--peers", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if arguments.peers:
        Peers().run()
        os._exit(0)  # ten thousand sockets need no farewell
    if arguments.smoke:
        arguments.sessions, arguments.beside, arguments.seconds = 20, 10, 0.3
    room = (limit if limit != resource.RLIM_INFINITY else 1_000_000) - 100
    sessions_wanted, beside_wanted = min(arguments.sessions, room), min(arguments.beside, room)
    if arguments.kind:
        trio.run(serve, arguments.kind, sessions_wanted, arguments.seconds)
    else:
        main(sessions_wanted, beside_wanted, arguments.seconds)
