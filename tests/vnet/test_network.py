"""Hosts, links and routers: what travels, what does not, and that time and chance are the test's own."""

from __future__ import annotations

import errno
import ipaddress
import itertools
import math

import pytest
import trio
import trio.testing
from virtual_udp import silent

from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError
from iceagent.net.api import IcmpError
from iceagent.vnet import FULL_CONE, MASQUERADE, PORT_RESTRICTED, SYMMETRIC, Nat, Network
from iceagent.vnet.udp import MAX_ERRORS, RECEIVE_BUFFER, RECEIVE_LIMIT, SEND_BUFFER


async def datagrams(udp):
    return [data for batch in await udp.receive() for data in batch.datagrams()]


async def echo(udp):
    while True:
        for batch in await udp.receive():
            await udp.send(batch.datagrams(), batch.remote)


async def test_datagram_takes_as_long_as_its_links(vnet):
    """Delays add up hop by hop, exactly: a test may count in round trips."""
    net = vnet()
    home = net.router(net.internet, nat=PORT_RESTRICTED, delay_s=0.020)
    alice, server = net.host(home, delay_s=0.001), net.host(net.internet, delay_s=0.005)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0"), await server.open_udp("0.0.0.0", 3478)
        start = trio.current_time()
        await ours.send([b"hello"], TransportAddress(server.address, 3478))
        assert await datagrams(theirs) == [b"hello"]
        assert trio.current_time() - start == pytest.approx(0.026)


async def test_server_sees_the_nat_and_answers_through_it(vnet):
    """The round trip that STUN is made of."""
    net = vnet()
    home = net.router(net.internet, nat=PORT_RESTRICTED)
    alice, server = net.host(home), net.host(net.internet)
    async with net:
        ours, theirs = await alice.open_udp(alice.address, 5000), await server.open_udp(server.address, 3478)
        await ours.send([b"ping"], theirs.local_address)
        (batch,) = await theirs.receive()
        assert batch.remote == (home.public_address, 5000)
        await theirs.send([b"pong"], batch.remote)
        (answer,) = await ours.receive()
        assert (answer.remote, answer.data) == (theirs.local_address, b"pong")


@pytest.mark.parametrize(("nat", "is_open"), [(PORT_RESTRICTED, False), (FULL_CONE, True)])
async def test_nat_keeps_strangers_out_and_cone_lets_them_in(vnet, nat, is_open):
    """The same stranger against two kinds of filter."""
    net = vnet()
    home = net.router(net.internet, nat=nat)
    inside, server, stranger = net.host(home), net.host(net.internet), net.host(net.internet)
    async with net:
        ours, other = await inside.open_udp("0.0.0.0", 5000), await stranger.open_udp("0.0.0.0")
        await ours.send([b""], TransportAddress(server.address, 3478))
        assert await ours.receive() == []  # only the server's word that its port is closed
        await other.send([b"knock"], TransportAddress(home.public_address, 5000))
        assert await silent(ours) is not is_open


async def test_network_can_be_started_again(vnet):
    """Topology survives the block; packets and sockets do not."""
    net = vnet()
    alice = net.host(net.internet)
    for _ in range(2):
        async with net:
            ours = await alice.open_udp("0.0.0.0", 5000)
            await ours.send([b"x"], TransportAddress(alice.address, 5000))
            assert await datagrams(ours) == [b"x"]


async def test_private_addresses_are_not_reachable_from_outside(vnet):
    """A peer's host candidate behind a NAT leads nowhere, silently."""
    net = vnet()
    homes = [net.router(net.internet, nat=FULL_CONE) for _ in range(2)]
    alice, bob = (net.host(home) for home in homes)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0"), await bob.open_udp("0.0.0.0", 5000)
        await ours.send([b"lost"], TransportAddress(bob.address, 5000))
        assert await silent(theirs)
        assert net.statistics().packets_dropped["no route"] == 1


async def test_neighbours_talk_without_their_router_translating(vnet):
    """Two hosts of one home meet on their private addresses."""
    net = vnet()
    home = net.router(net.internet, nat=SYMMETRIC)
    alice, bob = net.host(home), net.host(home)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0", 4000), await bob.open_udp("0.0.0.0", 5000)
        await ours.send([b"hi"], TransportAddress(bob.address, 5000))
        (batch,) = await theirs.receive()
        assert batch.remote == (alice.address, 4000)


