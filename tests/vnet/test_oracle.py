"""The oracle and the agents must be of one mind: direct exactly where it says, relayed elsewhere, none failing.

`make matrix` shows what these tests see.
"""

from __future__ import annotations

from itertools import product

import pytest
from amount import spread
from vnet_matrix import BEHAVIOURS, PLACES, meet_at, meet_behind

from iceagent.vnet import (
    FULL_CONE,
    PORT_RESTRICTED,
    STATEFUL,
    STUN_BLOCKED,
    UDP_BLOCKED,
    Nat,
    Relay,
    Side,
    reachability,
)


@pytest.mark.thorough
@pytest.mark.parametrize(("left", "right"), spread(list(product(BEHAVIOURS, BEHAVIOURS)), 21))
async def test_nine_by_nine_behaviours(vnet, left, right):
    """Mapping and filtering of both sides, ports at random so that luck plays no part."""
    meeting = await meet_behind(vnet(), left, right)
    assert meeting.told.is_possible
    assert meeting.is_direct is meeting.told.is_direct
    assert meeting.connected_s < 2


@pytest.mark.parametrize("name", PLACES)
async def test_places_where_users_sit(vnet, name):
    """Carriers, firewalls, twin networks, NAT64, no UDP; what a person would say stands beside what the oracle says."""
    place = PLACES[name]
    meeting = await meet_at(vnet(families=place.families), place)
    assert meeting.told.is_possible
    assert meeting.told.is_direct is place.is_direct
    assert meeting.is_direct is place.is_direct


async def test_behind_a_nat64_the_path_is_ipv6(vnet):
    """IPv6 alone with a way to IPv4, as most phones have: where the peer has IPv6, that is the path."""
    place = PLACES["nat64 with ipv6 at both ends"]
    meeting = await meet_at(vnet(families=place.families), place)
    assert meeting.told.kinds == {("host", "host")}


def homes(net, *firewalls, nat=FULL_CONE):
    """Return a host behind each firewall."""
    return [net.host(net.router(net.internet, nat=nat, firewall=firewall)) for firewall in firewalls]


@pytest.mark.parametrize("firewall", [UDP_BLOCKED, STUN_BLOCKED])
def test_blocked_udp_leaves_only_what_runs_over_tcp(vnet, firewall):
    """The oracle knows that a relay over TCP saves both, and that one over UDP saves neither."""
    net = vnet()
    turn = net.host(net.internet)
    hosts = homes(net, firewall, None)
    for ports, is_possible in (((), False), ((443,), True)):
        told = reachability(*(Side(host, relays=(Relay(turn, tcp_ports=ports),)) for host in hosts))
        assert not told.is_direct
        assert told.is_possible is is_possible


def test_policy_and_cut_links_are_part_of_the_topology(vnet):
    """The oracle judges what is allowed and plugged in now."""
    net = vnet()
    server = net.host(net.internet)
    hosts = homes(net, None, None)
    sides = [Side(host, stun=(server,)) for host in hosts]
    assert reachability(*sides).kinds == {("srflx", "srflx")}
    assert not reachability(Side(hosts[0], families=(6,), stun=(server,)), sides[1]).is_possible
    assert not reachability(Side(hosts[0], relay_only=True), sides[1]).is_possible
    assert not reachability(Side(hosts[0], interfaces=("wlan0",)), sides[1]).is_possible
    hosts[0].link.cut()
    assert not reachability(*sides).is_possible


def test_an_address_learned_from_checks_is_known_where_they_came_and_nowhere_else(vnet):
    """RFC 8445 section 7.3.1.3 pairs a peer-reflexive candidate with the local one that the check came to alone."""
    net = vnet()
    server = net.host(net.internet)
    open_one = Nat(mapping="address-and-port-dependent", filtering="endpoint-independent")
    alice = net.host(net.router(net.internet, nat=PORT_RESTRICTED))
    alice.attach(net.router(net.internet, nat=open_one))
    bob = Side(net.host(net.router(net.internet, firewall=STATEFUL)), stun=(server,))
    assert reachability(Side(alice, stun=(server,)), bob).is_direct
    # Bob's host candidate is refused. His checks come in at the second line, whose answers his firewall drops; from the
    # first line, where they would get through, nobody asks him.
    assert not reachability(Side(alice, stun=(server,), kinds=("srflx", "prflx")), bob).is_direct
