"""A port that is mapped while a block runs: by a gateway in the virtual network, and by a UPnP of a few lines."""

from __future__ import annotations

import threading

import pytest
import trio
from gateway import Gateway as GatewayMachine
from gateway import serve_gateway

from iceagent.core.address import TransportAddress, is_private
from iceagent.net import portmap, portmap_upnp
from iceagent.net.gateway import (
    Gateway,
    find_gateways,
    parse_netstat,
    parse_route4,
    parse_route6,
    parse_route_print,
    system_gateways,
)
from iceagent.net.portmap import MappedPort, open_port_mapping, probe_port_mapping
from iceagent.net.portmap_upnp import UpnpError, UpnpGateway, in_thread
from iceagent.vnet import FULL_CONE


class Home:
    """A host, and beside it a gateway that maps ports."""

    def __init__(self, vnet, **switches):
        self.net = vnet()
        home = self.net.router(self.net.internet, nat=FULL_CONE)
        self.alice = self.net.host(home, name="alice")
        self.box = self.net.host(home, name="box")
        self.machine = GatewayMachine(**switches)
        self.gateway = Gateway(self.box.address, "eth0")

        async def gateways():
            return [self.gateway]

        self.alice.gateways = gateways

    @property
    def local(self):
        return TransportAddress(self.alice.address, 40000)

    def mapping(self, **options):
        return open_port_mapping(self.alice, self.local, randbytes=self.alice.randbytes, **options)


async def test_port_is_mapped_while_the_block_runs(vnet):
    """And no longer, and without a socket left."""
    home = Home(vnet)
    async with home.net, trio.open_nursery() as nursery:
        nursery.start_soon(serve_gateway, home.machine, home.box)
        async with home.mapping() as mapping:
            external = TransportAddress("203.0.113.1", 40000)
            assert await mapping.wait_settled() == (MappedPort("pcp", external, home.local),)
            assert home.machine.mappings == {(home.alice.address, 40000): 40000}
        assert home.machine.mappings == {}
        nursery.cancel_scope.cancel()
    assert home.net.statistics().sockets_left_open == 0


async def test_mapping_is_kept_for_days(vnet):
    """Renewed by the older protocol too, whatever the gateway's idea of a lifetime."""
    home = Home(vnet, speaks_pcp=False, lifetime_s=900)
    async with home.net, trio.open_nursery() as nursery:
        nursery.start_soon(serve_gateway, home.machine, home.box)
        async with home.mapping() as mapping:
            await trio.sleep(2 * 86400)
            assert [held.protocol for held in mapping.addresses] == ["nat-pmp"]
        nursery.cancel_scope.cancel()


async def test_cancellation_releases_too(vnet):
    """Ctrl-C is how most sessions end."""
    home = Home(vnet)
    async with home.net, trio.open_nursery() as nursery:
        nursery.start_soon(serve_gateway, home.machine, home.box)
        with trio.move_on_after(10):
            async with home.mapping() as mapping:
                await mapping.wait_settled()
                await trio.sleep_forever()
        assert home.machine.mappings == {}
        nursery.cancel_scope.cancel()


async def test_end_waits_no_longer_than_a_second_for_a_gateway_that_has_gone(vnet):
    """Bounded, and shielded until then."""
    home = Home(vnet)
    async with home.net, trio.open_nursery() as nursery:
        nursery.start_soon(serve_gateway, home.machine, home.box)
        async with home.mapping() as mapping:
            await mapping.wait_settled()
            home.box.partition()
            start = trio.current_time()
        assert trio.current_time() - start <= portmap.RELEASE_S
        nursery.cancel_scope.cancel()


async def test_gateway_that_never_answered_costs_the_end_nothing(vnet):
    """That is most of them."""
    home = Home(vnet)
    home.box.partition()
    async with home.net:
        async with home.mapping() as mapping:
            await trio.sleep(2)
            assert not mapping.settled
            start = trio.current_time()
        assert trio.current_time() - start < 0.01


async def test_closed_port_settles_at_once(vnet):
    """ICMP says so; nobody has to wait for a timeout."""
    home = Home(vnet)
    async with home.net, home.mapping() as mapping:
        start = trio.current_time()
        assert await mapping.wait_settled() == ()
        assert trio.current_time() - start < 0.1
        assert mapping.failures == {"pcp": "nobody listens there"}


async def test_host_without_a_gateway_has_nothing_to_wait_for(vnet):
    """Loopback, a cable between two machines, and the virtual network's own hosts."""
    net = vnet()
    host = net.host(net.internet)
    async with net, open_port_mapping(host, TransportAddress(host.address, 1)) as mapping:
        assert await mapping.wait_settled() == ()
        assert mapping.failures == {}


