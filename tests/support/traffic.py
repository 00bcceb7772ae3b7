"""Both ends of real traffic, as processes of their own: a TCP source and sink, a UDP echo and its client.

    traffic.py source                                    prints its port; answers "COUNT SEED\n" with COUNT bytes
    traffic.py sink HOST:PORT --bytes N [--connections K] [--stall-after B --stall-s S [--stall-together]]
    traffic.py echo                                      prints its port; sends every datagram back
    traffic.py ping HOST:PORT --count N --rate R --sources S

Each prints one JSON line when it is ready or done. The bytes of a seed differ from those of every other, so that a
mix-up between connections never goes unseen.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import struct
import sys
import time
from typing import Any

import trio

BLOCK = 1 << 20


def block_of(seed: int, count: int) -> bytes:
    """Return the block that a seed's stream of `count` bytes repeats."""
    return random.Random(seed).randbytes(min(BLOCK, count))


def digest_of(seed: int, count: int) -> str:
    """Return the SHA-256 of the first `count` bytes of a seed's stream."""
    block, digest = block_of(seed, count), hashlib.sha256()
    for at in range(0, count, BLOCK):
        digest.update(block[: min(BLOCK, count - at)])
    return digest.hexdigest()


def say(**fields: Any) -> None:
    """Print one JSON line."""
    print(json.dumps(fields), flush=True)


async def source() -> None:
    """Serve byte streams until interrupted."""

    async def handle(stream: trio.SocketStream) -> None:
        line = b""
        while not line.endswith(b"\n"):
            chunk = await stream.receive_some(64)
            if not chunk:
                return
            line += chunk
        count, seed = map(int, line.split())
        block = block_of(seed, count)
        try:
            for at in range(0, count, BLOCK):
                await stream.send_all(memoryview(block)[: min(BLOCK, count - at)])
            await stream.send_eof()
            await stream.receive_some(1)
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        say(kind="ready", port=listener.socket.getsockname()[1])
        await trio.serve_listeners(handle, [listener], handler_nursery=nursery)


async def sink(host: str, port: int, options: argparse.Namespace) -> None:
    """Fetch a stream over each connection; report bytes, seconds and how many were whole."""
    whole, stalled, all_stalled = 0, 0, trio.Event()
    first_at: list[float] = []

    async def fetch(seed: int) -> None:
        nonlocal whole, stalled
        stream = await trio.open_tcp_stream(host, port)
        async with stream:
            await stream.send_all(b"%d %d\n" % (options.bytes, seed))
            digest, count = hashlib.sha256(), 0
            while chunk := await stream.receive_some(1 << 18):
                if not count:
                    first_at.append(time.monotonic())
                digest.update(chunk)
                stalls = options.stall_after is not None and count < options.stall_after <= count + len(chunk)
                count += len(chunk)
                if stalls:
                    stalled += 1
                    if options.stall_together:
                        if stalled == options.connections:
                            all_stalled.set()
                        await all_stalled.wait()
                    else:
                        say(kind="stalled", bytes=count)
                    await trio.sleep(options.stall_s)
            whole += count == options.bytes and digest.hexdigest() == digest_of(seed, options.bytes)

    began_at = time.monotonic()
    async with trio.open_nursery() as nursery:
        for seed in range(options.connections):
            nursery.start_soon(fetch, seed)
    say(
        kind="done",
        whole=whole,
        connections=options.connections,
        seconds=time.monotonic() - began_at,
        first_byte_at=min(first_at, default=None),
    )


async def echo() -> None:
    """Send every datagram back to its source until interrupted."""
    socket = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4 << 20)
    await socket.bind(("127.0.0.1", 0))
    say(kind="ready", port=socket.getsockname()[1])
    while True:
        data, source_address = await socket.recvfrom(65536)
        await socket.sendto(data, source_address)


SILENCE_S = 5.0  # what has not come back by then is lost


async def ping(host: str, port: int, options: argparse.Namespace) -> None:
    """Send numbered datagrams of 1 to 1,200 bytes from several sources; report the answers and mix-ups.

    At most `--window` are under way at a time, so that the speed of the machine loses none, unless nothing at all has
    come back for a while.
    """
    sockets = [trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) for _ in range(options.sources)]
    answered: list[set[int]] = [set() for _ in sockets]
    waiting: list[dict[bytes, list[int]]] = [{} for _ in sockets]
    counts = {"mixed": 0, "sent": 0}
    rng = random.Random(options.seed)
    arrived = trio.Event()

    async def receive(index: int) -> None:
        nonlocal arrived
        while True:
            data = await sockets[index].recv(65536)
            arrived.set()
            arrived = trio.Event()
            numbers = waiting[index].get(data)
            if numbers is None:
                counts["mixed"] += 1
            elif numbers:
                answered[index].add(numbers.pop(0))

    async def outstanding_at_most(limit: int) -> None:
        is_silent = False
        while counts["sent"] - sum(map(len, answered)) > limit and not is_silent:
            with trio.move_on_after(SILENCE_S) as scope:
                await arrived.wait()
            is_silent = scope.cancelled_caught

    for socket in sockets:
        socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 1 << 20)
        await socket.connect((host, port))
    async with trio.open_nursery() as nursery:
        for index in range(options.sources):
            nursery.start_soon(receive, index)
        began_at = trio.current_time()
        for number in range(options.count):
            index = number % options.sources
            # The first bytes tell number and source; short datagrams carry what fits, so only whole ones tell mix-ups.
            size = rng.randint(1, 1200)
            head = struct.pack("!HI", index, number)
            data = head + rng.randbytes(size - len(head)) if size > len(head) else bytes([index])[:1] * size
            waiting[index].setdefault(data, []).append(number)
            await sockets[index].send(data)
            counts["sent"] += 1
            await trio.sleep_until(began_at + (number + 1) / options.rate)
            await outstanding_at_most(options.window)
        seconds = trio.current_time() - began_at
        await outstanding_at_most(0)
        nursery.cancel_scope.cancel()
    say(kind="done", answered=sum(map(len, answered)), seconds=seconds, **counts)


def main() -> None:
    """Run one end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("source", "sink", "echo", "ping"))
    parser.add_argument("address", nargs="?", default="")
    parser.add_argument("--bytes", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--stall-after", type=int)
    parser.add_argument("--stall-s", type=float, default=10.0)
    parser.add_argument("--stall-together", action="store_true")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=5_000.0)
    parser.add_argument("--window", type=int, default=500)
    parser.add_argument("--sources", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    host, _, port = options.address.rpartition(":")
    try:
        match options.verb:
            case "source":
                trio.run(source)
            case "sink":
                trio.run(sink, host, int(port), options)
            case "echo":
                trio.run(echo)
            case "ping":
                trio.run(ping, host, int(port), options)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
