"""ICE restarts of whole agents, and roaming: the same agent over whatever network there is now."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from virtual_pair import selected, trickle, two_agents

from iceagent.agent import AgentConfig, IceServer, open_agent
from iceagent.core import ice
from iceagent.core.address import TransportAddress
from iceagent.link import LinkRole, generate_identity, open_link
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.vnet import PORT_RESTRICTED, SYMMETRIC

MEGABYTE = bytes(range(256)) * 4096


@asynccontextmanager
async def signaled(*agents, takes_s: float = 0.03) -> AsyncIterator[None]:
    """Carry each agent's new credentials and candidates to the other after every restart, as a session does."""

    async def tell(source, target):
        async for event in source.events():
            if isinstance(event, ice.Restarted):
                await trio.sleep(takes_s)
                target.set_remote_credentials(event.credentials)
                nursery.start_soon(trickle, source, target)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell, *agents)
        nursery.start_soon(tell, *agents[::-1])
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def two_roamers(net):
    """Yield two agents behind NATs that restart by themselves, and somebody who carries their descriptions."""
    async with (
        two_agents(net, PORT_RESTRICTED, PORT_RESTRICTED, auto_restart=True) as lab,
        signaled(*lab.agents),
    ):
        yield lab


@asynccontextmanager
async def linked(agents):
    """Yield a link over each of the two agents, told of every change of path."""
    identities = [generate_identity() for _ in agents]
    key = bytes(32)
    links = []

    async def follow(agent, link):
        async for event in agent.events():
            if isinstance(event, ice.SelectedPairChanged):
                link.notify_path_changed()

    async def serve(number, role, *, task_status):
        async with open_link(
            agents[number],
            role=role,
            identity=identities[number],
            peer_fingerprint=identities[1 - number].fingerprint,
            session_key=key,
        ) as link:
            links.append(link)
            nursery.start_soon(follow, agents[number], link)
            task_status.started(link)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as opening:
            found = {}

            async def start(number, role):
                found[number] = await nursery.start(lambda task_status: serve(number, role, task_status=task_status))

            opening.start_soon(start, 0, LinkRole.CLIENT)
            opening.start_soon(start, 1, LinkRole.SERVER)
        yield found[0], found[1]
        nursery.cancel_scope.cancel()


