"""How far packets get: the TTL, and what the sender hears of it."""

from __future__ import annotations

import errno

import trio

from iceagent.core.address import TransportAddress
from iceagent.net.api import IcmpError, LimitsHops, UdpSocket
from iceagent.vnet import PORT_RESTRICTED, SYMMETRIC


async def test_the_ttl_decides_which_nat_sees_a_packet(vnet):
    """What opens one's own NATs without troubling the peer's: 1 opens nothing, each hop more one NAT more."""
    net = vnet()
    carrier = net.router(net.internet, nat=SYMMETRIC, subnet="100.64.0.0/10", name="carrier")
    home = net.router(carrier, nat=PORT_RESTRICTED, name="home")
    peer = net.router(net.internet, nat=PORT_RESTRICTED, name="peer")
    host = net.host(home)
    async with net:
        sock: UdpSocket = await host.open_udp(host.address)
        assert isinstance(sock, LimitsHops)
        heard = {}
        for ttl in (1, 2, 3, 4):
            remote = TransportAddress(peer.public_address, 33434 + ttl)
            assert sock.send_limited(b"how far?", remote, ttl)
            await trio.sleep(1)
            heard[ttl] = [str(error.reporter) for error in sock.take_errors()]
            mapped = [len(router.nat_table.mappings(trio.current_time())) for router in (home, carrier)]
            assert mapped == [int(ttl > 1), max(0, ttl - 2)]
        assert heard[1][0].startswith("192.168.")
        assert heard[2][0].startswith("100.64.")
        assert heard[3][0].startswith("203.0.113.")
        assert heard[4] == []  # it reached the peer's NAT, which drops what nobody asked for
        drops = [str(record) for record in net.trace if record.event == "drop"]
        assert [line.split()[1] for line in drops] == ["home", "carrier", "internet", "peer"]
        assert drops[3].endswith(" nat")


async def test_neighbours_on_one_network_pass_no_router(vnet):
    """A router's own network is a switch: a TTL of 1 suffices there, and not one hop further."""
    net = vnet()
    home = net.router(net.internet, nat=PORT_RESTRICTED)
    ours, theirs, outside = net.host(home), net.host(home), net.host(net.internet)
    async with net:
        sock, near = await ours.open_udp(ours.address), await theirs.open_udp(theirs.address)
        far = await outside.open_udp(outside.address)
        sock.send_limited(b"near", near.local_address, 1)
        sock.send_limited(b"far", far.local_address, 1)
        assert [batch.data for batch in await near.receive()] == [b"near"]
        await trio.sleep(1)
        assert sock.take_errors() == [IcmpError(far.local_address, errno.EHOSTUNREACH)]
        assert far.statistics().datagrams_received == 0
