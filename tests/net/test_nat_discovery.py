"""RFC 5780 against every NAT the virtual network has: what is found must be what was built."""

from __future__ import annotations

from itertools import product

import pytest
import trio
from stun_5780 import PORTS, open_behaviour_server, two_addressed_host

from iceagent.core.address import TransportAddress
from iceagent.core.discovery import Filtering, MappingBehaviour, MappingLifetime
from iceagent.errors import LocalError
from iceagent.net.nat_discovery import discover_nat
from iceagent.servers.stun import open_stun_server
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.vnet import FULL_CONE, PORT_RESTRICTED, SYMMETRIC, Nat

KINDS = ("endpoint-independent", "address-dependent", "address-and-port-dependent")


async def discover(host, *servers, **options):
    return await discover_nat(host, host.address, servers, randbytes=host.randbytes, **options)


@pytest.mark.parametrize(("mapping", "filtering"), list(product(KINDS, KINDS)))
async def test_every_mapping_and_filtering_is_recognised(vnet, mapping, filtering):
    """All nine combinations, ports preserved or at random."""
    for allocation in ("preserving", "random", "sequential"):
        net = vnet()
        server_host = two_addressed_host(net)
        nat = Nat(mapping=mapping, filtering=filtering, port_allocation=allocation)
        home = net.router(net.internet, nat=nat)
        host = net.host(home)
        async with net, open_behaviour_server(server_host) as server:
            found = await discover(host, server.address)
        assert found.mapping is MappingBehaviour(mapping)
        assert found.filtering is Filtering(filtering)
        assert {address.host for address in found.mapped} == {home.public_address}
        assert found.fragments is True
        assert net.statistics().sockets_left_open == 0


@pytest.mark.parametrize("mapping", KINDS)
@pytest.mark.parametrize("hairpin", [True, False])
async def test_hairpinning_is_recognised(vnet, mapping, hairpin):
    """Two hosts behind one NAT that hairpins meet at their external addresses, if those can be known at all."""
    net = vnet()
    server_host = two_addressed_host(net)
    home = net.router(net.internet, nat=Nat(mapping=mapping, filtering="endpoint-independent", hairpin=hairpin))
    host = net.host(home)
    async with net, open_behaviour_server(server_host) as server:
        found = await discover(host, server.address)
    assert found.hairpin is hairpin


async def test_no_nat_is_recognised(vnet):
    """A public address: nothing is translated, and nothing filtered here."""
    net = vnet()
    server_host = two_addressed_host(net)
    host = net.host(net.internet)
    async with net, open_behaviour_server(server_host) as server:
        found = await discover(host, server.address)
    assert (found.mapping, found.filtering) == (MappingBehaviour.NO_NAT, Filtering.ENDPOINT_INDEPENDENT)
    assert found.hairpin is None
    assert found.preserves_port is True


async def test_ipv6_is_discovered_as_well(vnet):
    """Each family has a verdict of its own."""
    net = vnet(families=(6,))
    server_host = two_addressed_host(net)
    host = net.host(net.router(net.internet))
    async with net, open_behaviour_server(server_host) as server:
        found = await discover(host, server.address)
    assert found.mapping is MappingBehaviour.NO_NAT


@pytest.mark.parametrize(
    ("nat", "mapping"),
    [
        (PORT_RESTRICTED, MappingBehaviour.ENDPOINT_INDEPENDENT),
        (SYMMETRIC, MappingBehaviour.DESTINATION_DEPENDENT),
        (Nat(mapping="address-dependent", port_allocation="random"), MappingBehaviour.DESTINATION_DEPENDENT),
        (None, MappingBehaviour.NO_NAT),
    ],
)
async def test_two_servers_with_one_address_each_tell_the_mapping(vnet, nat, mapping):
    """Most servers of this world have one address."""
    net = vnet()
    hosts = [net.host(net.internet) for _ in range(2)]
    host = net.host(net.router(net.internet, nat=nat))
    async with (
        net,
        open_stun_server(hosts[0].address, network=hosts[0]) as one,
        open_stun_server(hosts[1].address, network=hosts[1]) as two,
    ):
        found = await discover(host, one.address, two.address)
    assert found.mapping is mapping
    assert found.filtering is Filtering.UNKNOWN
    assert [report.failure for report in found.servers] == ["", ""]


async def test_one_server_with_one_address_tells_little_and_claims_no_more(vnet):
    """A guess would be worse than `unknown`."""
    net = vnet()
    server_host = net.host(net.internet)
    host = net.host(net.router(net.internet, nat=PORT_RESTRICTED))
    async with net, open_stun_server(server_host.address, network=server_host) as server:
        found = await discover(host, server.address)
    assert found.udp_works
    assert (found.mapping, found.filtering, found.fragments) == (MappingBehaviour.UNKNOWN, Filtering.UNKNOWN, None)


