"""Gateways that take unasked packets for their own: both sides would fail for ever; another local port heals it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import trio
from hard_homes import is_direct

from iceagent import vnet as vnet_package
from iceagent.agent import AgentConfig, CandidateType, FreshPort, IceServer, open_agent
from iceagent.agent.gather.fresh_port import MAX_PORTS, STUCK_S
from iceagent.core.address import TransportAddress
from iceagent.core.ice import AgentState, Restarted, Role
from iceagent.servers.stun import open_stun_server
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.vnet import MASQUERADE, PORT_RESTRICTED, STATEFUL, SYMMETRIC, Network

LATER_S = 0.2  # how long after the other side one is told of it: more than a packet is under way
HEALED_S = 5.0  # beyond the time it takes anyway
NATS = {
    "masquerade": MASQUERADE,
    "open masquerade": replace(MASQUERADE, filtering="address-dependent"),
    "port-restricted": PORT_RESTRICTED,
    "per address": replace(SYMMETRIC, mapping="address-dependent"),
    "symmetric": SYMMETRIC,
    "none": None,
    "firewall": None,  # before public addresses
}
HIDDEN = {"candidate_types": ("srflx", "prflx", "relay")}


@dataclass
class Story:
    """What came of two agents."""

    direct_s: float | None = None
    ports: list[list[FreshPort]] = field(default_factory=list)
    sockets: list[int] = field(default_factory=list)
    left_open: int = 0


async def carry(source, target, delay_s, *, late=True, relays_later_s=0.0):
    await trio.sleep(delay_s)
    target.set_remote_credentials(source.credentials, options=source.options)
    async for candidate in source.local_candidates():
        await trio.sleep(relays_later_s if candidate.type is CandidateType.RELAY else 0.0)
        target.add_remote_candidate(candidate.to_sdp())
    target.add_remote_candidate(None)
    if late:
        async for candidate in source.late_candidates():
            target.add_remote_candidate(candidate.to_sdp())


@asynccontextmanager
async def two_agents(
    net,
    left,
    right,
    *,
    late,
    later_s=LATER_S,
    relay=False,
    relays_later_s=0.0,
    carriers=("", ""),
    second="",
    candidates=({}, {}),
    **options,
) -> AsyncIterator[list]:
    """Run a server and two agents, one of which hears later of the other than that one of it.

    `second` is the NAT of another line of the left one's, `candidates` what else holds for each of the two.
    """
    server = net.host(net.internet, name="server.example")
    listen = [TransportAddress(server.address, 3478)]
    nets = ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24")
    servers = [IceServer("stun:server.example:3478")]
    if relay:
        servers.append(IceServer("turn:server.example?transport=udp", username="user", credential="password"))
    async with net, AsyncExitStack() as stack:
        if relay:
            turn = TurnOptions(listen, users={"user": "password"}, allow_peers=nets)
            await stack.enter_async_context(open_turn_server(turn, network=server, randbytes=server.randbytes))
        else:
            await stack.enter_async_context(open_stun_server("0.0.0.0", network=server))
        hosts, agents = [], []
        roles = (Role.CONTROLLING, Role.CONTROLLED)
        for nat, carrier, role, more in zip((left, right), carriers, roles, candidates, strict=True):
            above = net.internet
            if carrier:
                above = net.router(net.internet, nat=NATS[carrier], subnet="100.64.0.0/10")
            firewall = STATEFUL if nat == "firewall" else None
            host = net.host(net.router(above, nat=NATS[nat], firewall=firewall, delay_s=0.020))
            if second and role is Role.CONTROLLING:
                host.attach(net.router(net.internet, nat=NATS[second], delay_s=0.015))
            config = AgentConfig(servers=servers, network=host, randbytes=host.randbytes, **options | more)
            hosts.append(host)
            agents.append(await stack.enter_async_context(open_agent(config, role=role)))
        nursery = await stack.enter_async_context(trio.open_nursery())
        delays = (0.0, later_s) if late == "right" else (later_s, 0.0)
        for number, delay_s in enumerate(delays):
            told = partial(carry, late=True, relays_later_s=relays_later_s)
            nursery.start_soon(told, agents[1 - number], agents[number], delay_s)
        yield list(zip(hosts, agents, strict=True))
        nursery.cancel_scope.cancel()


def ports_of(agent):
    return [event for _, event in agent._driver.timeline.entries() if isinstance(event, FreshPort)]


async def play(seed, left, right, *, patience_s=30.0, **options):
    net, story = Network(seed), Story()
    start = trio.current_time()
    async with two_agents(net, left, right, **options) as sides:
        with trio.move_on_after(patience_s):
            while not all(is_direct(agent) for _, agent in sides):
                await trio.sleep(0.05)
            story.direct_s = trio.current_time() - start
        await trio.sleep(1)
        if story.direct_s is not None:
            for (_, one), (_, other) in (sides, sides[::-1]):
                await one.send(b"hello")
                assert await other.receive() == b"hello"
        story.ports = [ports_of(agent) for _, agent in sides]
        story.sockets = [len(host.sockets) for host, _ in sides]
    story.left_open = net.statistics().sockets_left_open
    return story


def run(*args, seed=1, **options):
    return vnet_package.run(lambda: play(seed, *args, **options), seed=seed)


@pytest.mark.parametrize("relay", [False, True], ids=["", "beside a relay"])
@pytest.mark.parametrize("late", ["left", "right"])
@pytest.mark.parametrize(
    ("left", "right"),
    [("masquerade", "port-restricted"), ("port-restricted", "masquerade"), ("masquerade", "masquerade")],
)
def test_a_gateway_that_accepts_input_costs_seconds(left, right, late, relay):
    """A router with one line of `masquerade`: whoever's check comes first shuts the door that the other one needs."""
    for seed in (1, 2):
        story = run(left, right, late=late, relay=relay, seed=seed)
        assert story.direct_s is not None
        assert story.direct_s < LATER_S + 1 + HEALED_S
        assert story.left_open == 0
        assert max(story.sockets) <= 2 + relay  # what led nowhere is closed


