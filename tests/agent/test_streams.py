"""Two streams of two components between real agents: through NATs, over relays, across restarts, never crossing."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
from virtual_pair import two_agents

from iceagent.agent import AgentConfig, AgentState, CandidateType, IceServer, RelayAllocated, Role, open_agent
from iceagent.core.address import TransportAddress
from iceagent.core.ice import ChecklistState, ComponentGivenUp, Restarted
from iceagent.errors import LocalError, NetworkError
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.vnet import PORT_RESTRICTED, SYMMETRIC

LAYOUT = (2, 2)


async def trickle(source, target):
    """Carry the candidates of every stream of `source`, each to the stream of the same index."""
    async with trio.open_nursery() as nursery:
        for stream in source.streams:
            nursery.start_soon(trickle_one, stream, target)


async def trickle_one(stream, target):
    async for candidate in stream.local_candidates():
        target.add_remote_candidate(candidate.to_sdp(), stream=stream.index)
    target.add_remote_candidate(None, stream=stream.index)


async def introduce(alice, bob):
    for one, other in ((alice, bob), (bob, alice)):
        one.set_remote_credentials(other.credentials, options=other.options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle, alice, bob)
        nursery.start_soon(trickle, bob, alice)


async def connect(alice, bob, within_s=20):
    with trio.fail_after(within_s):
        await introduce(alice, bob)
        await alice.wait_connected()
        await bob.wait_connected()


def components(agent):
    return [component for stream in agent.streams for component in stream.components]


async def exchange(alice, bob, count=20):
    """Every component sends; whatever arrives anywhere must be its own peer's."""
    for one, other in ((alice, bob), (bob, alice)):
        for component in components(one):
            mark = f"{component.stream}.{component.id}"
            await component.send_many([f"{mark} {number}".encode() for number in range(count)])
        for component in components(other):
            mark = f"{component.stream}.{component.id}"
            got: list[bytes] = []
            with trio.fail_after(5):
                while len(got) < count:
                    got += await component.receive_many()
            assert got == [f"{mark} {number}".encode() for number in range(count)]


@pytest.mark.parametrize("nats", [(None, None), (PORT_RESTRICTED, PORT_RESTRICTED)], ids=["open", "port-restricted"])
async def test_four_components_connect_each_over_its_own_path_and_never_cross(vnet, nats):
    """The whole of it: four pairs, each of other sockets, and data only where it belongs."""
    async with two_agents(vnet(), *nats, streams=LAYOUT) as lab:
        alice, bob = lab.agents
        await connect(alice, bob)
        assert alice.state is bob.state is AgentState.COMPLETED
        assert [stream.state for stream in alice.streams] == [ChecklistState.COMPLETED] * 2
        bases = {component.selected_pair.local.path_base for component in components(alice)}
        assert len(bases) == 4
        for component in components(alice):
            assert component.selected_pair.local.component == component.id
        await exchange(alice, bob)
    assert lab.net.statistics().sockets_left_open == 0


@asynccontextmanager
async def relayed_agents(net, **options):
    """Two homes whose NATs let nothing else than a relay through, and that relay."""
    server = net.host(net.internet, name="turn.example")
    homes = [net.router(net.internet, nat=SYMMETRIC, delay_s=0.010) for _ in range(2)]
    hosts = [net.host(home, name=name) for home, name in zip(homes, ("alice", "bob"), strict=True)]
    listen = [TransportAddress(server.address, 3478)]
    turn = TurnOptions(listen=listen, tcp_listen=(), users={"george": "word"}, allow_peers=["0.0.0.0/0"])
    servers = [IceServer("turn:turn.example?transport=udp", username="george", credential="word")]
    configs = [AgentConfig(servers=servers, network=one, randbytes=one.randbytes, **options) for one in hosts]
    async with (
        net,
        open_turn_server(turn, network=server, randbytes=server.randbytes),
        open_agent(configs[0], role=Role.CONTROLLING) as alice,
        open_agent(configs[1], role=Role.CONTROLLED) as bob,
    ):
        yield alice, bob