@pytest.mark.parametrize("hairpin", [True, False])
async def test_hairpin_joins_neighbours_on_their_external_endpoints(vnet, hairpin):
    """RFC 4787 section 6: many boxes do not, and then only host candidates connect neighbours."""
    net = vnet()
    home = net.router(net.internet, nat=Nat(filtering="endpoint-independent", hairpin=hairpin))
    alice, bob, server = net.host(home), net.host(home), net.host(net.internet)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0", 4000), await bob.open_udp("0.0.0.0", 5000)
        await theirs.send([b"open"], TransportAddress(server.address, 9))
        await ours.send([b"round"], TransportAddress(home.public_address, 5000))
        with trio.move_on_after(1):
            while True:
                if batches := await theirs.receive():
                    assert hairpin
                    assert batches[0].remote == (home.public_address, 4000)
                    return
        assert not hairpin


async def test_carrier_nat_above_a_home_nat_translates_twice(vnet):
    """Carrier-grade NAT: the home router's outer address is itself private."""
    net = vnet()
    carrier = net.router(net.internet, nat=SYMMETRIC, subnet="100.64.0.0/10")
    home = net.router(carrier, nat=PORT_RESTRICTED)
    alice, server = net.host(home), net.host(net.internet)
    assert home.public_address == "100.64.0.2"
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0", 5000), await server.open_udp("0.0.0.0", 3478)
        await ours.send([b"ping"], TransportAddress(server.address, 3478))
        (batch,) = await theirs.receive()
        assert batch.remote.host == carrier.public_address
        await theirs.send([b"pong"], batch.remote)
        assert await datagrams(ours) == [b"pong"]


async def test_router_without_nat_gives_public_addresses(vnet):
    """Offices and servers: no translation, the parent routes the prefix, in both directions."""
    net = vnet()
    office = net.router(net.internet, nat=None)
    floor = net.router(office, nat=None)
    worker, server = net.host(floor), net.host(net.internet)
    async with net:
        ours, theirs = await worker.open_udp("0.0.0.0", 5000), await server.open_udp("0.0.0.0", 3478)
        await theirs.send([b"unasked"], TransportAddress(worker.address, 5000))
        (batch,) = await ours.receive()
        assert batch.remote == (server.address, 3478)


async def test_ipv6_is_routed_past_a_nat(vnet):
    """A NAT is an affair of IPv4; with IPv6 the same home is reachable by its own prefix."""
    net = vnet(families=(4, 6))
    carrier = net.router(net.internet, nat=SYMMETRIC)
    home = net.router(carrier, nat=SYMMETRIC)
    alice, bob = net.host(home), net.host(net.router(net.internet, nat=SYMMETRIC))
    (ours_6,), (theirs_6,) = alice.addresses(6), bob.addresses(6)
    async with net:
        ours, theirs = await alice.open_udp("::", 5000), await bob.open_udp(theirs_6, 5000)
        await ours.send([b"six"], TransportAddress(theirs_6, 5000))
        (batch,) = await theirs.receive()
        assert batch.remote == (ours_6, 5000)
        assert await alice.resolve(bob.name, 1) == [(theirs_6, 1), (bob.addresses(4)[0], 1)]
        assert await alice.resolve(bob.name, 1, family=4) == [(bob.addresses(4)[0], 1)]


async def test_host_with_two_interfaces_uses_the_one_it_is_bound_to(vnet):
    """Wi-Fi and a cable: ICE binds one socket to each."""
    net = vnet()
    homes = [net.router(net.internet, nat=FULL_CONE) for _ in range(2)]
    laptop, server = net.host(homes[0]), net.host(net.internet)
    laptop.attach(homes[1])
    assert [entry.name for entry in laptop.interfaces()] == ["lo", "eth0", "eth1"]
    async with net:
        theirs = await server.open_udp("0.0.0.0", 3478)
        for home, address in zip(homes, laptop.addresses(), strict=True):
            ours = await laptop.open_udp(address)
            await ours.send([b"x"], TransportAddress(server.address, 3478))
            (batch,) = await theirs.receive()
            assert batch.remote.host == home.public_address
        wildcard, neighbour = await laptop.open_udp("0.0.0.0"), net.host(homes[1])
        beside = await neighbour.open_udp("0.0.0.0", 7)
        await wildcard.send([b"on link"], TransportAddress(neighbour.address, 7))
        (batch,) = await beside.receive()
        assert batch.remote.host == laptop.addresses()[1]


