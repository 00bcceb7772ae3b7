"""What a cycle leaves behind: memory and live objects per cycle of opening and closing, as slopes.

    soak.py [--cycles 200] [--smoke] [turn] [agent] [relay] [link]

    turn    allocate at a TURN server over UDP, a permission, release; client and server in this process
    agent   open two agents, connect them over loopback, close both
    relay   meet at a relay by a code, leave; the clock jumps 60 s after each, so that nameplates have rested soon
    link    open a link between two UDP sockets, one stream there and back, close

Each kind is repeated until its tables and caches are full (two large ones are made small), then as often again while
Python's memory (tracemalloc) and objects (gc) are counted, each time after a collection. A line is fitted through the
samples: more than 256 bytes or half an object per cycle is growth, which a server that lives for months would die of.
"""

from __future__ import annotations

import argparse
import gc
import secrets
import statistics
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from typing import Any

import icesignal
import trio
import trio._core._run as trio_run
import trio.testing

from iceagent.agent import Agent, AgentConfig, Role, open_agent
from iceagent.core.address import TransportAddress
from iceagent.core.turn import TurnCredentials
from iceagent.link import LinkRole, generate_identity, open_link
from iceagent.net import Batch, SystemNetwork, SystemUdpSocket, open_udp_socket, sockaddr
from iceagent.net.turn.allocation import TurnLogin, open_turn_socket
from iceagent.net.turn.redirect import TurnServerAddress
from iceagent.servers import TurnOptions, open_turn_server

TARGET_BYTES = 256.0
TARGET_OBJECTS = 0.5
SAMPLES = 8
HOST = "127.0.0.1"
PORTS = (50000, 50063)  # few, so that those at rest are all there are, and soon
PAUSE_S = 60.0  # that go by between two cycles of the relay: its nameplates rest 600 s, so ten do at a time
ABUNDANT = icesignal.Rate(1e9, 1e9)

Cycle = Callable[[], Awaitable[None]]


@asynccontextmanager
async def turn_cycles() -> AsyncIterator[Cycle]:
    options = TurnOptions(
        [TransportAddress(HOST, 0)], users={"soak": "soak-password"}, loopback=True, tcp_listen=(), ports=PORTS
    )
    login = TurnLogin(TurnCredentials("soak", "soak-password"))
    async with open_turn_server(options) as service:
        server = TurnServerAddress(HOST, service.address.port)

        async def cycle() -> None:
            async with open_turn_socket(SystemNetwork(), server, login=login):
                pass

        yield cycle


async def introduce(source: Agent, target: Agent) -> None:
    target.set_remote_credentials(source.credentials, options=source.options)
    async for candidate in source.local_candidates():
        target.add_remote_candidate(candidate)
    target.add_remote_candidate(None)


@asynccontextmanager
async def agent_cycles() -> AsyncIterator[Cycle]:
    config = AgentConfig(include_loopback=True, interfaces=["lo"], families=(4,))

    async def cycle() -> None:
        async with open_agent(config, role=Role.CONTROLLING) as one, open_agent(config, role=Role.CONTROLLED) as other:
            await introduce(one, other)
            await introduce(other, one)
            await one.wait_connected()
            await other.wait_connected()

    yield cycle


@asynccontextmanager
async def relay_cycles() -> AsyncIterator[Cycle]:
    rates = {one.name: ABUNDANT for one in fields(icesignal.Limits) if isinstance(one.default, icesignal.Rate)}
    limits = replace(icesignal.Limits(), **rates)  # type: ignore[arg-type]  # all of them are rates
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    async with icesignal.serve(host=HOST, port=0, limits=limits) as relay:

        async def cycle() -> None:
            met = trio.Event()

            async def wait(invitation: icesignal.Invitation) -> None:
                await invitation.wait_peer()
                met.set()

            async with icesignal.open_invitation(relay.url) as invitation, trio.open_nursery() as nursery:
                nursery.start_soon(wait, invitation)
                async with icesignal.open_join(relay.url, invitation.code):
                    await met.wait()
            clock.jump(PAUSE_S)

        yield cycle


