"""Whole agents whose path dies in mid-transfer: the backup takes over, and a better path is moved to."""

from __future__ import annotations

import pytest
import trio
from virtual_pair import selected, trickle

from iceagent.agent import AgentConfig, open_agent
from iceagent.core import ice
from iceagent.vnet import Link


@pytest.mark.parametrize("delay_s", [0.0005, 0.01, 0.03])
@pytest.mark.parametrize("answered", [True, False])
async def test_data_flows_again_within_a_second_of_the_death_of_its_path(vnet, delay_s, answered):
    """Two interfaces on one side, one of them pulled; with traffic both ways, or one way only."""
    net = vnet()
    left = net.host(net.internet, delay_s=delay_s)
    left.attach(net.internet, Link(delay_s=delay_s))
    right = net.host(net.internet, delay_s=delay_s)
    configs = [AgentConfig(network=host, randbytes=host.randbytes) for host in (left, right)]
    async with (
        net,
        open_agent(configs[0], role=ice.Role.CONTROLLING) as alice,
        open_agent(configs[1], role=ice.Role.CONTROLLED) as bob,
    ):
        async with trio.open_nursery() as nursery:
            for one, other in ((alice, bob), (bob, alice)):
                one.set_remote_credentials(other.credentials, options=other.options)
                nursery.start_soon(trickle, one, other)
        await alice.wait_connected()
        await bob.wait_connected()
        await trio.sleep(1)
        last_at = trio.current_time()
        gap_s = 0.0

        async def send(agent):
            while True:
                await agent.send(b"data")
                await trio.sleep(0.01)

        async def receive():
            nonlocal last_at, gap_s
            while True:
                await bob.receive()
                now = trio.current_time()
                gap_s = max(gap_s, now - last_at)
                last_at = now

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, alice)
            nursery.start_soon(receive)
            if answered:
                nursery.start_soon(send, bob)
            await trio.sleep(3)
            dead = selected(alice).local.path_base.host
            wire = next(each for each in left.attachments() if each.addresses[0].host == dead)
            wire.link.cut()
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert trio.current_time() - last_at < 0.1
        assert 0.1 < gap_s < 1.0
        assert selected(alice).local.path_base.host != dead
        assert alice.state is bob.state is ice.AgentState.COMPLETED