@pytest.mark.parametrize("policy", ["all", "relay"])
async def test_each_component_has_a_relay_of_its_own_to_fall_back_to(vnet, policy):
    """RFC 8445 section 5.1.1.2: relayed candidates are gathered per component."""
    net = vnet()
    async with relayed_agents(net, streams=LAYOUT, transport_policy=policy) as (alice, bob):
        await connect(alice, bob)
        relays = set()
        for component in components(alice):
            pair = component.selected_pair
            assert CandidateType.RELAY in (pair.local.type, pair.remote.type)
            assert component.relayed_because
            allocated = [event for _, event in component.driver.timeline.entries()]
            relays |= {event.address for event in allocated if isinstance(event, RelayAllocated)}
        assert len(relays) == 4
        await exchange(alice, bob)
    assert net.statistics().sockets_left_open == 0


async def test_the_simple_agent_is_the_first_component_of_the_first_stream(vnet):
    """Whoever needs no more than one component need not know that there are streams."""
    async with two_agents(vnet(), None, None, streams=(1, 1)) as lab:
        alice, bob = lab.agents
        await connect(alice, bob)
        await alice.send(b"over the agent")
        assert await bob.stream(0).component(1).receive() == b"over the agent"
        await bob.stream(0).component().send(b"over the component")
        assert await alice.receive() == b"over the component"
        assert alice.selected_pair == alice.stream(0).component().selected_pair


async def test_an_agent_with_one_component_has_a_stream_to_show_too(vnet):
    """The same code may serve both."""
    async with two_agents(vnet(), None, None) as lab:
        alice, bob = lab.agents
        await connect(alice, bob)
        assert [stream.state for stream in alice.streams] == [ChecklistState.COMPLETED]
        await exchange(alice, bob)
        with pytest.raises(LocalError, match="streams 0 to 0"):
            alice.stream(1)
        with pytest.raises(LocalError, match="components 1 to 1"):
            alice.stream().component(2)


async def test_components_that_the_peer_lacks_are_closed_and_the_rest_connects_at_once(vnet):
    """RFC 8445 section 6.1.2.2, as with a peer that multiplexes RTP and RTCP."""
    net = vnet()
    home = net.router(net.internet, nat=PORT_RESTRICTED)
    layouts = {net.host(home): (2,), net.host(home): (1,)}
    configs = [AgentConfig(network=host, randbytes=host.randbytes, streams=one) for host, one in layouts.items()]
    async with (
        net,
        open_agent(configs[0], role=Role.CONTROLLING) as alice,
        open_agent(configs[1], role=Role.CONTROLLED) as bob,
    ):
        before = trio.current_time()
        await connect(alice, bob)
        assert trio.current_time() < before + 5
        gone = alice.stream().component(2)
        assert gone.state is AgentState.CLOSED
        with pytest.raises(trio.ClosedResourceError):
            await gone.send(b"nobody there")
        with pytest.raises(trio.ClosedResourceError):
            await gone.receive()
        assert [event for _, event in alice._driver.timeline.entries() if isinstance(event, ComponentGivenUp)]
        await alice.send(b"the rest works")
        assert await bob.receive() == b"the rest works"


async def test_a_stream_without_a_path_is_told_and_can_be_removed(vnet):
    """RFC 8445 section 8.1.2: it is the application's to go on without it."""
    async with two_agents(vnet(), None, None, streams=LAYOUT) as lab:
        alice, bob = lab.agents
        for one, other in ((alice, bob), (bob, alice)):
            one.set_remote_credentials(other.credentials, options=other.options)
            await trickle_one(other.stream(0), one)
            one.add_remote_candidate("1 1 udp 9 192.0.2.99 9 typ host", stream=1)
            one.add_remote_candidate("1 2 udp 8 192.0.2.99 8 typ host", stream=1)
            one.add_remote_candidate(None, stream=1)
        with pytest.raises(NetworkError, match="no candidate pair answered"):
            await alice.wait_connected()
        assert [stream.state for stream in alice.streams] == [ChecklistState.COMPLETED, ChecklistState.FAILED]
        assert alice.state is AgentState.CHECKING
        assert "no" in alice.explain().summary.lower()
        alice.stream(1).remove()
        assert alice.state is AgentState.COMPLETED
        await alice.wait_connected()
        await alice.stream(0).component(2).send(b"goes on")
        assert await bob.stream(0).component(2).receive() == b"goes on"


async def test_one_component_can_be_closed_and_the_last_one_closes_the_agent(vnet):
    """Each is a channel; closing is its own affair."""
    async with two_agents(vnet(), None, None, streams=(2,)) as lab:
        alice, bob = lab.agents
        await connect(alice, bob)
        first, second = components(alice)
        await first.aclose()
        assert first.state is AgentState.CLOSED
        await second.send(b"still here")
        assert await bob.stream().component(2).receive() == b"still here"
        await second.aclose()
        with pytest.raises(trio.ClosedResourceError):
            alice.restart()


