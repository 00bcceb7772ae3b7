"""Networks that users sit in: carriers' NATs, firewalls, one NAT for both, IPv6, loss, small MTUs."""

from __future__ import annotations

import pytest
from natlab import Firewall, Home, Internet, NatKind
from natlab_experiments import Outcome, Scenario, judge

NO_UDP = Home(firewall=Firewall.NO_UDP)
HARD_NO_UDP = Home(nat=NatKind.SYMMETRIC, firewall=Firewall.NO_UDP)  # no simultaneous open of TCP either
OFFICE = Home(hosts=2, isolated=True)
TWO_HOSTS = ("host-a", "host-a2")
IPV6 = Home(nat=NatKind.NONE, firewall=Firewall.STATEFUL)


def through_a_carrier(carrier: NatKind, nat: NatKind, other: NatKind, *, direct: bool = True) -> Scenario:
    name = f"{nat.value} below a carrier's {carrier.value} to {other.value}"
    return Scenario(name, Home(nat=nat, carrier=carrier), Home(nat=other), direct=direct)


CARRIERS = [
    through_a_carrier(NatKind.FULL_CONE, NatKind.PORT_RESTRICTED, NatKind.PORT_RESTRICTED),
    through_a_carrier(NatKind.PORT_RESTRICTED, NatKind.FULL_CONE, NatKind.ADDRESS_RESTRICTED),
    through_a_carrier(NatKind.SYMMETRIC, NatKind.PORT_RESTRICTED, NatKind.FULL_CONE),
    through_a_carrier(NatKind.SYMMETRIC, NatKind.PORT_RESTRICTED, NatKind.PORT_RESTRICTED, direct=False),
    Scenario("two homes below one carrier with hairpin", carrier=Home(hairpin=True)),
    Scenario("two homes below one carrier without hairpin", carrier=Home(), direct=False),
]
ONE_NAT = [
    Scenario("two hosts of one home", a=Home(hosts=2), nodes=TWO_HOSTS),
    Scenario("two hosts kept apart, with hairpin", a=Home(hosts=2, isolated=True, hairpin=True), nodes=TWO_HOSTS),
    Scenario("two hosts kept apart, without hairpin", a=OFFICE, nodes=TWO_HOSTS, direct=False),
]
SEVERAL_ADDRESSES = [
    Scenario("a relay at 0.0.0.0, met at its second address", wildcard=True),
    Scenario(
        "symmetric NATs, a relay at 0.0.0.0 met at its second address",
        a=Home(nat=NatKind.SYMMETRIC),
        b=Home(nat=NatKind.SYMMETRIC),
        direct=False,
        wildcard=True,
    ),
]
NAMES = [
    Scenario("a relay's name whose first address is dead", named=True),
    Scenario(
        "symmetric NATs, a relay's name whose first address is dead",
        a=Home(nat=NatKind.SYMMETRIC),
        b=Home(nat=NatKind.SYMMETRIC),
        direct=False,
        named=True,
    ),
    Scenario(
        "UDP blocked, a relay's name whose first address is dead",
        a=HARD_NO_UDP,
        direct=False,
        named=True,
        transport="turn-tcp",
    ),
]
NO_STUN = Home(firewall=Firewall.NO_STUN)
ONLY_443 = Home(firewall=Firewall.ONLY_443)
FIREWALLS = [
    Scenario("UDP blocked on one side", a=HARD_NO_UDP, direct=False, transport="turn-tcp"),
    Scenario("UDP blocked on the other side", b=HARD_NO_UDP, direct=False),
    Scenario("UDP blocked on both sides", a=HARD_NO_UDP, b=HARD_NO_UDP, direct=False, transport="turn-tcp"),
    Scenario("UDP blocked, the listener public", a=HARD_NO_UDP, b=Home(nat=NatKind.NONE), transport="tcp"),
    Scenario("UDP blocked, the forwarder public", a=Home(nat=NatKind.NONE), b=HARD_NO_UDP, transport="tcp"),
    Scenario("UDP blocked, NATs that keep the port", a=NO_UDP, b=NO_UDP, transport="tcp"),
    Scenario("443/tcp alone on one side", a=ONLY_443, direct=False, port=443, transport="turn-tls"),
    Scenario("443/tcp alone on both sides", a=ONLY_443, b=ONLY_443, direct=False, port=443, transport="turn-tls"),
    Scenario("STUN blocked by content on one side", a=NO_STUN, direct=False, transport="turn-dtls"),
]
FAMILIES = [
    Scenario("IPv6 alone, firewalls on both sides", IPV6, IPV6, Internet(families=(6,))),
    Scenario(
        "IPv6 beside two symmetric NATs",
        Home(nat=NatKind.SYMMETRIC, firewall=Firewall.STATEFUL),
        Home(nat=NatKind.SYMMETRIC, firewall=Firewall.STATEFUL),
        Internet(families=(4, 6)),
    ),
]
LINES = [
    Scenario("an MTU of 1280 and no fragments", Home(mtu=1280, no_fragments=True), Home(no_fragments=True)),
    Scenario("30 % of the packets lost each way", internet=Internet(loss_percent=30), size=30_000, direct=None),
]
OPEN_INPUT = Home(accepts_input=True)
GATEWAYS = [
    Scenario("the forwarder's gateway accepts input", a=OPEN_INPUT),
    Scenario("the listener's gateway accepts input", b=OPEN_INPUT),
    Scenario("both gateways accept input", a=OPEN_INPUT, b=OPEN_INPUT),
    Scenario("the forwarder's gateway accepts input, no TURN", a=OPEN_INPUT, turn=False),
    Scenario("the listener's gateway accepts input, no TURN", b=OPEN_INPUT, turn=False),
    Scenario("both gateways accept input, no TURN", a=OPEN_INPUT, b=OPEN_INPUT, turn=False),
]
MOVES = [
    Scenario("the forwarder's line gets another address", b=Home(nat=NatKind.FULL_CONE), moves="a"),
    Scenario("the listener's line gets another address", a=Home(nat=NatKind.FULL_CONE), moves="b"),
]


