"""Hard NATs with both sides' consent: direct where ICE alone needs a relay, within caps, and nothing left behind.

Each row is played with ten seeds, three of them or fewer in `make test`. Ports are guessed, so that one may fail.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack

import pytest
import trio
from amount import amount
from hard_homes import CARRIER, ROWS, STUN, carry, is_direct, play_all, two_homes
from virtual_pair import selected

from iceagent import vnet as vnet_package
from iceagent.agent import (
    AgentConfig,
    HardNat,
    HardNatBegun,
    HardNatEnded,
    IceServer,
    NatSeen,
    open_agent,
)
from iceagent.core.address import TransportAddress
from iceagent.core.ice import CandidateType, Credentials, Role
from iceagent.errors import LocalError, NetworkError
from iceagent.servers.stun import open_stun_server
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.vnet import PORT_RESTRICTED, SYMMETRIC, Network

SEEDS = range(1, 1 + amount(10, 3))
LUCKY = len(SEEDS) - 1


@pytest.mark.thorough
@pytest.mark.parametrize(("left", "right"), ROWS)
def test_hard_nats_are_passed_within_ten_seconds(left, right):
    """All but one at least, within the caps, and when there is a path, not one packet more."""
    stories = play_all(left, right, SEEDS)
    in_time = [story for story in stories if story.connected_s is not None and story.connected_s <= 10.0]
    assert len(in_time) >= LUCKY, [story.connected_s for story in stories]
    for story in stories:
        assert story.busiest <= 200
        assert max(story.packets) <= 4096
        assert story.late == []
        assert max(story.sockets) <= 1 + 4  # all of the pool are closed but those that were struck
        assert story.left_open == 0


@pytest.mark.thorough
@pytest.mark.parametrize(("left", "right"), ROWS[:2])
def test_one_stun_server_is_enough(left, right):
    """It is what a relay of ours hands out, and tells nobody what his NAT does: both sides then play both parts."""
    stories = play_all(left, right, SEEDS, servers=STUN[:1])
    in_time = [story for story in stories if story.connected_s is not None and story.connected_s <= 10.0]
    assert len(in_time) >= LUCKY, [story.connected_s for story in stories]
    for story in stories:
        assert story.busiest <= 200
        assert max(story.packets) <= 4096
        assert story.late == []
        assert max(story.sockets) <= 1 + 4
        assert story.left_open == 0


@pytest.mark.parametrize("right", ["symmetric", "sequential", CARRIER])
def test_nothing_is_sent_where_ordinary_checks_suffice(right):
    """A filter by address lets the hard side's checks in: the head start of ordinary checks is there for that."""
    for story in play_all("address-restricted", right, seeds=SEEDS[:3]):
        assert story.connected_s is not None
        assert story.connected_s < 1.0
        assert story.begun == 0
        assert story.packets == [0, 0]


@pytest.mark.parametrize("options", [(False, False), (True, False), (False, True)])
def test_who_opts_out_is_left_alone(options):
    """One side's wish is not enough: no guess is sent by either, and none arrives."""
    for story in play_all("port-restricted", "symmetric", seeds=SEEDS[:2], options=options):
        assert story.connected_s is None
        assert story.begun == 0
        assert story.packets == [0, 0]


@pytest.mark.parametrize(("left", "right"), [("symmetric", "symmetric"), ("symmetric", "sequential")])
def test_where_nothing_helps_nothing_is_sent(left, right):
    """Two hidden ports are 2**32 guesses, one of them 64 times 250: the relay is better, and says so at once."""
    (story,) = play_all(left, right, seeds=[1])
    assert story.connected_s is None
    assert story.begun == 0
    assert story.packets == [0, 0]


@pytest.mark.thorough
@pytest.mark.parametrize("rate", [20, 50, 100])
def test_the_cap_is_the_users(rate):
    """Whatever is chosen holds in every second, though it takes longer."""
    limits = HardNat(packets_per_second=rate, time_limit_s=60)
    for story in play_all(
        "port-restricted", "symmetric", seeds=SEEDS[: amount(3, 1)], options=(limits, limits), patience_s=35
    ):
        assert story.busiest <= rate
        assert story.late == []


def test_packets_and_time_are_limited_in_all():
    """Where luck fails, it ends."""
    few = HardNat(packets=60, sockets=16)
    for story in play_all("port-restricted", "symmetric", seeds=SEEDS[:3], options=(few, few)):
        assert max(story.packets) <= 60
        assert story.left_open == 0
    short = HardNat(time_limit_s=2.0, sockets=1)
    (story,) = play_all("port-restricted", "symmetric", seeds=[1], options=(short, short))
    assert max(story.packets) <= 2 * 200 + 100