async def test_loopback_stays_inside_the_host(vnet):
    """127.0.0.1 and the host's own address work without any network, also when it is cut off."""
    net = vnet()
    alice, bob = net.host(net.internet), net.host(net.internet)
    alice.partition()
    async with net:
        server = await alice.open_udp("0.0.0.0", 53)
        for target in ("127.0.0.1", alice.address):
            ours = await alice.open_udp("0.0.0.0")
            await ours.send([b"me"], TransportAddress(target, 53))
            (batch,) = await server.receive()
            assert batch.remote.host == target
        theirs = await bob.open_udp("127.0.0.1")
        assert theirs.send_nowait([b"out"], TransportAddress(alice.address, 53)) == 1
        assert theirs.statistics().send_errors == 1
        assert await silent(server)
        assert await alice.resolve("localhost", 53) == [("127.0.0.1", 53)]


async def test_closed_port_is_reported_through_the_nat(vnet):
    """ICMP port unreachable comes back to the socket that sent, naming the remote it sent to."""
    net = vnet()
    carrier = net.router(net.internet, nat=SYMMETRIC)
    alice = net.host(net.router(carrier, nat=PORT_RESTRICTED))
    server = net.host(net.internet)
    nowhere = TransportAddress(server.address, 9)
    async with net:
        ours = await alice.open_udp("0.0.0.0")
        await ours.send([b"anyone?"], nowhere)
        assert await ours.receive() == []
        assert ours.take_errors() == [IcmpError(nowhere, errno.ECONNREFUSED)]
        assert ours.take_errors() == []
        assert await silent(ours)


async def test_closed_port_behind_a_nat_is_reported_under_its_external_name(vnet):
    """The sender knows only the NAT's endpoint; the error must speak of that."""
    net = vnet()
    home = net.router(net.internet, nat=FULL_CONE)
    inside, server = net.host(home), net.host(net.internet)
    async with net:
        ours, theirs = await inside.open_udp("0.0.0.0", 5000), await server.open_udp("0.0.0.0", 3478)
        await ours.send([b"x"], TransportAddress(server.address, 3478))
        (batch,) = await theirs.receive()
        ours.close()
        await theirs.send([b"still there?"], batch.remote)
        assert await theirs.receive() == []
        assert theirs.take_errors() == [IcmpError(batch.remote, errno.ECONNREFUSED)]


async def test_a_router_that_accepts_input_refuses_what_nobody_asked_for(vnet):
    """A plain masquerading gateway: its own system answers that no program listens, and so gives itself away."""
    net = vnet()
    home = net.router(net.internet, nat=MASQUERADE)
    server = net.host(net.internet)
    assert home.public_address is not None
    target = TransportAddress(home.public_address, 4711)
    async with net:
        theirs = await server.open_udp("0.0.0.0", 3478)
        await theirs.send([b"too early"], target)
        assert await theirs.receive() == []
        assert theirs.take_errors() == [IcmpError(target, errno.ECONNREFUSED)]


async def test_errors_kept_for_a_reader_are_bounded(vnet):
    """Every queue has a bound."""
    net = vnet()
    alice, server = net.host(net.internet), net.host(net.internet)
    async with net:
        ours = await alice.open_udp("0.0.0.0")
        await ours.send([b""] * (MAX_ERRORS + 50), TransportAddress(server.address, 9))
        await trio.sleep(1)
        assert ours.statistics().icmp_errors == MAX_ERRORS + 50
        assert len(ours.take_errors()) == MAX_ERRORS


async def test_loss_and_delay_change_at_run_time(vnet):
    """A fault begins and ends in the middle of a test."""
    net = vnet()
    alice, server = net.host(net.internet), net.host(net.internet)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0"), await server.open_udp("0.0.0.0", 1)
        target = TransportAddress(server.address, 1)
        alice.link.change(loss=1.0)
        await ours.send([b"lost"], target)
        assert await silent(theirs)
        alice.link.change(loss=0.0, delay_s=3.0)
        start = trio.current_time()
        await ours.send([b"slow"], target)
        assert await datagrams(theirs) == [b"slow"]
        assert trio.current_time() - start == pytest.approx(3.001)


