"""How long it takes, in round trips of the path: exact, in virtual time. Both descriptions are known at t = 0."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from iceagent.agent import Agent, AgentConfig, IceServer, open_agent
from iceagent.core import ice
from iceagent.core.address import TransportAddress
from iceagent.core.ice.model.likelihood import likelihood
from iceagent.net.api import InterfaceAddress
from iceagent.servers.stun import open_stun_server
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.vnet import PORT_RESTRICTED, SYMMETRIC, Host, Nat, Network

STUN = IceServer("stun:stun.example:3478")
TURN = IceServer("turn:turn.example:3478?transport=udp", username="u", credential="p")
ALLOWED_PEERS = ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24", "198.18.0.0/15", "2001:db8::/32")
A_MOMENT_S = 0.0005  # what virtual links' queues and TURN's own links add beside the delays


@dataclass
class Times:
    """Of one side, seconds after the descriptions were exchanged."""

    data_s: float = float("inf")
    nominated_s: float = float("inf")


@dataclass
class Meeting:
    """What came of it; `slots_above`: pairs of either side checked before the selected one, if none is triggered."""

    times: tuple[Times, Times]
    pair: ice.CandidatePair
    round_trip_s: float
    slots_above: int


def _slots_above(agent: Agent) -> int:
    core = agent._driver.ice

    def rank(pair: ice.CandidatePair) -> tuple[int, int]:
        # As before any answer: by the best candidate of the base.
        base, remote = pair.local.path_base, pair.remote
        ours = max(one.priority for one in core.local_candidates if one.path_base == base)
        ends = (ours, remote.priority) if core.role is ice.Role.CONTROLLING else (remote.priority, ours)
        return -likelihood(base.host, remote.address.host), -ice.pair_priority(*ends)

    selected = core.selected_pair
    assert selected is not None
    return sum(rank(pair) < rank(selected) for pair in core.pairs)


async def _watch(agent: Agent, times: Times, start: float) -> None:
    async for event in agent.events():
        if isinstance(event, ice.StateChanged):
            now = trio.current_time() - start
            if event.new in (ice.AgentState.CONNECTED, ice.AgentState.COMPLETED):
                times.data_s = min(times.data_s, now)
            if event.new is ice.AgentState.COMPLETED:
                times.nominated_s = now
                return


@asynccontextmanager
async def _servers(net: Network, *, turn: bool) -> AsyncIterator[list[IceServer]]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(net)
        stun_host = next(host for host in net.hosts() if host.name == "stun.example")
        await stack.enter_async_context(open_stun_server("0.0.0.0", network=stun_host))
        if turn:
            host = next(host for host in net.hosts() if host.name == "turn.example")
            listen = [TransportAddress(address, 3478) for address in host.addresses(4)]
            options = TurnOptions(listen, users={"u": "p"}, allow_peers=ALLOWED_PEERS)
            await stack.enter_async_context(open_turn_server(options, network=host, randbytes=host.randbytes))
        yield [STUN, TURN] if turn else [STUN]


async def meet(
    net: Network, hosts: list[Host], *, ta: float | None, turn: bool = False, servers: bool = True
) -> Meeting:
    """Let two agents gather in peace, then give each the other's whole description, and wait for nomination."""
    net.host(net.internet, name="stun.example")
    if turn:
        net.host(net.internet, name="turn.example")
    async with _servers(net, turn=turn) as known, AsyncExitStack() as stack:
        agents: list[Agent] = []
        for host, role in zip(hosts, (ice.Role.CONTROLLING, ice.Role.CONTROLLED), strict=True):
            config = AgentConfig(
                servers=known if servers else (), network=host, randbytes=host.randbytes, ta_s=ta, port_mapping=False
            )
            agents.append(await stack.enter_async_context(open_agent(config, role=role)))
        found = [[candidate async for candidate in agent.local_candidates()] for agent in agents]
        times = (Times(), Times())
        start = trio.current_time()
        for index in range(2):
            one, other = agents[index], agents[1 - index]
            one.set_remote_credentials(other.credentials, options=other.options, pacing_s=other.pacing_s)
            for candidate in found[1 - index]:
                one.add_remote_candidate(candidate)
            one.add_remote_candidate(None)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for agent, mine in zip(agents, times, strict=True):
                    nursery.start_soon(_watch, agent, mine, start)
        pair = agents[0].selected_pair
        assert pair is not None
        assert pair.rtt_s is not None
        meeting = Meeting(times, pair, pair.rtt_s, max(_slots_above(agent) for agent in agents))
        check(meeting, agents[0].pacing_s)
        return meeting