def test_what_has_failed_is_not_begun_again():
    """Its packets or its time are spent, and data goes through a relay or nowhere: nothing more is opened or said."""

    async def begun(limits):
        net = Network(1)
        async with two_homes(net, "port-restricted", "symmetric", options=(limits, limits)) as homes:
            await trio.sleep(60)
            before = [(len(home.events(HardNatBegun)), len(home.events(HardNatEnded))) for home in homes]
            await trio.sleep(60)
            return before, [(len(home.events(HardNatBegun)), len(home.events(HardNatEnded))) for home in homes]

    for limits in (HardNat(packets=60, sockets=16), HardNat(time_limit_s=2.0, sockets=1)):
        before, after = vnet_package.run(lambda limits=limits: begun(limits), seed=1)
        assert before == after
        assert all(number <= 4 for pair in after for number in pair)


@pytest.mark.thorough
@pytest.mark.parametrize(("left", "right"), [("port-restricted", "symmetric"), ("sequential", "sequential")])
def test_losses_are_survived(left, right):
    """Openers, probes, announcements' servers: each may lose packets."""

    async def lossy(seed):
        net, met = Network(seed), False
        start = trio.current_time()
        async with two_homes(net, left, right) as homes:
            for home in homes:
                home.host.link.change(loss=0.1)
            with trio.move_on_after(20):
                for home in homes:
                    await home.agent.wait_connected()
                met = True
        assert net.statistics().sockets_left_open == 0
        return met and trio.current_time() - start < 20

    met = [vnet_package.run(lambda seed=seed: lossy(seed), seed=seed) for seed in SEEDS]
    assert sum(met) >= LUCKY


@pytest.mark.thorough
def test_others_behind_the_same_nat_take_ports_meanwhile():
    """A port that is announced is one that others may get: some rounds aim further ahead."""

    async def crowded(seed):
        net = Network(seed)
        connected_s = None
        start = trio.current_time()
        async with two_homes(net, "sequential", "sequential") as homes, trio.open_nursery() as nursery:
            for home in homes:
                router = home.host.attachments()[0].router
                assert router is not None
                neighbour = net.host(router)
                nursery.start_soon(chat, neighbour, home.host.name == "alice")
            with trio.move_on_after(20):
                for home in homes:
                    await home.agent.wait_connected()
                connected_s = trio.current_time() - start
            nursery.cancel_scope.cancel()
        return connected_s

    async def chat(neighbour, often):
        """Make 40 or 15 new mappings a second."""
        sock = await neighbour.open_udp(neighbour.address)
        for number in range(100_000):
            sock.send_nowait([b"?"], TransportAddress(f"192.0.2.{number % 250 + 1}", 1 + number % 65535))
            await trio.sleep(1 / 40 if often else 1 / 15)

    times = [vnet_package.run(lambda seed=seed: crowded(seed), seed=seed) for seed in SEEDS]
    assert sum(one is not None for one in times) >= LUCKY, times


def turn_options(host):
    listen = [TransportAddress(host.address, 3478)]
    nets = ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24")
    return TurnOptions(listen, users={"user": "password"}, allow_peers=nets)


@pytest.mark.parametrize(("left", "right"), [("port-restricted", "symmetric"), ("sequential", "sequential")])
async def test_data_moves_from_the_relay_to_the_direct_path(vnet, left, right):
    """The user does not wait for luck: he talks through the relay, and then directly, in one session."""
    net = vnet()
    relay = net.host(net.internet, name="turn.example")
    turn = IceServer("turn:turn.example?transport=udp", username="user", credential="password")
    servers = (*STUN, turn)
    with trio.fail_after(60):
        async with (
            two_homes(net, left, right, servers=servers) as homes,
            open_turn_server(turn_options(relay), network=relay, randbytes=relay.randbytes),
        ):
            alice, bob = (home.agent for home in homes)
            first = await alice.wait_connected()
            await bob.wait_connected()
            assert CandidateType.RELAY in (first.local.type, first.remote.type)
            await alice.send(b"relayed")
            assert await bob.receive() == b"relayed"
            while CandidateType.RELAY in (selected(alice).local.type, selected(alice).remote.type):
                await trio.sleep(0.1)
            await trio.sleep(1)
            await alice.send(b"direct")
            assert await bob.receive() == b"direct"
            assert selected(bob).remote.type is not CandidateType.RELAY
            assert [one.result for one in homes[0].events(HardNatEnded)][-1] == "direct"
    assert net.statistics().sockets_left_open == 0


