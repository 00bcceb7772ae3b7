"""Gathering that waits for nobody, tells when there is enough, and takes what comes late."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import trio
from signaling import carry

from iceagent import vnet as virtual
from iceagent.agent import (
    Agent,
    AgentConfig,
    CandidateType,
    GatheringEnough,
    IceServer,
    RelayAllocated,
    Role,
    open_agent,
)
from iceagent.agent.gather.gatherer import ENOUGH_GRACE_S
from iceagent.agent.gather.reflexive import QUESTION_S
from iceagent.core import ice
from iceagent.core.address import TransportAddress
from iceagent.core.constants import TA_S
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions

LIVE = IceServer("stun:stun.example")
DEAD = IceServer("stun:dead.example")
UNKNOWN = IceServer("stun:unknown.example")
TURN = IceServer("turn:turn.example?transport=udp", username="george", credential="x")
DEAD_TURN = IceServer("turn:deadturn.example", username="george", credential="x")
RTT = 0.024  # of a home to a server: 1 + 10 + 1 ms each way


class Internet:
    """Servers, dead and alive, of both families; two homes behind NATs of IPv4."""

    def __init__(self, net: virtual.Network) -> None:
        self.net = net
        self.stun, self.dead, self.turn, self.dead_turn = (
            net.host(net.internet, name=f"{name}.example") for name in ("stun", "dead", "turn", "deadturn")
        )
        for host in (self.dead, self.dead_turn):
            host.partition()  # silent: who refuses has answered
        homes = [net.router(net.internet, nat=virtual.PORT_RESTRICTED, families=(4,)) for _ in range(2)]
        self.alice, self.bob = (net.host(home) for home in homes)

    def give_broken_ipv6(self, host: virtual.Host) -> None:
        """Let an access point announce a prefix that leads nowhere."""
        nowhere = self.net.router(self.net.internet, families=(6,))
        nowhere.link.cut()
        host.attach(nowhere)

    def config(self, host: virtual.Host, *servers: IceServer, **options: Any) -> AgentConfig:
        return AgentConfig(servers=servers, network=host, randbytes=host.randbytes, **options)

    async def serve(self, answer_stun: Any, after_s: float) -> None:
        """Answer STUN queries at both addresses of the live server, be silent for a while first, until cancelled."""
        sockets = [await self.stun.open_udp(host, 3478) for host in self.stun.addresses()]
        await trio.sleep(after_s)
        async with trio.open_nursery() as nursery:
            for sock in sockets:
                with trio.move_on_after(0):
                    await sock.receive()  # what came meanwhile is lost
                nursery.start_soon(answer_stun, sock)

    @asynccontextmanager
    async def turn_server(self) -> AsyncIterator[None]:
        options = TurnOptions(
            listen=[TransportAddress(self.turn.address, 3478)],
            tcp_listen=(),
            users={"george": "x"},
            allow_peers=["0.0.0.0/0", "::/0"],
        )
        async with open_turn_server(options, network=self.turn, randbytes=self.turn.randbytes):
            yield


@pytest.fixture
def internet(vnet: Any, answer_stun: Any) -> Any:
    """An internet whose STUN server begins to answer after a while."""

    @asynccontextmanager
    async def open_internet(*, answers_after_s: float = 0.0) -> AsyncIterator[Internet]:
        world = Internet(vnet(families=(4, 6)))

        async with world.net, trio.open_nursery() as nursery:
            nursery.start_soon(world.serve, answer_stun, answers_after_s)
            await trio.sleep(0.001 if not answers_after_s else 0)
            yield world
            nursery.cancel_scope.cancel()
            for sock in world.stun.sockets:
                sock.close()

    return open_internet


async def time_to_connect(world: Internet, *servers: IceServer) -> float:
    """Return the seconds from opening both agents to a selected pair on both sides."""
    async with (
        open_agent(world.config(world.alice, *servers), role=Role.CONTROLLING) as alice,
        open_agent(world.config(world.bob, *servers), role=Role.CONTROLLED) as bob,
        trio.open_nursery() as nursery,
    ):
        started_at = trio.current_time()
        nursery.start_soon(carry, alice, bob)
        nursery.start_soon(carry, bob, alice)
        await alice.wait_connected()
        await bob.wait_connected()
        took_s = trio.current_time() - started_at
        nursery.cancel_scope.cancel()
    return took_s


def kinds(candidates: list[Any]) -> list[str]:
    return [candidate.type.value for candidate in candidates]


def enough(agent: Agent) -> GatheringEnough:
    found = [event for _, event in agent._driver.timeline.entries() if isinstance(event, GatheringEnough)]
    assert len(found) == 1
    return found[0]


async def test_dead_servers_and_broken_ipv6_delay_the_first_pair_by_nothing(internet: Any) -> None:
    """The complaint about other tools: one dead server, and everybody waits. Here not a nanosecond of virtual time."""
    took = []
    for dead in (False, True):
        async with internet() as world, world.turn_server():
            if dead:
                world.give_broken_ipv6(world.alice)
            others = (DEAD, DEAD_TURN, UNKNOWN) if dead else ()
            took.append(await time_to_connect(world, *others, LIVE, TURN))
    assert took[1] == pytest.approx(took[0], abs=1e-9)  # the clock is a float


async def test_broken_ipv6_on_both_sides_costs_one_check(internet: Any) -> None:
    """There is a pair then, and it may work; RFC 8421 has the families take turns, so it costs one Ta and no more."""
    took = []
    for broken in (False, True):
        async with internet() as world:
            for host in (world.alice, world.bob) if broken else ():
                world.give_broken_ipv6(host)
            took.append(await time_to_connect(world, DEAD, DEAD_TURN, LIVE))
    assert took[1] - took[0] <= TA_S + 1e-9


async def test_enough_is_known_with_the_first_answer_of_each_kind(internet: Any) -> None:
    """Dead servers beside live ones cost no time: what they could tell is known already."""
    for servers in ((LIVE, TURN), (DEAD, UNKNOWN, LIVE, DEAD_TURN, TURN)):
        async with (
            internet() as world,
            world.turn_server(),
            open_agent(world.config(world.alice, *servers), role=Role.CONTROLLING) as agent,
        ):
            started_at = trio.current_time()
            found = await agent.wait_gathered()
            assert kinds(found) == ["host", "srflx", "relay"]
            assert trio.current_time() - started_at == pytest.approx(2 * RTT)  # a relay takes two requests
            assert enough(agent) == GatheringEnough(3, ())


@pytest.mark.parametrize(
    ("servers", "after_s", "missing"),
    [
        ((), 0.0, ()),
        ((UNKNOWN,), 0.0, ()),
        ((LIVE, DEAD_TURN), ENOUGH_GRACE_S, ("relay",)),
        ((DEAD,), ENOUGH_GRACE_S, ("srflx IPv4",)),
        ((DEAD_TURN,), 5.0, ("srflx IPv4", "relay")),
    ],
)
async def test_the_silent_are_waited_for_as_long_as_it_is_likely_to_help(
    internet: Any, servers: tuple[IceServer, ...], after_s: float, missing: tuple[str, ...]
) -> None:
    """A lost packet must not cost the candidate; a dead server must not cost the user's patience."""
    async with internet() as world, open_agent(world.config(world.alice, *servers), role=Role.CONTROLLING) as agent:
        started_at = trio.current_time()
        await agent.wait_gathered()
        assert trio.current_time() - started_at == pytest.approx(after_s)
        assert enough(agent).missing == missing