def check(meeting: Meeting, ta_s: float) -> None:
    """The bounds: pacing of the pairs ranked above, one Ta, and one round trip to data or two to nomination."""
    round_trip_s = meeting.round_trip_s
    ahead_s = meeting.slots_above * ta_s
    for side in meeting.times:
        assert side.data_s <= ahead_s + round_trip_s + ta_s + A_MOMENT_S
        assert side.nominated_s <= ahead_s + 2 * round_trip_s + ta_s + A_MOMENT_S


TAS = pytest.mark.parametrize("ta", [None, 0.005, 0.05])


@TAS
@pytest.mark.parametrize("families", [(4,), (6,), (4, 6)])
async def test_neighbours_meet_in_one_round_trip(vnet, families, ta):
    """On one LAN: nothing stands before the live pair."""
    net = vnet(families=families)
    hosts = [net.host(net.internet, delay_s=0.01) for _ in range(2)]
    meeting = await meet(net, hosts, ta=ta, servers=False)
    assert meeting.slots_above == 0
    assert meeting.round_trip_s == pytest.approx(0.04)
    assert max(side.data_s for side in meeting.times) == pytest.approx(0.04)
    assert max(side.nominated_s for side in meeting.times) == pytest.approx(0.08)


@TAS
@pytest.mark.parametrize("nat", [PORT_RESTRICTED, None])
@pytest.mark.parametrize("delay_s", [0.005, 0.05])
async def test_homes_meet_in_one_round_trip(vnet, nat, delay_s, ta):
    """Through two NATs the reflexive pair is checked first, since the private addresses are of different networks."""
    net = vnet()
    homes = [net.router(net.internet, nat=nat, delay_s=delay_s) for _ in range(2)]
    hosts = [net.host(home, delay_s=0.001) for home in homes]
    meeting = await meet(net, hosts, ta=ta)
    assert meeting.slots_above == 0
    assert meeting.pair.local.type is (ice.CandidateType.HOST if nat is None else ice.CandidateType.SRFLX)


@TAS
async def test_relayed_peers_meet_with_the_pairs_before_paced(vnet, ta):
    """Both NATs map per destination: the dead reflexive pairs go first, as they would be better."""
    net = vnet()
    homes = [net.router(net.internet, nat=SYMMETRIC, delay_s=0.02) for _ in range(2)]
    meeting = await meet(net, [net.host(home) for home in homes], ta=ta, turn=True)
    assert "relay" in (meeting.pair.local.type.value, meeting.pair.remote.type.value)
    assert meeting.slots_above <= 6


def burden(net: Network, host: Host, number: int, *, with_ipv6: bool) -> None:
    """Give a host addresses that lead nowhere: bridges, or public IPv6 ones."""
    nowhere = net.router(net.internet, nat=PORT_RESTRICTED)
    nowhere.link.cut()
    for index in range(10):
        interface = host.attach(nowhere)
        nowhere.remove_routes(interface, forget=False)
        address = f"2001:db8:{number}:{index}::1" if with_ipv6 else f"172.{17 + index}.{number}.1"
        interface.addresses = (InterfaceAddress(f"eth{index + 1}", address, 64 if with_ipv6 else 24),)


@TAS
@pytest.mark.parametrize("nat", [PORT_RESTRICTED, None])
@pytest.mark.parametrize("with_ipv6", [False, True])
async def test_ten_dead_candidates_on_each_side_cost_their_pacing_at_most(vnet, nat: Nat | None, with_ipv6, ta):
    """Ten bridges of containers cost nothing, ten dead public IPv6 addresses what RFC 8421 lets them."""
    net = vnet(families=(4, 6) if with_ipv6 else (4,))
    homes = [net.router(net.internet, nat=nat, delay_s=0.02, families=(4,)) for _ in range(2)]
    hosts = [net.host(home) for home in homes]
    for number, host in enumerate(hosts, start=1):
        burden(net, host, number, with_ipv6=with_ipv6)
    meeting = await meet(net, hosts, ta=ta)
    assert meeting.slots_above <= (99 if with_ipv6 else 0)