@pytest.mark.thorough
@pytest.mark.parametrize(("left", "right"), [("port-restricted", "symmetric"), ("symmetric", "port-restricted")])
def test_checks_through_the_relay_tell_who_does_what(left, right):
    """One machine with STUN and TURN, and both sides see which of the two maps per destination: they act upon it.

    Who has the easy NAT sprays and opens nothing; who has the hard one opens sockets and sprays nothing.
    """

    async def once(seed):
        net = Network(seed)
        relay = net.host(net.internet, name="turn.example")
        turn = IceServer("turn:turn.example?transport=udp", username="user", credential="password")
        async with (
            two_homes(net, left, right, servers=("turn.example", turn)) as homes,
            open_turn_server(turn_options(relay), network=relay, randbytes=relay.randbytes),
        ):
            with trio.move_on_after(12):
                while not all(is_direct(home.agent) for home in homes):
                    await trio.sleep(0.1)
            began = {kind: home.events(HardNatBegun) for kind, home in zip((left, right), homes, strict=True)}
            assert [home.events(NatSeen)[0].nat for home in homes] == ["unknown", "unknown"]
            assert began["port-restricted"][0].technique == "spray"
            assert began["symmetric"][0].technique == "many-sockets"
            return all(is_direct(home.agent) for home in homes)

    assert all(vnet_package.run(lambda seed=seed: once(seed), seed=seed) for seed in SEEDS[: amount(4, 1)])


@pytest.mark.thorough
def test_the_peers_relay_is_no_direct_path_though_its_checks_come_first():
    """Until its candidate is signalled it looks like one; who is content with it leaves the other to guess alone."""

    async def once(seed):
        net = Network(seed)
        relay = net.host(net.internet, name="turn.example")
        turn = IceServer("turn:turn.example?transport=udp", username="user", credential="password")
        where = two_homes(
            net, "symmetric, open to addresses", "port-restricted", servers=(*STUN, turn), relays_later_s=4.0
        )
        async with open_turn_server(turn_options(relay), network=relay, randbytes=relay.randbytes), where as homes:
            with trio.move_on_after(25):
                while not all(is_direct(home.agent) for home in homes):
                    await trio.sleep(0.1)
            await trio.sleep(5)  # what looks direct may turn out to be relayed
            return all(is_direct(home.agent) for home in homes)

    assert sum(vnet_package.run(lambda seed=seed: once(seed), seed=seed) for seed in SEEDS) >= LUCKY


async def test_a_restart_keeps_the_path_that_was_found(vnet):
    """The socket that was struck is a base like any other: a restart need not guess again."""
    net = vnet()
    with trio.fail_after(60):
        async with two_homes(net, "port-restricted", "symmetric") as homes:
            alice, bob = (home.agent for home in homes)
            for agent in (alice, bob):
                await agent.wait_connected()
            old = alice.credentials
            alice.restart()
            bob.set_remote_credentials(alice.credentials, options=alice.options)
            alice.set_remote_credentials(bob.credentials, options=bob.options)
            assert alice.credentials != old
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carry, alice, bob)
                nursery.start_soon(carry, bob, alice)
                await trio.sleep(5)
                nursery.cancel_scope.cancel()
            assert not alice._driver.ice.restarting
            await alice.send(b"still here")
            assert await bob.receive() == b"still here"
            assert sum(len(home.events(HardNatBegun)) for home in homes) == 2


async def test_events_and_explanations_tell_what_was_tried(vnet):
    """A user who sees packets wants to know why, and one who is relayed what was done about it."""
    async with two_homes(vnet(), "port-restricted", "symmetric") as homes:
        for home in homes:
            await home.agent.wait_connected()
        await trio.sleep(0.1)
        assert [home.events(NatSeen)[0].nat for home in homes] == ["easy", "hard"]
        assert [home.events(HardNatBegun)[0].technique for home in homes] == ["spray", "many-sockets"]
        assert homes[1].events(HardNatBegun)[0].sockets == 256
        assert homes[1].events(HardNatBegun)[0].ttl == 2
        for home in homes:
            assert "hard NAT" in str(home.agent.explain())
            assert '"hard-nat-ended"' in home.agent.timeline_json()


async def test_two_hopeless_nats_are_explained(vnet):
    """No technique is known: the verdict says that it was not for want of trying."""
    with trio.fail_after(120):
        async with two_homes(vnet(), "symmetric", "symmetric") as homes:
            for home in homes:
                with pytest.raises(NetworkError):
                    await home.agent.wait_connected()
                assert "nothing is known to help" in str(home.agent.explain())


