"""Trap 62: what a signaling relay names as a server is a stranger's word about where we send."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from turn_script import Script

from iceagent.agent import AgentConfig, IceServer, Role, open_agent
from iceagent.agent.filters import Policy
from iceagent.agent.gather.servers import offered_servers
from iceagent.core import stun, turn
from iceagent.core.address import TransportAddress, make_address
from iceagent.net.proxy_choice import Proxy
from iceagent.net.turn.connect import TurnConnectOptions, TurnServerAddress, find_places
from iceagent.net.turn.redirect import Redirections

HERE = ["127.0.0.1", "127.9.9.9", "0.0.0.0", "224.0.0.251", "own"]
SCHEMES = ["stun:{}:6379", "turn:{}:6379?transport=udp", "turn:{}:6379?transport=tcp"]


async def knocks(vnet: Any, relay_host: str, url: str, resolves_to: str) -> int:
    """Return how often an agent that a relay has named a server to knocked at ports of its own machine."""
    net = vnet()
    host = net.host(net.internet, name="host")
    target = host.address if resolves_to == "own" else resolves_to
    entry = {"urls": [url.format(target), url.format("evil.example")], "username": "u", "credential": "p"}
    servers = offered_servers([entry], host.address if relay_host == "own" else relay_host, host)
    knocked = 0
    connect_tcp, resolve = host.connect_tcp, host.resolve

    async def count_tcp(remote: TransportAddress, **given: Any) -> Any:
        nonlocal knocked
        knocked += remote.port == 6379
        return await connect_tcp(remote, **given)

    async def resolve_evil(name: str, port: int, *, family: int | None = None) -> list[TransportAddress]:
        if name == "evil.example":
            return [TransportAddress(target, port)]
        return await resolve(name, port, family=family)

    host.connect_tcp, host.resolve = count_tcp, resolve_evil
    config = AgentConfig(
        servers=servers, network=host, randbytes=host.randbytes, include_loopback=True, tcp_candidates=True
    )
    async with net:
        database = await host.open_udp("0.0.0.0", 6379)
        async with open_agent(config, role=Role.CONTROLLING):
            with trio.move_on_after(12):
                while True:
                    knocked += len(await database.receive())
        database.close()
    return knocked


@pytest.mark.parametrize("url", SCHEMES)
@pytest.mark.parametrize("resolves_to", HERE)
async def test_trap_62_servers_named_by_a_relay_are_never_in_our_own_machine(
    vnet: Any, url: str, resolves_to: str
) -> None:
    """By literal, or by a name that resolves to it: the relay would have us knock at doors it cannot reach."""
    assert await knocks(vnet, "relay.example", url, resolves_to) == 0


@pytest.mark.parametrize("relay_host", ["localhost", "127.0.0.1", "own"])
async def test_trap_62_unless_the_relay_is_there_itself(vnet: Any, relay_host: str) -> None:
    """`iceagent serve --turn` for one machine, or a relay that is one's own: what it names is meant."""
    assert await knocks(vnet, relay_host, SCHEMES[0], "127.0.0.1" if relay_host != "own" else "own") > 0


async def test_trap_62_what_a_user_names_may_be_here(vnet: Any) -> None:
    """Only strangers are distrusted."""
    net = vnet()
    host = net.host(net.internet)
    config = AgentConfig(servers=[IceServer("stun:127.0.0.1:6379")], network=host, include_loopback=True)
    async with net:
        sock = await host.open_udp("127.0.0.1", 6379)
        async with open_agent(config, role=Role.CONTROLLING):
            with trio.fail_after(5):
                assert await sock.receive()
        sock.close()


@pytest.mark.parametrize("target", HERE)
async def test_trap_62_nor_are_those_a_server_names_in_its_place(vnet: Any, target: str) -> None:
    """300 (Try Alternate) to 127.0.0.1:6379: the relay's server is elsewhere, and its word leads here."""
    net = vnet()
    host, server = net.host(net.internet), net.host(net.internet, name="turn.example")
    alternate = make_address(host.address if target == "own" else target, 6379)
    script = Script(alternate=alternate)
    entry = {"urls": ["turn:turn.example?transport=udp"], "username": "u", "credential": "p"}
    config = AgentConfig(
        servers=offered_servers([entry], "relay.example", host), network=host, randbytes=host.randbytes
    )
    knocked = 0
    async with net, trio.open_nursery() as nursery:
        sock, database = await server.open_udp("0.0.0.0", 3478), await host.open_udp("0.0.0.0", 6379)

        async def answer() -> None:
            while True:
                for batch in await sock.receive():
                    for datagram in batch.datagrams():
                        response = script.answer(datagram)
                        if response is not None:
                            sock.send_nowait([response], batch.remote)

        nursery.start_soon(answer)
        async with open_agent(config, role=Role.CONTROLLING):
            with trio.move_on_after(20):
                while True:
                    knocked += len(await database.receive())
        nursery.cancel_scope.cancel()
        sock.close()
        database.close()
    assert knocked == 0
    assert 1 <= script.asked[stun.Method.ALLOCATE] <= 2  # and it is not asked over and over


