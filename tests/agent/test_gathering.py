from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import trio
from virtual_pair import config_of

from iceagent import vnet as virtual
from iceagent.agent import (
    Agent,
    AgentState,
    CandidateType,
    DestinationUnreachable,
    GatheringFinished,
    IceServer,
    Role,
    ServerAnswered,
    ServerFailed,
    VerdictKind,
    open_agent,
)
from iceagent.agent.gather.reflexive import QUESTION_S
from iceagent.core import ice, stun
from iceagent.core.constants import KEEPALIVE_S
from iceagent.errors import NetworkError

LIVE = IceServer("stun:stun.example")
DEAD = IceServer("stun:dead.example")
UNKNOWN = IceServer("stun:unknown.example")


class Internet:
    """A STUN server that answers, a host that is silent, and two homes behind NATs."""

    def __init__(self, net: virtual.Network) -> None:
        self.net = net
        self.server = net.host(net.internet, name="stun.example")
        self.silent = net.host(net.internet, name="dead.example")
        homes = [net.router(net.internet, nat=virtual.PORT_RESTRICTED) for _ in range(2)]
        self.alice, self.bob = (net.host(home) for home in homes)


@asynccontextmanager
async def internet(vnet: Any, answer_stun: Any) -> AsyncIterator[Internet]:
    world = Internet(vnet())
    async with world.net, trio.open_nursery() as nursery:
        with (
            closing(await world.silent.open_udp(world.silent.address, 3478)),
            closing(await world.server.open_udp(world.server.address, 3478)) as sock,
        ):
            nursery.start_soon(answer_stun, sock)
            yield world
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def agents(world: Internet, *servers: IceServer) -> AsyncIterator[tuple[Agent, Agent]]:
    async with (
        open_agent(config_of(world.alice, servers=servers), role=Role.CONTROLLING) as alice,
        open_agent(config_of(world.bob, servers=servers), role=Role.CONTROLLED) as bob,
    ):
        yield alice, bob


async def srflx_time(agent: Agent) -> float:
    async for candidate in agent.local_candidates():
        if candidate.type is CandidateType.SRFLX:
            return trio.current_time()
    raise AssertionError("no server-reflexive candidate")


async def test_candidates_come_as_they_are_found_and_end(vnet: Any, answer_stun: Any) -> None:
    """Host candidates at once, server-reflexive ones with the server's answer, then the end."""
    async with (
        internet(vnet, answer_stun) as world,
        open_agent(config_of(world.alice, servers=[LIVE]), role=Role.CONTROLLING) as agent,
    ):
        start = trio.current_time()
        candidates = [candidate async for candidate in agent.local_candidates()]
        assert [candidate.type for candidate in candidates] == [CandidateType.HOST, CandidateType.SRFLX]
        host, srflx = candidates
        assert srflx.base == host.address
        assert srflx.address.host != host.address.host
        assert host.priority > srflx.priority
        assert trio.current_time() - start < 0.5
        events = [event for _, event in agent._driver.timeline.entries()]
        assert [event for event in events if isinstance(event, ServerAnswered | GatheringFinished)]
        assert "answered over IPv4" in "".join(agent.explain().evidence)


@pytest.mark.parametrize("others", [[DEAD], [UNKNOWN], [DEAD, UNKNOWN, IceServer("stun:203.0.113.77")]])
async def test_trap_21_dead_servers_delay_nothing(vnet: Any, answer_stun: Any, others: list[IceServer]) -> None:
    """Trap 21: candidates of the live server come as early as without the dead ones, and so does the connection."""
    times = []
    for servers in ([LIVE], [*others, LIVE]):
        async with internet(vnet, answer_stun) as world:
            world.net.dns_delay_s = 0.02
            async with agents(world, *servers) as (alice, bob):
                start = trio.current_time()
                found = await srflx_time(alice) - start
                await connect(alice, bob)
                times.append((found, trio.current_time() - start))
    assert times[0] == pytest.approx(times[1], abs=1e-9)


async def connect(alice: Agent, bob: Agent) -> None:
    async def tell(one: Agent, other: Agent) -> None:
        other.set_remote_credentials(one.credentials)
        async for candidate in one.local_candidates():
            other.add_remote_candidate(candidate)
        other.add_remote_candidate(None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell, alice, bob)
        nursery.start_soon(tell, bob, alice)
        await alice.wait_connected()
        await bob.wait_connected()
        nursery.cancel_scope.cancel()