async def test_one_direction_can_fail_alone(vnet):
    """The nastiest of faults: they hear us, we do not hear them."""
    net = vnet()
    alice, server = net.host(net.internet), net.host(net.internet)
    async with net, trio.open_nursery() as nursery:
        ours, theirs = await alice.open_udp("0.0.0.0"), await server.open_udp("0.0.0.0", 1)
        nursery.start_soon(echo, theirs)
        alice.link.down.loss = 1.0
        await ours.send([b"?"], TransportAddress(server.address, 1))
        assert await silent(ours)
        assert theirs.statistics().datagrams_received == 1
        nursery.cancel_scope.cancel()


async def test_loss_is_as_frequent_as_asked(vnet):
    """30 % must not mean 3 or 60."""
    net = vnet()
    alice, server = net.host(net.internet, loss=0.3), net.host(net.internet)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0"), await server.open_udp("0.0.0.0", 1)
        await ours.send([b"x"] * 2000, TransportAddress(server.address, 1))
        await trio.sleep(1)
        assert theirs.statistics().datagrams_received == pytest.approx(1400, rel=0.1)


async def test_jitter_delays_but_does_not_reorder(vnet):
    """A queue that breathes is not a shuffle; reordering is another fault."""
    net = vnet()
    alice, server = net.host(net.internet, jitter_s=0.1), net.host(net.internet)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0"), await server.open_udp("0.0.0.0", 1)
        sent = [bytes([n]) for n in range(50)]
        for data in sent:
            await ours.send([data], TransportAddress(server.address, 1))
            await trio.sleep(0.01)
        got: list[bytes] = []
        times: list[float] = []
        while len(got) < 50:
            got += await datagrams(theirs)
            times.append(trio.current_time())
        assert got == sent


async def test_partition_takes_packets_under_way_and_heals(vnet):
    """The cable is pulled: also what was on it is gone."""
    net = vnet()
    alice, server = net.host(net.internet, delay_s=0.5), net.host(net.internet)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0"), await server.open_udp("0.0.0.0", 1)
        target = TransportAddress(server.address, 1)
        await ours.send([b"under way"], target)
        await trio.sleep(0.1)
        alice.partition()
        await ours.send([b"too late"], target)
        assert await silent(theirs)
        alice.heal()
        await ours.send([b"back"], target)
        assert await datagrams(theirs) == [b"back"]
        assert net.statistics().packets_dropped["link cut"] == 2


async def test_nat_reboot_breaks_the_way_back(vnet):
    """All mappings gone: the agent must find that out by itself."""
    net = vnet()
    home = net.router(net.internet, nat=FULL_CONE)
    alice, server = net.host(home), net.host(net.internet)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0"), await server.open_udp("0.0.0.0", 1)
        await ours.send([b"x"], TransportAddress(server.address, 1))
        (batch,) = await theirs.receive()
        assert len(home.nat_table) == 1
        home.reboot()
        await theirs.send([b"y"], batch.remote)
        assert await silent(ours)


async def test_equal_sizes_arrive_as_one_batch(vnet):
    """As the kernel's GRO joins them: same remote, same size, only the last one shorter."""
    net = vnet()
    alice, server = net.host(net.internet), net.host(net.internet)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0"), await server.open_udp("0.0.0.0", 1)
        sent = [b"a" * 10, b"b" * 10, b"c" * 4, b"d" * 4, b"", b"e", b"longer"]
        await ours.send(sent, TransportAddress(server.address, 1))
        await trio.sleep(1)
        batches = await theirs.receive()
        assert [batch.datagrams() for batch in batches] == [sent[:3], [sent[3]], [b""], [b"e"], [b"longer"]]


async def test_batches_are_bounded(vnet):
    """No buffer is larger than the kernel's, and one call returns only so much."""
    net = vnet()
    alice, server = net.host(net.internet), net.host(net.internet)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0"), await server.open_udp("0.0.0.0", 1)
        await ours.send([bytes(30000)] * 3, TransportAddress(server.address, 1))
        await trio.sleep(1)
        assert [len(batch) for batch in await theirs.receive()] == [2, 1]
        await ours.send([b"small"] * (RECEIVE_LIMIT + 10), TransportAddress(server.address, 1))
        await trio.sleep(1)
        assert [len(batch) for batch in await theirs.receive()] == [RECEIVE_LIMIT]
        assert [len(batch) for batch in await theirs.receive()] == [10]


