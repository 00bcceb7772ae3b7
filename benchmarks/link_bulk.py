"""How fast a link is on loopback: two processes, real sockets, no ICE.

python benchmarks/link_bulk.py [--megabytes 400] [--streams 1] [--packet-size 1200] [--backend qh3]
python benchmarks/link_bulk.py --datagrams 20000 --rate 5000
python benchmarks/link_bulk.py --stall 5           # the reader sleeps 5 s in the middle; watch the memory
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import trio

from iceagent.core.address import TransportAddress
from iceagent.link import LinkConfig, LinkIdentity, LinkRole, QuicLink, generate_identity, open_link
from iceagent.net import Batch, SystemUdpSocket, open_udp_socket

CHUNK = bytes(256 * 1024)


class SocketTransport:
    """A UDP socket with one fixed peer, as a `DatagramTransport`."""

    def __init__(self, socket: SystemUdpSocket, remote: TransportAddress) -> None:
        self.max_datagram_size = 1472
        self._socket = socket
        self._remote = remote

    async def send_many(self, datagrams: Sequence[bytes], /) -> None:
        await self._socket.send(datagrams, self._remote)

    async def receive_batches(self) -> list[Batch]:
        return await self._socket.receive()


def resident_mb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def write(link: QuicLink, size: int) -> None:
    async with await link.open_stream("bulk") as stream:
        sent = 0
        while sent < size:
            await stream.send_all(CHUNK)
            sent += len(CHUNK)


async def read(link: QuicLink, options: argparse.Namespace, received: list[int]) -> None:
    async with await link.accept_stream() as stream:
        async for data in stream:
            received[0] += len(data)
            if options.stall and received[0] > options.megabytes * 500_000:
                await trio.sleep(options.stall)
                options.stall = 0


async def flood(link: QuicLink, options: argparse.Namespace) -> None:
    """Send datagrams of 1 to 1,200 bytes at a steady rate."""
    start = trio.current_time()
    for number in range(options.datagrams):
        await link.send_datagram(bytes(8 + number % 1200))
        due = start + number / options.rate
        if due > trio.current_time() + 0.002:
            await trio.sleep_until(due)
    await trio.sleep(0.5)


async def catch(link: QuicLink, received: list[int]) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await link.receive_datagram()
            received[0] += 1


async def run(role: LinkRole, options: argparse.Namespace, end: Connection, keys: dict[str, Any]) -> dict[str, Any]:
    socket = open_udp_socket("127.0.0.1")
    end.send(socket.local_address)
    transport = SocketTransport(socket, end.recv())
    config = LinkConfig(packet_size=options.packet_size)
    received = [0]
    async with open_link(transport, role=role, config=config, backend=options.backend, **keys) as link:
        begin, cpu = time.perf_counter(), time.process_time()
        async with trio.open_nursery() as nursery:
            if options.datagrams:
                if role is LinkRole.CLIENT:
                    await flood(link, options)
                else:
                    await catch(link, received)
                nursery.cancel_scope.cancel()
            else:
                for _ in range(options.streams):
                    if role is LinkRole.CLIENT:
                        nursery.start_soon(write, link, options.megabytes * 1_000_000 // options.streams)
                    else:
                        nursery.start_soon(read, link, options, received)
        seconds = time.perf_counter() - begin
        if role is LinkRole.CLIENT and not options.datagrams:
            await link.wait_closed()  # the reader closes when it has everything
        statistics = link.statistics()
    socket.close()
    result: dict[str, Any] = {
        "role": role.value,
        "seconds": round(seconds, 3),
        "cpu_s": round(time.process_time() - cpu, 3),
        "peak_mb": round(resident_mb()),
        "lost": statistics.packets_lost,
        "rtt_ms": round((statistics.rtt_s or 0) * 1000, 3),
        "window": statistics.congestion_window,
    }
    if role is LinkRole.SERVER:
        result["datagrams" if options.datagrams else "mbit_s"] = (
            received[0] if options.datagrams else round(received[0] * 8 / seconds / 1e6)
        )
        result["dropped"] = statistics.datagrams_dropped
    return result


def child(role: LinkRole, options: argparse.Namespace, end: Connection, keys: dict[str, Any], out: Connection) -> None:
    if options.profile and role.value == options.profile:
        import cProfile
        import pstats

        profile = cProfile.Profile()
        out.send(profile.runcall(trio.run, run, role, options, end, keys))
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    else:
        out.send(trio.run(run, role, options, end, keys))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--packet-size", type=int, default=1200)
    parser.add_argument("--backend", default="qh3")
    parser.add_argument("--stall", type=float, default=0)
    parser.add_argument("--datagrams", type=int, default=0)
    parser.add_argument("--rate", type=float, default=5000)
    parser.add_argument("--profile", choices=["client", "server"])
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if options.smoke:
        options.megabytes = 40
    context = multiprocessing.get_context("spawn")
    identities: dict[LinkRole, LinkIdentity] = {role: generate_identity() for role in LinkRole}
    key = os.urandom(32)
    ends = dict(zip(LinkRole, context.Pipe(), strict=True))
    outputs, processes = [], []
    for role in LinkRole:
        keys = {
            "identity": identities[role],
            "peer_fingerprint": identities[role.other].fingerprint,
            "session_key": key,
        }
        here, there = context.Pipe()
        outputs.append(here)
        processes.append(context.Process(target=child, args=(role, options, ends[role], keys, there)))
    for process in processes:
        process.start()
    for output in outputs:
        print(json.dumps(output.recv()))
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