class SocketTransport:
    """A UDP socket with one fixed peer, as a `DatagramTransport`."""

    def __init__(self, sock: SystemUdpSocket, remote: TransportAddress) -> None:
        self.max_datagram_size = 1472
        self._sock = sock
        self._remote = remote

    async def send_many(self, datagrams: Sequence[bytes], /) -> None:
        await self._sock.send(datagrams, self._remote)

    async def receive_batches(self) -> list[Batch]:
        return await self._sock.receive()


@asynccontextmanager
async def link_cycles() -> AsyncIterator[Cycle]:
    ours, theirs, key = generate_identity(), generate_identity(), secrets.token_bytes(32)

    async def cycle() -> None:
        one, other = open_udp_socket(HOST), open_udp_socket(HOST)

        async def serve() -> None:
            there = SocketTransport(other, one.local_address)
            keys: dict[str, Any] = {"identity": theirs, "peer_fingerprint": ours.fingerprint, "session_key": key}
            async with open_link(there, role=LinkRole.SERVER, **keys) as link:
                stream = await link.accept_stream()
                await stream.send_all(bytes(await stream.receive_some(100)))
                await stream.send_eof()
                await link.wait_closed()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            here = SocketTransport(one, other.local_address)
            keys: dict[str, Any] = {"identity": ours, "peer_fingerprint": theirs.fingerprint, "session_key": key}
            async with open_link(here, role=LinkRole.CLIENT, **keys) as link:
                stream = await link.open_stream("soak")
                await stream.send_all(b"there and back")
                assert await stream.receive_some(100) == b"there and back"
                await stream.aclose()
        one.close()
        other.close()

    yield cycle


KINDS = {"turn": turn_cycles, "agent": agent_cycles, "relay": relay_cycles, "link": link_cycles}


def shrink_caches() -> None:
    """Make tables that fill up within thousands of cycles, and then stay so, fill up at once."""
    sockaddr.MAX_REMEMBERED = 16  # peers of a socket
    trio_run.DEADLINE_HEAP_MIN_PRUNE_THRESHOLD = 16  # type: ignore[misc]  # Trio keeps so many scopes that have ended


async def measure(kind: str, cycles: int) -> tuple[float, float]:
    """Return bytes and objects per cycle."""
    async with KINDS[kind]() as cycle:
        tracemalloc.start()  # from the start: what takes the place of something in a cache is no growth
        for _ in range(cycles):
            await cycle()
        done, memory, objects = [], [], []
        for sample in range(SAMPLES + 1):
            gc.collect()
            done.append(float(sample * (cycles // SAMPLES)))
            memory.append(float(tracemalloc.get_traced_memory()[0]))
            objects.append(float(len(gc.get_objects())))
            for _ in range(cycles // SAMPLES if sample < SAMPLES else 0):
                await cycle()
        tracemalloc.stop()
    return (
        statistics.linear_regression(done[1:], memory[1:]).slope,
        statistics.linear_regression(done[1:], objects[1:]).slope,
    )


def main(kinds: list[str], cycles: int, *, judge: bool) -> int:
    """Print a row for each kind; return 1 if one of them grows."""
    shrink_caches()
    grows = False
    for kind in kinds:
        clock = trio.testing.MockClock(rate=1.0) if kind == "relay" else None
        per_cycle, objects = trio.run(measure, kind, cycles, clock=clock)
        is_good = per_cycle <= TARGET_BYTES and objects <= TARGET_OBJECTS
        grows = grows or not is_good
        verdict = ("flat" if is_good else "GROWS") if judge else "a taste"
        print(
            f"{kind:<6} {per_cycle:9.1f} bytes and {objects:6.2f} objects a cycle, of {cycles}: {verdict}", flush=True
        )
    return int(grows and judge)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], help="all, if none is named")
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--smoke", action="store_true", help="a few cycles, which say nothing")
    arguments = parser.parse_args()
    sys.exit(
        main(arguments.kinds or list(KINDS), 8 if arguments.smoke else arguments.cycles, judge=not arguments.smoke)
    )
