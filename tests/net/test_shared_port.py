"""A share of a UDP port is a UDP socket like any other."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from iceagent.agent import open_shared_port
from iceagent.core import stun
from iceagent.net import Batch, SystemNetwork, UdpSocket
from iceagent.net.shared_port import QUEUE_LIMIT, SharedPort, SharedSocket


def check_of(ufrag: str) -> bytes:
    return stun.encode(stun.binding_request(bytes(12), stun.Username(f"{ufrag}:x"), stun.Priority(1)), key=b"k")


def share_of(port: SharedPort, ufrag: str) -> SharedSocket:
    share = port.attach("127.0.0.1", ufrag)
    assert share is not None
    return share


async def claimed(port: SharedPort, share: SharedSocket, ufrag: str, peer: UdpSocket) -> None:
    """Let a share hear an authenticated check of a peer, so that it gets the peer's data."""
    peer.send_nowait((check_of(ufrag),), port.addresses[0])
    (batch,) = await share.receive()
    share.note_authenticated(trio.current_time(), batch.remote, batch.data, valid=True)


async def test_bulk_arrives_whole_and_in_order_around_stun() -> None:
    """A check between data splits a batch, not the flow; the rest stays in runs."""
    network = SystemNetwork()
    async with open_shared_port(hosts=["127.0.0.1"]) as port:
        share: UdpSocket
        share = mine = share_of(port, "mine")
        peer = await network.open_udp("127.0.0.1")
        await claimed(port, mine, "mine", peer)
        data = [bytes([200 + number]) * 100 for number in range(20)]
        check = check_of("mine")
        for part in (data[:10], [check], data[10:]):
            await peer.send(part, port.addresses[0])
        got: list[Batch] = []
        while sum(map(len, got)) < 21:
            got += await share.receive()
        assert [datagram for batch in got for datagram in batch.datagrams()] == [*data[:10], check, *data[10:]]
        assert share.statistics().datagrams_received == 22
        peer.close()


async def test_a_full_queue_drops_and_counts() -> None:
    """Who does not receive loses datagrams, as at a socket of his own."""
    network = SystemNetwork()
    async with open_shared_port(hosts=["127.0.0.1"]) as port:
        mine, other = share_of(port, "mine"), share_of(port, "other")
        peers = [await network.open_udp("127.0.0.1") for _ in range(2)]
        await claimed(port, mine, "mine", peers[0])
        await claimed(port, other, "other", peers[1])
        for _ in range(400):
            await peers[0].send([b"\x80" * 1000], port.addresses[0])
            await peers[1].send([b"\x80"], port.addresses[0])
            await other.receive()
        assert mine.datagrams_dropped > 0
        assert sum(len(batch.data) for batch in await mine.receive()) <= QUEUE_LIMIT
        for peer in peers:
            peer.close()


async def test_closing_a_share_leaves_the_others_alone_and_closing_the_port_ends_all() -> None:
    """Whoever waits is told."""
    async with open_shared_port(hosts=["127.0.0.1"]) as port:
        one, two = share_of(port, "one"), share_of(port, "two")
        async with trio.open_nursery() as nursery:

            async def expect_closed(share: SharedSocket) -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await share.receive()

            nursery.start_soon(expect_closed, one)
            nursery.start_soon(expect_closed, two)
            await trio.testing.wait_all_tasks_blocked()
            one.close()
            one.close()
            with pytest.raises(trio.ClosedResourceError):
                one.send_nowait((b"x",), port.addresses[0])
            assert two.send_nowait((b"x",), port.addresses[0]) == 1
            assert port.sessions == 1
            port.close()
        with pytest.raises(trio.ClosedResourceError):
            await two.send((b"x",), port.addresses[0])
        assert port.sessions == 0


async def test_one_number_at_several_addresses() -> None:
    """Firewalls are opened for one port, whatever the family."""
    hosts = ["127.0.0.1", "127.0.0.2"]
    async with open_shared_port(hosts=hosts) as port:
        assert [address.host for address in port.addresses] == hosts
        assert len({address.port for address in port.addresses}) == 1
        assert port.attach("127.0.0.3", "x") is None
        assert len(port.statistics()) == 2


async def test_the_body_s_error_leaves_unwrapped() -> None:
    """As from every other entry of the library."""
    with pytest.raises(KeyError):
        async with open_shared_port(hosts=["127.0.0.1"]):
            raise KeyError("mine")
