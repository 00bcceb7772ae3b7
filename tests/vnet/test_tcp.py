"""TCP in the virtual network: what a program may rely on, over lines that lose, cut and translate."""

from __future__ import annotations

import errno
import random

import pytest
import trio
import trio.testing

from iceagent import vnet as vnet_package
from iceagent.core.address import TransportAddress
from iceagent.vnet import FULL_CONE, PORT_RESTRICTED, SYMMETRIC, WEB_ONLY, Burst, Nat, Network
from iceagent.vnet.packet import Segment
from iceagent.vnet.tcp_connection import RECEIVE_WINDOW, SEND_BUFFER, TcpConnection, TcpState


async def join(net, client_router=None, server_router=None, port=80, **line):
    """Return both ends of a connection."""
    client, server = net.host(client_router or net.internet, **line), net.host(server_router or net.internet)
    listener = await server.listen_tcp("0.0.0.0", port)
    ends = [None, None]

    async def accept():
        ends[1] = await listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        ends[0] = await client.connect_tcp(TransportAddress(server.address, port))
    return (*ends, listener)


async def drain(stream):
    return b"".join([chunk async for chunk in stream])


async def transfer(sender, receiver, data):
    got = b""

    async def send():
        await sender.send_all(data)
        await sender.send_eof()

    with trio.fail_after(600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            got = await drain(receiver)
    return got


def test_trios_own_rules_for_streams_hold():
    """Trio's conformance suite: cancellation, busy and closed errors, half-close. It waits for idleness, which a
    clock that jumps when idle does not know; so this one runs in real time, over lines without delay."""

    async def main():
        async with Network() as net:

            async def make():
                left, right, listener = await join(net, delay_s=0.0)
                await listener.aclose()
                return left, right

            async def make_clogged():
                left, right = await make()
                for end in (left, right):
                    await end.send_all(bytes(RECEIVE_WINDOW + SEND_BUFFER))
                return left, right

            await trio.testing.check_half_closeable_stream(make, make_clogged)

    trio.run(main)


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"loss": 0.1, "jitter_s": 0.01},
        {"burst": Burst(0.02, 0.3)},
        {"reorder": 0.1, "duplicate": 0.1},
        {"corrupt": 0.1},
        {"rate_bps": 2_000_000, "queue_bytes": 20_000},
        {"mtu": 600},
    ],
)
async def test_bytes_arrive_whole_and_in_order_whatever_the_line(vnet, line):
    """Loss shows as delay, and as nothing else."""
    net = vnet()
    data = random.Random(1).randbytes(300_000)
    async with net:
        client, server, _ = await join(net, delay_s=0.010, **line)
        assert await transfer(client, server, data) == data
        assert await transfer(server, client, data[::-1]) == data[::-1]


async def test_handshake_and_data_take_as_long_as_their_links(vnet):
    """A test may count in round trips: three ways until both ends know, one more for the first byte."""
    net = vnet()
    async with net:
        start = trio.current_time()
        client, server, _ = await join(net, delay_s=0.049)
        assert trio.current_time() - start == pytest.approx(0.15)
        await client.send_all(b"x")
        assert await server.receive_some() == b"x"
        assert trio.current_time() - start == pytest.approx(0.20)


@pytest.mark.parametrize("nat", [FULL_CONE, PORT_RESTRICTED, SYMMETRIC])
async def test_connections_go_out_through_nats_and_not_in(vnet, nat):
    """A home can call, and cannot be called."""
    net = vnet()
    home, other = (net.router(net.internet, nat=nat) for _ in range(2))
    async with net:
        client, server, _ = await join(net, home)
        assert server.remote_address.host == home.public_address
        assert await transfer(client, server, b"hello") == b"hello"
        inside = net.host(home)
        await inside.listen_tcp("0.0.0.0", 80)
        caller = net.host(other)
        with pytest.raises(OSError) as refused, trio.fail_after(600):
            await caller.connect_tcp(TransportAddress(home.public_address, 80))
        assert refused.value.errno == errno.ETIMEDOUT


async def test_nat_keeps_a_quiet_connection_for_two_hours_and_loses_it_in_a_reboot(vnet):
    """RFC 5382: TCP mappings outlive UDP's by far. After a reboot the server's words lead nowhere."""
    net = vnet()
    home = net.router(net.internet, nat=Nat(mapping_timeout_s=30.0, port_allocation="random"))
    async with net:
        client, server, _ = await join(net, home)
        await trio.sleep(7000)
        await server.send_all(b"still there?")
        assert await client.receive_some() == b"still there?"
        home.reboot()
        await client.send_all(b"?")
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()  # the server knows no such connection, under its new port


