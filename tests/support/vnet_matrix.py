"""Whole agents in every pair of NAT behaviours and in the places where users sit, held against the oracle.

Shared by the tests of the oracle and by `make matrix`, which shows it all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import product
from typing import Any

import trio
from virtual_pair import trickle

from iceagent.agent import Agent, AgentConfig, IceServer, open_agent
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
    Firewall,
    Host,
    Nat,
    Network,
    Reachability,
    Relay,
    Router,
    Side,
    reachability,
)

# Ports at random, so that luck plays no part.
SHORT: dict[str, Any] = {"EI": "endpoint-independent", "AD": "address-dependent", "APD": "address-and-port-dependent"}
BEHAVIOURS = {
    f"{m}/{f}": Nat(mapping=SHORT[m], filtering=SHORT[f], port_allocation="random") for m, f in product(SHORT, SHORT)
}
LINE_S = 0.010
"""One way from each host to the internet: 40 ms from one host to the other and back, 20 ms to a server and back."""

CREDENTIALS: dict[str, Any] = {"username": "user", "credential": "password of the user"}
ALLOWED_PEERS = ("203.0.113.0/24", "198.18.0.0/15", "2001:db8::/32")
LATER_S = 2.0  # a relay may come first; so much later the pair must be the best there is


@dataclass(frozen=True)
class Place:
    """Where two users sit, and whether a person would say that they can talk directly.

    Attributes:
        build: makes the two hosts.
        is_direct: what a person says.
        families: of the internet.
        server_families: of the network the TURN server is in.
        over_tcp: whether the server listens on TCP, too.
    """

    build: Callable[[Network], list[Host]]
    is_direct: bool
    families: tuple[int, ...] = (4,)
    server_families: tuple[int, ...] | None = None
    over_tcp: bool = False


@dataclass(frozen=True)
class Meeting:
    """What came of one: the kinds of candidates of the selected pair, and virtual seconds until both were connected."""

    kinds: frozenset[str]
    connected_s: float
    told: Reachability

    @property
    def is_direct(self) -> bool:
        """Whether no relay is on the path."""
        return "relay" not in self.kinds

    @property
    def agrees(self) -> bool:
        """Whether the oracle says the same."""
        return self.told.is_possible and self.told.is_direct is self.is_direct


async def meet(net: Network, hosts: list[Host], *, at: Router | None = None, over_tcp: bool = False) -> Meeting:
    """Let two agents connect, with a TURN server at a network, and look at the pair they use `LATER_S` later."""
    turn = net.host(at or net.internet, name="turn.example")
    relay = Relay(turn, tcp_ports=(3478,) if over_tcp else ())
    told = reachability(*(Side(host, relays=(relay,)) for host in hosts))
    listen = [TransportAddress(host, 3478) for host in turn.addresses()]
    options = TurnOptions(
        listen,
        users={CREDENTIALS["username"]: CREDENTIALS["credential"]},
        allow_peers=ALLOWED_PEERS,
        tcp_listen=listen if over_tcp else (),
    )
    url = "turn:turn.example" if over_tcp else "turn:turn.example?transport=udp"
    stack = AsyncExitStack()
    async with net, stack:
        await stack.enter_async_context(open_turn_server(options, network=turn, randbytes=turn.randbytes))
        agents = []
        for host, role in zip(hosts, (Role.CONTROLLING, Role.CONTROLLED), strict=True):
            config = AgentConfig(
                servers=[IceServer(url, **CREDENTIALS)],
                network=host,
                randbytes=host.randbytes,
            )
            agents.append(await stack.enter_async_context(open_agent(config, role=role)))
        connected_s = await _introduce(*agents)
        pairs = [agent.selected_pair for agent in agents]
    assert net.statistics().sockets_left_open == 0
    first, other = pairs
    assert first is not None
    assert other is not None
    kinds = frozenset((first.local.type.value, first.remote.type.value))
    if CandidateType.RELAY.value in kinds:
        assert first.local.type is other.remote.type
    return Meeting(kinds, connected_s, told)


async def _introduce(alice: Agent, bob: Agent) -> float:
    """Trickle both ways; return when both were connected, and come back later."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for one, other in ((alice, bob), (bob, alice)):
            other.set_remote_credentials(one.credentials, options=one.options)
            nursery.start_soon(trickle, one, other)
        with trio.fail_after(60):
            await alice.wait_connected()
            await bob.wait_connected()
        connected_s = trio.current_time() - start
        await trio.sleep(LATER_S)
        nursery.cancel_scope.cancel()
    return connected_s


async def meet_behind(net: Network, left: str, right: str) -> Meeting:
    """Have two agents meet through two of the nine behaviours."""
    homes = [net.router(net.internet, nat=BEHAVIOURS[name], delay_s=LINE_S) for name in (left, right)]
    return await meet(net, [net.host(home) for home in homes])


async def meet_at(net: Network, place: Place) -> Meeting:
    """Have two agents meet in a place; the network must have its families."""
    hosts = place.build(net)
    at = None
    if place.server_families is not None:
        at = net.router(net.internet, families=place.server_families)
    return await meet(net, hosts, at=at, over_tcp=place.over_tcp)


# The places.


