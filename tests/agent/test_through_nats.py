"""The reason for all this: agents and links through every pair of NATs, over bad lines, the same every time."""

from __future__ import annotations

from itertools import product

import pytest
import trio
from amount import amount
from virtual_pair import NATS, STUN_SERVER, selected, two_agents

from iceagent import vnet as vnet_package
from iceagent.agent import AgentConfig, IceServer, open_agent
from iceagent.core.ice import CandidateType, Role
from iceagent.errors import NetworkError
from iceagent.link import LinkRole, generate_identity, open_link
from iceagent.vnet import ADDRESS_RESTRICTED, FULL_CONE, PORT_RESTRICTED, SYMMETRIC, Nat, Network

PAIRS = list(product(NATS, NATS))
# Mapping per destination on one side, so that the other cannot know the port, and a filter by port on the other side.
HOPELESS = {("symmetric", "symmetric"), ("symmetric", "port-restricted"), ("port-restricted", "symmetric")}


async def exchange(sender, receiver, text):
    """Send until it arrives: datagrams get lost on these lines."""
    async with trio.open_nursery() as nursery:

        async def repeat():
            while True:
                await sender.send(text)
                await trio.sleep(0.1)

        nursery.start_soon(repeat)
        while await receiver.receive() != text:
            pass
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("left", "right"), [pair for pair in PAIRS if pair not in HOPELESS])
async def test_agents_connect_wherever_a_direct_path_exists(vnet, left, right):
    """All pairs of five kinds of NAT, with delay, no relay to fall back on."""
    with trio.fail_after(30):
        async with two_agents(vnet(), NATS[left], NATS[right]) as lab:
            start = trio.current_time()
            await lab.connect()
            assert trio.current_time() - start < 0.5
            alice, bob = lab.agents
            await exchange(alice, bob, b"to bob")
            await exchange(bob, alice, b"to alice")
    assert lab.net.statistics().sockets_left_open == 0


@pytest.mark.parametrize(("left", "right"), sorted(HOPELESS))
async def test_hopeless_pairs_fail_with_the_reason(vnet, left, right):
    """Without a relay there is no path: both sides must say so, and why, rather than try for ever."""
    with trio.fail_after(120):
        async with two_agents(vnet(), NATS[left], NATS[right]) as lab:
            await lab.introduce()
            for agent in lab.agents:
                with pytest.raises(NetworkError) as failure:
                    await agent.wait_connected()
                assert "no path" in str(failure.value)
    assert lab.net.statistics().sockets_left_open == 0


@pytest.mark.parametrize("loss", [0.1, 0.3])
@pytest.mark.parametrize(("left", "right"), [pair for pair in PAIRS if pair not in HOPELESS and pair[0] <= pair[1]])
async def test_agents_connect_over_lossy_lines(vnet, left, right, loss):
    """A check and its answer arrive in half of all cases at worst: patience and retransmission must see it through."""
    with trio.fail_after(60):
        async with two_agents(vnet(), NATS[left], NATS[right], loss=loss, delay_s=0.040) as lab:
            await lab.connect()
            await exchange(*lab.agents, b"through the noise")


async def test_neighbours_behind_one_nat_meet_on_their_private_addresses(vnet):
    """No hairpin is needed, and no packet leaves the house for their traffic."""
    net = vnet()
    server = net.host(net.internet, name="stun.example")
    home = net.router(net.internet, nat=SYMMETRIC)
    hosts = [net.host(home) for _ in range(2)]
    del server  # nobody answers there: a dead server must not delay the connection
    configs = [AgentConfig(servers=[IceServer(STUN_SERVER)], network=h, randbytes=h.randbytes) for h in hosts]
    async with (
        net,
        open_agent(configs[0], role=Role.CONTROLLING) as alice,
        open_agent(configs[1], role=Role.CONTROLLED) as bob,
    ):
        start = trio.current_time()
        alice.set_remote_credentials(bob.credentials)
        bob.set_remote_credentials(alice.credentials)
        async with trio.open_nursery() as nursery:
            for one, other in ((alice, bob), (bob, alice)):

                async def tell(one=one, other=other):
                    async for candidate in one.local_candidates():
                        other.add_remote_candidate(candidate)

                nursery.start_soon(tell)
            await alice.wait_connected()
            await bob.wait_connected()
            assert trio.current_time() - start < 0.5
            nursery.cancel_scope.cancel()
        assert selected(alice).remote.type is CandidateType.HOST


