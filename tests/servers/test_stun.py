"""The STUN server on Trio: over a socket of the test's own, and once over loopback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.net import SystemNetwork
from iceagent.net.api import IcmpError, InterfaceAddress, SocketStatistics
from iceagent.net.batch import Batch
from iceagent.servers.stun import open_stun_server

LOCAL = TransportAddress("192.0.2.1", 3478)
CLIENT = TransportAddress("203.0.113.7", 61000)


class FakeSocket:
    """A UDP socket that receives what the test puts in, and takes `room` datagrams."""

    def __init__(self) -> None:
        self.send_channel, self._arrivals = trio.open_memory_channel[list[Batch]](10)
        self.sent: list[tuple[bytes, TransportAddress]] = []
        self.room = 1000
        self.closed = False

    @property
    def local_address(self) -> TransportAddress:
        return LOCAL

    async def receive(self) -> list[Batch]:
        return await self._arrivals.receive()

    def take_errors(self) -> list[IcmpError]:
        return []

    def send_nowait(self, datagrams: Sequence[bytes], remote: TransportAddress, *, source: str | None = None) -> int:
        taken = min(self.room, len(datagrams))
        self.sent += [(datagram, remote) for datagram in datagrams[:taken]]
        self.room -= taken
        return taken

    async def send(self, datagrams: Sequence[bytes], remote: TransportAddress, *, source: str | None = None) -> None:
        raise AssertionError("the server never waits for one client")

    def statistics(self) -> SocketStatistics:
        return SocketStatistics()

    def close(self) -> None:
        self.closed = True


class FakeNetwork:
    """A network with one socket."""

    def __init__(self) -> None:
        self.socket = FakeSocket()

    def interfaces(self) -> list[InterfaceAddress]:
        return []

    async def open_udp(self, host: str, port: int = 0) -> FakeSocket:
        await trio.lowlevel.checkpoint()
        return self.socket

    async def resolve(self, host: str, port: int, *, family: int | None = None) -> list[TransportAddress]:
        raise AssertionError("the server resolves nothing")


def requests(count: int) -> Batch:
    """Return a batch of Binding requests, back to back."""
    data = [stun.encode(stun.binding_request(number.to_bytes(12, "big"))) for number in range(count)]
    return Batch(CLIENT, b"".join(data), len(data[0]))


async def test_a_batch_is_answered_as_a_batch() -> None:
    """A hundred requests of one NAT that arrive together cost one send call."""
    network: Any = FakeNetwork()
    async with open_stun_server("192.0.2.1", network=network) as server:
        assert server.address == LOCAL
        await network.socket.send_channel.send([requests(3), Batch(CLIENT, b"noise", 5)])
        await trio.testing.wait_all_tasks_blocked()
    mapped = [stun.decode(data).get(stun.XorMappedAddress) for data, _remote in network.socket.sent]
    assert mapped == [stun.XorMappedAddress(CLIENT)] * 3
    assert server.counters == {"answered": 3, "not_stun": 1}
    assert network.socket.closed


async def test_answers_that_the_socket_does_not_take_are_lost_and_counted() -> None:
    """Waiting for one client would make all others wait."""
    network: Any = FakeNetwork()
    network.socket.room = 1
    async with open_stun_server("192.0.2.1", network=network) as server:
        await network.socket.send_channel.send([requests(3)])
        await trio.testing.wait_all_tasks_blocked()
    assert server.counters == {"answered": 3, "send_buffer_full": 2}


async def test_the_limits_are_those_of_the_caller() -> None:
    """They reach the core."""
    network: Any = FakeNetwork()
    limits = stun.BindingLimits(rate_per_s=1, burst=2)
    async with open_stun_server("192.0.2.1", network=network, limits=limits) as server:
        await network.socket.send_channel.send([requests(3)])
        await trio.testing.wait_all_tasks_blocked()
    assert server.counters == {"answered": 2, "rate_limited": 1}


async def test_the_bodys_own_exception_leaves_unwrapped() -> None:
    """Whoever opens the server need not know of the nursery in it; and the socket is closed."""
    network: Any = FakeNetwork()
    with pytest.raises(KeyError):
        async with open_stun_server("192.0.2.1", network=network):
            raise KeyError("mine")
    assert network.socket.closed


async def test_cancellation_leaves_nothing() -> None:
    """The socket is closed, and the scope that was cancelled ends."""
    network: Any = FakeNetwork()
    with trio.CancelScope() as scope:
        async with open_stun_server("192.0.2.1", network=network):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert network.socket.closed


async def test_a_port_in_use_is_an_os_error() -> None:
    """The caller knows best what to say about it."""
    async with open_stun_server("127.0.0.1", 0) as server:
        with pytest.raises(OSError):
            async with open_stun_server("127.0.0.1", server.address.port):
                raise AssertionError("not reached")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_it_answers_over_real_sockets(host: str) -> None:
    """Loopback, both families, a client of our own."""
    network = SystemNetwork()
    try:
        sock = await network.open_udp(host)
    except OSError:
        pytest.skip(f"{host} is not available here")
    client = stun.StunClient()
    try:
        async with open_stun_server(host, 0, network=network) as server:
            request = stun.binding_request(b"twelve bytes")
            client.start(trio.current_time(), sock.local_address, server.address, request)
            transmit = client.poll_transmit()
            assert transmit is not None
            await sock.send([transmit.data], transmit.remote)
            for batch in await sock.receive():
                message = stun.decode(batch.data)
                client.handle_message(trio.current_time(), sock.local_address, batch.remote, message)
        event = client.poll_event()
        assert isinstance(event, stun.Response)
        assert event.message.get(stun.XorMappedAddress) == stun.XorMappedAddress(sock.local_address)
    finally:
        sock.close()
