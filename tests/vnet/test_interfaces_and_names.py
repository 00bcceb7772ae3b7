"""Interfaces that come and go, addresses that change, machines that die; and names, of the internet and of the LAN."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest
import trio
from virtual_udp import silent

from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError
from iceagent.net.api import IcmpError
from iceagent.vnet import FULL_CONE, PORT_RESTRICTED, Nat


async def test_moving_to_another_network_changes_addresses_and_tells(vnet):
    """Wi-Fi to mobile: the old socket reaches nobody, a new one does, and whoever waits for changes learns of it."""
    net = vnet()
    home, mobile = (net.router(net.internet, nat=FULL_CONE) for _ in range(2))
    phone, server = net.host(home), net.host(net.internet)
    told = []
    async with net, trio.open_nursery() as nursery:
        theirs = await server.open_udp("0.0.0.0", 9)
        old = await phone.open_udp(phone.address, 5000)

        async def watch():
            await phone.wait_changed()
            told.append(phone.addresses())

        nursery.start_soon(watch)
        await trio.sleep(1)
        phone.move(mobile)
        await trio.sleep(1)
        assert told == [phone.addresses()]
        await old.send([b"old"], theirs.local_address._replace(host=server.address))
        assert old.statistics().send_errors == 1
        new = await phone.open_udp(phone.address)
        await new.send([b"new"], TransportAddress(server.address, 9))
        (batch,) = await theirs.receive()
        assert (batch.data, batch.remote.host) == (b"new", mobile.public_address)
        assert [entry.name for entry in phone.interfaces()] == ["lo", "eth1"]


async def test_interface_that_is_down_neither_sends_nor_receives(vnet):
    """Switched off and on again it is the same as before."""
    net = vnet()
    alice, bob = net.host(net.internet), net.host(net.internet)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0", 5000), await bob.open_udp("0.0.0.0", 5000)
        alice.set_up(up=False)
        assert alice.addresses() == []
        (address,) = bob.addresses()
        await ours.send([b"x"], TransportAddress(address, 5000))
        await theirs.send([b"x"], TransportAddress("203.0.113.2", 5000))
        assert await silent(ours)
        assert net.statistics().packets_dropped["interface down"] == 1
        alice.set_up()
        await theirs.send([b"y"], TransportAddress(alice.address, 5000))
        assert [batch.data for batch in await ours.receive()] == [b"y"]


async def test_renewed_addresses_replace_the_old_ones(vnet):
    """DHCP and privacy addresses: what was sent to the old one is lost."""
    net = vnet(families=(4, 6))
    alice, bob = net.host(net.internet), net.host(net.internet)
    async with net:
        before = alice.addresses()
        ours, theirs = await alice.open_udp("0.0.0.0", 5000), await bob.open_udp("0.0.0.0")
        alice.renew()
        assert set(alice.addresses()).isdisjoint(before)
        await theirs.send([b"x"], TransportAddress(before[0], 5000))
        assert await silent(ours)
        await theirs.send([b"y"], TransportAddress(alice.address, 5000))
        assert [batch.data for batch in await ours.receive()] == [b"y"]


async def test_line_that_gets_another_address_at_night(vnet):
    """The home's public address changes and all mappings are gone; the hosts behind it notice nothing."""
    net = vnet()
    home = net.router(net.internet, nat=PORT_RESTRICTED)
    alice, server = net.host(home), net.host(net.internet)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0", 5000), await server.open_udp("0.0.0.0", 9)
        await ours.send([b"before"], TransportAddress(server.address, 9))
        (before,) = await theirs.receive()
        home.renew()
        await theirs.send([b"lost"], before.remote)
        assert await silent(ours)
        await ours.send([b"after"], TransportAddress(server.address, 9))
        (after,) = await theirs.receive()
        assert after.remote.host == home.public_address != before.remote.host
        await theirs.send([b"found"], after.remote)
        assert [batch.data for batch in await ours.receive()] == [b"found"]


async def test_crashed_host_refuses_until_its_programs_are_back(vnet):
    """The process is gone, the machine is not: ICMP says so."""
    net = vnet()
    alice, server = net.host(net.internet), net.host(net.internet)
    target = TransportAddress(server.address, 9)
    async with net:
        ours, theirs = await alice.open_udp("0.0.0.0"), await server.open_udp("0.0.0.0", 9)
        server.crash()
        with pytest.raises(trio.ClosedResourceError):
            await theirs.receive()
        await ours.send([b"?"], target)
        assert await ours.receive() == []
        assert ours.take_errors() == [IcmpError(target, errno.ECONNREFUSED)]
        again = await server.open_udp("0.0.0.0", 9)
        await ours.send([b"!"], target)
        assert [batch.data for batch in await again.receive()] == [b"!"]


async def test_multicast_stays_on_its_network(vnet):
    """mDNS: everyone on the LAN hears it, sockets that share the port too, and nobody beyond the router."""
    net = vnet()
    home = net.router(net.internet, nat=FULL_CONE)
    hosts = [net.host(home), net.host(home), net.host(net.router(home, nat=FULL_CONE)), net.host(net.internet)]
    group = TransportAddress("224.0.0.251", 5353)
    async with net:
        sockets = [await host.open_multicast(*group) for host in (hosts[0], *hosts)]
        await sockets[0].send([b"who is printer.local?"], group)
        for hears, listener in zip((True, True, True, False, False), sockets, strict=True):
            assert await silent(listener) is not hears
        sockets[1].close()
        assert len(hosts[0].sockets) == 1
        with pytest.raises(OSError, match=r"192\.0\.2\.1"):
            await hosts[0].open_multicast("192.0.2.1", 5353)


