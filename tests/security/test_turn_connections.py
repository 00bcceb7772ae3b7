"""Connections that cost without using: half-open, slow, too many, or never read."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import trio
import trio.testing
from turn_wire import echoing_peer, make_certificate, options, stream_client, udp_client

from iceagent.core.address import TransportAddress
from iceagent.servers import TurnService, open_turn_server
from iceagent.servers.turn_stream import AUTHENTICATE_S, HANDSHAKE_S, MAX_PENDING_BYTES, Outbox


async def dial(service: TurnService, transport: str) -> trio.SocketStream:
    address: TransportAddress = next(address for kind, address in service.addresses if kind == transport)
    return await trio.open_tcp_stream(address.host, address.port)


async def wait_for(service: TurnService, counter: str, count: int = 1) -> None:
    while service.counters[counter] < count:
        await trio.lowlevel.checkpoint()


async def seconds_until_closed(stream: trio.SocketStream, clock: trio.testing.MockClock) -> float:
    """Return how long, in virtual time, the server keeps a connection that says nothing more."""
    clock.autojump_threshold = 0.2
    began = trio.current_time()
    with contextlib.suppress(trio.BrokenResourceError):
        assert await stream.receive_some(1) == b""
    return trio.current_time() - began


@pytest.mark.parametrize("first", [b"", b"\x00\x03", b"\x00\x03\x00\x08\x21\x12\xa4\x42"])
async def test_half_open_tcp_connection_is_shed(mock_clock: trio.testing.MockClock, first: bytes) -> None:
    """Nothing, or a message that never ends: closed when the time to authenticate is over."""
    async with open_turn_server(options()) as service, await dial(service, "tcp") as stream:
        await stream.send_all(first)
        await wait_for(service, "connections")
        assert await seconds_until_closed(stream, mock_clock) == pytest.approx(AUTHENTICATE_S, abs=1)
        assert service.counters["connections_shed"] == 1
        assert len(service.doorkeeper) == 0


async def test_slow_tls_client_is_shed(mock_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    """A handshake that does not get on holds no connection longer than ten seconds."""
    async with open_turn_server(options(tls=make_certificate(tmp_path))) as service, await dial(service, "tls") as slow:
        await slow.send_all(b"\x16\x03\x01")
        await wait_for(service, "connections")
        assert await seconds_until_closed(slow, mock_clock) == pytest.approx(HANDSHAKE_S, abs=1)
        assert service.counters["connections_shed"] == 1


async def test_connection_without_allocation_does_not_live_on(mock_clock: trio.testing.MockClock) -> None:
    """One that had an allocation is given the same time again after losing it, and one that has it stays."""
    async with open_turn_server(options()) as service, await dial(service, "tcp") as stream:
        client = stream_client(stream)
        await client.allocate()
        mock_clock.jump(AUTHENTICATE_S * 2)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await client.permit(TransportAddress("127.0.0.1", 0))
        assert await seconds_until_closed(stream, mock_clock) == pytest.approx(
            600 - AUTHENTICATE_S * 2 + AUTHENTICATE_S, abs=2
        )


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
    outbox = Outbox(counters)
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
