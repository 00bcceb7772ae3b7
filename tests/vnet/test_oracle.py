"""The oracle and the agents must be of one mind: direct exactly where it says, relayed elsewhere, none failing."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import product

import pytest
import trio
from nat_lab import trickle

from iceagent.agent import AgentConfig, IceServer, open_agent
from iceagent.core.address import TransportAddress
from iceagent.core.ice import CandidateType, Role
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.vnet import (
    FULL_CONE,
    PORT_RESTRICTED,
    STATEFUL,
    STUN_BLOCKED,
    SYMMETRIC,
    UDP_BLOCKED,
    Nat,
    Relay,
    Side,
    reachability,
)

KINDS = ("endpoint-independent", "address-dependent", "address-and-port-dependent")
BEHAVIOURS = {f"{m}/{f}": Nat(mapping=m, filtering=f, port_allocation="random") for m, f in product(KINDS, KINDS)}


async def meet(net, hosts, *, at=None, over_tcp=False):
    """Let two agents connect; return the types of the selected pair's candidates at alice's."""
    turn = net.host(at or net.internet, name="turn.example")
    listen = [TransportAddress(host, 3478) for host in turn.addresses()]
    options = TurnOptions(
        listen,
        users={"user": "password of the user"},
        allow_peers=("203.0.113.0/24", "198.18.0.0/15", "2001:db8::/32"),
        tcp_listen=listen if over_tcp else (),
    )
    url = "turn:turn.example" if over_tcp else "turn:turn.example?transport=udp"
    servers = [IceServer(url, username="user", credential="password of the user")]
    stack = AsyncExitStack()
    async with net, stack:
        await stack.enter_async_context(open_turn_server(options, network=turn, randbytes=turn.randbytes))
        agents = []
        for host, role in zip(hosts, (Role.CONTROLLING, Role.CONTROLLED), strict=True):
            config = AgentConfig(servers=servers, network=host, randbytes=host.randbytes)
            agents.append(await stack.enter_async_context(open_agent(config, role=role)))
        async with trio.open_nursery() as nursery:
            for one, other in (agents, reversed(agents)):
                other.set_remote_credentials(one.credentials)
                nursery.start_soon(trickle, one, other)
            with trio.fail_after(60):
                for agent in agents:
                    await agent.wait_connected()
            await trio.sleep(2)
            pairs = [agent.selected_pair for agent in agents]
            nursery.cancel_scope.cancel()
    assert net.statistics().sockets_left_open == 0
    assert pairs[0].local.type is pairs[1].remote.type or CandidateType.RELAY not in (p.local.type for p in pairs)
    return {pairs[0].local.type.value, pairs[0].remote.type.value}


def expected(net, hosts, *, at=None):
    turn = net.host(at or net.internet, name="oracle.example")
    return reachability(*(Side(host, relays=(Relay(turn, tcp_ports=()),)) for host in hosts))


@pytest.mark.parametrize(("left", "right"), list(product(BEHAVIOURS, BEHAVIOURS)))
async def test_nine_by_nine_behaviours(vnet, left, right):
    """Mapping and filtering of both sides, ports at random so that luck plays no part."""
    net = vnet()
    hosts = [net.host(net.router(net.internet, nat=BEHAVIOURS[name])) for name in (left, right)]
    told = expected(net, hosts)
    found = await meet(net, hosts)
    assert told.is_possible
    assert ("relay" not in found) is told.is_direct


def cgnat(net, inner, outer, **options):
    carrier = net.router(net.internet, nat=outer, subnet="100.64.0.0/10")
    return [net.host(net.router(carrier, nat=inner, **options)) for _ in range(2)]


def behind(*nats, **options):
    return lambda net: [net.host(net.router(net.internet, nat=nat, **options)) for nat in nats]


def neighbours(net):
    home = net.router(net.internet, nat=SYMMETRIC)
    return [net.host(home), net.host(home)]


def firewalled(*firewalls, nats=(None, None)):
    return lambda net: [
        net.host(net.router(net.internet, nat=nat, firewall=firewall))
        for nat, firewall in zip(nats, firewalls, strict=True)
    ]


RANDOM = Nat(port_allocation="random")
PLACES = {
    "neighbours": (neighbours, True),
    "carrier without hairpin": (lambda net: cgnat(net, PORT_RESTRICTED, RANDOM), False),
    "carrier with hairpin": (lambda net: cgnat(net, PORT_RESTRICTED, Nat(hairpin=True)), True),
    "homes alike below one carrier": (
        lambda net: cgnat(net, FULL_CONE, Nat(hairpin=True), subnet="192.168.1.0/24"),
        True,
    ),
    "symmetric below one carrier": (lambda net: cgnat(net, SYMMETRIC, Nat(hairpin=True)), False),
    "clashing homes": (behind(PORT_RESTRICTED, PORT_RESTRICTED, subnet="192.168.1.0/24"), True),
    "both firewalled": (firewalled(STATEFUL, STATEFUL), True),
    "firewall before a symmetric nat": (firewalled(None, STATEFUL, nats=(SYMMETRIC, None)), False),
    "firewall behind a cone": (firewalled(None, STATEFUL, nats=(SYMMETRIC, FULL_CONE)), False),
}


@pytest.mark.parametrize("place", PLACES)
async def test_places_where_users_sit(vnet, place):
    """Carriers, firewalls and twin networks; what a person would say stands beside what the oracle says."""
    net = vnet()
    build, is_direct = PLACES[place]
    hosts = build(net)
    told = expected(net, hosts)
    assert told.is_direct is is_direct
    assert ("relay" not in await meet(net, hosts)) is is_direct


@pytest.mark.parametrize("nat", [PORT_RESTRICTED, FULL_CONE])
async def test_behind_a_nat64_with_ipv6_at_both_ends(vnet, nat):
    """IPv6 alone with a way to IPv4, as most phones have: where the peer has IPv6, that is the path."""
    net = vnet(families=(4, 6))
    hosts = [net.host(net.router(net.internet, nat64=nat)), net.host(net.router(net.internet, nat=PORT_RESTRICTED))]
    told = expected(net, hosts)
    assert told.kinds == {("host", "host")}
    assert "relay" not in await meet(net, hosts)


@pytest.mark.parametrize(("nat", "is_direct"), [(FULL_CONE, True), (PORT_RESTRICTED, False)])
async def test_behind_a_nat64_with_ipv4_alone_at_the_peer(vnet, nat, is_direct):
    """The side behind the NAT64 learns its IPv4 address from a server that has no other; yet it does not know the
    prefix, so it must be reached, which only an open filter allows."""
    net = vnet(families=(4, 6))
    phone = net.host(net.router(net.internet, nat64=nat))
    servers = net.router(net.internet, families=(4,))
    home = net.host(net.router(net.internet, nat=PORT_RESTRICTED, families=(4,)))
    told = expected(net, [phone, home], at=servers)
    assert told.is_possible
    assert told.is_direct is is_direct
    assert ("relay" not in await meet(net, [phone, home], at=servers)) is is_direct


@pytest.mark.parametrize("firewall", [UDP_BLOCKED, STUN_BLOCKED])
def test_blocked_udp_leaves_only_what_runs_over_tcp(vnet, firewall):
    """The oracle knows that a relay over TCP saves both, and that one over UDP saves neither."""
    net = vnet()
    turn = net.host(net.internet)
    hosts = firewalled(firewall, None, nats=(FULL_CONE, FULL_CONE))(net)
    for ports, is_possible in (((), False), ((443,), True)):
        told = reachability(*(Side(host, relays=(Relay(turn, tcp_ports=ports),)) for host in hosts))
        assert not told.is_direct
        assert told.is_possible is is_possible


@pytest.mark.parametrize("firewalls", [(UDP_BLOCKED, None), (UDP_BLOCKED, UDP_BLOCKED), (STUN_BLOCKED, UDP_BLOCKED)])
async def test_blocked_udp_is_relayed_over_tcp(vnet, firewalls):
    """Hotels and companies: no UDP at all on one side or on both, and still connected."""
    net = vnet()
    hosts = firewalled(*firewalls, nats=(PORT_RESTRICTED, PORT_RESTRICTED))(net)
    assert "relay" in await meet(net, hosts, over_tcp=True)


def test_policy_and_cut_links_are_part_of_the_topology(vnet):
    """The oracle judges what is allowed and plugged in now."""
    net = vnet()
    server = net.host(net.internet)
    hosts = behind(FULL_CONE, FULL_CONE)(net)
    sides = [Side(host, stun=(server,)) for host in hosts]
    assert reachability(*sides).kinds == {("srflx", "srflx")}
    assert not reachability(Side(hosts[0], families=(6,), stun=(server,)), sides[1]).is_possible
    assert not reachability(Side(hosts[0], relay_only=True), sides[1]).is_possible
    assert not reachability(Side(hosts[0], interfaces=("wlan0",)), sides[1]).is_possible
    hosts[0].link.cut()
    assert not reachability(*sides).is_possible