async def test_broken_ipv6_is_waited_for_one_second(internet: Any) -> None:
    """Its silence is no reason to hold back what IPv4 has found."""
    async with internet() as world:
        world.give_broken_ipv6(world.alice)
        async with open_agent(world.config(world.alice, LIVE), role=Role.CONTROLLING) as agent:
            started_at = trio.current_time()
            assert kinds(await agent.wait_gathered()) == ["host", "host", "srflx"]
            assert trio.current_time() - started_at == pytest.approx(ENOUGH_GRACE_S)
            assert enough(agent).missing == ("srflx IPv6",)


async def test_with_full_trickle_a_late_answer_precedes_the_end(internet: Any) -> None:
    """RFC 8838 section 13: nothing follows the end, so the end waits for what may still come."""
    async with internet(answers_after_s=20.0) as world:
        config = world.config(world.alice, LIVE, DEAD, full_trickle=True)
        async with open_agent(config, role=Role.CONTROLLING) as agent:
            started_at = trio.current_time()
            assert kinds([candidate async for candidate in agent.local_candidates()]) == ["host", "srflx"]
            assert trio.current_time() - started_at == pytest.approx(QUESTION_S)


async def test_without_a_late_answer_is_for_late_candidates(internet: Any) -> None:
    """Who waits for the end is not held up, and the answer is not lost."""
    async with (
        internet(answers_after_s=20.0) as world,
        open_agent(world.config(world.alice, LIVE), role=Role.CONTROLLING) as agent,
    ):
        started_at = trio.current_time()
        assert kinds([candidate async for candidate in agent.local_candidates()]) == ["host"]
        assert trio.current_time() - started_at == pytest.approx(5.0)
        late = await anext(agent.late_candidates())
        assert late.type is CandidateType.SRFLX
        assert 20.0 < trio.current_time() - started_at < QUESTION_S
        assert kinds([candidate async for candidate in agent.local_candidates()]) == ["host", "srflx"]


