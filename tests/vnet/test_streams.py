"""Two streams of two components between real agents: through NATs, over relays, across restarts, never crossing."""

from __future__ import annotations

import pytest
import trio
from nat_lab import two_agents

from iceagent.agent import AgentState
from iceagent.core.ice import ChecklistState
from iceagent.vnet import PORT_RESTRICTED

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
            got = []
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
