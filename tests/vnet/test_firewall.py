"""Firewalls: answers come in, strangers do not; and the networks that let only the web out."""

from __future__ import annotations

import errno
from functools import partial

import pytest
import trio

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError
from iceagent.net.api import IcmpError
from iceagent.vnet import FULL_CONE, STATEFUL, STUN_BLOCKED, UDP_BLOCKED, Firewall


async def arrives(sender, receiver, data=b"x", to=None):
    await sender.send([data], to or receiver.local_address)
    with trio.move_on_after(1):
        return bool(await receiver.receive())
    return False


async def reboot(router):
    router.reboot()


async def pair(net, firewall, family=6, **options):
    """Return the sockets of a host behind the firewall and of one on the internet."""
    office = net.router(net.internet, firewall=firewall, **options)
    inside, outside = net.host(office), net.host(net.internet)
    return office, [await host.open_udp(host.addresses(family)[0], 5000) for host in (inside, outside)]


@pytest.mark.parametrize("family", [4, 6])
async def test_stateful_firewall_lets_answers_in_and_strangers_not(vnet, family):
    """What most home routers do to IPv6: no NAT, and still no way in without having sent out."""
    net = vnet(families=(4, 6))
    async with net:
        _, (inside, outside) = await pair(net, STATEFUL, family)
        assert not await arrives(outside, inside)
        assert await arrives(inside, outside)
        assert await arrives(outside, inside)
        stranger = await net.host(net.internet).open_udp("::" if family == 6 else "0.0.0.0")
        assert not await arrives(stranger, inside)
        assert net.statistics().packets_dropped["firewall"] == 2


async def test_flow_is_forgotten_after_silence_and_by_a_reboot(vnet):
    """Thirty seconds, so keepalives matter here as they do with a NAT."""
    net = vnet(families=(6,))
    async with net:
        office, (inside, outside) = await pair(net, STATEFUL)
        for forget in (lambda: trio.sleep(31), partial(reboot, office)):
            assert await arrives(inside, outside)
            assert await arrives(outside, inside)
            await forget()
            assert not await arrives(outside, inside)


async def test_blocked_udp_goes_nowhere_and_the_way_back_neither(vnet):
    """Hotel and company networks: silence, no error."""
    net = vnet(families=(6,))
    async with net:
        _, (inside, outside) = await pair(net, UDP_BLOCKED)
        assert not await arrives(inside, outside)
        assert not await arrives(outside, inside)
        assert inside.take_errors() == []


async def test_only_some_ports_may_be_open(vnet):
    """DNS and QUIC yes, the rest no: a server on 443 is reachable where others are not."""
    net = vnet()
    firewall = Firewall(udp_ports=frozenset({443}))
    async with net:
        _, (inside, outside) = await pair(net, firewall, 4)
        web = await net.host(net.internet).open_udp("0.0.0.0", 443)
        assert not await arrives(inside, outside)
        assert await arrives(inside, web, to=TransportAddress(net.hosts()[-1].address, 443))


async def test_stun_may_be_blocked_by_its_content(vnet):
    """Some boxes look inside: data passes, checks do not."""
    net = vnet()
    async with net:
        _, (inside, outside) = await pair(net, STUN_BLOCKED, 4)
        request = stun.encode(stun.binding_request(bytes(12)))
        assert await arrives(inside, outside)
        assert not await arrives(inside, outside, request)
        assert not await arrives(outside, inside, request)


async def test_errors_about_a_flow_pass_the_firewall(vnet):
    """An ICMP error belongs to what it quotes, and only that."""
    net = vnet(families=(6,))
    async with net:
        _, (inside, outside) = await pair(net, STATEFUL)
        closed = TransportAddress(outside.local_address.host, 9)
        await inside.send([b"?"], closed)
        assert await inside.receive() == []
        assert inside.take_errors() == [IcmpError(closed, errno.ECONNREFUSED)]


async def test_firewall_sees_the_inner_addresses_beside_a_nat(vnet):
    """A cone's filter is wide open; the firewall behind it is not."""
    net = vnet()
    async with net:
        home, (inside, outside) = await pair(net, STATEFUL, 4, nat=FULL_CONE)
        assert await arrives(inside, outside)
        mapped = TransportAddress(home.public_address, 5000)
        assert await arrives(outside, inside, to=mapped)
        stranger = await net.host(net.internet).open_udp("0.0.0.0")
        assert not await arrives(stranger, inside, to=mapped)
        home.firewall = None
        assert home.firewall is None
        assert await arrives(stranger, inside, to=mapped)
        home.firewall = Firewall(inbound="none")
        assert not await arrives(outside, inside, to=mapped)


def test_impossible_firewalls_are_refused():
    """A typo must not open the door."""
    with pytest.raises(LocalError, match="sometimes"):
        Firewall(inbound="sometimes")  # type: ignore[arg-type]  # the typo
    with pytest.raises(LocalError, match="timeout"):
        Firewall(timeout_s=0)