async def test_a_late_relay_and_a_new_interface_are_late_candidates(internet: Any) -> None:
    """Whatever comes after the end reaches the peer, of every kind."""
    async with internet() as world, open_agent(world.config(world.alice, TURN), role=Role.CONTROLLING) as agent:
        assert kinds([candidate async for candidate in agent.local_candidates()]) == ["host"]
        late = agent.late_candidates()
        await trio.sleep(5)
        async with world.turn_server():
            found = await anext(late)
            while found.type is not CandidateType.RELAY:
                assert found.type is CandidateType.SRFLX  # the server answers both kinds of question
                found = await anext(late)
            assert any(isinstance(event, RelayAllocated) for _, event in agent._driver.timeline.entries())
            cafe = world.net.router(world.net.internet, nat=virtual.PORT_RESTRICTED, families=(4,))
            interface = world.alice.attach(cafe)
            assert (await anext(late)).address.host == interface.address(4)


async def test_an_address_that_went_and_came_back_after_a_restart_is_late_again(internet: Any) -> None:
    """The same port is bound anew, so it is the same address: but the peer has never heard of it in this generation."""
    async with internet() as world, open_agent(world.config(world.alice), role=Role.CONTROLLING) as agent:
        agent.set_remote_credentials(ice.Credentials("peer", 22 * "p"))
        (first,) = [candidate async for candidate in agent.local_candidates()]
        heard: list[tuple[float, TransportAddress]] = []

        async def listen() -> None:
            async for late in agent.late_candidates():
                heard.append((trio.current_time(), late.address))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.sleep(1)  # the reader has seen the first generation end
            world.alice.set_up(up=False)
            await trio.sleep(10)
            agent.restart()
            await trio.sleep(10)  # and now the second one, without the address
            came_back_at = trio.current_time()
            world.alice.set_up()
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
        assert [address for at, address in heard if at >= came_back_at] == [first.address]


async def test_two_agents_connect_by_an_answer_that_came_late(internet: Any) -> None:
    """The peer's patience outlasts the server's silence: 39.5 s from its own last news (RFC 8863)."""
    async with (
        internet(answers_after_s=14.0) as world,
        open_agent(world.config(world.alice, LIVE, full_trickle=True), role=Role.CONTROLLING) as alice,
        open_agent(world.config(world.bob, LIVE, full_trickle=True), role=Role.CONTROLLED) as bob,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(carry, alice, bob)
        nursery.start_soon(carry, bob, alice)
        with trio.fail_after(QUESTION_S):
            pair = await alice.wait_connected()
        assert pair.remote.type is not CandidateType.HOST
        nursery.cancel_scope.cancel()


async def test_the_end_is_told_once_and_questions_end_with_the_agent(internet: Any) -> None:
    """Traps 26 and 27, for questions that outlive the end of candidates."""
    async with internet() as world:
        with closing(await world.dead.open_udp(world.dead.address, 3478)) as silent:
            async with open_agent(world.config(world.alice, DEAD), role=Role.CONTROLLING) as agent:
                assert kinds([candidate async for candidate in agent.local_candidates()]) == ["host"]
            await trio.sleep(1)
            asked = silent.statistics().datagrams_received
            await trio.sleep(2 * QUESTION_S)
            assert silent.statistics().datagrams_received == asked
            with pytest.raises(trio.ClosedResourceError):
                await agent.wait_gathered()
