"""Connections that cost without using: half-open, slow, too many, or never read."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from turn_wire import echoing_peer, make_certificate, options, stream_client, udp_client

from iceagent.core.address import TransportAddress
from iceagent.servers import TlsFiles, TurnService, open_turn_server
from iceagent.servers.turn_stream import AUTHENTICATE_S, HANDSHAKE_S, MAX_PENDING_BYTES, ClientOutbox


async def dial(service: TurnService, transport: str) -> trio.SocketStream:
    address: TransportAddress = next(address for kind, address in service.addresses if kind == transport)
    return await trio.open_tcp_stream(address.host, address.port)


async def wait_for(service: TurnService, counter: str, count: int = 1) -> None:
    while service.counters[counter] < count:
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def connected(
    vnet: Any, transport: str = "tcp", tls: TlsFiles | None = None
) -> AsyncIterator[tuple[TurnService, trio.abc.Stream]]:
    """A server and a connection to it in virtual time."""
    net = vnet()
    server, client = net.host(net.internet), net.host(net.internet)
    address = TransportAddress(server.address, 3478)
    changes = {"listen": [address], "tcp_listen": [address], "tls_listen": [TransportAddress(server.address, 5349)]}
    async with (
        net,
        open_turn_server(options(tls=tls, dtls=False, loopback=False, **changes), network=server) as service,
    ):
        at = next(at for kind, at in service.addresses if kind == transport)
        async with await client.connect_tcp(at) as stream:
            yield service, stream


async def seconds_until_closed(stream: trio.abc.Stream) -> float:
    """Return how long the server keeps a connection that says nothing more."""
    began = trio.current_time()
    with contextlib.suppress(trio.BrokenResourceError):
        assert await stream.receive_some(1) == b""
    return trio.current_time() - began


@pytest.mark.parametrize("first", [b"", b"\x00\x03", b"\x00\x03\x00\x08\x21\x12\xa4\x42"])
async def test_half_open_tcp_connection_is_shed(vnet: Any, first: bytes) -> None:
    """Nothing, or a message that never ends: closed when the time to authenticate is over."""
    async with connected(vnet) as (service, stream):
        await stream.send_all(first)
        assert await seconds_until_closed(stream) == pytest.approx(AUTHENTICATE_S, abs=0.1)
        assert service.counters["connections_shed"] == 1
        assert len(service.doorkeeper) == 0


async def test_slow_tls_client_is_shed(vnet: Any, tmp_path: Path) -> None:
    """A handshake that does not get on holds no connection longer than ten seconds."""
    async with connected(vnet, "tls", make_certificate(tmp_path)) as (service, slow):
        await slow.send_all(b"\x16\x03\x01")
        assert await seconds_until_closed(slow) == pytest.approx(HANDSHAKE_S, abs=0.1)
        assert service.counters["connections_shed"] == 1


async def test_connection_without_allocation_does_not_live_on(vnet: Any) -> None:
    """One that had an allocation is given the same time again after losing it, and one that has it stays."""
    async with connected(vnet) as (_, stream):
        client = stream_client(stream)
        await client.allocate()
        await trio.sleep(AUTHENTICATE_S * 2)
        await client.permit(TransportAddress("8.8.4.4", 0))
        assert await seconds_until_closed(stream) == pytest.approx(600 - AUTHENTICATE_S * 2 + AUTHENTICATE_S, abs=0.1)


async def test_junk_on_a_stream_closes_it() -> None:
    """Where a message begins can no longer be known."""
    async with open_turn_server(options()) as service, await dial(service, "tcp") as stream:
        await stream.send_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # TLS
        assert await stream.receive_some(100) == b""
        assert service.counters["stream_broken"] == 1


async def test_connections_of_one_source_are_bounded() -> None:
    """The others are closed at once, and make room when they end."""
    async with open_turn_server(options(max_connections_per_source=2)) as service:
        first, second = await dial(service, "tcp"), await dial(service, "tcp")
        await wait_for(service, "connections", 2)
        async with await dial(service, "tcp") as third:
            assert await third.receive_some(1) == b""
        assert service.counters["connections_over_limit"] == 1
        for stream in (first, second):
            await stream.aclose()
        with trio.fail_after(60):
            while len(service.doorkeeper):
                await trio.lowlevel.checkpoint()
        async with await dial(service, "tcp") as fourth:
            await stream_client(fourth).allocate()


def test_client_that_does_not_read_costs_a_bounded_buffer() -> None:
    """Data for it is dropped, as on a congested link, and counted."""
    from collections import Counter

    counters: Counter[str] = Counter()
    outbox = ClientOutbox(counters)
    for _ in range(1000):
        outbox.put([bytes(1000)] * 10)
    assert counters["client_buffer_full"] >= 10_000 - MAX_PENDING_BYTES // 1000 - 10


async def test_reader_that_stops_does_not_stop_the_others() -> None:
    """A client over TCP that reads nothing while its peer floods it; another one goes on undisturbed."""
    async with (
        open_turn_server(options()) as service,
        echoing_peer() as peer,
        await dial(service, "tcp") as stream,
        udp_client(service.address) as (other, _),
    ):
        lazy = stream_client(stream)
        relayed = await lazy.allocate()
        await other.allocate()
        await other.bind(0x4000, peer)
        async with udp_client(relayed) as (_, flooder):
            await lazy.permit(flooder.local_address)
            with trio.fail_after(60):
                while not service.counters["client_buffer_full"]:
                    await flooder.send([bytes(1200)] * 50, relayed)
                    await other.send(b"\x40\x00\x00\x04ping")
                    assert await other.receive() == b"\x40\x00\x00\x04ping"


@pytest.mark.parametrize("code", ["ECONNABORTED", "EPROTO", "ENOBUFS", "EPERM", "EIO", "EINVAL"])
async def test_trap_71_no_error_of_one_connection_ends_accepting(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trio lists the errors that it waits out, and raises the others: the whole server ended by one of them."""
    accept, failed = trio.SocketListener.accept, 0

    async def failing(listener: trio.SocketListener) -> trio.SocketStream:
        nonlocal failed
        failed += 1
        if failed <= 2:
            raise OSError(getattr(errno, code), code)
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", failing)
    async with open_turn_server(options()) as service, await dial(service, "tcp") as stream:
        await stream_client(stream).allocate()
        assert service.counters["accept_failed"] == 2
