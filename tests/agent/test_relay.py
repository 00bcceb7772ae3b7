"""Relayed candidates on the virtual network: NATs that nothing else crosses, relay-only, restarts, dead servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from amount import amount
from signaling import carry_all

from iceagent.agent import (
    Agent,
    AgentConfig,
    AgentState,
    CandidateType,
    IceServer,
    RelayAllocated,
    RelayFailed,
    RelayReason,
    Role,
    TurnCredentials,
    VerdictKind,
    open_agent,
)
from iceagent.agent.gather.relay import routes_of
from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.vnet import SYMMETRIC, Host, Nat, Network

USER, PASSWORD = "george", "correct horse"
TURN = IceServer("turn:turn.example?transport=udp", username=USER, credential=PASSWORD)


@dataclass
class Relayed:
    """Two homes, and a TURN server on the internet that can be killed and started."""

    net: Network
    server: Host
    hosts: tuple[Host, Host]
    nursery: trio.Nursery
    scope: trio.CancelScope | None = None

    async def start(self) -> None:
        await self.nursery.start(self._serve)

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        options = TurnOptions(
            listen=[TransportAddress(self.server.address, 3478)],
            tcp_listen=(),
            users={USER: PASSWORD},
            allow_peers=["0.0.0.0/0"],
        )
        with trio.CancelScope() as self.scope:
            async with open_turn_server(options, network=self.server, randbytes=self.server.randbytes):
                task_status.started()
                await trio.sleep_forever()

    def kill(self) -> None:
        """Stop it as a crash does: without a word to anybody, its sockets gone."""
        assert self.scope is not None
        self.scope.cancel()

    def config(self, number: int, **options: Any) -> AgentConfig:
        host = self.hosts[number]
        settings: dict[str, Any] = {"servers": [TURN], "network": host, "randbytes": host.randbytes, **options}
        return AgentConfig(**settings)


@asynccontextmanager
async def relayed(net: Network, *nats: Nat | None) -> AsyncIterator[Relayed]:
    server = net.host(net.internet, name="turn.example")
    homes = [net.router(net.internet, nat=nat, delay_s=0.010) for nat in nats]
    hosts = [net.host(home, name=name) for home, name in zip(homes, ("alice", "bob"), strict=True)]
    async with net, trio.open_nursery() as nursery:
        lab = Relayed(net, server, (hosts[0], hosts[1]), nursery)
        await lab.start()
        yield lab
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(config_a: AgentConfig, config_b: AgentConfig) -> AsyncIterator[tuple[Agent, Agent]]:
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        a = await stack.enter_async_context(open_agent(config_a, role=Role.CONTROLLING))
        b = await stack.enter_async_context(open_agent(config_b, role=Role.CONTROLLED))
        nursery.start_soon(carry_all, a, b)
        nursery.start_soon(carry_all, b, a)
        await a.wait_connected()
        await b.wait_connected()
        yield a, b
        nursery.cancel_scope.cancel()


async def exchange(sender: Agent, receiver: Agent, text: bytes) -> None:
    """Send until it arrives, as anything on top of datagrams does."""
    async with trio.open_nursery() as nursery:

        async def repeat() -> None:
            while True:
                with trio.move_on_after(0.1):
                    await sender.send(text)
                await trio.sleep(0.1)

        nursery.start_soon(repeat)
        while await receiver.receive() != text:
            pass
        nursery.cancel_scope.cancel()


async def test_two_symmetric_nats_are_connected_through_the_relay(vnet: Any) -> None:
    """The one pair of homes that nothing else connects; what one server shows of why is told, and is no proof."""
    with trio.fail_after(60):
        async with (
            relayed(vnet(), SYMMETRIC, SYMMETRIC) as lab,
            connected(lab.config(0), lab.config(1)) as (a, b),
        ):
            await exchange(a, b, b"there")
            await exchange(b, a, b"back")
            verdict = a.explain()
            assert verdict.kind is VerdictKind.RELAYED
            assert verdict.because is RelayReason.NO_DIRECT_ANSWER
            assert any("NAT maps per destination (symmetric), or" in line for line in verdict.evidence), str(verdict)
    assert lab.net.statistics().sockets_left_open == 0


async def test_a_direct_path_wins_over_the_relay(vnet: Any) -> None:
    """Relayed means slow and somebody's bill: only where nothing else works."""
    with trio.fail_after(60):
        async with relayed(vnet(), None, None) as lab, connected(lab.config(0), lab.config(1)) as (a, b):
            pair = a.selected_pair
            assert pair is not None
            assert (pair.local.type, pair.remote.type) == (CandidateType.HOST, CandidateType.HOST)
            assert {event.address for _, event in _events(a) if isinstance(event, RelayAllocated)}
            await exchange(b, a, b"direct")