async def test_local_names_are_known_to_neighbours_alone(vnet):
    """A browser's `.local` candidate resolves at home and nowhere else."""
    net = vnet()
    home = net.router(net.internet, nat=FULL_CONE)
    alice, bob, stranger = net.host(home), net.host(home), net.host(net.internet)
    alice.publish("Abc.local")
    async with net:
        for host in (alice, bob):
            assert await host.resolve("abc.local", 7) == [TransportAddress(alice.address, 7)]
        with pytest.raises(OSError, match="abc"):
            await stranger.resolve("abc.local", 7)
        alice.partition()
        with pytest.raises(OSError, match="abc"):
            await bob.resolve("abc.local", 7)


async def test_nat64_reaches_ipv4_under_its_prefix(vnet):
    """IPv6 alone: names that have only IPv4 get addresses in disguise, and packets and errors are translated."""
    net = vnet(families=(4, 6))
    mobile = net.router(net.internet, nat64=PORT_RESTRICTED)
    phone = net.host(mobile)
    old = net.host(net.router(net.internet, families=(4,)), name="old.example")
    new = net.host(net.internet, name="new.example")
    async with net:
        assert phone.addresses(4) == []
        (found,) = await phone.resolve("old.example", 9, family=6)
        assert found.host.startswith("64:ff9b::")
        assert (await phone.resolve("new.example", 9, family=6)) == [TransportAddress(new.addresses(6)[0], 9)]
        learnt = await phone.resolve("ipv4only.arpa", 0, family=6)
        assert {address.host for address in learnt} == {"64:ff9b::c000:aa", "64:ff9b::c000:ab"}
        ours, theirs = await phone.open_udp("::", 5000), await old.open_udp("0.0.0.0", 9)
        await ours.send([b"hello"], found)
        (batch,) = await theirs.receive()
        assert batch.remote == (mobile.public_address, 5000)
        await theirs.send([b"hello yourself"], batch.remote)
        (answer,) = await ours.receive()
        assert (answer.data, answer.remote) == (b"hello yourself", found)
        await ours.send([b"?"], found._replace(port=10))
        assert await ours.receive() == []
        assert ours.take_errors() == [IcmpError(found._replace(port=10), errno.ECONNREFUSED)]


async def test_nat64_turns_round_what_goes_to_its_own_outside(vnet):
    """Hairpin, as with any NAT."""
    net = vnet(families=(4, 6))
    mobile = net.router(net.internet, nat64=Nat(filtering="endpoint-independent", hairpin=True))
    one, other, server = net.host(mobile), net.host(mobile), net.host(net.router(net.internet, families=(4,)))
    async with net:
        ours, theirs, reflector = [await h.open_udp("::", 5000) for h in (one, other)] + [
            await server.open_udp("0.0.0.0", 9)
        ]
        net.add_name("server.example", server.address)
        (target,) = await one.resolve("server.example", 9, family=6)
        await theirs.send([b"open"], target)
        (batch,) = await reflector.receive()
        net.add_name("outside.example", batch.remote.host)
        (outside,) = await one.resolve("outside.example", batch.remote.port, family=6)
        await ours.send([b"round"], outside)
        assert [got.data for got in await theirs.receive()] == [b"round"]


async def test_nat64_leads_to_no_private_address_and_back_from_none(vnet):
    """RFC 6052 section 3.1: under the well-known prefix a translator drops what is not global, either way."""
    net = vnet(families=(4, 6))
    carrier = net.router(net.internet, nat=FULL_CONE, subnet="100.64.0.0/16")
    mobile = net.router(carrier, nat64=FULL_CONE)
    phone, neighbour, server = net.host(mobile), net.host(carrier), net.host(net.router(net.internet, families=(4,)))
    net.add_name("server.example", server.address)
    net.add_name("neighbour.example", neighbour.address)
    async with net:
        ours = await phone.open_udp("::", 5000)
        theirs, there = await neighbour.open_udp("0.0.0.0", 9), await server.open_udp("0.0.0.0", 9)
        for name in ("neighbour.example", "server.example"):
            (found,) = await phone.resolve(name, 9, family=6)
            await ours.send([b"open"], found)
        (batch,) = await there.receive()
        assert batch.data == b"open"
        assert await silent(theirs)
        (mapped,) = mobile.nat_table.mappings(trio.current_time())
        await theirs.send([b"from beside"], mapped)
        assert await silent(ours)
        await there.send([b"from the internet"], batch.remote)
        assert [got.data for got in await ours.receive()] == [b"from the internet"]


def test_nat64_needs_both_families_above(vnet):
    """A mistake in a test's set-up should be a sentence."""
    net = vnet()
    with pytest.raises(LocalError, match="both families"):
        net.router(net.internet, nat64=FULL_CONE)


def test_contiguous_ports_come_from_a_block_per_host(vnet):
    """Carriers hand out blocks, so that they need log only who had which."""
    net = vnet()
    home = net.router(
        net.internet,
        nat=Nat(mapping="address-and-port-dependent", port_allocation="contiguous", ports=(1024, 2047)),
    )
    table = home.nat_table
    ports = {
        host: [table.outbound(0.0, TransportAddress(host, 5), TransportAddress("192.0.2.1", n)).port for n in range(70)]
        for host in ("192.168.1.2", "192.168.1.3")
    }
    for mapped in ports.values():
        assert [later - first for first, later in pairwise(mapped[:64])] == [1] * 63
        assert abs(mapped[64] - mapped[63]) > 1 or mapped[64] % 64 == 0
    assert len({port for mapped in ports.values() for port in mapped}) == 140
    many = [
        table.outbound(0.0, TransportAddress("192.168.1.4", 5), TransportAddress("192.0.2.2", n)) for n in range(1000)
    ]
    assert sum(mapped is not None for mapped in many) == 1024 - 140