async def test_a_silent_server_has_its_budget_and_no_more(vnet: Any, answer_stun: Any) -> None:
    """End-of-candidates is not held up beyond the budget, and the reason is kept."""
    async with internet(vnet, answer_stun) as world:
        config = config_of(world.alice, servers=[DEAD], gather_budget_s=2.0)
        async with open_agent(config, role=Role.CONTROLLING) as agent:
            start = trio.current_time()
            assert len([candidate async for candidate in agent.local_candidates()]) == 1
            assert trio.current_time() - start == pytest.approx(2.0)
            failures = [event for _, event in agent._driver.timeline.entries() if isinstance(event, ServerFailed)]
            assert [(event.url, event.reason) for event in failures] == [(DEAD.url, "no answer within 2 s")]
            assert "no answer" in "".join(agent.explain().evidence)
            assert agent.state is AgentState.NEW
            await trio.sleep(QUESTION_S)
            assert agent._driver.queries.next_timeout() is None


async def test_trap_21_requests_are_retransmitted(vnet: Any, answer_stun: Any) -> None:
    """Trap 21: one lost packet must not cost the candidate."""
    async with internet(vnet, answer_stun) as world:
        world.server.partition()
        async with open_agent(config_of(world.alice, servers=[LIVE]), role=Role.CONTROLLING) as agent:
            await trio.sleep(0.4)
            world.server.heal()
            start = trio.current_time()
            await srflx_time(agent)
            assert trio.current_time() - start < 0.5


async def test_trap_21_answers_of_others_do_not_count(vnet: Any) -> None:
    """Trap 21: a forged answer from another address, or to another transaction, must not become our address."""
    world = Internet(vnet())
    lie = stun.XorMappedAddress(virtual_address("198.51.100.66", 666))
    async with world.net:
        server = await world.server.open_udp(world.server.address, 3478)
        liar = await world.server.open_udp(world.server.address, 3479)
        try:
            async with open_agent(config_of(world.server, servers=[LIVE]), role=Role.CONTROLLING) as agent:
                request_batch = (await server.receive())[0]
                request = stun.decode(request_batch.data)
                wrong_id = stun.success(stun.binding_request(bytes(12)), lie)
                server.send_nowait([stun.encode(wrong_id)], request_batch.remote)
                liar.send_nowait([stun.encode(stun.success(request, lie))], request_batch.remote)
                await trio.sleep(0.1)
                assert [candidate.type for candidate in agent._driver.ice.local_candidates] == [CandidateType.HOST]
                server.send_nowait([stun.encode(stun.success(request, lie))], request_batch.remote)
                assert (await srflx_time(agent)) > 0
        finally:
            server.close()
            liar.close()


def virtual_address(host: str, port: int) -> Any:
    from iceagent.core.address import TransportAddress

    return TransportAddress(host, port)


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.02, 0.3, 1.0])
async def test_trap_26_a_cancelled_gather_leaves_nothing(vnet: Any, answer_stun: Any, after_s: float) -> None:
    """Traps 26 and 27: no socket, no packet, no timer afterwards."""
    async with internet(vnet, answer_stun) as world:
        world.net.dns_delay_s = 0.01
        with trio.move_on_after(after_s):
            async with open_agent(config_of(world.alice, servers=[DEAD, LIVE, UNKNOWN]), role=Role.CONTROLLING):
                await trio.sleep_forever()
        assert world.alice.sockets == []
        await trio.sleep(1)  # what is still on its way arrives
        packets = len(world.net.trace)
        await trio.sleep(1000)
        assert len(world.net.trace) == packets


async def test_mapped_addresses_are_kept_alive_until_a_pair_is_selected(vnet: Any, answer_stun: Any) -> None:
    """A NAT forgets a mapping after 30 s; the peer's description may take minutes to be carried here."""
    async with internet(vnet, answer_stun) as world, agents(world, LIVE) as (alice, bob):
        await trio.sleep(20 * KEEPALIVE_S)
        await connect(alice, bob)
        assert alice.selected_pair is not None
        assert alice.selected_pair.remote.type is not CandidateType.HOST
        await trio.sleep(2 * KEEPALIVE_S)
        received = world.server.sockets[0].statistics().datagrams_received
        await trio.sleep(20 * KEEPALIVE_S)
        assert world.server.sockets[0].statistics().datagrams_received == received