async def test_trap_4_relay_only_sends_nothing_but_to_the_server_and_shows_nothing(vnet: Any) -> None:
    """Who hides an address hides it in every packet and every candidate, or not at all."""
    with trio.fail_after(60):
        async with relayed(vnet(), None, None) as lab:
            hidden = lab.config(0, transport_policy="relay")
            async with connected(hidden, lab.config(1)) as (a, b):
                await exchange(a, b, b"there")
                await exchange(b, a, b"back")
                told = [candidate.to_sdp() for candidate in a._driver.ice.local_candidates]
                assert told
                assert all(" typ relay raddr 0.0.0.0 rport 9" in text for text in told)
                assert all(lab.hosts[0].address not in text for text in told)
                assert not a._gatherer.bases
                assert set(a._driver.sockets) == {candidate.address for candidate in a._driver.ice.local_candidates}
            sent = [record.packet for record in lab.net.trace if (record.place, record.event) == ("alice", "send")]
            assert sent
            assert {packet.destination.host for packet in sent} == {lab.server.address}


@pytest.mark.parametrize("policies", [("relay", "all"), ("all", "relay"), ("relay", "relay")])
async def test_a_restarted_server_costs_five_seconds_at_most(vnet: Any, policies: tuple[str, str]) -> None:
    """All allocations are gone without a word; new addresses, new pairs, and the data flows on."""
    with trio.fail_after(120):
        async with relayed(vnet(), SYMMETRIC, SYMMETRIC) as lab:
            configs = [lab.config(number, transport_policy=policy) for number, policy in enumerate(policies)]
            async with connected(*configs) as (a, b):
                await exchange(a, b, b"before")
                await trio.sleep(10)
                lab.kill()
                await trio.sleep(1.0)
                await lab.start()
                restarted_at = trio.current_time()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(exchange, a, b, b"there")
                    nursery.start_soon(exchange, b, a, b"back")
                assert trio.current_time() - restarted_at < 5.0
                await trio.sleep(40)
                assert AgentState.FAILED not in (a.state, b.state)
    assert lab.net.statistics().sockets_left_open == 0


@pytest.mark.thorough
async def test_an_hour_of_silence_keeps_the_relayed_path(vnet: Any) -> None:
    """Trap 29 from end to end: allocation, permissions and channels outlive any pause (15 minutes in `make test`)."""
    with trio.fail_after(4000):
        async with (
            relayed(vnet(), SYMMETRIC, SYMMETRIC) as lab,
            connected(lab.config(0), lab.config(1)) as (a, b),
        ):
            await exchange(a, b, b"before")
            await trio.sleep(amount(3600, 900))
            await exchange(a, b, b"after")
            await exchange(b, a, b"back")
            assert a.statistics().transport.selected_pair_changes == 1


async def test_trap_21_a_dead_turn_server_delays_nothing(vnet: Any) -> None:
    """Trap 21, for relays: the direct path is there as soon as without any."""
    durations = []
    for servers in ([], [TURN]):
        with trio.fail_after(60):
            async with relayed(vnet(), None, None) as lab:
                lab.kill()
                started_at = trio.current_time()
                async with connected(lab.config(0, servers=servers), lab.config(1, servers=servers)):
                    durations.append(trio.current_time() - started_at)
    assert durations[1] <= durations[0] + 0.001


