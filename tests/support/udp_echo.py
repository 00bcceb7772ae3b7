"""What listens for UDP and sends back what comes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def udp_echo(host: str = "127.0.0.1", port: int = 0, *, prefix: bytes = b"") -> AsyncIterator[int]:
    """Send back all that comes, with a prefix; yield the port."""
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await sock.bind((host, port))

    async def echo() -> None:
        while True:
            data, source = await sock.recvfrom(65535)
            await sock.sendto(prefix + data, source)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        yield sock.getsockname()[1]
        nursery.cancel_scope.cancel()
    sock.close()
