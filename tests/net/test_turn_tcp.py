"""RFC 6062: TCP to and from peers, through our own server and through coturn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from coturn import PASSWORD, USER, running_coturn

from iceagent.core import turn
from iceagent.core.address import TransportAddress, make_address
from iceagent.net import SystemNetwork
from iceagent.net.turn.allocation import TurnLogin
from iceagent.net.turn.connect import TurnServerAddress
from iceagent.net.turn.tcp import TurnTcpAllocation, open_turn_tcp
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions

LOGIN = TurnLogin(turn.TurnCredentials(USER, PASSWORD))
HOST = "127.0.0.1"


@asynccontextmanager
async def ours() -> AsyncIterator[TurnServerAddress]:
    options = TurnOptions(listen=[make_address(HOST, 0)], users={USER: PASSWORD}, loopback=True)
    async with open_turn_server(options) as server:
        port = next(address.port for transport, address in server.addresses if transport == "tcp")
        yield TurnServerAddress(HOST, port, "tcp")


@asynccontextmanager
async def coturns() -> AsyncIterator[TurnServerAddress]:
    with running_coturn() as coturn:
        yield TurnServerAddress(HOST, coturn.port, "tcp")


SERVERS = pytest.mark.parametrize("start", [ours, pytest.param(coturns, marks=pytest.mark.processes)])


async def echo(stream: trio.abc.HalfCloseableStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send_all(bytes(data))


async def round_trip(stream: trio.abc.Stream, size: int) -> None:
    """Send more than the buffers hold, and get it back whole and in order."""
    payload = bytes(range(251)) * (size // 251)
    got = bytearray()

    async def send() -> None:
        await stream.send_all(payload)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while len(got) < len(payload):
            data = await stream.receive_some()
            assert data
            got += data
    assert bytes(got) == payload


@SERVERS
async def test_a_peer_is_connected_to_through_the_server(start):
    """Connect, ConnectionBind, and then bytes as on any TCP connection."""
    network = SystemNetwork()
    with trio.fail_after(60):
        async with (
            start() as server,
            open_turn_tcp(network, server, login=LOGIN) as relay,
            trio.open_nursery() as nursery,
        ):
            listener = await network.listen_tcp(HOST)
            nursery.start_soon(trio.serve_listeners, echo, [listener])
            peer = TransportAddress(HOST, listener.socket.getsockname()[1])
            async with await relay.connect(peer) as stream:
                await round_trip(stream, 300_000)
            nursery.cancel_scope.cancel()


@SERVERS
async def test_a_peer_connects_through_the_server(start):
    """ConnectionAttempt, ConnectionBind; what the peer said at once is not lost."""
    network = SystemNetwork()
    with trio.fail_after(60):
        async with start() as server, open_turn_tcp(network, server, login=LOGIN) as relay:
            relay.permit([HOST])
            await wait_permitted(relay)
            async with await network.connect_tcp(relay.relayed_addresses[0]) as far:
                await far.send_all(b"first words")
                peer, stream = await relay.accept()
                async with stream:
                    assert peer.host == HOST
                    got = b""
                    while len(got) < 11:
                        got += bytes(await stream.receive_some())
                    assert got == b"first words"
                    await stream.send_all(b"answer")
                    assert bytes(await far.receive_some()) == b"answer"


@SERVERS
async def test_a_peer_that_refuses_is_an_error_at_once(start):
    """The application must hear of it, and the allocation must go on."""
    network = SystemNetwork()
    closed = await network.listen_tcp(HOST)
    peer = TransportAddress(HOST, closed.socket.getsockname()[1])
    await closed.aclose()
    with trio.fail_after(60):
        async with start() as server, open_turn_tcp(network, server, login=LOGIN) as relay:
            with pytest.raises(turn.TurnError) as caught:
                await relay.connect(peer)
            assert caught.value.code == 447
            assert not relay.allocation.lost.is_set()


async def test_tcp_allocations_need_a_stream_to_the_server():
    """RFC 6062 section 4.1."""
    with pytest.raises(ValueError, match="TCP"):
        async with open_turn_tcp(SystemNetwork(), TurnServerAddress(HOST, 3478, "udp")):
            pass


async def wait_permitted(relay: TurnTcpAllocation) -> None:
    while relay.allocation.client.permission(HOST) is turn.PeerState.PENDING:
        await trio.sleep(0.01)
    assert relay.allocation.client.permission(HOST) is turn.PeerState.READY