@pytest.mark.thorough
async def test_mapping_is_kept_open_through_an_hour_of_silence(vnet):
    """Consent checks are the keepalives: a NAT that forgets after 30 s must not cut a silent session.

    In `make test` it is ten minutes.
    """
    impatient = Nat(mapping_timeout_s=30.0)
    async with two_agents(vnet(), impatient, impatient) as lab:
        await lab.connect()
        await trio.sleep(amount(3600, 600))
        with trio.fail_after(1):
            await exchange(*lab.agents, b"still there?")
            await exchange(*lab.agents[::-1], b"yes")


async def test_carrier_nat_above_a_home_nat_still_connects(vnet):
    """Two translations in a row behave like the stricter of the two."""
    net = vnet()
    carrier = net.router(net.internet, nat=PORT_RESTRICTED, subnet="100.64.0.0/10", name="carrier")
    async with two_agents(net, FULL_CONE, PORT_RESTRICTED, parents=(carrier, net.internet)) as lab:
        with trio.fail_after(30):
            await lab.connect()
            await exchange(*lab.agents, b"twice translated")


async def test_peer_that_vanishes_is_noticed_within_half_a_minute(vnet):
    """A killed process or a pulled cable says nothing: consent that is not renewed for 30 s must speak for it."""
    async with two_agents(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as lab:
        await lab.connect()
        alice, _ = lab.agents
        start = trio.current_time()
        lab.hosts[1].partition()
        with trio.fail_after(120), pytest.raises(trio.BrokenResourceError):
            await alice.receive()
        assert 20 < trio.current_time() - start <= 30.5


async def test_short_partition_is_outlived(vnet):
    """A lift, a tunnel, a hand-over: twenty seconds of nothing are no reason to give up."""
    async with two_agents(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as lab:
        await lab.connect()
        lab.hosts[1].partition()
        await trio.sleep(20)
        lab.hosts[1].heal()
        with trio.fail_after(10):
            await exchange(*lab.agents, b"here again")
            await exchange(*lab.agents[::-1], b"welcome back")
        await trio.sleep(60)
        await exchange(*lab.agents, b"and still here")


async def test_reboot_of_a_port_preserving_nat_is_outlived(vnet):
    """The checks that keep a mapping open also open it again, with the same port."""
    async with two_agents(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as lab:
        await lab.connect()
        lab.homes[0].reboot()
        with trio.fail_after(20):
            await exchange(*lab.agents[::-1], b"do you hear me?")


async def transfer(lab, size):
    """Send `size` bytes from alice to bob over one stream of a link."""
    identities = [generate_identity() for _ in range(2)]
    key = bytes(32)
    got = bytearray()

    async def send():
        async with open_link(
            lab.agents[0],
            role=LinkRole.CLIENT,
            identity=identities[0],
            peer_fingerprint=identities[1].fingerprint,
            session_key=key,
        ) as link:
            stream = await link.open_stream("file")
            await stream.send_all(bytes(range(256)) * (size // 256))
            await stream.send_eof()
            assert await stream.receive_some() == b"thanks"

    async def receive():
        async with open_link(
            lab.agents[1],
            role=LinkRole.SERVER,
            identity=identities[1],
            peer_fingerprint=identities[0].fingerprint,
            session_key=key,
        ) as link:
            stream = await link.accept_stream()
            async for chunk in stream:
                got.extend(chunk)
            await stream.send_all(b"thanks")
            await stream.send_eof()
            await link.wait_closed()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(send)
    return bytes(got)


@pytest.mark.parametrize("loss", [0.0, 0.02])
async def test_link_carries_a_file_through_two_nats(vnet, loss):
    """The whole stack above the agent, on a virtual line."""
    with trio.fail_after(120):
        async with two_agents(vnet(), PORT_RESTRICTED, PORT_RESTRICTED, loss=loss) as lab:
            await lab.connect()
            size = 1 << 20
            assert await transfer(lab, size) == bytes(range(256)) * (size // 256)


@pytest.mark.parametrize("nats", [(PORT_RESTRICTED, FULL_CONE), (ADDRESS_RESTRICTED, SYMMETRIC)])
def test_whole_sessions_repeat_byte_for_byte(nats):
    """Gathering, checks, nomination, consent and data over a lossy line: ten runs, one trace."""

    async def session():
        net = Network(seed=3)
        async with two_agents(net, *nats, loss=0.2) as lab:
            await lab.connect()
            await exchange(*lab.agents, b"hello")
            await trio.sleep(60)
        return net.trace_bytes()

    traces = [vnet_package.run(session, seed=3) for _ in range(10)]
    assert len(set(traces)) == 1
    assert traces[0].count(b"\n") > 200