async def transfer(links, size, middle) -> bytes:
    """Send `size` bytes from one link to the other, and let `middle()` happen when a third of them has arrived."""
    got = bytearray()
    data = (MEGABYTE * (size // len(MEGABYTE) + 1))[:size]

    async def send():
        async with await links[0].open_stream("file") as stream:
            await stream.send_all(data)
            await stream.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        happened = False
        async with await links[1].accept_stream() as stream:
            async for chunk in stream:
                got.extend(chunk)
                if not happened and len(got) > size // 3:
                    happened = True
                    nursery.start_soon(middle)
    assert bytes(got) == data
    return bytes(got)


@pytest.mark.parametrize("nat", [PORT_RESTRICTED, None])
async def test_trap_25_transfer_does_not_notice_a_restart(vnet, nat):
    """Make-before-break (trap 25): not a byte is lost, and no moment passes without a path."""
    with trio.fail_after(60):
        async with two_agents(vnet(), nat, nat) as lab, signaled(*lab.agents):
            await lab.connect()
            before = [agent.credentials for agent in lab.agents]
            async with linked(lab.agents) as links:

                async def middle():
                    lab.agents[0].restart()

                await transfer(links, len(MEGABYTE), middle)
                await trio.sleep(2)
                assert [agent.credentials for agent in lab.agents] != before
                for agent in lab.agents:
                    states = [event.new for event in collected(agent) if isinstance(event, ice.StateChanged)]
                    assert states[-1] is ice.AgentState.COMPLETED
                    assert ice.AgentState.DISCONNECTED not in states
                    assert not agent._driver.ice.restarting


def collected(agent):
    return [event for _, event in agent._driver.timeline.entries()]


async def test_host_that_moves_to_another_network_keeps_agent_and_stream(vnet):
    """Wi-Fi to cellular in mid-transfer: another address behind another NAT, the same agent and the same link."""
    with trio.fail_after(60):
        async with (
            two_agents(vnet(), PORT_RESTRICTED, PORT_RESTRICTED, auto_restart=True) as lab,
            signaled(*lab.agents),
        ):
            other = lab.net.router(lab.net.internet, nat=PORT_RESTRICTED)
            await lab.connect()
            async with linked(lab.agents) as links:
                moved_at = 0.0

                async def middle():
                    nonlocal moved_at
                    moved_at = trio.current_time()
                    lab.hosts[0].move(other)

                await transfer(links, len(MEGABYTE), middle)
                assert moved_at
                assert trio.current_time() - moved_at < 10
            address = selected(lab.agents[0]).local.path_base.host
            assert address in lab.hosts[0].addresses()


async def test_an_address_that_comes_back_has_its_port_again_so_that_nobody_need_be_told(vnet):
    """An interface that was down for a moment, behind NATs that let in only what they know, and signaling is dead."""
    with trio.fail_after(90):
        async with two_agents(vnet(), PORT_RESTRICTED, PORT_RESTRICTED, auto_restart=True) as lab:
            await lab.connect()
            alice, bob = lab.agents
            before = selected(alice).local.path_base
            lab.hosts[0].set_up(up=False)
            await trio.sleep(8)
            lab.hosts[0].set_up(up=True)
            with trio.fail_after(5):
                await alice.send(b"here again")
                assert await bob.receive() == b"here again"
                await bob.send(b"welcome back")
                assert await alice.receive() == b"welcome back"
            assert selected(alice).local.path_base == before
            await trio.sleep(40)  # no restart that nobody answers ends it
            assert alice.state is bob.state is ice.AgentState.COMPLETED


async def test_path_comes_back_within_two_seconds_and_two_round_trips_of_the_interface(vnet):
    """Out of the tunnel after twenty seconds, with another address; nobody touched anything."""
    with trio.fail_after(90):
        async with (
            two_agents(vnet(), PORT_RESTRICTED, PORT_RESTRICTED, auto_restart=True) as lab,
            signaled(*lab.agents),
        ):
            await lab.connect()
            alice, bob = lab.agents
            lab.hosts[0].set_up(up=False)
            await trio.sleep(20)
            lab.hosts[0].set_up(up=True)
            lab.hosts[0].renew()
            back_at = trio.current_time()
            async with trio.open_nursery() as nursery:

                async def repeat():
                    while True:
                        await alice.send(b"back")
                        await trio.sleep(0.05)

                nursery.start_soon(repeat)
                assert await bob.receive() == b"back"
                nursery.cancel_scope.cancel()
            assert trio.current_time() - back_at < 2 + 2 * 0.08


async def test_restart_goes_through_symmetric_nats_where_a_connection_did(vnet):
    """The mapped addresses are asked for anew."""
    with trio.fail_after(60):
        async with two_agents(vnet(), SYMMETRIC, None) as lab, signaled(*lab.agents):
            await lab.connect()
            for _ in range(3):
                lab.agents[1].restart()
                await trio.sleep(3)
                for agent in lab.agents:
                    assert agent.state is ice.AgentState.COMPLETED
                    assert not agent._driver.ice.restarting
            assert lab.agents[0]._driver.ice.generation == 3


async def test_sockets_of_addresses_that_are_gone_are_closed(vnet):
    """Moving all day must not collect sockets."""
    async with two_agents(vnet(), None, None, auto_restart=True) as lab, signaled(*lab.agents):
        await lab.connect()
        for _ in range(5):
            lab.hosts[0].renew()
            await trio.sleep(5)
            assert lab.agents[0].state is ice.AgentState.COMPLETED
            assert {sock.local_address.host for sock in lab.hosts[0].sockets} <= set(lab.hosts[0].addresses())
    assert lab.net.statistics().sockets_left_open == 0


async def test_session_that_fell_back_to_a_relay_finds_the_direct_path_again(vnet):
    """The router got another public address; the relay carries on, and nobody would look for a better path.

    Word of the restart takes three seconds here, else the new direct path is there before the relay is needed.
    """
    net = vnet()
    homes = [net.router(net.internet, nat=PORT_RESTRICTED, delay_s=0.01) for _ in range(2)]
    hosts = [net.host(home) for home in homes]
    turn = net.host(net.internet, name="turn.example")
    options = TurnOptions(
        [TransportAddress(turn.address, 3478)], users={"user": "secret of it"}, allow_peers=("203.0.113.0/24",)
    )
    server = IceServer("turn:turn.example?transport=udp", username="user", credential="secret of it")
    configs = [
        AgentConfig(servers=[server], network=host, randbytes=host.randbytes, auto_restart=True) for host in hosts
    ]
    async with (
        net,
        open_turn_server(options, network=turn, randbytes=turn.randbytes),
        open_agent(configs[0], role=ice.Role.CONTROLLING) as alice,
        open_agent(configs[1], role=ice.Role.CONTROLLED) as bob,
        signaled(alice, bob, takes_s=3),
    ):
        async with trio.open_nursery() as nursery:
            for one, other in ((alice, bob), (bob, alice)):
                one.set_remote_credentials(other.credentials, options=other.options)
                nursery.start_soon(trickle, one, other)
        await alice.wait_connected()
        await trio.sleep(5)
        assert selected(alice).local.type is not ice.CandidateType.RELAY
        homes[0].renew()
        for _ in range(200):
            await alice.send(b"data")
            await trio.sleep(0.1)
        changes = [event.pair for event in collected(alice) if isinstance(event, ice.SelectedPairChanged)]
        relayed = [ice.CandidateType.RELAY in (pair.local.type, pair.remote.type) for pair in changes if pair]
        assert True in relayed
        assert not relayed[-1]
        assert alice._driver.ice.generation == bob._driver.ice.generation == 1


async def test_a_relay_of_the_peers_that_its_checks_came_from_before_its_candidates_was_no_direct_path(vnet):
    """It looked like one: to restart because that has died, again and again, would never let the rest be checked."""
    net = vnet(1)
    hosts = [net.host(net.internet, name=name) for name in ("alice", "bob")]
    turn = net.host(net.internet, name="turn.example")
    options = TurnOptions(
        [TransportAddress(turn.address, 3478)], users={"user": "secret of it"}, allow_peers=("203.0.113.0/24",)
    )
    server = IceServer("turn:turn.example?transport=udp", username="user", credential="secret of it")
    seeds = [{"network": host, "randbytes": host.randbytes, "auto_restart": True} for host in hosts]
    async with (
        net,
        open_turn_server(options, network=turn, randbytes=turn.randbytes),
        open_agent(AgentConfig(**seeds[0]), role=ice.Role.CONTROLLING) as alice,
        open_agent(
            AgentConfig(servers=[server], transport_policy="relay", **seeds[1]), role=ice.Role.CONTROLLED
        ) as bob,
    ):
        for one, other in ((alice, bob), (bob, alice)):
            one.set_remote_credentials(other.credentials, options=other.options)
        await trickle(alice, bob)
        await alice.wait_connected()
        assert selected(alice).remote.type is ice.CandidateType.PRFLX
        await trickle(bob, alice)
        await trio.sleep(1)
        assert selected(alice).remote.type is ice.CandidateType.RELAY
        assert not [event for _, event in alice._driver.timeline.entries() if isinstance(event, ice.Restarted)]


async def test_final_messages_reach_a_peer_that_has_not_followed_to_the_path_in_use(vnet):
    """It answers checks there, and takes no data from there yet: its own check of that path is lost until too late."""
    net = vnet()
    homes = [net.router(net.internet, nat=PORT_RESTRICTED, delay_s=0.01) for _ in range(2)]
    hosts = [net.host(home) for home in homes]
    turn = net.host(net.internet, name="turn.example")
    options = TurnOptions(
        [TransportAddress(turn.address, 3478)], users={"user": "secret of it"}, allow_peers=("203.0.113.0/24",)
    )
    server = IceServer("turn:turn.example?transport=udp", username="user", credential="secret of it")
    configs = [AgentConfig(servers=[server], network=host, randbytes=host.randbytes) for host in hosts]
    async with (
        net,
        open_turn_server(options, network=turn, randbytes=turn.randbytes),
        open_agent(configs[0], role=ice.Role.CONTROLLING) as alice,
        open_agent(configs[1], role=ice.Role.CONTROLLED) as bob,
    ):
        async with trio.open_nursery() as nursery:
            for one, other in ((alice, bob), (bob, alice)):
                one.set_remote_credentials(other.credentials, options=other.options)
                nursery.start_soon(trickle, one, other)
        for agent in (alice, bob):
            await agent.wait_connected()
        await trio.sleep(2)
        assert not selected(alice).is_relayed
        heard = []
        with trio.move_on_after(1):
            await alice.send_everywhere([b"farewell"])
            while True:
                heard.append(await bob.receive())
        assert heard.count(b"farewell") > 1
