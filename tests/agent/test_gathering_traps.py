"""Traps 20, 22, 23 and 26 through whole agents, beside those in test_gathering.py."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
from virtual_pair import trickle, two_agents

from iceagent import vnet as virtual
from iceagent.agent import AgentConfig, CandidateType, IceServer, Role, open_agent
from iceagent.core.address import TransportAddress
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions


async def time_to_connect(vnet: Any, *names: str) -> float:
    """Return how long two agents take, when each is told candidates with these names first."""
    async with two_agents(vnet(), virtual.PORT_RESTRICTED, virtual.FULL_CONE) as lab:
        start = trio.current_time()
        for agent in lab.agents:
            for number, name in enumerate(names):
                agent.add_remote_candidate(f"candidate:{number} 1 udp 2130706431 {name} {4000 + number} typ host")
        with trio.fail_after(30):
            await lab.connect()
        return trio.current_time() - start


async def test_trap_20_names_that_nobody_answers_to_stall_nothing(vnet: Any) -> None:
    """Browsers hide addresses behind `.local`; from another network they cannot be resolved, and nobody says so."""
    names = ["6a8e1a6c-3c7e-4b0d-8f0a-000000000001.local", "nobody.local", "x" * 63 + ".local"]
    assert await time_to_connect(vnet, *names) == pytest.approx(await time_to_connect(vnet))


async def test_trap_20_no_name_whatever_harms_the_session(vnet: Any) -> None:
    """What stands in a description is the peer's word."""
    names = [".local", "..local", "a.b.local", "nobody.example", "LOCAL", "-.local", "xn--.local", "local."]
    assert await time_to_connect(vnet, *names) == pytest.approx(await time_to_connect(vnet), abs=0.05)


async def test_trap_22_a_name_is_looked_up_once_for_each_server(vnet: Any) -> None:
    """Not once for each of our addresses, nor for each retransmission."""
    net = vnet(families=(4, 6))
    net.dns_delay_s = 0.3
    for name in ("one.example", "other.example"):
        net.host(net.internet, name=name)
    host = net.host(net.internet)
    host.attach(net.internet)
    asked: Counter[str] = Counter()
    resolve = host.resolve

    async def count(name: str, port: int, *, family: int | None = None) -> list[TransportAddress]:
        asked[name] += 1
        return await resolve(name, port, family=family)

    host.resolve = count
    servers = [IceServer("stun:one.example"), IceServer("stun:other.example")]
    config = AgentConfig(servers=servers, network=host, randbytes=host.randbytes)
    async with net, open_agent(config, role=Role.CONTROLLING) as agent:
        start = trio.current_time()
        found = [candidate async for candidate in agent.local_candidates()]
        assert len(found) == 4
        assert trio.current_time() - start <= config.gather_budget_s + 1e-9
    assert set(asked) == {"one.example", "other.example"}
    assert max(asked.values()) <= 2  # once for each family, both at the same time


async def test_trap_23_local_preferences_are_unique_for_each_address(vnet: Any) -> None:
    """Two pairs of one priority would be ordered differently by the two sides (RFC 8445 section 5.1.2.1)."""
    net = vnet(families=(4, 6))
    host = net.host(net.internet, name="host")
    for _ in range(5):
        host.attach(net.internet)
    config = AgentConfig(network=host, randbytes=host.randbytes)
    async with net, open_agent(config, role=Role.CONTROLLING) as agent:
        found = [candidate async for candidate in agent.local_candidates()]
        assert len(found) >= 12
        assert len({candidate.priority for candidate in found}) == len(found)
        host.renew()
        await trio.sleep(5)
        found = [one for one in agent._driver.ice.local_candidates if one.type is CandidateType.HOST]
        assert len({candidate.priority for candidate in found}) == len(found)


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.011, 0.03, 0.05, 0.2, 0.6, 3.0])
@pytest.mark.parametrize("how", ["cancelled", "error", "return"])
async def test_trap_26_gathering_with_everything_leaves_nothing(vnet: Any, after_s: float, how: str) -> None:
    """STUN, a relay over every transport, a dead server, a gateway to ask: no socket, no allocation, no packet."""
    net = vnet()
    net.dns_delay_s = 0.01
    turn = net.host(net.internet, name="turn.example")
    net.host(net.internet, name="dead.example").partition()
    home = net.router(net.internet, nat=virtual.PORT_RESTRICTED, delay_s=0.01)
    host = net.host(home, name="host")
    listen = [TransportAddress(turn.address, 3478)]
    options = TurnOptions(listen, users={"user": "password of the user"}, tcp_listen=listen)
    login: dict[str, Any] = {"username": "user", "credential": "password of the user"}
    servers = [
        IceServer("turn:turn.example", **login),
        IceServer("turn:dead.example", **login),
        IceServer("stun:dead.example"),
        IceServer("stun:unknown.example"),
    ]
    config = AgentConfig(servers=servers, network=host, randbytes=host.randbytes, port_mapping=True)
    async with net, open_turn_server(options, network=turn, randbytes=turn.randbytes) as server:
        await trio.sleep(0.1)  # the server's tasks have begun
        tasks = trio.lowlevel.current_statistics().tasks_living
        with trio.move_on_after(after_s if how == "cancelled" else 1000):
            try:
                async with open_agent(config, role=Role.CONTROLLING):
                    if how == "return":
                        await trio.sleep(after_s)
                    elif how == "error":
                        await trio.sleep(after_s)
                        raise ValueError("of the body")
                    else:
                        await trio.sleep_forever()
            except ValueError:
                assert how == "error"
        assert host.sockets == []
        await trio.sleep(10)  # what is on its way arrives, the server hears of the end
        assert not server.core.allocations
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        packets = len(net.trace)
        await trio.sleep(1000)
        assert len(net.trace) == packets
    assert net.statistics().sockets_left_open == 0


async def test_trap_26_a_restart_that_is_cancelled_in_mid_gather_leaves_nothing(vnet: Any) -> None:
    """The second gathering is a task like the first."""
    for after_s in (0.0, 0.01, 0.04, 0.2):
        net = vnet()
        net.host(net.internet, name="dead.example").partition()
        options: dict[str, Any] = {"servers": [IceServer("stun:dead.example")]}
        hosts = [net.host(net.internet) for _ in range(2)]
        configs = [AgentConfig(network=host, randbytes=host.randbytes, **options) for host in hosts]
        async with net:
            async with (
                open_agent(configs[0], role=Role.CONTROLLING) as alice,
                open_agent(configs[1], role=Role.CONTROLLED) as bob,
                trio.open_nursery() as nursery,
            ):
                for one, other in ((alice, bob), (bob, alice)):
                    one.set_remote_credentials(other.credentials)
                    nursery.start_soon(trickle, one, other)
                await alice.wait_connected()
                alice.restart()
                await trio.sleep(after_s)
                nursery.cancel_scope.cancel()
            assert all(host.sockets == [] for host in hosts)
            await trio.sleep(1)
            packets = len(net.trace)
            await trio.sleep(1000)
            assert len(net.trace) == packets
