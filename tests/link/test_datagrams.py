"""Datagrams over a link, and the parts they are made of."""

from __future__ import annotations

import pytest
import trio
from amount import amount
from hypothesis import given
from hypothesis import strategies as st

from iceagent.errors import LocalError
from iceagent.link import LinkConfig
from iceagent.link.datagrams import DatagramQueue, Reassembler, split


async def test_datagrams_of_every_size_arrive_whole(ends, autojump_clock) -> None:
    """Any UDP datagram can be tunnelled, also one that exceeds a packet."""
    async with ends().links() as (client, server):
        for size in (0, 1, 1000, 1150, 1163, 1164, 1165, 1200, 1210, 1400, 9000, 65_507):
            data = bytes(number % 251 for number in range(size))
            await client.send_datagram(data)
            assert await server.receive_datagram() == data
        with pytest.raises(LocalError, match="a datagram has at most "):
            await client.send_datagram(bytes(client.max_datagram_size + 1))
        assert client.max_datagram_size >= 65_507


async def test_a_steady_flow_passes_without_loss(ends, autojump_clock) -> None:
    """5,000 datagrams a second over a clean path: what a game or a call through a tunnel needs."""
    received = 0
    async with ends(delay_s=0.001).links() as (client, server), trio.open_nursery() as nursery:

        async def receive() -> None:
            nonlocal received
            while True:
                await server.receive_datagram()
                received += 1

        nursery.start_soon(receive)
        for number in range(2_000):
            await client.send_datagram(bytes(1 + number % 1208))
            if number % 5 == 4:
                await trio.sleep(0.001)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert received == 2_000


async def test_datagrams_and_a_bulk_stream_share_the_link(ends, autojump_clock) -> None:
    """A download must not starve the datagrams."""
    received = 0
    pair = ends(delay_s=0.005, queue=2000)
    async with pair.links() as (client, server), trio.open_nursery() as nursery:

        async def write() -> None:
            stream = await client.open_stream("bulk")
            while True:
                await stream.send_all(bytes(20_000))
                await trio.sleep(0.01)

        async def read() -> None:
            stream = await server.accept_stream()
            async for _ in stream:
                pass

        async def receive() -> None:
            nonlocal received
            while True:
                await server.receive_datagram()
                received += 1

        for task in (write, read, receive):
            nursery.start_soon(task)
        await trio.sleep(0.2)
        for _ in range(100):
            await client.send_datagram(bytes(100))
            await trio.sleep(0.005)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert received >= 90


async def test_a_dead_path_bounds_what_waits_and_for_how_long(ends, autojump_clock) -> None:
    """While the path is away, datagrams are dropped and counted, never piled up."""
    pair = ends(config=LinkConfig(datagram_queue=50))
    async with pair.links() as (client, _server):
        pair.client_transport.cut = True
        for _ in range(200):
            await client.send_datagram(bytes(500))
        assert len(client._protocol.datagrams.pending) <= 50
        assert client.statistics().datagrams_dropped >= 100
        assert trio.current_time() < 60


async def test_a_slow_receiver_loses_the_oldest(ends, autojump_clock) -> None:
    """Fresh datagrams are worth more than stale ones."""
    async with ends(config=LinkConfig(datagram_queue=10)).links() as (client, server):
        for number in range(30):
            await client.send_datagram(bytes([number]))
            await trio.sleep(0.01)
        await trio.sleep(1)
        assert [await server.receive_datagram() for _ in range(10)] == [bytes([number]) for number in range(20, 30)]
        assert server.statistics().datagrams_dropped == 20


@given(data=st.binary(max_size=5000), frame_size=st.integers(40, 1200), order=st.randoms(use_true_random=False))
def test_fragments_in_any_order_give_the_datagram_back(data, frame_size, order) -> None:
    """The network reorders; every frame fits its bound."""
    frames = split(data, 7, frame_size)
    assert all(len(frame) <= frame_size for frame in frames)
    order.shuffle(frames)
    reassembler = Reassembler(1_000_000)
    results = [reassembler.feed_untrusted(frame) for frame in frames]
    assert results[-1] == data
    assert all(result is None for result in results[:-1])


