"""A session whose only path goes over TCP, and a cable that is out for half of what consent lasts (RFC 7675)."""

from __future__ import annotations

from contextlib import asynccontextmanager

import trio

from iceagent.agent import AgentConfig, AgentState, IceServer, Role, open_agent
from iceagent.core.address import TransportAddress
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.vnet import PORT_RESTRICTED, UDP_BLOCKED

CUT_S = 15.0
ASKED_EVERY_S = 6.0  # RFC 7675 section 5.1: consent checks are 4 to 6 s apart


@asynccontextmanager
async def over_tcp(vnet):
    """Two agents without restarts; bob reaches the relay by TCP alone."""
    net = vnet()
    turn = net.host(net.internet, name="turn.example")
    alice = net.host(net.router(net.internet, nat=PORT_RESTRICTED, delay_s=0.01))
    bob = net.host(net.router(net.internet, nat=PORT_RESTRICTED, firewall=UDP_BLOCKED, delay_s=0.01))
    listen = [TransportAddress(turn.address, 3478)]
    options = TurnOptions(listen, users={"u": "p"}, allow_peers=["203.0.113.0/24"], tcp_listen=listen)
    servers = [IceServer("turn:turn.example", username="u", credential="p")]
    configs = [AgentConfig(servers=servers, network=host, randbytes=host.randbytes) for host in (alice, bob)]
    async with (
        net,
        open_turn_server(options, network=turn, randbytes=turn.randbytes),
        open_agent(configs[0], role=Role.CONTROLLING) as one,
        open_agent(configs[1], role=Role.CONTROLLED) as other,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(carry, one, other)
        nursery.start_soon(carry, other, one)
        with trio.fail_after(30):
            await one.wait_connected()
            await other.wait_connected()
        await trio.sleep(20)
        yield one, other, bob
        nursery.cancel_scope.cancel()


async def carry(source, target):
    target.set_remote_credentials(source.credentials, options=source.options)
    async for candidate in source.local_candidates():
        target.add_remote_candidate(candidate.to_sdp())
    target.add_remote_candidate(None)
    async for candidate in source.late_candidates():
        target.add_remote_candidate(candidate.to_sdp())


async def test_a_session_over_tcp_outlives_a_cut_on_a_line_that_loses_nothing(vnet):
    """Half of what consent lasts is enough for TCP to come back, or for another connection."""
    async with over_tcp(vnet) as (one, other, bob):
        bob.partition()
        await trio.sleep(CUT_S)
        bob.heal()
        await trio.sleep(CUT_S)
        assert {agent.state for agent in (one, other)} == {AgentState.COMPLETED}


async def test_a_session_over_tcp_ends_by_consent_if_nothing_comes_through_for_the_other_half(vnet):
    """Not before 30 s, and with the true reason on both sides: a path without answers has to be given up."""
    async with over_tcp(vnet) as (one, other, bob):
        bob.partition()
        await trio.sleep(CUT_S)
        bob.heal()
        bob.attachments()[0].link.change(loss=1.0)
        await trio.sleep(30 - ASKED_EVERY_S - 1 - CUT_S)
        assert AgentState.FAILED not in {agent.state for agent in (one, other)}
        await trio.sleep(ASKED_EVERY_S + 3)
        assert {agent.state for agent in (one, other)} == {AgentState.FAILED}
        assert {agent.explain().kind.value for agent in (one, other)} == {"consent-lost"}