@pytest.mark.parametrize("name", ["127.0.0.1", "::1", "localhost", "LOCALHOST.", "db.localhost", "0.0.0.0"])
async def test_trap_62_nor_through_a_proxy_which_may_be_here(vnet: Any, name: str) -> None:
    """A proxy in our own machine would connect to our own database as well."""
    net = vnet(families=(4, 6))
    host = net.host(net.internet)
    config = AgentConfig(servers=offered_servers([], "relay.example", host), network=host, include_loopback=True)
    server = IceServer(f"turn:[{name}]" if ":" in name else f"turn:{name}", may_be_here=False)
    async with net, open_agent(config, role=Role.CONTROLLING) as agent:
        options = TurnConnectOptions(
            proxy=Proxy("http", "127.0.0.1", 8080),
            permits=lambda address: agent._driver.policy.permits_server(address, server),
            permits_proxy=agent._driver.policy.permits_server,
        )
        with pytest.raises(OSError, match="forbidden"):
            await find_places(host, TurnServerAddress(name, 6379, "tcp"), options)
        assert await find_places(host, TurnServerAddress("turn.example", 6379, "tcp"), options) == [None]


NEVER = ["169.254.169.254", "fe80::1", "240.0.0.1", "255.255.255.255", "0.0.0.7", "fec0::1", "239.1.2.3", "ff02::fb"]
WRAPPED = ["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"]


@pytest.mark.parametrize("target", NEVER + WRAPPED)
async def test_trap_70_servers_named_by_strangers_are_no_neighbours_and_no_reserved_addresses(
    vnet: Any, target: str
) -> None:
    """Clouds give keys away at 169.254.169.254, and routers listen at link-local addresses: no door for a stranger."""
    net = vnet(families=(4, 6))
    host = net.host(net.internet)
    address = make_address(target, 3478)
    entry = {"urls": ["turn:turn.example"], "username": "u", "credential": "p"}
    (server,) = offered_servers([entry], "relay.example", host)
    policy = Policy(AgentConfig(servers=[server], network=host))
    assert not server.may_ask(address, ())
    assert not policy.permits_server(address, server)
    assert policy.permits_server(make_address("203.0.113.9", 3478), server)
    assert policy.permits_server(make_address("10.0.0.9", 3478), server)
    mine = IceServer("turn:turn.example", "u", "p")
    assert mine.may_ask(address, ())  # what the user says himself is meant
    for family, asked in ((4, "203.0.113.5"), (6, "2001:db8::5")):
        if address.family == family:
            ended = turn.Ended(turn.EndReason.ALTERNATE_SERVER, 300, alternate=address)
            assert Redirections().target(TurnServerAddress("turn.example"), ended, make_address(asked, 3478)) is None


@pytest.mark.parametrize(
    ("relay", "target", "works"),
    [
        ("fe80::9%eth0", "fe80::1%eth0", True),
        ("169.254.3.4", "169.254.3.4", True),
        ("169.254.3.4", "127.0.0.1", False),
        ("169.254.3.4", "240.0.0.1", False),
        ("127.0.0.1", "127.0.0.1", True),
    ],
)
async def test_trap_70_unless_the_stranger_is_a_neighbour_itself(
    vnet: Any, relay: str, target: str, works: bool
) -> None:
    """Two machines on one cable, and the relay with its TURN server on one of them."""
    net = vnet()
    host = net.host(net.internet)
    (server,) = offered_servers([{"urls": ["stun:stun.example"]}], relay, host)
    assert server.may_ask(make_address(target, 3478), ()) == works
    ended = turn.Ended(turn.EndReason.ALTERNATE_SERVER, 300, alternate=make_address(target, 3479))
    place = make_address(relay, 3478)
    found = Redirections().target(TurnServerAddress("turn.example"), ended, place)
    assert (found is not None) == (works and place.ip.is_link_local)