async def test_no_path_at_all_fails_with_reason_and_verdict(vnet: Any, answer_stun: Any) -> None:
    """Patience of RFC 8863, then a clear end: every waiter hears of it, with what to do."""
    async with internet(vnet, answer_stun) as world, agents(world, DEAD) as (alice, bob):
        with pytest.raises(NetworkError, match="no path to the peer"), trio.fail_after(90):
            await connect_and_wait(alice, bob)
        assert alice.state is AgentState.FAILED
        verdict = alice.explain()
        assert verdict.kind is VerdictKind.NO_PATH  # the one server's silence says nothing of this network
        assert verdict.remedy
        for use in (alice.send(b"x"), alice.receive()):
            with pytest.raises(trio.BrokenResourceError) as caught:
                await use
            assert isinstance(caught.value.__cause__, NetworkError)


async def connect_and_wait(alice: Agent, bob: Agent) -> None:
    for one, other in ((alice, bob), (bob, alice)):
        other.set_remote_credentials(one.credentials)
        for candidate in one._driver.ice.local_candidates:
            other.add_remote_candidate(candidate)
        other.add_remote_candidate(None)
    await alice.wait_connected()


async def test_a_path_that_dies_is_silent_then_broken(vnet: Any, answer_stun: Any) -> None:
    """Consent ends after 30 s without answer: the reader is told, what came before is still received."""
    async with internet(vnet, answer_stun) as world, agents(world, LIVE) as (alice, bob):
        await connect(alice, bob)
        await bob.send(b"final messages")
        await trio.sleep(1)
        world.bob.partition()
        cut_at = trio.current_time()
        await trio.sleep(15)
        assert alice.state is AgentState.DISCONNECTED
        assert alice.explain().kind is VerdictKind.SILENT
        assert await alice.receive() == b"final messages"
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(30):
            await alice.receive()
        # The last answer came before the cut, and at most one consent check of 4 to 6 s before (RFC 7675 section 5.1).
        assert 30 - 6 - 0.1 <= trio.current_time() - cut_at <= 30 + 0.1
        assert alice.explain().kind is VerdictKind.CONSENT_LOST
        events = [event for _, event in alice._driver.timeline.entries()]
        assert any(isinstance(event, ice.ConsentLost) for event in events)


async def test_trap_27_no_timer_and_no_packet_after_close(vnet: Any, answer_stun: Any) -> None:
    """Trap 27: a closed agent is silent for ever, consent checks and keepalives included."""
    async with internet(vnet, answer_stun) as world, agents(world, LIVE) as (alice, bob):
        await connect(alice, bob)
        await alice.aclose()
        await bob.aclose()
        await trio.sleep(1)
        packets = len(world.net.trace)
        await trio.sleep(1000)
        assert len(world.net.trace) == packets


async def test_trap_22_a_name_server_that_does_not_answer_delays_nothing(vnet: Any, answer_stun: Any) -> None:
    """Trap 22: lookups run beside everything else, once, within the same budget."""
    async with internet(vnet, answer_stun) as world:
        world.net.dns_delay_s = 1000.0
        async with open_agent(config_of(world.alice, servers=[LIVE]), role=Role.CONTROLLING) as agent:
            start = trio.current_time()
            assert len([candidate async for candidate in agent.local_candidates()]) == 1
            assert trio.current_time() - start == pytest.approx(5.0)
            assert "name lookup" in "".join(agent.explain().evidence)


async def test_a_dead_peer_does_not_flood_the_timeline(vnet: Any) -> None:
    """ICMP answers each datagram to a closed port; the log tells it once and keeps the beginning."""
    world = Internet(vnet())
    async with world.net, open_agent(config_of(world.server), role=Role.CONTROLLING) as agent:
        base = agent._gatherer.bases[0].address
        for _ in range(1000):
            agent._driver._note_unreachable(base, virtual_address(world.silent.address, 9), 111)
        events = [event for _, event in agent._driver.timeline.entries()]
        assert sum(isinstance(event, DestinationUnreachable) for event in events) == 1
        assert isinstance(events[0], ice.LocalCandidateAdded)
