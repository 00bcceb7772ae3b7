"""Connections that say nothing, or a byte now and then, or never read: a good client gets in all the same.

Real sockets, from one address and from many of 127.0.0.0/8. 200 of them in `make test`, 2,000 in `make thorough`.
"""

from __future__ import annotations

import os
import resource
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import chain, repeat
from pathlib import Path
from secrets import token_bytes

import pytest
import trio
from coturn import make_certificate
from icesignal import wire
from icesignal.first_bytes import Tls
from icesignal.server import Server, serve
from icesignal.sources import Limits
from relay_client import sealed_pair

THOROUGH = bool(os.environ.get("ICEAGENT_THOROUGH"))
SLOW = 2_000 if THOROUGH else 200
MEETINGS = 5
PAUSE_S = 0.5  # between two bytes of a slow connection
BACK_S = 5.0  # until one that was ended comes back
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(192)
"""The beginning of a TLS handshake that says 200 bytes follow."""


def server_context(folder: Path) -> ssl.SSLContext:
    """Return what a relay with a certificate has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_certificate(folder, "127.0.0.1"))
    return context


def masked(payload: bytes) -> bytes:
    return bytes((0x82, 0x80 | len(payload))) + bytes(4) + payload


def dribble(first: bytes, slowly: bytes) -> Iterator[bytes]:
    """Give bytes at once, then others one by one, then nothing more."""
    return chain([first], (bytes([byte]) for byte in slowly), repeat(b""))


def silent() -> Iterator[bytes]:
    return repeat(b"")


def head() -> Iterator[bytes]:
    return dribble(b"", UPGRADE[:-4] + b"\r\nX: " + b"y" * 10_000)


def handshake() -> Iterator[bytes]:
    return dribble(b"", HELLO)


def frame() -> Iterator[bytes]:
    return dribble(UPGRADE, masked(wire.encode(wire.Allocate(session=token_bytes(16)))))


def deaf() -> Iterator[bytes]:
    """Take a place, ask for this and that, and read no answer."""
    allocate, ask = wire.encode(wire.Allocate(session=token_bytes(16))), masked(wire.encode(wire.AskServers()))
    return chain([UPGRADE, masked(allocate)], repeat(20 * ask))


async def be_slow(relay: Server, source: str, says: Callable[[], Iterator[bytes]], counts: dict[str, int]) -> None:
    """Be a slow connection, again and again."""
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            stream = await trio.open_tcp_stream("127.0.0.1", relay.port, local_address=source)
            async with stream:
                counts["opened"] += 1
                counts["open"] += 1
                try:
                    for data in says():
                        if data:
                            with trio.move_on_after(PAUSE_S):
                                await stream.send_all(data)
                        await trio.sleep(PAUSE_S)
                        if says is not deaf and await is_over(stream):
                            break
                finally:
                    counts["open"] -= 1
        await trio.sleep(BACK_S)


async def is_over(stream: trio.SocketStream) -> bool:
    """Return whether the relay has hung up."""
    with trio.move_on_after(0.001):
        return not await stream.receive_some()
    return False


@asynccontextmanager
async def slow_ones(relay: Server, sources: int, says: Callable[[], Iterator[bytes]]) -> AsyncIterator[dict[str, int]]:
    """Have slow connections while the block lasts; it begins when all have been opened once."""
    counts = {"opened": 0, "open": 0}
    async with trio.open_nursery() as nursery:
        for number in range(SLOW):
            part = number % sources
            nursery.start_soon(be_slow, relay, f"127.{1 + part // 250}.{part % 250}.7", says, counts)
        while counts["opened"] < SLOW:
            await trio.sleep(0.05)
        yield counts
        nursery.cancel_scope.cancel()


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Both ends of each connection are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * SLOW + 500
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"takes {needed} descriptors; this system gives {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def meet(url: str) -> None:
    async with sealed_pair(url) as (first, second):
        await first.send({"n": 1})
        assert await second.receive() == {"n": 1}


@pytest.mark.thorough
@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("sources", [1, SLOW // 4], ids=["one source", "many sources"])
@pytest.mark.parametrize("says", [silent, head, handshake, frame, deaf])
async def test_slow_connections_keep_nobody_out(
    says: Callable[[], Iterator[bytes]], sources: int, tmp_path: Path
) -> None:
    """The relay has place for half of them: those that are in no room make place for others, and no member is ended."""
    most = 2 * SLOW if says is deaf else SLOW // 2
    tls = Tls(server_context(tmp_path), is_required=False)
    async with (
        serve(limits=Limits(max_connections=most), ssl_context=tls) as relay,
        sealed_pair(relay.url) as (first, second),
    ):
        async with slow_ones(relay, sources, says):
            for _ in range(MEETINGS):
                await meet(relay.url)
            statistics = relay.statistics()
            assert statistics["connections_open"] <= most
            if sources == 1:
                assert statistics["connections_refused"] >= SLOW - 100, "an address has 64 at once"
            elif says is not deaf:
                assert statistics["connections_shed"] > 0, "the relay was full"
        await first.send({"still": "here"})
        assert await second.receive() == {"still": "here"}
        assert relay.counters["internal_errors"] == 0