async def test_what_a_socket_cannot_send_is_counted(vnet):
    """Another family, port 0, more than UDP carries: refused by the system, not by an exception."""
    net = vnet(families=(4, 6))
    alice, server = net.host(net.internet), net.host(net.internet)
    async with net:
        ours = await alice.open_udp("0.0.0.0")
        four, six = server.addresses()
        assert ours.send_nowait([b"x"], TransportAddress(six, 1)) == 1
        assert ours.send_nowait([b"x"], TransportAddress(four, 0)) == 1
        assert ours.send_nowait([bytes(65508), bytes(65507)], TransportAddress(four, 1)) == 2
        assert ours.statistics().send_errors == 3
        assert net.statistics().packets_sent == 1


def test_delegated_prefixes_do_not_overlap(vnet):
    """Otherwise a packet for a home would be delivered next door."""
    net = vnet(families=(4, 6))
    routers = [net.internet]
    for parent in routers:
        if len(routers) < 12:
            routers += [net.router(parent, nat=None) for _ in range(2)]
    hosts = [net.host(router) for router in routers]
    seen = [ipaddress.ip_interface(f"{e.host}/{e.prefix_length}").network for h in hosts for e in h.interfaces()[2:]]
    assert len(seen) == 2 * len(routers)
    assert not any(a.version == b.version and a.overlaps(b) for a, b in itertools.combinations(seen, 2))


async def test_slow_reader_loses_datagrams_but_not_memory(vnet):
    """A full receive buffer drops, as every kernel does."""
    net = vnet()
    alice, server = net.host(net.internet), net.host(net.internet)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0"), await server.open_udp("0.0.0.0", 1)
        size = 60000
        count = RECEIVE_BUFFER // size + 20
        for _ in range(count):
            await ours.send([bytes(size)], TransportAddress(server.address, 1))
        await trio.sleep(1)
        assert net.statistics().packets_dropped["receive buffer full"] > 0
        total = 0
        while total < theirs.statistics().bytes_received:
            total += sum(len(batch.data) for batch in await theirs.receive())
        assert total <= RECEIVE_BUFFER + size


