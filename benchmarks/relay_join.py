"""How long it takes from a known code to a sealed channel, both peers and the relay in one process on loopback.

    relay_join.py [--runs 20] [--smoke]

Prints the median and the 90th percentile of each side, and how many joins per second the relay serves while
BATCH pairs meet at once. The time begins when the joiner has the code and nothing else: it covers TCP, websocket,
both halves of SPAKE2 and both confirmations.
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc

import icesignal
import trio
import trio.lowlevel
import trio.testing

TARGET_MS = 80.0
BATCH = 50


async def meet(url: str) -> tuple[float, float]:
    """Return the milliseconds until the inviter and the joiner have their channel."""
    ready: list[float] = []
    async with icesignal.open_invitation(url) as invitation, trio.open_nursery() as nursery:

        async def wait() -> None:
            await invitation.wait_peer()
            ready.append(time.perf_counter())

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        began = time.perf_counter()
        async with icesignal.open_join(url, invitation.code):
            joined = time.perf_counter()
            while not ready:
                await trio.lowlevel.checkpoint()
    return (ready[0] - began) * 1e3, (joined - began) * 1e3


def row(name: str, values: list[float]) -> str:
    """Return one line of the report."""
    p90 = statistics.quantiles(values, n=10)[-1]
    return f"{name:<8} median {statistics.median(values):6.1f} ms   p90 {p90:6.1f} ms   worst {max(values):6.1f} ms"


async def batch(url: str) -> float:
    """Return the joins per second while many meet at once."""

    async def one() -> None:
        async with icesignal.open_invitation(url) as invitation, trio.open_nursery() as nursery:
            nursery.start_soon(invitation.wait_peer)
            async with icesignal.open_join(url, invitation.code):
                pass

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(BATCH):
            nursery.start_soon(one)
    return BATCH / (time.perf_counter() - began)


async def idle_bytes(url: str, count: int = 200) -> float:
    """Return the Python memory of one waiting inviter: both ends of its connection, its session and its room."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            async with icesignal.open_client(url) as client:
                await client.allocate(b"x" * 33)
                await trio.sleep_forever()

        for _ in range(count):
            nursery.start_soon(wait)
        await trio.sleep(1.5)
        after, _ = tracemalloc.get_traced_memory()
        nursery.cancel_scope.cancel()
    tracemalloc.stop()
    return (after - before) / count


async def main(runs: int) -> None:
    """Run all and print."""
    rate = icesignal.Rate(1e9, 1e9)
    # Whoever joins and leaves without another word, as here, counts as a guesser.
    limits = icesignal.Limits(
        connections=rate,
        joins=rate,
        claims=rate,
        messages=rate,
        bytes=rate,
        max_connections_per_source=10_000,
        work_from_guesses=1e9,
    )
    engine = icesignal.MemoryEngine(limits=icesignal.RoomLimits(rooms_per_source=10_000))
    async with icesignal.serve(limits=limits, engine=engine) as relay:
        await meet(relay.url)
        times = [await meet(relay.url) for _ in range(runs)]
        inviter, joiner = (list(side) for side in zip(*times, strict=True))
        print(row("inviter", inviter))
        print(row("joiner", joiner))
        print(f"{BATCH} pairs at once: {await batch(relay.url):.0f} joins/s")
        print(f"idle connection, both ends: {await idle_bytes(relay.url) / 1024:.0f} KiB")
    worst = max(statistics.median(inviter), statistics.median(joiner))
    print(f"target {TARGET_MS:.0f} ms: {'met' if worst <= TARGET_MS else 'MISSED'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    trio.run(main, 3 if options.smoke else options.runs)