def _below_a_carrier(inner: Nat, outer: Nat, **options: Any) -> Callable[[Network], list[Host]]:
    def build(net: Network) -> list[Host]:
        carrier = net.router(net.internet, nat=outer, subnet="100.64.0.0/10", delay_s=LINE_S / 2)
        homes = [net.router(carrier, nat=inner, delay_s=LINE_S / 2, **options) for _ in range(2)]
        return [net.host(home) for home in homes]

    return build


def _behind(*nats: Nat, **options: Any) -> Callable[[Network], list[Host]]:
    def build(net: Network) -> list[Host]:
        homes = [net.router(net.internet, nat=nat, delay_s=LINE_S, **options) for nat in nats]
        return [net.host(home) for home in homes]

    return build


def _firewalled(
    *firewalls: Firewall | None, nats: tuple[Nat | None, Nat | None] = (None, None)
) -> Callable[[Network], list[Host]]:
    def build(net: Network) -> list[Host]:
        homes = [
            net.router(net.internet, nat=nat, firewall=firewall, delay_s=LINE_S)
            for nat, firewall in zip(nats, firewalls, strict=True)
        ]
        return [net.host(home) for home in homes]

    return build


def _neighbours(net: Network) -> list[Host]:
    home = net.router(net.internet, nat=SYMMETRIC, delay_s=LINE_S)
    return [net.host(home), net.host(home)]


def _carrier_against_home(net: Network) -> list[Host]:
    carrier = net.router(net.internet, nat=PORT_RESTRICTED, subnet="100.64.0.0/10", delay_s=LINE_S / 2)
    inner = net.router(carrier, nat=FULL_CONE, delay_s=LINE_S / 2)
    home = net.router(net.internet, nat=PORT_RESTRICTED, delay_s=LINE_S)
    return [net.host(inner), net.host(home)]


def _phone_and_home(phone: Nat, **options: Any) -> Callable[[Network], list[Host]]:
    def build(net: Network) -> list[Host]:
        cell = net.router(net.internet, nat64=phone, delay_s=LINE_S)
        home = net.router(net.internet, nat=PORT_RESTRICTED, delay_s=LINE_S, **options)
        return [net.host(cell), net.host(home)]

    return build


def _phone_and_neighbour(carrier: Nat) -> Callable[[Network], list[Host]]:
    def build(net: Network) -> list[Host]:
        shared = net.router(net.internet, nat=carrier, subnet="100.64.0.0/10", delay_s=LINE_S / 2)
        cell = net.router(shared, nat64=FULL_CONE, delay_s=LINE_S / 2)
        return [net.host(cell), net.host(net.router(shared, families=(4,), delay_s=LINE_S / 2))]

    return build


_RANDOM = Nat(port_allocation="random")
_HOMES = (PORT_RESTRICTED, PORT_RESTRICTED)
PLACES = {
    "neighbours": Place(_neighbours, True),
    "carrier on one side": Place(_carrier_against_home, True),
    "one carrier without hairpin": Place(_below_a_carrier(PORT_RESTRICTED, _RANDOM), False),
    "one carrier with hairpin": Place(_below_a_carrier(PORT_RESTRICTED, Nat(hairpin=True)), True),
    "hairpin, homes numbered alike": Place(
        _below_a_carrier(FULL_CONE, Nat(hairpin=True), subnet="192.168.1.0/24"), True
    ),
    "hairpin, symmetric homes": Place(_below_a_carrier(SYMMETRIC, Nat(hairpin=True)), False),
    "homes numbered alike": Place(_behind(*_HOMES, subnet="192.168.1.0/24"), True),
    "firewalls on both sides": Place(_firewalled(STATEFUL, STATEFUL), True),
    "firewall against symmetric": Place(_firewalled(None, STATEFUL, nats=(SYMMETRIC, None)), False),
    "firewall in a cone against symmetric": Place(_firewalled(None, STATEFUL, nats=(SYMMETRIC, FULL_CONE)), False),
    "nat64 with ipv6 at both ends": Place(_phone_and_home(PORT_RESTRICTED), True, families=(4, 6)),
    "open nat64 with ipv6 at both ends": Place(_phone_and_home(FULL_CONE), True, families=(4, 6)),
    # The phone learns its IPv4 address from a server that has no other, and the prefix from its resolver: it reaches
    # the peer under that, whatever the filter.
    "open nat64 to ipv4 alone": Place(
        _phone_and_home(FULL_CONE, families=(4,)), True, families=(4, 6), server_families=(4,)
    ),
    "nat64 to ipv4 alone": Place(
        _phone_and_home(PORT_RESTRICTED, families=(4,)), True, families=(4, 6), server_families=(4,)
    ),
    # The neighbour's own address is private, for which the well-known prefix does not stand (RFC 6052 section 3.1).
    "nat64 beside ipv4 alone, one carrier": Place(
        _phone_and_neighbour(_RANDOM), False, families=(4, 6), server_families=(4,)
    ),
    "nat64 beside ipv4 alone, one carrier with hairpin": Place(
        _phone_and_neighbour(Nat(port_allocation="random", hairpin=True)), True, families=(4, 6), server_families=(4,)
    ),
    "udp blocked on one side": Place(_firewalled(UDP_BLOCKED, None, nats=_HOMES), False, over_tcp=True),
    "udp blocked on both sides": Place(_firewalled(UDP_BLOCKED, UDP_BLOCKED, nats=_HOMES), False, over_tcp=True),
    "stun blocked, udp blocked": Place(_firewalled(STUN_BLOCKED, UDP_BLOCKED, nats=_HOMES), False, over_tcp=True),
}