async def test_one_server_with_two_addresses_tells_enough(vnet):
    """RFC 5780's OTHER-ADDRESS is a second destination: one such server does."""
    net = vnet()
    server = net.host(net.internet, name="both.example")
    server.attach(net.internet)
    listen = [TransportAddress(server.address, 3478)]
    alternate = TransportAddress(server.addresses()[1], 3479)
    options = TurnOptions(listen, users={"user": "password"}, alternate=alternate)
    home = net.router(net.internet, nat=SYMMETRIC)
    host = net.host(home)
    config = AgentConfig(
        servers=[IceServer(f"stun:{server.address}:3478")], network=host, randbytes=host.randbytes, hard_nat=True
    )
    async with (
        net,
        open_turn_server(options, network=server, randbytes=server.randbytes),
        open_agent(config, role=Role.CONTROLLING) as agent,
    ):
        told = [candidate async for candidate in agent.local_candidates()]
    assert dict(told[-1].extensions)["x-nat"] == "hard"


async def test_one_server_with_one_address_tells_too_little(vnet):
    """It says so: the peer must not take a part for granted."""
    async with two_homes(vnet(), "port-restricted", "symmetric", servers=STUN[:1]) as homes:
        with trio.move_on_after(12):
            for home in homes:
                await home.agent.wait_connected()
        assert [[one.nat for one in home.events(NatSeen)] for home in homes] == [["unknown"], ["unknown"]]


# Who may make us send, and where.


async def announce_to(vnet, *texts, sees=PORT_RESTRICTED):
    """Tell an opted-in agent behind a NAT candidates of a peer; return where it sent more than a hundred packets."""
    net = vnet()
    reflectors = [net.host(net.internet, name=name) for name in STUN]
    host = net.host(net.router(net.internet, nat=sees))
    servers = [IceServer(f"stun:{name}:3478") for name in STUN]
    config = AgentConfig(servers=servers, network=host, randbytes=host.randbytes, hard_nat=True)
    async with net, AsyncExitStack() as stack:
        for reflector in reflectors:
            await stack.enter_async_context(open_stun_server("0.0.0.0", network=reflector))
        agent = await stack.enter_async_context(open_agent(config, role=Role.CONTROLLING))
        agent.set_remote_credentials(Credentials("peer", "p" * 24))
        for text in texts:
            agent.add_remote_candidate(text)
        await trio.sleep(30)
        sends = [one.packet for one in net.trace if one.event == "send" and one.place == host.name]
        counts = Counter(packet.destination.host for packet in sends)
    return {target: count for target, count in counts.items() if count > 100}


def hard(host, attribute="x-nat hard x-nat-round 0"):
    return f"candidate:1 1 udp 1694498815 {host} 40000 typ srflx raddr 0.0.0.0 rport 9 {attribute}"


@pytest.mark.parametrize("host", ["10.0.0.1", "192.168.1.1", "127.0.0.1", "100.64.0.1", "169.254.0.1", "224.0.0.1"])
async def test_no_address_of_ours_is_sprayed(vnet, host):
    """A peer must not make us scan our own network."""
    assert await announce_to(vnet, hard(host)) == {}


async def test_one_target_a_generation(vnet):
    """A peer that names one address after the other gets the first sprayed, within the limits, and no other."""
    found = await announce_to(vnet, hard("198.51.100.7"), hard("198.51.100.8"), hard("198.51.100.9"))
    assert list(found) == ["198.51.100.7"]
    assert found["198.51.100.7"] <= 4096 + 100


UNREADABLE = ["x-nat maybe", "x-nat hard x-nat-round -1", "x-nat hard x-nat-round 9999", "x-nat hard x-nat-round x"]


@pytest.mark.parametrize("attribute", UNREADABLE)
async def test_announcements_that_cannot_be_are_ordinary_candidates(vnet, attribute):
    """Bad input is nobody's error: what cannot be understood is left out, the candidate with it used as it is."""
    assert await announce_to(vnet, hard("198.51.100.7", attribute)) == {}


def test_limits_out_of_range_are_refused():
    """A cap above RFC 8445's pace, or no packets at all, is a mistake of the caller's."""
    for wrong in ({"packets_per_second": 0}, {"packets_per_second": 201}, {"sockets": 257}, {"packets": 0}):
        with pytest.raises(LocalError):
            HardNat(**wrong)
