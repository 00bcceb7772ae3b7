"""What a bad line does: each fault by itself, as often as it was asked for, and never another."""

from __future__ import annotations

import errno
import itertools

import pytest
import trio

from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError
from iceagent.net.api import IcmpError
from iceagent.vnet import FULL_CONE, PORT_RESTRICTED, Burst


async def send_through(net, count=1000, size=100, **faults):
    """Send numbered datagrams over one faulty line, one per millisecond; return what arrived, in order."""
    alice, server = net.host(net.internet, **faults), net.host(net.internet)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0"), await server.open_udp("0.0.0.0", 1)
        for number in range(count):
            await ours.send([number.to_bytes(4, "big") + bytes(size - 4)], TransportAddress(server.address, 1))
            await trio.sleep(0.001)
        await trio.sleep(10)
        got = []
        with trio.move_on_after(0.1):
            while True:
                got += [data for batch in await theirs.receive() for data in batch.datagrams()]
    return got


def numbers(datagrams):
    return [int.from_bytes(data[:4], "big") for data in datagrams]


async def test_bursty_loss_comes_in_bursts(vnet):
    """The same share lost at random is far kinder: retransmissions of a burst's victims die with them."""
    got = numbers(await send_through(vnet(), 4000, burst=Burst(enter=0.02, leave=0.2)))
    gaps = [b - a - 1 for a, b in itertools.pairwise(got) if b - a > 1]
    assert 1 - len(got) / 4000 == pytest.approx(0.02 / 0.22, rel=0.4)
    assert sum(gaps) / len(gaps) == pytest.approx(5, rel=0.4)


async def test_duplicates_arrive_twice_in_order(vnet):
    """A repeated check or datagram must be harmless."""
    got = numbers(await send_through(vnet(), duplicate=0.1))
    assert got == sorted(got)
    assert set(got) == set(range(1000))
    assert len(got) == pytest.approx(1100, rel=0.03)


async def test_reordered_packets_are_overtaken_by_those_within_their_delay(vnet):
    """Only the chosen ones are late; the others stay in order."""
    got = numbers(await send_through(vnet(), reorder=0.05, reorder_s=0.01))
    assert sorted(got) == list(range(1000))
    late = sum(1 for a, b in itertools.pairwise(got) if b < a)
    assert late == pytest.approx(50, rel=0.5)


async def test_corruption_flips_one_bit_of_some_datagrams(vnet):
    """Whatever a checksum of 16 bits misses; integrity has to catch it."""
    got = await send_through(vnet(), corrupt=0.2)
    flipped = [bin(int.from_bytes(data, "big") ^ (n << 96 * 8)).count("1") for n, data in enumerate(got)]
    assert len(got) == 1000
    assert set(flipped) == {0, 1}
    assert sum(flipped) == pytest.approx(200, rel=0.3)


async def test_rate_and_queue_delay_then_drop(vnet):
    """A full uplink is the commonest fault of all: first the round trip grows, then packets vanish."""
    net = vnet()
    alice, server = net.host(net.internet, rate_bps=1_000_000, queue_bytes=9_500), net.host(net.internet)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0"), await server.open_udp("0.0.0.0", 1)
        start = trio.current_time()
        await ours.send([bytes(972)] * 50, TransportAddress(server.address, 1))  # 1000 bytes each on the wire: 8 ms
        got = 0
        with trio.move_on_after(5):
            while True:
                got += sum(len(batch) for batch in await theirs.receive())
                last = trio.current_time()
        assert got == 10
        assert last - start == pytest.approx(10 * 0.008 + 0.002, abs=1e-6)
        assert net.statistics().packets_dropped["queue full"] == 40


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("behind_nat", [True, False])
async def test_packet_over_the_mtu_is_answered_or_swallowed(vnet, tells, behind_nat):
    """A tunnel on the way: with ICMP the sender learns of it, through the NAT too; without, it is a black hole."""
    net = vnet()
    tunnel = net.router(net.internet, mtu=1280, tells_mtu=tells, nat=PORT_RESTRICTED)
    alice = net.host(net.router(tunnel, nat=FULL_CONE) if behind_nat else tunnel)
    server = net.host(net.internet)
    target = TransportAddress(server.address, 1)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0"), await server.open_udp("0.0.0.0", 1)
        await ours.send([bytes(1253), bytes(1252)], target)
        assert [len(batch.data) for batch in await theirs.receive()] == [1252]
        await trio.sleep(1)
        assert ours.take_errors() == ([IcmpError(target, errno.EMSGSIZE)] if tells else [])
        assert net.statistics().packets_dropped["too big"] == 1


async def test_mtu_on_the_last_mile_is_told_to_a_sender_outside(vnet):
    """The router in front of the narrow link speaks, not the one behind it."""
    net = vnet(families=(6,))
    alice, bob = net.host(net.internet), net.host(net.internet, mtu=1280)
    target = TransportAddress(bob.address, 1)
    async with net:
        ours, theirs = await alice.open_udp("::"), await bob.open_udp("::", 1)
        await ours.send([bytes(1233), bytes(1232)], target)
        assert [len(batch.data) for batch in await theirs.receive()] == [1232]
        await trio.sleep(1)
        assert ours.take_errors() == [IcmpError(target, errno.EMSGSIZE)]


async def test_faults_may_be_changed_while_packets_flow(vnet):
    """A fault begins and ends in the middle of a test; what None can take away goes."""
    net = vnet()
    alice = net.host(net.internet)
    alice.link.change(rate_bps=1000, burst=Burst(), mtu=600, corrupt=0.5)
    alice.link.change(rate_bps=None, burst=None, mtu=None, corrupt=0.0)
    assert (alice.link.up.rate_bps, alice.link.up.burst, alice.link.up.mtu) == (None, None, None)


@pytest.mark.parametrize(
    "faults",
    [
        {"duplicate": 2},
        {"corrupt": -1},
        {"reorder_s": -1},
        {"rate_bps": 0},
        {"mtu": 20},
        {"queue_bytes": -1},
        {"colour": "red"},
    ],
)
def test_impossible_faults_are_refused_with_a_sentence(vnet, faults):
    """A mistyped fault that did nothing would make a test pass for the wrong reason."""
    net = vnet()
    with pytest.raises(LocalError, match=next(iter(faults)).split("_")[0].replace("mtu", "MTU")):
        net.host(net.internet, **faults)
    with pytest.raises(LocalError, match="probability"):
        Burst(enter=3)