async def test_gateway_of_another_interface_is_not_asked(vnet):
    """It would see another source address than the one to be mapped."""
    home = Home(vnet)
    home.gateway = Gateway(home.box.address, "eth7")
    async with home.net, home.mapping() as mapping:
        assert await mapping.wait_settled() == ()
    assert home.machine.log == []


async def test_error_of_the_body_leaves_unwrapped(vnet):
    """A caller writes `except ValueError`, not `except*`."""
    home = Home(vnet)
    async with home.net:
        with pytest.raises(ValueError, match="mine"):
            async with home.mapping():
                raise ValueError("mine")


async def test_lost_mapping_is_noticed(vnet):
    """The gateway lost its table and then its mind."""
    home = Home(vnet, lifetime_s=600)
    async with home.net, trio.open_nursery() as nursery:
        nursery.start_soon(serve_gateway, home.machine, home.box)
        async with home.mapping() as mapping:
            await mapping.wait_settled()
            home.machine.result = 2
            await trio.sleep(700)
            assert mapping.addresses == ()
            assert "refuses" in mapping.failures["pcp"]
        nursery.cancel_scope.cancel()


async def test_probe_maps_nothing(vnet):
    """Netcheck looks and does not touch."""
    home = Home(vnet, speaks_pcp=False)
    async with home.net, trio.open_nursery() as nursery:
        nursery.start_soon(serve_gateway, home.machine, home.box)
        await trio.sleep(0)
        answers = await probe_port_mapping(home.alice, home.alice.address, home.gateway, upnp=False)
        assert [(answer.protocol, answer.available) for answer in answers] == [("nat-pmp", True), ("pcp", False)]
        assert answers[0].external_host == "203.0.113.1"
        assert home.machine.mappings == {}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("10.1.2.3", True),
        ("100.64.0.1", True),
        ("169.254.1.1", True),
        ("127.0.0.1", True),
        ("fd00::1", True),
        ("fe80::1%eth0", True),
        ("203.0.113.1", False),
        ("2001:db8::1", False),
    ],
)
def test_private_addresses_are_those_nobody_can_send_to(host, private):
    """A mapping on the inner one of two NATs is no candidate."""
    assert is_private(host) is private


# UPnP


class FakeIgd:
    """What miniupnpc's object does, with a table."""

    def __init__(self, *, taken=(), permanent_only=False, external="203.0.113.8", blocked=None):
        self.table = {}
        self.leases = []
        self._taken = set(taken)
        self._permanent_only = permanent_only
        self._external = external
        self._blocked = blocked

    def externalipaddress(self):
        return self._external

    def addportmapping(self, port, protocol, host, internal, description, remote, lease):
        if self._blocked is not None:
            self._blocked.wait(5)
        if port in self._taken:
            raise Exception("ConflictInMappingEntry")
        if self._permanent_only and lease:
            raise Exception("OnlyPermanentLeasesSupported")
        self.leases.append(lease)
        self.table[port, protocol] = (host, internal)
        return True

    def deleteportmapping(self, port, protocol):
        del self.table[port, protocol]
        return True


INTERNAL = TransportAddress("192.168.1.2", 40000)


def zeros(size):
    return bytes(size)


@pytest.fixture
def igd(monkeypatch):
    """UPnP that is found at once."""
    handle = FakeIgd()

    async def find(host):
        return UpnpGateway(handle)

    async def at_once(function):  # virtual time runs away while a thread is waited for
        await trio.lowlevel.checkpoint()
        return function()

    monkeypatch.setattr(portmap, "find_upnp_gateway", find)
    monkeypatch.setattr(portmap_upnp, "in_thread", at_once)
    monkeypatch.setattr(portmap, "is_installed", lambda: True)
    return handle


async def test_upnp_maps_when_the_others_do_not(vnet, igd):
    """Most home routers know nothing else."""
    home = Home(vnet)
    async with home.net:
        async with open_port_mapping(home.alice, home.local, upnp=True, randbytes=zeros) as mapping:
            held = await mapping.wait_settled()
            assert held == (MappedPort("upnp", TransportAddress("203.0.113.8", 40000), home.local),)
            assert igd.table == {(40000, "UDP"): (home.alice.address, 40000)}
        assert igd.table == {}


async def test_upnp_is_left_alone_when_pcp_maps(vnet, igd):
    """One mapping is enough, and two of one port may be in each other's way."""
    home = Home(vnet)
    async with home.net, trio.open_nursery() as nursery:
        nursery.start_soon(serve_gateway, home.machine, home.box)
        async with open_port_mapping(home.alice, home.local, upnp=True, randbytes=zeros) as mapping:
            await mapping.wait_settled()
            await trio.sleep(5)
            assert igd.table == {}
            assert mapping.failures["upnp"] == "not needed"
        nursery.cancel_scope.cancel()


