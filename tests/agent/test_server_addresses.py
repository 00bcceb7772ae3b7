"""Servers with several addresses, of which some are dead; servers that refuse; and how long all that takes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from iceagent import vnet as virtual
from iceagent.agent import AgentConfig, CandidateType, IceServer, Role, ServerAnswered, ServerFailed, open_agent
from iceagent.agent.gather.gatherer import ENOUGH_GRACE_S
from iceagent.core.address import TransportAddress
from iceagent.net.staggered import ATTEMPT_DELAY_S
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions

LOGIN: dict[str, Any] = {"username": "user", "credential": "password of the user"}


class World:
    """A home behind a NAT, a server for everything, one that swallows what comes, and one where nobody listens."""

    def __init__(self, net: virtual.Network) -> None:
        self.net = net
        self.server = net.host(net.internet, name="living")
        self.silent = net.host(net.internet, name="silent")
        self.silent.partition()
        self.refusing = net.host(net.internet, name="refusing")
        self.home = net.host(net.router(net.internet, nat=virtual.PORT_RESTRICTED, delay_s=0.01))
        self.names: dict[str, list[str]] = {}
        usual = self.home.resolve

        async def resolve(host: str, port: int, *, family: int | None = None) -> list[TransportAddress]:
            if host not in self.names:
                return await usual(host, port, family=family)
            await trio.lowlevel.checkpoint()
            if family == 6:
                raise socket.gaierror(socket.EAI_NONAME, "no IPv6")
            return [TransportAddress(one, port) for one in self.names[host]]

        self.home.resolve = resolve  # type: ignore[method-assign]

    def config(self, *urls: str, **options: Any) -> AgentConfig:
        servers = [IceServer(url, **(LOGIN if url.startswith("turn") else {})) for url in urls]
        return AgentConfig(servers=servers, network=self.home, randbytes=self.home.randbytes, **options)


@asynccontextmanager
async def world(vnet: Any) -> AsyncIterator[World]:
    made = World(vnet())
    listen = [TransportAddress(made.server.address, 3478)]
    options = TurnOptions(listen, users={LOGIN["username"]: LOGIN["credential"]}, tcp_listen=listen)
    async with made.net, open_turn_server(options, network=made.server, randbytes=made.server.randbytes):
        yield made


@pytest.mark.parametrize("dead", ["silent", "refusing"])
async def test_a_stun_servers_name_is_tried_beyond_its_first_address(vnet: Any, dead: str) -> None:
    """Two A records and the first host is down: nobody was seen from outside for as long as a question lasts."""
    async with world(vnet) as here:
        first = here.silent if dead == "silent" else here.refusing
        here.names["stun.example"] = [first.address, first.address, here.server.address]
        async with open_agent(here.config("stun:stun.example"), role=Role.CONTROLLING) as agent:
            start = trio.current_time()
            found = await agent.wait_gathered()
            took = trio.current_time() - start
            assert [one.type for one in found] == [CandidateType.HOST, CandidateType.SRFLX]
            assert took < (2 * ATTEMPT_DELAY_S if dead == "silent" else 0) + 0.2
            events = [event for _, event in agent._driver.timeline.entries()]
            assert [event.url for event in events if isinstance(event, ServerAnswered)] == ["stun:stun.example"]
            assert not [event for event in events if isinstance(event, ServerFailed)]


async def test_a_stun_server_over_tcp_is_tried_beyond_its_first_address(vnet: Any) -> None:
    """The same where UDP is blocked."""
    async with world(vnet) as here:
        here.names["stun.example"] = [here.silent.address, here.refusing.address, here.server.address]
        config = here.config("stun:stun.example?transport=tcp", tcp_candidates=True)
        async with open_agent(config, role=Role.CONTROLLING) as agent:
            found = [one async for one in agent.local_candidates()]
            assert {one.tcp_type for one in found if one.type is CandidateType.SRFLX} == {"passive", "so"}


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_turn_servers_name_is_tried_beyond_its_first_address(vnet: Any, transport: str) -> None:
    """RFC 5928: a relay was missing for as long as the first address stayed dead."""
    async with world(vnet) as here:
        here.names["turn.example"] = [here.silent.address, here.refusing.address, here.server.address]
        config = here.config(f"turn:turn.example?transport={transport}")
        async with open_agent(config, role=Role.CONTROLLING) as agent:
            found: list[Any] = []
            with trio.fail_after(4):
                while not found:
                    await trio.sleep(0.1)
                    found = [one for one in agent._driver.ice.local_candidates if one.type is CandidateType.RELAY]


async def test_a_refused_port_is_an_answer(vnet: Any) -> None:
    """Nobody listens there, says its host; waiting for more than that used to take five seconds."""
    async with world(vnet) as here, open_agent(here.config("stun:refusing"), role=Role.CONTROLLING) as agent:
        start = trio.current_time()
        await agent.wait_gathered()
        assert trio.current_time() - start < 0.2
        assert len([one async for one in agent.local_candidates()]) == 1
        assert trio.current_time() - start < 0.2
        (failure,) = [event for _, event in agent._driver.timeline.entries() if isinstance(event, ServerFailed)]
        assert "nobody listens" in failure.reason


async def test_a_dead_server_and_no_other_costs_one_second(vnet: Any) -> None:
    """What is said in one message waits for a silent server no longer than a lost packet takes."""
    async with world(vnet) as here, open_agent(here.config("stun:silent"), role=Role.CONTROLLING) as agent:
        start = trio.current_time()
        await agent.wait_gathered()
        assert trio.current_time() - start == pytest.approx(ENOUGH_GRACE_S, abs=0.1)


async def test_a_slow_name_lookup_is_not_counted_as_silence(vnet: Any) -> None:
    """The server has not been asked yet."""
    async with world(vnet) as here:
        here.net.dns_delay_s = 1.5
        async with open_agent(here.config("stun:living"), role=Role.CONTROLLING) as agent:
            assert CandidateType.SRFLX in [one.type for one in await agent.wait_gathered()]


async def test_a_relay_is_waited_for_where_nothing_answers(vnet: Any) -> None:
    """Who blocks UDP lets TURN through by TCP, late: without it there would be no path at all."""
    async with world(vnet) as here:
        here.names["turn.example"] = [here.silent.address, here.silent.address, here.server.address]
        config = here.config("stun:silent", "turn:turn.example?transport=tcp")
        async with open_agent(config, role=Role.CONTROLLING) as agent:
            assert CandidateType.RELAY in [one.type for one in await agent.wait_gathered()]