def test_the_peers_relay_is_no_direct_path_though_its_checks_come_first():
    """Before its relayed candidate is signalled it looks like one: another port is needed all the same.

    The gateway that takes packets for its own lets in all of the server that was asked, so also the peer's relay there.
    The peer's NAT maps per address, so that it cannot help itself.
    """
    for seed in (1, 2):
        story = run("open masquerade", "per address", late="left", relay=True, relays_later_s=3.0, seed=seed)
        assert story.direct_s is not None
        assert story.direct_s < LATER_S + 1 + 3.0 + HEALED_S
        assert story.left_open == 0


@pytest.mark.parametrize("late", ["left", "right"])
def test_below_a_carrier_the_openers_pass_both_gateways(late):
    """An opener that died between the two would leave the upper one shut."""
    story = run("masquerade", "masquerade", late=late, carriers=("masquerade", ""))
    assert story.direct_s is not None
    assert story.direct_s < LATER_S + 1 + HEALED_S
    assert [{port.ttl for port in ports} - {ttl} for ports, ttl in zip(story.ports, (3, 2), strict=True)] == [set()] * 2


@pytest.mark.parametrize("first", ["symmetric", "masquerade"])
@pytest.mark.parametrize("late", ["left", "right"])
def test_of_several_lines_each_is_tried(first, late):
    """The line whose server answers first may be the one that no port helps on."""
    second = {"symmetric": "masquerade", "masquerade": "symmetric"}[first]
    story = run(first, "firewall", late=late, second=second)
    assert story.direct_s is not None
    assert story.direct_s < LATER_S + 1 + HEALED_S
    assert story.left_open == 0
    assert story.sockets[0] <= 3


def test_a_firewall_of_public_addresses_is_passed_by_openers_too():
    """It is no NAT, and the first router on the way: an opener that died there would leave it shut."""
    story = run("masquerade", "firewall", late="left", candidates=({"port_range": (50000, 50000)}, HIDDEN))
    assert story.direct_s is not None
    assert story.direct_s < LATER_S + 1 + HEALED_S
    assert not story.ports[0]
    assert {port.ttl for port in story.ports[1]} == {2}


def test_where_the_way_is_open_no_other_port_is_tried():
    """It is for those who are stuck."""
    for left, right in (("port-restricted", "port-restricted"), ("none", "masquerade"), ("symmetric", "none")):
        story = run(left, right, late="right")
        assert story.direct_s is not None
        assert story.direct_s < STUCK_S
        assert story.ports == [[], []]


def test_where_nothing_helps_it_ends():
    """Two symmetric NATs: a few packets more, and no socket left."""
    story = run("symmetric", "symmetric", late="right", relay=True)
    assert story.direct_s is None
    assert all(0 < len(ports) <= MAX_PORTS for ports in story.ports)