async def test_taken_port_is_replaced_by_another():
    """The neighbour's console has ours."""
    handle = FakeIgd(taken=[40000])
    external, lease_s = await UpnpGateway(handle).map_port(INTERNAL, lease_s=600, randbytes=zeros)
    assert (external, lease_s) == (TransportAddress("203.0.113.8", 49152), 600)


async def test_gateway_full_of_conflicts_is_given_up():
    """Four ports, not four thousand."""
    handle = FakeIgd(taken=[40000, 49152])
    with pytest.raises(UpnpError, match="4 ports"):
        await UpnpGateway(handle).map_port(INTERNAL, lease_s=600, randbytes=zeros)


async def test_gateway_without_leases_gets_a_permanent_one():
    """Error 725 of the older IGD; then only our release ends it."""
    handle = FakeIgd(permanent_only=True)
    gateway = UpnpGateway(handle)
    _, lease_s = await gateway.map_port(INTERNAL, lease_s=600, randbytes=zeros)
    assert lease_s == float("inf")
    assert handle.leases == [0]
    await gateway.release()
    assert handle.table == {}


@pytest.mark.parametrize("external", ["", "0.0.0.0", "nonsense"])
async def test_gateway_without_an_external_address_is_no_help(external):
    """Not dialled in."""
    with pytest.raises(UpnpError, match="no external address"):
        await UpnpGateway(FakeIgd(external=external)).map_port(INTERNAL, lease_s=600, randbytes=zeros)


async def test_mapping_made_by_a_thread_left_behind_is_given_back_by_it():
    """Cancellation does not wait for a slow router, and leaves no open port either."""
    go_on = threading.Event()
    handle = FakeIgd(blocked=go_on, permanent_only=True)
    gateway = UpnpGateway(handle)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: gateway.map_port(INTERNAL, lease_s=0, randbytes=zeros))
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    await gateway.release()
    go_on.set()
    with trio.fail_after(60):
        while not handle.leases or handle.table:
            await trio.sleep(0.001)


async def test_whatever_miniupnpc_raises_is_one_kind_of_error():
    """It raises plain `Exception`, once in a while with the text `Success`."""

    def fail():
        raise Exception("Success")

    with pytest.raises(UpnpError, match="no gateway answers"):
        await in_thread(fail)


async def test_missing_extra_is_said_by_name(monkeypatch):
    """What to install is the most useful thing to say."""
    monkeypatch.setattr(portmap_upnp, "find_spec", lambda name: None)
    with pytest.raises(UpnpError, match=r"iceagent\[upnp\]"):
        await portmap_upnp.find_upnp_gateway("127.0.0.1")


# Gateways


def test_linux_ipv4_routes_are_read():
    """Bytes in the machine's order; the lower metric is preferred by whoever sorts."""
    text = (
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        "wg0\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0\n"
        "eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
        "broken line\n"
    )
    assert list(parse_route4(text)) == [Gateway("192.168.1.1", "eth0", 100)]


def test_linux_ipv6_routes_are_read():
    """A link-local gateway needs its zone."""
    zero = "0" * 32
    text = (
        f"{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n"
        f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 lo\n"
        "nonsense\n"
    )
    assert list(parse_route6(text)) == [Gateway("fe80::1%eth0", "eth0", 1024)]


def test_tables_of_other_systems_are_read():
    """What macOS and Windows print."""
    netstat = "Destination Gateway Flags Netif Expire\ndefault 192.168.1.1 UGScg en0\ndefault link#9 UCS utun0\n"
    assert list(parse_netstat(netstat)) == [Gateway("192.168.1.1", "en0")]
    printed = "  0.0.0.0  0.0.0.0  192.168.1.1  192.168.1.5  25\n  0.0.0.0  0.0.0.0  On-link  10.0.0.1  5\n"
    assert list(parse_route_print(printed)) == [Gateway("192.168.1.1", "192.168.1.5", 25)]


async def test_this_machines_gateways_are_found_without_raising():
    """There may be none; there may be several."""
    assert all(isinstance(gateway, Gateway) for gateway in await system_gateways())


async def test_families_are_told_apart(vnet):
    """Port mapping of IPv4 must not ask an IPv6 gateway."""
    home = Home(vnet)
    assert await find_gateways(home.alice, 6) == []
    assert await find_gateways(home.alice, 4) == [home.gateway]