async def test_wrong_credentials_are_explained(vnet: Any) -> None:
    """The remedy is in the message, not in the server's log."""
    wrong = IceServer("turn:turn.example?transport=udp", username=USER, credential="wrong")
    with trio.fail_after(60):
        async with relayed(vnet(), None, None) as lab:
            config = lab.config(0, servers=[wrong], transport_policy="relay")
            async with open_agent(config, role=Role.CONTROLLING) as agent:
                assert [candidate async for candidate in agent.local_candidates()] == []
                verdict = agent.explain()
                assert verdict.kind is VerdictKind.RELAY_REFUSED
                assert "401" in verdict.summary
                assert "password" in verdict.remedy


async def test_credentials_may_come_from_a_function(vnet: Any) -> None:
    """Applications ask their own service for short-lived ones."""
    asked = []

    async def fetch() -> TurnCredentials:
        await trio.sleep(0.01)
        asked.append(1)
        return TurnCredentials(USER, PASSWORD)

    server = IceServer("turn:turn.example?transport=udp", credentials=fetch)
    with trio.fail_after(60):
        async with (
            relayed(vnet(), SYMMETRIC, SYMMETRIC) as lab,
            connected(lab.config(0, servers=[server]), lab.config(1, servers=[server])) as (a, b),
        ):
            await exchange(a, b, b"there")
    assert len(asked) == 2


async def test_closing_gives_the_allocation_back(vnet: Any) -> None:
    """A server would keep the port for ten minutes otherwise, and count it against the user's quota."""
    with trio.fail_after(60):
        async with relayed(vnet(), None, None) as lab:
            before = len(lab.server.sockets)
            async with open_agent(lab.config(0), role=Role.CONTROLLING) as agent:
                assert [candidate.type async for candidate in agent.local_candidates()].count(CandidateType.RELAY) == 1
                assert len(lab.server.sockets) > before
            await trio.sleep(0.1)
            assert len(lab.server.sockets) == before
            assert lab.hosts[0].sockets == []


async def test_closing_beside_a_dead_server_is_bounded(vnet: Any) -> None:
    """Ctrl-C must not wait for a server that is gone."""
    with trio.fail_after(60):
        async with relayed(vnet(), None, None) as lab:
            async with open_agent(lab.config(0), role=Role.CONTROLLING) as agent:
                assert [candidate async for candidate in agent.local_candidates()]
                lab.kill()
                await trio.sleep(0.1)
                closing_at = trio.current_time()
            assert trio.current_time() - closing_at <= 0.51
            assert lab.hosts[0].sockets == []


async def test_worse_routes_start_late_and_only_where_better_ones_fail(vnet: Any) -> None:
    """A blocked route costs a stagger, not a timeout; one that works spares all below."""
    both = IceServer("turn:turn.example", username=USER, credential=PASSWORD)
    with trio.fail_after(60):
        async with relayed(vnet(), None, None) as lab:
            async with open_agent(lab.config(0, servers=[both]), role=Role.CONTROLLING) as agent:
                assert [candidate async for candidate in agent.local_candidates()]
                await trio.sleep(5)
                assert [event.transport for _, event in _events(agent) if isinstance(event, RelayAllocated)] == ["udp"]
                assert not any(isinstance(event, RelayFailed) for _, event in _events(agent))
            lab.kill()
            await trio.sleep(0.1)
            with closing(await lab.server.open_udp(lab.server.address, 3478)):  # silent, while TCP is refused
                started_at = trio.current_time()
                async with open_agent(lab.config(0, servers=[both]), role=Role.CONTROLLING) as agent:
                    assert await _first_failure(agent) == "tcp"
                    assert 0.3 <= trio.current_time() - started_at < 1.0