@pytest.mark.parametrize(
    "options",
    [
        {"transport_policy": "relay"},
        {"candidate_types": ("host", "relay")},
        {"port_range": (50000, 50000)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_no_port_is_opened_that_the_configuration_does_not_allow(options):
    """What may be bound and told is the user's to say, however stuck we are."""
    story = run("masquerade", "port-restricted", late="left", relay=True, patience_s=10, **options)
    assert story.ports == [[], []]
    assert story.left_open == 0


@pytest.mark.parametrize("relay", [False, True], ids=["", "beside a relay"])
def test_where_both_try_another_port_at_once_one_way_remains(relay):
    """Each finds a way to the other's new port, and needs its own no more; nor may either close it: the other does."""
    for later_s in (0.05, 0.06, 0.07, 0.08):  # later than a packet is under way, sooner than both ports are told
        story = run("masquerade", "masquerade", late="right", later_s=later_s, relay=relay)
        assert all(story.ports)
        assert story.direct_s is not None
        assert story.direct_s < 1 + HEALED_S
        assert max(story.sockets) <= 2 + relay  # that which no path goes over is closed once they have agreed


def test_openers_leave_no_entry_at_the_peers_gateway():
    """One that got through would shut the peer's door to the very port it is to come to."""

    async def main():
        net = Network(3)
        async with two_agents(net, "masquerade", "masquerade", late="left") as sides:
            while not all(is_direct(agent) for _, agent in sides):
                await trio.sleep(0.05)
            fresh = {port.base for _, agent in sides for port in ports_of(agent)}
        indications = [one for one in net.trace if one.packet.data[:2] == b"\x00\x11" and one.event == "send"]
        assert fresh
        assert {one.packet.source for one in indications if one.place.startswith("host")} >= fresh
        delivered = [one for one in net.trace if one.event == "deliver" and one.packet.data[:2] == b"\x00\x11"]
        assert not delivered

    vnet_package.run(main, seed=3)


def test_a_restart_goes_on_over_the_port_that_helped():
    """It is a socket like any other from then on; and restarts do not pile such sockets up."""

    async def main():
        net = Network(5)
        async with (
            two_agents(net, "masquerade", "port-restricted", late="left") as sides,
            trio.open_nursery() as nursery,
        ):
            alice, bob = (agent for _, agent in sides)
            for _ in range(6):
                while not (is_direct(alice) and is_direct(bob)):
                    await trio.sleep(0.05)
                await trio.sleep(3)
                alice.restart()
                nursery.start_soon(carry, alice, bob, 0.0)
                await trio.sleep(0.05)
                nursery.start_soon(carry, bob, alice, LATER_S)
                await trio.sleep(6)
            assert is_direct(alice)
            assert max(len(host.sockets) for host, _ in sides) <= 4
            nursery.cancel_scope.cancel()
        assert net.statistics().sockets_left_open == 0

    vnet_package.run(main, seed=5)


async def carry_restarts(source, target, delay_s):
    async with trio.open_nursery() as nursery:
        async for event in source.events():
            if isinstance(event, Restarted):
                nursery.start_soon(carry, source, target, delay_s)


@pytest.mark.parametrize("delay_s", [0.0, 0.1])
def test_a_path_that_has_died_keeps_nobody_from_another_port(delay_s):
    """Whoever goes home to such a gateway is stuck there from then on, not from when consent to the old path ends."""

    async def main():
        net = Network(7)
        async with (
            two_agents(net, "masquerade", "none", late="right", auto_restart=True) as sides,
            trio.open_nursery() as nursery,
        ):
            (_, alice), (host, bob) = sides
            nursery.start_soon(carry_restarts, alice, bob, delay_s)
            nursery.start_soon(carry_restarts, bob, alice, delay_s)
            while not (is_direct(alice) and is_direct(bob)):
                await trio.sleep(0.05)
            await trio.sleep(3)
            moved_at = trio.current_time()
            host.move(net.router(net.internet, nat=MASQUERADE, delay_s=0.020))
            heard = False
            while not heard:
                with trio.move_on_after(0.2):
                    if bob.state in (AgentState.CONNECTED, AgentState.COMPLETED):
                        await bob.send(b"home")
                    heard = await alice.receive() == b"home"
            assert ports_of(alice) + ports_of(bob)
            assert trio.current_time() - moved_at < HEALED_S
            nursery.cancel_scope.cancel()

    vnet_package.run(main, seed=7)


def test_a_port_that_is_closed_before_its_receiving_began_ends_nothing():
    """Opened and given up in one step of the scheduler: a restart came, and the port was not wanted any more."""

    async def main():
        async with two_agents(Network(1), "port-restricted", "port-restricted", late="left") as sides:
            for _, agent in sides:
                await agent._driver.receive_from(TransportAddress("192.168.1.2", 9))

    vnet_package.run(main)
