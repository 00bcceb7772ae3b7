"""Datagrams per second through loopback, both ends in this process: one await each, plain batches, GSO/GRO batches.

udp_batch.py [--seconds 1] [--smoke]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable

import trio

from iceagent.net import SystemUdpSocket, open_udp_socket

PAYLOAD = bytes(1200)
BATCH = [PAYLOAD] * 50


async def single(seconds: float) -> float:
    """One `sendto` and one `recvfrom` await per datagram with Trio's own socket: the yardstick."""
    sender, receiver = (trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) for _ in range(2))
    with sender, receiver:
        await receiver.bind(("127.0.0.1", 0))
        target = receiver.getsockname()
        received = 0
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            await sender.sendto(PAYLOAD, target)
            await receiver.recvfrom(2048)
            received += 1
        return received / (time.perf_counter() - start)


async def batches(seconds: float, *, segmentation: bool) -> float:
    """One `send` and one `receive` await per 50 datagrams."""
    sender = open_udp_socket("127.0.0.1", segmentation=segmentation)
    receiver = open_udp_socket("127.0.0.1", segmentation=segmentation)
    received = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        await sender.send(BATCH, receiver.local_address)
        received += await _receive_all(receiver, len(BATCH))
    elapsed = time.perf_counter() - start
    sender.close()
    receiver.close()
    return received / elapsed


async def _receive_all(receiver: SystemUdpSocket, count: int) -> int:
    received = 0
    while received < count:
        received += sum(map(len, await receiver.receive()))
    return received


async def main(seconds: float) -> None:
    runs: dict[str, Callable[[], Awaitable[float]]] = {
        "one await per datagram": lambda: single(seconds),
        "plain batches of 50": lambda: batches(seconds, segmentation=False),
        "GSO/GRO batches of 50": lambda: batches(seconds, segmentation=True),
    }
    base = 0.0
    for name, run in runs.items():
        rate = await run()
        base = base or rate
        print(f"{name:24} {rate / 1000:8.0f} kpps {rate * len(PAYLOAD) * 8 / 1e9:6.1f} Gbit/s  x{rate / base:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    trio.run(main, 0.1 if options.smoke else options.seconds)