async def test_sender_waits_while_its_link_is_full(vnet):
    """Otherwise a sender in a loop would stop virtual time: it never waits, so the clock never moves."""
    net = vnet()
    alice, server = net.host(net.internet), net.host(net.internet)
    async with net:
        ours = await alice.open_udp("0.0.0.0")
        target, start = TransportAddress(server.address, 9), trio.current_time()
        assert ours.send_nowait([bytes(50000)] * 100, target) < 100
        assert ours.send_nowait([b"full"], target) == 0
        for _ in range(200):
            await ours.send([bytes(SEND_BUFFER // 20)], target)
        assert trio.current_time() > start


async def test_closing_wakes_who_waits(vnet):
    """Both a reader and a writer that is held up learn that the socket is gone."""
    net = vnet()
    alice = net.host(net.internet, delay_s=100.0)
    async with net:
        ours = await alice.open_udp("0.0.0.0")

        async def read():
            with pytest.raises(trio.ClosedResourceError):
                await ours.receive()

        async def write():
            with pytest.raises(trio.ClosedResourceError):
                await ours.send([bytes(60000)] * 100, TransportAddress("203.0.113.99", 9))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            ours.close()
            ours.close()
        with pytest.raises(trio.ClosedResourceError):
            ours.send_nowait([b""], TransportAddress("203.0.113.99", 9))


async def test_binding_follows_the_rules_of_real_sockets(vnet):
    """Software under test must meet the errors it would meet outside."""
    net = vnet()
    alice = net.host(net.internet)
    async with net:
        first = await alice.open_udp(alice.address, 5000)
        with pytest.raises(OSError) as taken:
            await alice.open_udp("0.0.0.0", 5000)
        assert taken.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError) as foreign:
            await alice.open_udp("192.0.2.77", 0)
        assert foreign.value.errno == errno.EADDRNOTAVAIL
        other = await alice.open_udp("127.0.0.1", 5000)
        assert other.local_address != first.local_address
        first.close()
        assert (await alice.open_udp(alice.address, 5000)).local_address.port == 5000
        assert (await alice.open_udp("0.0.0.0")).local_address.port >= 49152


async def test_names_resolve_or_say_so(vnet):
    """`stun.example` inside the network; a dead name raises what `getaddrinfo` raises."""
    net = vnet()
    alice, server = net.host(net.internet), net.host(net.internet, name="stun.example")
    net.add_name("other.example", "192.0.2.9", "2001:db8::9")
    net.dns_delay_s = 0.25
    async with net:
        start = trio.current_time()
        assert await alice.resolve("STUN.example", 3478) == [(server.address, 3478)]
        assert trio.current_time() - start == 0.25
        assert await alice.resolve("other.example", 1, family=6) == [("2001:db8::9", 1)]
        assert await alice.resolve("192.0.2.1", 5) == [("192.0.2.1", 5)]
        with pytest.raises(OSError, match=r"nowhere\.example"):
            await alice.resolve("nowhere.example", 1)


async def test_nothing_is_left_after_the_block(vnet):
    """Sockets forgotten by the software under test are closed, its readers are woken, and no task remains."""
    net = vnet()
    alice = net.host(net.internet)
    before = trio.lowlevel.current_statistics().tasks_living
    async with net:
        forgotten = await alice.open_udp("0.0.0.0")
        assert net.sockets() == [forgotten]
        forgotten.send_nowait([b"x"], TransportAddress("203.0.113.99", 1))
    assert net.sockets() == []
    assert net.statistics().sockets_left_open == 1
    assert trio.lowlevel.current_statistics().tasks_living == before
    with pytest.raises(trio.ClosedResourceError):
        await forgotten.receive()


async def test_error_of_the_block_comes_out_unwrapped(vnet):
    """A failing assertion must read like one, not like an exception group."""
    with pytest.raises(ZeroDivisionError):
        async with vnet():
            raise ZeroDivisionError


async def test_cancelling_the_block_from_outside_works(vnet):
    """`move_on_after` around a network is the commonest thing a test writes."""
    with trio.move_on_after(1) as scope:
        async with vnet():
            await trio.sleep(math.inf)
    assert scope.cancelled_caught


def test_impossible_topologies_are_refused_with_a_sentence(vnet):
    """Mistakes in a test's set-up should not look like network trouble."""
    net = vnet()
    net.host(net.internet, name="twin")
    with pytest.raises(LocalError, match="twin"):
        net.host(net.internet, name="twin")
    with pytest.raises(LocalError, match="probability"):
        net.host(net.internet, loss=30)
    with pytest.raises(LocalError, match="seconds"):
        net.host(net.internet, delay_s=-1)
    with pytest.raises(LocalError, match="behind a NAT"):
        net.router(net.internet, subnet="10.0.0.0/8")
    with pytest.raises(LocalError, match="IPv4 only"):
        net.router(net.internet, families=(6,))
    tiny = net.router(net.internet, nat=FULL_CONE, subnet="10.0.0.0/30")
    net.host(tiny)
    with pytest.raises(LocalError, match="larger subnet"):
        net.host(tiny)
    with pytest.raises(AttributeError, match="root"):
        _ = net.internet.link


def test_real_homes_clash(vnet):
    """Two homes may have the same private network, and even the same address in it."""
    net = vnet()
    homes = [net.router(net.internet, nat=FULL_CONE, subnet="192.168.1.0/24") for _ in range(2)]
    assert len({net.host(home).address for home in homes}) == 1
    assert len({home.public_address for home in homes}) == 2


def test_a_thousand_homes_fit(vnet):
    """Large simulations must not run out of addresses."""
    net = vnet(trace_limit=0)
    homes = [net.router(net.internet, nat=FULL_CONE) for _ in range(1000)]
    hosts = [net.host(home) for home in homes]
    assert len({home.public_address for home in homes}) == len({host.address for host in hosts}) == 1000


def test_network_works_on_the_real_clock_too():
    """Nothing depends on the clock being mocked."""

    async def main():
        net = Network(seed=1)
        alice, bob = net.host(net.internet, delay_s=0), net.host(net.internet, delay_s=0)
        async with net:
            ours, theirs = await alice.open_udp("0.0.0.0"), await bob.open_udp("0.0.0.0", 1)
            await ours.send([b"x"], TransportAddress(bob.address, 1))
            return await datagrams(theirs)

    assert trio.run(main) == [b"x"]
