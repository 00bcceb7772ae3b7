"""A base of TCP connections: what it promises as a socket, and what strangers can do to it, which is little."""

from __future__ import annotations

import errno

import pytest
import trio

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.net.batch import Batch
from iceagent.net.framing import frame
from iceagent.net.tcp_base import MAX_STRANGERS, MAX_STRANGERS_PER_SOURCE, RECEIVE_BUFFER, TcpBase
from iceagent.net.tcp_peer import SEND_BUFFER, STALL_S, STRANGER_BYTES

CHECK = stun.encode(stun.binding_request(b"a check of us"[:12]))


@pytest.fixture
async def lab(vnet):
    """A server with a passive base at port 5000, and the network it is in."""
    net = vnet()
    server = net.host(net.internet)
    async with net, trio.open_nursery() as nursery:
        known: set[TransportAddress] = set()
        listener = await server.listen_tcp(server.address, 5000)
        base = TcpBase(
            server, listener.local_address, listener, connects=False, is_known=lambda remote: remote in known
        )
        nursery.start_soon(base.run)
        yield net, base, known
        base.close()
        nursery.cancel_scope.cancel()


def active_base(host, nursery, known=lambda remote: True):
    base = TcpBase(host, TransportAddress(host.address, 9), None, connects=True, is_known=known)
    nursery.start_soon(base.run)
    return base


async def knock(net, base, *, host=None):
    host = host or net.host(net.internet)
    return await host.connect_tcp(base.local_address)


async def is_closed(stream):
    """Return whether the other end has closed: its end, or a reset."""
    with trio.move_on_after(0.5):
        try:
            return await stream.receive_some() == b""
        except trio.BrokenResourceError:
            return True
    return False


async def test_datagrams_travel_both_ways_and_keep_their_boundaries(lab):
    """One base connects because something is sent; the other answers over what came in."""
    net, base, _ = lab
    client = net.host(net.internet)
    async with trio.open_nursery() as nursery:
        active = active_base(client, nursery)
        assert active.send_nowait([CHECK, CHECK, b"x" * 24], base.local_address) == 3
        with trio.fail_after(5):
            (batch,) = await base.receive()
        assert batch.datagrams() == [CHECK, CHECK, b"x" * 24][: len(batch.datagrams())]
        assert batch.remote.host == client.address
        await base.send([b"answer"], batch.remote)
        with trio.fail_after(5):
            assert [b.datagrams() for b in await active.receive()] == [[b"answer"]]
        active.close()


async def test_what_is_equally_long_comes_as_one_batch(lab):
    """As the kernel's GRO does it: the link takes fifty packets in one call."""
    net, base, known = lab
    async with trio.open_nursery() as nursery:
        active = active_base(net.host(net.internet), nursery)
        await active.send([CHECK], base.local_address)
        (first,) = await base.receive()
        known.add(first.remote)
        await active.send([bytes([i]) * 1200 for i in range(20)], base.local_address)
        got: list[Batch] = []
        with trio.fail_after(5):
            while sum(len(batch) for batch in got) < 20:
                got += await base.receive()
        assert len(got) < 20
        assert [one for batch in got for one in batch.datagrams()] == [bytes([i]) * 1200 for i in range(20)]
        active.close()


async def test_a_refused_connection_is_told_like_an_icmp_error(lab):
    """The core then fails the check at once instead of waiting for 39.5 s."""
    net, base, _ = lab
    nobody = TransportAddress(base.local_address.host, 5001)
    async with trio.open_nursery() as nursery:
        active = active_base(net.host(net.internet), nursery)
        active.send_nowait([CHECK], nobody)
        with trio.fail_after(5):
            assert await active.receive() == []
        assert [(error.remote, error.errno) for error in active.take_errors()] == [(nobody, errno.ECONNREFUSED)]
        assert active.peers == 0
        active.close()


async def test_a_passive_base_connects_nowhere(lab):
    """Its peers' ports are theirs to connect from; nobody listens there."""
    net, base, _ = lab
    stranger = TransportAddress(net.host(net.internet).address, 4000)
    assert base.send_nowait([b"x"], stranger) == 1
    assert [error.errno for error in base.take_errors()] == [errno.ENOTCONN]
    assert base.statistics().send_errors == 1


async def test_a_stranger_that_says_nothing_is_gone_within_seconds(lab):
    """Slow loris: a byte now and then keeps no connection either."""
    net, base, _ = lab
    silent, slow = await knock(net, base), await knock(net, base)
    for number in range(8):
        await trio.sleep(1)
        try:
            await slow.send_all(frame(CHECK)[number : number + 1])
        except trio.BrokenResourceError:
            break
    assert base.peers == 0
    assert base.refused["no check"] == 2
    assert await is_closed(silent)