async def test_dead_server_beside_a_live_one_costs_nothing_but_its_own_patience(vnet):
    """And is reported."""
    net = vnet()
    server_host, dead = two_addressed_host(net), net.host(net.internet)
    host = net.host(net.router(net.internet, nat=SYMMETRIC))
    async with net, open_behaviour_server(server_host) as server:
        start = trio.current_time()
        found = await discover(host, TransportAddress(dead.address, 3478), server.address)
        assert trio.current_time() - start < 4
    assert found.mapping is MappingBehaviour.ADDRESS_AND_PORT_DEPENDENT
    assert [report.failure for report in found.servers] == ["no answer", ""]
    assert found.servers[1].rtt_s == pytest.approx(0.024, abs=0.001)


async def test_no_answer_at_all_ends_in_three_seconds(vnet):
    """UDP is blocked: the most important thing to be told, and soon."""
    net = vnet()
    dead = net.host(net.internet)
    host = net.host(net.internet)
    async with net:
        start = trio.current_time()
        found = await discover(host, TransportAddress(dead.address, 3478))
        assert trio.current_time() - start < 3
    assert not found.udp_works
    assert found.mapping is MappingBehaviour.UNKNOWN


async def test_nothing_to_ask_is_answered_at_once(vnet):
    """No servers configured."""
    net = vnet()
    host = net.host(net.internet)
    async with net:
        assert not (await discover(host)).udp_works


@pytest.mark.parametrize("switches", [{"obeys": False}, {"knows": False}, {"alternate_works": False}])
async def test_broken_servers_make_filtering_unknown_not_strict(vnet, switches):
    """Silence shows filtering only if the server would have spoken."""
    net = vnet()
    server_host = two_addressed_host(net)
    host = net.host(net.router(net.internet, nat=FULL_CONE))
    async with net, open_behaviour_server(server_host, **switches) as server:
        found = await discover(host, server.address)
    assert found.filtering is Filtering.UNKNOWN
    assert found.mapping is (
        MappingBehaviour.ENDPOINT_INDEPENDENT if "alternate_works" not in switches else MappingBehaviour.UNKNOWN
    )


@pytest.mark.parametrize("claim", ["224.0.0.1", "127.0.0.1", "0.0.0.0", "2001:db8::1"])
async def test_server_cannot_point_us_at_odd_addresses(vnet, claim):
    """OTHER-ADDRESS is a stranger's word."""
    net = vnet()
    server_host = two_addressed_host(net)
    host = net.host(net.router(net.internet, nat=FULL_CONE))
    async with net, open_behaviour_server(server_host, claims=TransportAddress(claim, 9)) as server:
        found = await discover(host, server.address)
    assert found.servers[0].other is None
    assert not [record for record in net.trace if claim in str(record)]


@pytest.mark.parametrize("loss", [0.1, 0.25])
async def test_lossy_lines_do_not_fool_discovery(vnet, loss):
    """A lost answer looks like a filter; four requests make that rare."""
    net = vnet(seed=5)
    server_host = two_addressed_host(net)
    host = net.host(net.router(net.internet, nat=FULL_CONE, loss=loss))
    async with net, open_behaviour_server(server_host) as server:
        found = await discover(host, server.address)
    assert (found.mapping, found.filtering) == (MappingBehaviour.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT)


@pytest.mark.parametrize(
    ("timeout_s", "expected"), [(50, MappingLifetime(30, 60)), (25, MappingLifetime(0, 30)), (999, (120, None))]
)
async def test_lifetime_of_idle_mappings_is_found(vnet, timeout_s, expected):
    """In the time of the longest that is tried, by sockets that idle side by side."""
    net = vnet()
    server_host = two_addressed_host(net)
    nat = Nat(filtering="endpoint-independent", mapping_timeout_s=timeout_s)
    host = net.host(net.router(net.internet, nat=nat))
    async with net, open_behaviour_server(server_host) as server:
        start = trio.current_time()
        found = await discover(host, server.address, lifetimes_s=(30, 60, 90, 120))
        assert trio.current_time() - start < 125
    assert found.lifetime == (expected if isinstance(expected, MappingLifetime) else MappingLifetime(*expected))


async def test_families_are_not_mixed(vnet):
    """The caller's mistake, told as such."""
    net = vnet()
    host = net.host(net.internet)
    async with net:
        with pytest.raises(LocalError):
            await discover(host, TransportAddress("2001:db8::1", 3478))


@pytest.mark.parametrize(("mapping", "filtering"), list(product(KINDS, KINDS)))
async def test_our_own_server_tells_the_same(vnet, mapping, filtering):
    """The server of RFC 5780 that people run is `iceagent turn`, not the one of the tests."""
    net = vnet()
    server_host = two_addressed_host(net)
    first, second = (TransportAddress(host, port) for host, port in zip(server_host.addresses(), PORTS, strict=True))
    options = TurnOptions(listen=[first], users={"nobody": "nothing"}, tcp_listen=[], alternate=second)
    host = net.host(net.router(net.internet, nat=Nat(mapping=mapping, filtering=filtering)))
    async with net, open_turn_server(options, network=server_host, randbytes=server_host.randbytes):
        found = await discover(host, first, lifetimes_s=(60, 180))
    assert (found.mapping, found.filtering) == (MappingBehaviour(mapping), Filtering(filtering))
    assert found.fragments is True
    assert found.lifetime == MappingLifetime(60, 180)