async def test_a_restart_renews_every_component_while_data_flows(vnet):
    """RFC 8445 section 9, make before break, for all streams at once."""
    async with two_agents(vnet(), PORT_RESTRICTED, PORT_RESTRICTED, streams=LAYOUT) as lab:
        alice, bob = lab.agents
        await connect(alice, bob)
        old = alice.credentials
        fresh = alice.restart()
        assert fresh != old
        assert {stream.credentials for stream in alice.streams} == {fresh}
        await exchange(alice, bob)
        bob.set_remote_credentials(fresh, options=alice.options)
        alice.set_remote_credentials(bob.credentials, options=bob.options)
        assert len({stream.credentials for stream in bob.streams}) == 1
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trickle, alice, bob)
                nursery.start_soon(trickle, bob, alice)
                while any(one.driver.ice.restarting for agent in lab.agents for one in components(agent)):
                    await exchange(alice, bob, 3)
                    await trio.sleep(0.01)
        assert alice.state is bob.state is AgentState.COMPLETED
        await exchange(alice, bob)
        for component in components(bob):
            events = [event for _, event in component.driver.timeline.entries()]
            assert sum(isinstance(event, Restarted) for event in events) == 1


async def test_a_new_address_is_followed_by_all_components(vnet):
    """Roaming: the agent restarts as one, and every component has sockets at the new address."""
    async with two_agents(vnet(), PORT_RESTRICTED, PORT_RESTRICTED, streams=(2,), auto_restart=True) as lab:
        alice, bob = lab.agents
        await connect(alice, bob)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_restarts, alice, bob, nursery)
            nursery.start_soon(answer_restarts, bob, alice, nursery)
            before = lab.hosts[0].address
            lab.hosts[0].renew()
            assert lab.hosts[0].address != before
            with trio.fail_after(30):
                while True:
                    await trio.sleep(0.2)
                    pairs = [component.selected_pair for component in components(alice)]
                    if None not in pairs and {pair.local.path_base.host for pair in pairs} == {lab.hosts[0].address}:
                        break
            await exchange(alice, bob)
            nursery.cancel_scope.cancel()


async def answer_restarts(agent, peer, nursery):
    async for event in agent.events():
        if isinstance(event, Restarted):
            peer.set_remote_credentials(event.credentials, options=agent.options)
            nursery.start_soon(trickle, agent, peer)


def test_a_layout_that_cannot_be_is_refused():
    """The caller's mistake, in a sentence."""
    with pytest.raises(LocalError, match="at least one component"):
        AgentConfig(streams=(1, 0))
    with pytest.raises(LocalError, match="write"):
        AgentConfig(streams=2)  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize("layout", [(2,), (1, 1)])
async def test_the_end_is_not_told_while_a_component_has_nothing_to_tell(vnet, layout):
    """A component without candidates at the end is none: the peer would close its own for good, for a slow relay."""
    net = vnet()
    turn = net.host(net.internet, name="turn.example")
    server = [IceServer("turn:turn.example?transport=udp", username="u", credential="p")]
    agents = [net.host(net.router(net.internet, nat=PORT_RESTRICTED)) for _ in range(2)]
    async with net, trio.open_nursery() as nursery:
        nursery.start_soon(_begin_late, turn, 7.0)
        configs = [
            AgentConfig(
                servers=server, network=host, streams=layout, transport_policy="relay", randbytes=host.randbytes
            )
            for host in agents
        ]
        async with (
            open_agent(configs[0], role=Role.CONTROLLING) as alice,
            open_agent(configs[1], role=Role.CONTROLLED) as bob,
        ):
            await connect(alice, bob, within_s=30)
            assert trio.current_time() > 7
            assert len(components(alice)) == len(components(bob)) == 2
            await exchange(alice, bob)
        nursery.cancel_scope.cancel()


async def _begin_late(host, seconds):
    """Run a TURN server that nobody reaches before its time."""
    host.partition()
    await trio.sleep(seconds)
    host.heal()
    options = TurnOptions([TransportAddress(host.address, 3478)], users={"u": "p"}, allow_peers=["203.0.113.0/24"])
    async with open_turn_server(options, network=host):
        await trio.sleep_forever()