async def test_a_check_that_is_not_authentic_keeps_no_connection(lab):
    """Looking like STUN is not enough: the core says whether it was signed."""
    net, base, known = lab
    forger, friend = await knock(net, base), await knock(net, base)
    for stream in (forger, friend):
        await stream.send_all(frame(CHECK))
    await trio.sleep(0.5)
    await base.receive()
    known.add(friend.local_address)
    await trio.sleep(30)
    assert base.peers == 1
    assert await is_closed(forger)
    assert not await is_closed(friend)


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff",
        b"\x16\x03\x01\x02\x00" + bytes(600),
        frame(b"not STUN at all, but framed"),
    ],
)
async def test_what_is_no_check_is_closed_at_once(lab, words):
    """A web browser, a huge length, TLS, anything: counted, and nothing reaches the core."""
    net, base, _ = lab
    stream = await knock(net, base)
    await stream.send_all(words)
    assert await is_closed(stream)
    await trio.sleep(0.1)
    assert base.peers == 0
    assert base.refused["not STUN"] + base.refused["frame too long"] == 1


async def test_a_stranger_cannot_fill_memory_with_checks(lab):
    """16 KiB of unsigned checks are enough."""
    net, base, _ = lab
    stream = await knock(net, base)

    async def flood():
        for _ in range(10 * STRANGER_BYTES // len(frame(CHECK))):
            await stream.send_all(frame(CHECK))
            await trio.sleep(0.001)

    with pytest.raises(trio.BrokenResourceError):
        await flood()
    assert base.statistics().bytes_received <= STRANGER_BYTES + 65536


async def test_strangers_are_few_per_source_and_in_all(lab):
    """A flood of connections leaves room for nobody in particular, for a few seconds, and costs a few tables."""
    net, base, _ = lab
    host = net.host(net.internet)
    mine = [await knock(net, base, host=host) for _ in range(20)]
    await trio.sleep(0.2)
    assert base.peers == MAX_STRANGERS_PER_SOURCE
    others = [await knock(net, base) for _ in range(40)]
    await trio.sleep(0.2)
    assert base.peers == MAX_STRANGERS
    assert base.refused["too many connections of one source"] == 20 - MAX_STRANGERS_PER_SOURCE
    assert len(mine) + len(others) == base.peers + sum(base.refused.values())
    await trio.sleep(10)
    assert base.peers == 0
    late = await knock(net, base)
    await trio.sleep(0.2)
    assert base.peers == 1, "and then there is room again"
    assert late.state.value == "open"


async def test_a_slow_reader_stops_the_sender(lab):
    """Bounded at both ends: what is not read is not taken from TCP, and then `send` waits and `send_nowait` refuses."""
    net, base, known = lab
    async with trio.open_nursery() as nursery:
        active = active_base(net.host(net.internet), nursery)
        await active.send([CHECK], base.local_address)
        (first,) = await base.receive()
        known.add(first.remote)
        sent = 0
        with trio.move_on_after(60):
            while True:
                await active.send([bytes(1200)] * 50, base.local_address)
                sent += 50 * 1200
        assert RECEIVE_BUFFER <= sent <= RECEIVE_BUFFER + 3 * 256 * 1024 + SEND_BUFFER + 2 * 65536
        assert base._received._size <= RECEIVE_BUFFER + 2 * 65536
        while active.send_nowait([bytes(1200)] * 50, base.local_address):
            pass
        assert active.peers == 1
        got = 0
        with trio.fail_after(60):
            while got < sent:
                got += sum(len(batch.data) for batch in await base.receive())
        active.close()


async def test_a_connection_that_went_silent_is_replaced_by_the_next_datagram(lab):
    """A NAT that forgot us answers nothing; TCP would go on trying for minutes."""
    net, base, known = lab
    home = net.router(net.internet)
    client = net.host(home)
    async with trio.open_nursery() as nursery:
        active = active_base(client, nursery)
        await active.send([CHECK], base.local_address)
        (first,) = await base.receive()
        known.add(first.remote)
        base.send_nowait([b"heard"], first.remote)
        await active.receive()
        client.partition()
        active.send_nowait([b"lost"], base.local_address)
        await trio.sleep(STALL_S + 0.1)
        client.heal()
        active.send_nowait([CHECK], base.local_address)
        with trio.fail_after(5):
            (again,) = [b for b in await base.receive() if b.remote != first.remote]
        assert again.datagrams() == [CHECK]
        assert active.refused["stalled"] == 1
        active.close()


async def test_closing_wakes_everybody_and_leaves_no_socket(lab):
    """Teardown: whoever waits gets Trio's error, and no connection outlives the base."""
    net, base, _ = lab
    client = net.host(net.internet)
    async with trio.open_nursery() as nursery:
        active = active_base(client, nursery)
        active.send_nowait([CHECK], base.local_address)
        await base.receive()

        async def receive():
            while True:
                await active.receive()

        async def wait_closed():
            with pytest.raises(trio.ClosedResourceError):
                await receive()

        nursery.start_soon(wait_closed)
        await trio.sleep(0.1)
        active.close()
        active.close()
        with pytest.raises(trio.ClosedResourceError):
            active.send_nowait([b"x"], base.local_address)
    base.close()
    await trio.sleep(5)
    assert net.statistics().sockets_left_open == 0


async def test_a_base_that_never_ran_closes_its_listener(vnet):
    """An agent that fails while it opens must not leave a port behind."""
    net = vnet()
    host = net.host(net.internet)
    async with net:
        listener = await host.listen_tcp(host.address, 5000)
        base = TcpBase(host, listener.local_address, listener, connects=False, is_known=lambda remote: False)
        base.close()
        assert net.statistics().sockets_left_open == 0
        await host.listen_tcp(host.address, 5000)
