"""How many packets the virtual network carries per second of real time, beside a bare heap that does only the waiting.

`--smoke` runs a fraction of it. The yardstick is what no discrete-event network can avoid: one push and one pop of a
heap per hop.
"""

from __future__ import annotations

import argparse
import time
from heapq import heappop, heappush
from typing import Any

from iceagent import vnet
from iceagent.core.address import TransportAddress

HOPS = 4  # host, router with a NAT, router with a NAT, host
BATCH = 50


async def carry(count: int, trace_limit: int, **faults: Any) -> int:
    """Send datagrams from one home to another; return how many arrived."""
    net = vnet.Network(1, trace_limit=trace_limit)
    homes = [net.router(net.internet, nat=vnet.FULL_CONE, **faults) for _ in range(2)]
    alice, bob = (net.host(home) for home in homes)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0", 5000), await bob.open_udp("0.0.0.0", 5000)
        await theirs.send([b"open"], TransportAddress(net.internet.attached[0].address(4) or "", 9))
        target = TransportAddress(homes[1].public_address or "", 5000)
        got = 0
        for _ in range(count // BATCH):
            await ours.send([bytes(1200)] * BATCH, target)
            got += sum(len(batch) for batch in await theirs.receive())
        return got


def seconds_of(count: int, trace_limit: int, **faults: Any) -> float:
    start = time.perf_counter()
    got = vnet.run(carry, count, trace_limit) if not faults else vnet.run(lambda: carry(count, trace_limit, **faults))
    assert faults or got == count, got
    return time.perf_counter() - start


def bare_heap_seconds(count: int) -> float:
    start = time.perf_counter()
    heap: list[tuple[float, int, object]] = []
    for number in range(count * HOPS):
        heappush(heap, (number * 0.001, number, None))
        if len(heap) > BATCH:
            heappop(heap)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true")
    count = 5_000 if parser.parse_args().smoke else 50_000
    bare = bare_heap_seconds(count)
    for what, seconds in (
        ("two NATs, no trace", seconds_of(count, 0)),
        ("two NATs, traced", seconds_of(count, 100_000)),
        ("and jitter, loss, duplicates", seconds_of(count, 0, jitter_s=0.001, loss=0.01, duplicate=0.01)),
    ):
        rate = count / seconds
        print(
            f"{what}: {rate:,.0f} packets/s end to end, {rate * HOPS:,.0f} hops/s, {seconds / bare:.0f} x a bare heap"
        )


if __name__ == "__main__":
    main()