async def test_a_route_that_is_refused_costs_no_stagger(vnet: Any) -> None:
    """A closed port is an answer: the next route begins at once."""
    both = IceServer("turn:turn.example", username=USER, credential=PASSWORD)
    with trio.fail_after(60):
        async with relayed(vnet(), None, None) as lab:
            lab.kill()
            await trio.sleep(0.1)
            started_at = trio.current_time()
            async with open_agent(lab.config(0, servers=[both]), role=Role.CONTROLLING) as agent:
                assert await _first_failure(agent) == "udp"
                assert trio.current_time() - started_at < 0.1
                while len([event for _, event in _events(agent) if isinstance(event, RelayFailed)]) < 2:
                    await trio.sleep(0.01)
                assert trio.current_time() - started_at < 0.2


async def _first_failure(agent: Agent) -> str:
    """Wait until a route has failed; return its transport."""
    while True:
        for _, event in _events(agent):
            if isinstance(event, RelayFailed):
                return event.transport
        await trio.sleep(0.01)


def test_routes_are_ordered_and_carry_the_proxy() -> None:
    """UDP, DTLS, TCP, TLS, and last what goes through the proxy."""
    servers = [
        IceServer("turns:192.0.2.1:443"),
        IceServer("turn:192.0.2.1"),
        IceServer("turns:192.0.2.1?transport=udp"),
    ]
    routes = routes_of(servers, AgentConfig(proxy="http://proxy:3128"), {4, 6})
    assert [(route.target.transport, route.target.port, route.proxy is not None) for route in routes] == [
        ("udp", 3478, False),
        ("dtls", 5349, False),
        ("tcp", 3478, False),
        ("tls", 443, False),
        ("tls", 443, True),
        ("tcp", 3478, True),
    ]
    named = routes_of([IceServer("turn:turn.example?transport=udp")], AgentConfig(proxy=""), {4, 6})
    assert [route.family for route in named] == [4, 6]


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("turn:x?transport=sctp", {}),
        ("turn:x?foo=udp", {}),
        ("turns:x?transport=", {}),
        ("turn:x", {"username": "u"}),
        ("turn:x", {"credential": "p"}),
    ],
)
def test_turn_urls_that_cannot_work_are_refused(url: str, options: dict[str, Any]) -> None:
    """RFC 7065; a server without its password would only be asked in vain."""
    if url == "turns:x?transport=":
        assert IceServer(url).transports() == ("tls",)
        return
    with pytest.raises(LocalError):
        IceServer(url, **options)


def _events(agent: Agent) -> list[tuple[float, Any]]:
    return agent._driver.timeline.entries()


async def test_servers_can_be_changed_while_an_agent_runs(vnet: Any) -> None:
    """As the W3C's setConfiguration: a new one is asked by the next gathering, one that is left out no more.

    One that has refused us is asked again at once when its credentials are others.
    """
    wrong = IceServer(TURN.url, username=USER, credential="battery staple")
    with trio.fail_after(600):
        async with relayed(vnet(), None, None) as lab:
            async with open_agent(lab.config(0, servers=[wrong]), role=Role.CONTROLLING) as agent:
                await _first_failure(agent)
                asked_at = trio.current_time()
                agent.set_servers([TURN])
                while not _stands(agent):
                    await trio.sleep(0.01)
                assert trio.current_time() - asked_at < 1.0  # a refused route waits for a minute otherwise
            async with connected(lab.config(0, servers=[]), lab.config(1, servers=[])) as (agent, _):
                agent.set_servers([TURN])
                await trio.sleep(10)
                assert not _stands(agent)
                agent.restart()
                await agent.wait_gathered()
                assert _stands(agent)
                agent.set_servers([])
                lab.kill()
                await trio.sleep(100)
                assert not _stands(agent)
                await lab.start()
                await trio.sleep(100)
                assert not _stands(agent)
                with pytest.raises(LocalError):
                    agent.set_servers([443])  # type: ignore[list-item]


def _stands(agent: Agent) -> bool:
    return any(candidate.type is CandidateType.RELAY for candidate in agent._driver.ice.local_candidates)