@given(frames=st.lists(st.binary(max_size=64), max_size=200))
def test_reassembly_takes_any_bytes_and_stays_bounded(frames) -> None:
    """A peer may send what it likes; memory and exceptions are ours."""
    reassembler = Reassembler(1000)
    for frame in frames:
        reassembler.feed_untrusted(frame)
        reassembler.feed_untrusted(b"\x01" + frame)
        assert len(reassembler._partial) <= 64
        assert reassembler._size <= 1000


def test_fragments_of_a_datagram_that_never_completes_are_forgotten() -> None:
    """One lost fragment must cost one datagram, not memory for ever."""
    reassembler = Reassembler(1_000_000)
    for number in range(100):
        reassembler.feed_untrusted(split(bytes(3000), number, 1000)[0])
    assert reassembler.dropped == 36
    assert len(reassembler._partial) == 64


def test_queue_drops_its_oldest_by_count_and_by_bytes() -> None:
    """Both bounds hold; the newest entry is always kept."""
    queue = DatagramQueue(3, 1000)
    for number in range(5):
        queue.push(bytes([number]))
    assert [queue.pop() for _ in range(len(queue))] == [b"\x02", b"\x03", b"\x04"]
    queue.push(bytes(999))
    queue.push(bytes(999))
    queue.push(bytes(999))
    assert len(queue) == 2
    assert queue.dropped == 3


@pytest.mark.thorough
async def test_datagrams_that_fill_the_path_do_not_deafen_to_those_of_the_peer(ends, autojump_clock) -> None:
    """A stream ends meanwhile, and its last frames wait: what the peer sends goes on coming in."""
    pair = ends(queue=200)
    async with pair.links() as (client, server), trio.open_nursery() as nursery:
        pair.client_transport.rate_bps = pair.server_transport.rate_bps = 2e6
        delays: list[float] = []

        async def flood() -> None:
            while True:
                await client.send_datagram(bytes(1000))
                await trio.sleep(0.002)

        async def take_flood() -> None:
            while True:
                await server.receive_datagram()

        async def tell_the_time() -> None:
            while True:
                await server.send_datagram(repr(trio.current_time()).encode())
                await trio.sleep(0.05)

        async def hear_the_time() -> None:
            while True:
                delays.append(trio.current_time() - float(await client.receive_datagram()))

        stream = await client.open_stream("ends")
        await stream.send_all(bytes(20_000))
        await stream.send_eof()
        await trio.sleep(0.1)
        for task in (flood, take_flood, tell_the_time, hear_the_time):
            nursery.start_soon(task)
        await trio.sleep(amount(16, 6))
        assert len(delays) > amount(300, 110)
        assert max(delays) < 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("loss", "queue"), [(0.0, 200), (0.02, 20)])
async def test_a_flood_of_datagrams_leaves_the_streams_their_half(
    ends, autojump_clock, loss: float, queue: int
) -> None:
    """Both libraries send datagrams before what streams have: a flow as fast as the path left a stream nothing.

    One stream after the other carries 20 kB to its end, on a path for 250 kB/s that a flow of 500 kB/s fills. What was
    lost of a stream is no newer than what the flow has, and does not wait for it either.
    """
    pair = ends(queue=queue)
    async with pair.links() as (client, server), trio.open_nursery() as nursery:
        pair.client_transport.rate_bps = pair.server_transport.rate_bps = 2e6
        pair.client_transport.loss = loss
        came, took_s = 0, list[float]()

        async def flood() -> None:
            while True:
                await client.send_datagram(bytes(1000))
                await trio.sleep(0.002)

        async def take_flood() -> None:
            nonlocal came
            while True:
                came += len(await server.receive_datagram()) > 0

        async def take_streams() -> None:
            while True:
                far = await server.accept_stream()
                async for _ in far:
                    pass
                await far.send_eof()

        for task in (flood, take_flood, take_streams):
            nursery.start_soon(task)
        await trio.sleep(1)
        with trio.move_on_after(10):
            while True:
                began_at = trio.current_time()
                stream = await client.open_stream("one of many")
                await stream.send_all(bytes(20_000))
                await stream.send_eof()
                assert await stream.receive_some(1) == b""
                took_s.append(trio.current_time() - began_at)
        assert len(took_s) > 10
        assert max(took_s) < 2
        assert came > 1000
        nursery.cancel_scope.cancel()