@pytest.mark.parametrize("scenario", CARRIERS, ids=str)
def test_a_carriers_nat_above_the_homes(scenario: Scenario, outcome: Outcome) -> None:
    """Half the mobile world sits behind two NATs; the stricter of each kind of behaviour decides."""
    judge(scenario, outcome)


@pytest.mark.parametrize("scenario", SEVERAL_ADDRESSES, ids=str)
def test_a_machine_with_several_addresses_is_a_server_like_any_other(scenario: Scenario, outcome: Outcome) -> None:
    """STUN and TURN answer from the address asked: NATs drop the rest, and with it every candidate (trap 69)."""
    judge(scenario, outcome)


@pytest.mark.parametrize("scenario", NAMES, ids=str)
def test_a_name_with_several_addresses_is_tried_beyond_the_first(scenario: Scenario, outcome: Outcome) -> None:
    """Signaling, STUN and TURN, over UDP and TCP: the resolver's first address is one that swallows everything."""
    judge(scenario, outcome)


@pytest.mark.parametrize("scenario", ONE_NAT, ids=str)
def test_two_hosts_behind_one_nat(scenario: Scenario, outcome: Outcome) -> None:
    """Colleagues in one office: over the LAN where it lets them, else over the router's outside address."""
    judge(scenario, outcome)


@pytest.mark.parametrize("scenario", FIREWALLS, ids=str)
def test_firewalls(scenario: Scenario, outcome: Outcome) -> None:
    """Where UDP does not pass, a relay over TCP or TLS does; the user is told."""
    judge(scenario, outcome)


@pytest.mark.parametrize("scenario", FAMILIES, ids=str)
def test_ipv6(scenario: Scenario, outcome: Outcome) -> None:
    """Without NATs in between, stateful firewalls open to whoever sends first, and IPv4 need not exist."""
    judge(scenario, outcome)
    assert outcome.path is not None
    assert outcome.path["remote"].startswith("[2001:db8:")


@pytest.mark.parametrize("scenario", LINES, ids=str)
def test_poor_lines(scenario: Scenario, outcome: Outcome) -> None:
    """Tunnels over tunnels have small MTUs, trains lose packets: slower, but whole."""
    judge(scenario, outcome)


@pytest.mark.parametrize("scenario", GATEWAYS, ids=str)
def test_gateways_that_accept_input(scenario: Scenario, outcome: Outcome) -> None:
    """A line of `masquerade` and no other rule: an unasked check holds the port, and both sides failed for ever."""
    judge(scenario, outcome)


@pytest.mark.parametrize("scenario", MOVES, ids=str)
def test_a_home_whose_address_changes(scenario: Scenario, outcome: Outcome) -> None:
    """Providers renumber by night: where the other side lets the new address in, the same session goes on."""
    judge(scenario, outcome)