async def test_web_only_firewall_lets_the_web_out(vnet):
    """The hotel: 443 and nothing else."""
    net = vnet()
    hotel = net.router(net.internet, firewall=WEB_ONLY, nat=PORT_RESTRICTED)
    async with net:
        client, server, _ = await join(net, hotel, port=443)
        assert await transfer(client, server, b"through") == b"through"
        with trio.move_on_after(20) as scope:
            await join(net, hotel, port=3478)
        assert scope.cancelled_caught


async def test_nobody_listening_is_told_at_once(vnet):
    """A refusal costs one round trip, not a minute."""
    net = vnet(families=(4, 6))
    client, server = net.host(net.internet), net.host(net.internet)
    async with net:
        for address in server.addresses():
            start = trio.current_time()
            with pytest.raises(ConnectionRefusedError):
                await client.connect_tcp(TransportAddress(address, 9))
            assert trio.current_time() - start < 0.01
        with pytest.raises(OSError) as nowhere:
            await client.connect_tcp(TransportAddress("192.0.2.9", 9), local_host="192.0.2.1")
        assert nowhere.value.errno == errno.EADDRNOTAVAIL


async def test_slow_reader_stops_the_writer(vnet):
    """Back-pressure: what is written and not read is bounded, however long one waits."""
    net = vnet()
    async with net:
        client, server, _ = await join(net)
        with trio.move_on_after(60) as scope:
            await client.send_all(bytes(4_000_000))
        assert scope.cancelled_caught
        got = 0
        with trio.move_on_after(10):
            while True:
                got += len(await server.receive_some())
        assert got <= RECEIVE_WINDOW + SEND_BUFFER + 2000
        await client.send_all(b"and on")
        assert await server.receive_some() == b"and on"


async def test_partition_is_outlived_and_a_long_one_is_not(vnet):
    """Twenty seconds of nothing delay; for ever breaks, after some minutes."""
    net = vnet()
    async with net:
        client, server, _ = await join(net)
        host = net.hosts()[0]
        host.partition()
        await client.send_all(b"late")
        await trio.sleep(20)
        host.heal()
        with trio.fail_after(30):
            assert await server.receive_some() == b"late"
        host.partition()
        await client.send_all(b"never")
        with trio.fail_after(400), pytest.raises(trio.BrokenResourceError, match="timed out"):
            await client.receive_some()


async def test_crashed_server_resets_when_spoken_to(vnet):
    """It forgot everything: the next segment is answered with a reset, and a new server can listen."""
    net = vnet()
    async with net:
        client, server, listener = await join(net)
        net.hosts()[1].crash()
        for broken in (server.receive_some(), listener.accept()):
            with pytest.raises(trio.ClosedResourceError):
                await broken
        await client.send_all(b"hello?")
        with trio.fail_after(1), pytest.raises(trio.BrokenResourceError, match="reset"):
            await client.receive_some()
        await net.hosts()[1].listen_tcp("0.0.0.0", 80)


async def test_closing_with_unread_bytes_resets(vnet):
    """As real systems do, so that the peer does not believe it was heard."""
    net = vnet()
    async with net:
        client, server, _ = await join(net)
        await client.send_all(b"unread")
        await trio.sleep(1)
        await server.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()


async def test_what_was_sent_before_close_is_delivered(vnet):
    """Closing is not losing: a response followed by close must arrive, also over a bad line."""
    net = vnet()
    async with net:
        client, server, _ = await join(net, loss=0.2)
        await server.send_all(bytes(50_000))
        await server.aclose()
        assert await drain(client) == bytes(50_000)


async def test_listeners_follow_the_rules(vnet):
    """Ports are exclusive, addresses one's own; closing wakes who waits."""
    net = vnet()
    host = net.host(net.internet)
    async with net:
        first = await host.listen_tcp(host.address, 80)
        for address, code in ((host.address, errno.EADDRINUSE), ("192.0.2.1", errno.EADDRNOTAVAIL)):
            with pytest.raises(OSError) as refused:
                await host.listen_tcp(address, 80)
            assert refused.value.errno == code
        assert (await host.listen_tcp("0.0.0.0")).local_address.port >= 49152
        async with trio.open_nursery() as nursery:

            async def accept():
                with pytest.raises(trio.ClosedResourceError):
                    await first.accept()

            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            await first.aclose()
    assert net.statistics().sockets_left_open == 1  # the listener that nobody closed


def test_connections_repeat_byte_for_byte():
    """TCP adds no chance of its own."""

    async def session():
        net = Network(seed=4)
        async with net:
            client, server, _ = await join(net, loss=0.1, jitter_s=0.005)
            await transfer(client, server, bytes(100_000))
        return net.trace_bytes()

    traces = {vnet_package.run(session, seed=4) for _ in range(3)}
    assert len(traces) == 1
    assert b" tcp S " in traces.pop()


def test_stray_segments_change_nothing():
    """A segment of an earlier connection must not open or feed a new one."""
    machine = TcpConnection(0.0, is_client=True)
    first = machine.poll_segment()
    assert first is not None
    syn, _ = first
    assert syn.flags == "S"
    machine.handle_segment(0.1, syn._replace(flags="A", acknowledged=77), b"old")
    assert (machine.state, machine.readable, machine.poll_segment()) == (TcpState.CONNECTING, 0, None)


def test_late_segments_of_an_earlier_connection_do_not_fit_a_new_one():
    """The same ports are used again, and what was sent before is still on its way, an end of it among it."""

    def open_connection(now):
        client, server = TcpConnection(now, is_client=True), TcpConnection(now, is_client=False)
        exchange(now, client, server)
        return client, server

    def exchange(now, client, server):
        sent: list[tuple[Segment, bytes]] = []
        while True:
            pairs = [(one, other, one.poll_segment()) for one, other in ((client, server), (server, client))]
            if not any(segment for _, _, segment in pairs):
                return sent
            for _, other, out in pairs:
                if out is not None:
                    sent.append(out)
                    other.handle_segment(now, *out)

    client, server = open_connection(0.0)
    client.write(1.0, b"of the earlier one")
    client.end(1.0)
    late = exchange(1.0, client, server)
    for segment, data in [*late, (late[0][0]._replace(flags="AR"), b"")]:
        client, server = open_connection(2.0)
        server.handle_segment(2.1, segment, data)
        client.handle_segment(2.1, segment, data)
        exchange(2.1, client, server)
        assert client.state is server.state is TcpState.OPEN
        assert client.readable == server.readable == 0
        assert not server.is_eof_received
        client.write(2.2, b"of this one")
        exchange(2.2, client, server)
        assert server.read(100) == b"of this one"


async def test_two_that_connect_to_each_other_at_once_get_one_connection(vnet):
    """RFC 9293 section 3.5: the SYNs cross, and each side's connect succeeds."""
    net = vnet()
    left, right = net.host(net.internet), net.host(net.internet)
    ends = {}

    async def connect(host, other, port, other_port):
        target = TransportAddress(other.address, other_port)
        ends[host] = await host.connect_tcp(target, local_host=host.address, local_port=port)

    async with net:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connect, left, right, 5001, 5002)
                nursery.start_soon(connect, right, left, 5002, 5001)
        assert await transfer(ends[left], ends[right], b"both ways") == b"both ways"
        assert await transfer(ends[right], ends[left], b"and back") == b"and back"


@pytest.mark.parametrize("late_s", [0.0, 0.4, 3.0])
async def test_crossing_syns_open_a_way_through_two_nats(vnet, late_s):
    """What RFC 6544's simultaneous open is for: each NAT has seen its own side's SYN when the other's comes."""
    net = vnet()
    routers = [net.router(net.internet, nat=PORT_RESTRICTED) for _ in range(2)]
    hosts = [net.host(router) for router in routers]
    mapped = [TransportAddress(router.public_address, 5000) for router in routers]
    ends = {}

    async def connect(number, delay_s):
        await trio.sleep(delay_s)
        ends[number] = await hosts[number].connect_tcp(
            mapped[1 - number], local_host=hosts[number].address, local_port=5000
        )

    async with net:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connect, 0, 0.0)
                nursery.start_soon(connect, 1, late_s)
        assert await transfer(ends[0], ends[1], b"through") == b"through"


async def test_a_port_may_listen_and_connect_but_not_twice_to_the_same(vnet):
    """As with SO_REUSEPORT: the pair of addresses is what has to be unique."""
    net = vnet()
    host, server = net.host(net.internet), net.host(net.internet)
    async with net:
        await host.listen_tcp(host.address, 5000, share_port=True)
        for port in (80, 81):
            await server.listen_tcp(server.address, port)
        target = TransportAddress(server.address, 80)
        await host.connect_tcp(target, local_host=host.address, local_port=5000)
        await host.connect_tcp(TransportAddress(server.address, 81), local_host=host.address, local_port=5000)
        with pytest.raises(OSError, match="assign") as caught:
            await host.connect_tcp(target, local_host=host.address, local_port=5000)
        assert caught.value.errno == errno.EADDRNOTAVAIL


async def test_a_handshake_under_way_is_reset_when_the_listener_closes(vnet):
    """As in real systems; else nobody would ever accept, nor close, what came of it."""
    net = vnet()
    client, server = (net.host(net.internet, delay_s=0.02) for _ in range(2))
    async with net:
        listener = await server.listen_tcp(server.address, 80)

        async def close_midway():
            await trio.sleep(0.05)  # the first segment has arrived, the answer is on its way
            await listener.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(close_midway)
            stream = await client.connect_tcp(TransportAddress(server.address, 80))
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
            await stream.aclose()
    assert net.statistics().sockets_left_open == 0
