"""Trap 68: no value of any field of any message of a relay, a server, a gateway or a peer ends an agent.

Each test lets one kind of stranger say anything, and then looks whether the agent serves its other servers and peers.
What is contained (`iceagent.net.tasks`) fails the test, too: it is a fault, though one that ends nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stun_strategies import attributes, messages

from iceagent import vnet as virtual
from iceagent.agent import Agent, AgentConfig, AgentState, CandidateType, IceServer, Role, open_agent
from iceagent.agent.gather.servers import offered_servers
from iceagent.core import ice, stun, turn
from iceagent.core.address import TransportAddress
from iceagent.errors import IceError
from iceagent.net.proxy import Proxy, ProxyError, connect_through
from iceagent.net.turn.allocation import TurnLogin

SETTINGS = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TEXTS = st.text(max_size=40) | st.sampled_from(
    [
        "p\n",
        "\t",
        "\u00ad",
        "x" * 600,
        "\ud800",
        "",
        "\x00",
        "turn:",
        "stun:[",
        "stun:a:99999",
        "turn:x?transport=",
        "::",
    ]
)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.binary(max_size=9) | st.lists(TEXTS)
URLS = TEXTS | st.builds(
    "{}:{}{}{}".format,
    st.sampled_from(["stun", "turn", "turns", "stuns", "http", "STUN", ""]),
    st.sampled_from(["good.example", "evil.example", "127.0.0.1", "[::1]", "[fe80::1%x]", "a..b", "ü", "", "."]),
    st.sampled_from(["", ":", ":3478", ":0", ":99999", ":x"]),
    st.sampled_from(["", "?transport=udp", "?transport=tcp", "?transport=sctp", "?x", "#y", "/z"]),
)
ENTRIES = st.fixed_dictionaries(
    {}, optional={"urls": st.lists(URLS, max_size=6) | URLS, "username": VALUES, "credential": VALUES}
)
LOGIN: dict[str, Any] = {"username": "u", "credential": "p"}


def run(main: Callable[[virtual.Network], Any]) -> None:
    """Run one example on a network of its own, in virtual time."""

    async def within() -> None:
        net = virtual.Network(1)
        async with net:
            await main(net)

    virtual.run(within, seed=1)


async def good_server(net: virtual.Network, nursery: trio.Nursery) -> None:
    """Be the server that has done nothing wrong, until cancelled."""
    host = net.host(net.internet, name="good.example")
    sock = await host.open_udp(host.address, 3478)

    async def answer() -> None:
        while True:
            for batch in await sock.receive():
                for datagram in batch.datagrams():
                    request = stun.decode(datagram)
                    mapped = stun.XorMappedAddress(batch.remote)
                    sock.send_nowait([stun.encode(stun.success(request, mapped))], batch.remote)

    nursery.start_soon(answer)


async def hostile_server(net: virtual.Network, nursery: trio.Nursery, said: list[Any]) -> None:
    """Answer each request with the next of these messages, its transaction id and method put right."""
    host = net.host(net.internet, name="evil.example")
    sock = await host.open_udp(host.address, 3478)

    async def answer() -> None:
        at = 0
        while True:
            for batch in await sock.receive():
                for datagram in batch.datagrams():
                    try:
                        request = stun.decode(datagram)
                    except stun.StunError:
                        continue
                    kind, extras = said[at % len(said)]
                    at += 1
                    answer = replace(
                        stun.error(request, 401), message_class=kind, attributes=tuple(one for one in extras)
                    )
                    try:
                        data = stun.encode(answer)
                    except ValueError:
                        continue
                    sock.send_nowait([data], batch.remote)

    nursery.start_soon(answer)


async def serves_on(agent: Agent) -> None:
    """Fail unless the agent lives, and has been told its address by the server that has done nothing wrong."""
    with trio.fail_after(60):
        while CandidateType.SRFLX not in {one.type for one in agent._driver.ice.local_candidates}:
            await agent._driver.changed.park()
    await lives(agent)


async def lives(agent: Agent) -> None:
    """Fail unless the agent lives and can tell of itself."""
    await trio.lowlevel.checkpoint()
    assert agent.state is not AgentState.CLOSED
    agent.explain()
    agent.timeline_json()
    agent.statistics()


def home(net: virtual.Network) -> virtual.Host:
    return net.host(net.router(net.internet, nat=virtual.PORT_RESTRICTED))


@SETTINGS
@given(st.lists(ENTRIES, max_size=6), TEXTS)
def test_trap_68_nothing_a_relay_names_ends_an_agent(entries: list[dict[str, Any]], relay_host: str) -> None:
    """Every member of its rooms would end with it."""

    async def main(net: virtual.Network) -> None:
        async with trio.open_nursery() as nursery:
            await good_server(net, nursery)
            host = home(net)
            offered = offered_servers(entries, relay_host, host)
            config = AgentConfig(
                servers=[IceServer("stun:good.example"), *offered], network=host, randbytes=host.randbytes
            )
            async with open_agent(config, role=Role.CONTROLLING) as agent:
                await serves_on(agent)
                await trio.sleep(3)
                await serves_on(agent)
            nursery.cancel_scope.cancel()

    run(main)


ANSWERS = st.lists(
    st.tuples(
        st.sampled_from([stun.MessageClass.ERROR, stun.MessageClass.SUCCESS, stun.MessageClass.INDICATION]),
        st.lists(attributes, max_size=4)
        | st.tuples(
            st.builds(stun.ErrorCode, st.sampled_from([300, 401, 438, 400, 437, 441, 486, 500, 508])),
            st.builds(stun.Realm, st.text(max_size=120)),
            st.builds(stun.Nonce, st.text(max_size=120)),
            attributes,
        ),
    ),
    min_size=1,
    max_size=5,
)


@SETTINGS
@given(ANSWERS)
def test_trap_68_nothing_a_server_answers_ends_an_agent(said: list[Any]) -> None:
    """STUN and TURN alike; realm, nonce, lifetime and alternate server are its word."""

    async def main(net: virtual.Network) -> None:
        async with trio.open_nursery() as nursery:
            await good_server(net, nursery)
            await hostile_server(net, nursery, said)
            host = home(net)
            servers = [IceServer("turn:evil.example?transport=udp", **LOGIN), IceServer("stun:good.example")]
            config = AgentConfig(servers=servers, network=host, randbytes=host.randbytes)
            async with open_agent(config, role=Role.CONTROLLING) as agent:
                await serves_on(agent)
                await trio.sleep(5)
                await serves_on(agent)
            nursery.cancel_scope.cancel()

    run(main)


@SETTINGS
@given(st.lists(messages, min_size=1, max_size=8), st.lists(st.binary(max_size=80), max_size=8))
def test_trap_68_no_datagram_ends_an_agent(said: list[stun.Message], noise: list[bytes]) -> None:
    """From whoever knows the port, with the right credentials or none."""

    async def main(net: virtual.Network) -> None:
        async with trio.open_nursery() as nursery:
            await good_server(net, nursery)
            host, stranger = net.host(net.internet, name="host"), net.host(net.internet, name="stranger")
            config = AgentConfig(servers=[IceServer("stun:good.example")], network=host, randbytes=host.randbytes)
            async with open_agent(config, role=Role.CONTROLLING) as agent:
                agent.set_remote_credentials(ice.Credentials("peer", "p" * 24))
                sock = await stranger.open_udp(stranger.address)
                target = TransportAddress(host.address, agent._gatherer.bases[0].address.port)
                key = agent.credentials.pwd.encode()
                for message in said:
                    named = replace(
                        message,
                        attributes=(stun.Username(f"{agent.credentials.ufrag}:peer"), *message.attributes),
                    )
                    for one in (message, named):
                        for protection in (None, key, b"p" * 24):
                            try:
                                sock.send_nowait([stun.encode(one, key=protection)], target)
                            except ValueError:
                                continue
                for data in noise:
                    sock.send_nowait([data], target)
                await trio.sleep(3)
                sock.close()
                assert agent.state is not AgentState.CLOSED
                agent.explain()
                agent.timeline_json()
            nursery.cancel_scope.cancel()

    run(main)


CANDIDATES = TEXTS | st.builds(
    "candidate:{} {} {} {} {} {} typ {} {}".format,
    st.sampled_from(["1", "", "x" * 40, "é", "+/"]),
    st.sampled_from(["1", "0", "257", "-1", "x"]),
    st.sampled_from(["udp", "tcp", "UDP", "sctp", ""]),
    st.sampled_from(["1", "0", str(2**31 - 1), str(2**32), "-5", "٣"]),
    st.sampled_from(
        ["192.0.2.1", "::1", "fe80::1%eth0", "fe80::1%9999", "0.0.0.0", "255.255.255.255", "x.local", "x" * 300, "::"]
    ),
    st.sampled_from(["4000", "0", "9", "65536", "x"]),
    st.sampled_from(["host", "srflx", "prflx", "relay", "nonsense"]),
    st.sampled_from(["", "raddr 1 rport x", "tcptype active", "tcptype so", "tcptype \u00ad", "ufrag \n", "x"]),
)


@SETTINGS
@given(st.lists(CANDIDATES, max_size=12), TEXTS, TEXTS, st.lists(TEXTS, max_size=3), st.floats() | st.integers())
def test_trap_68_nothing_a_peer_describes_ends_an_agent(
    candidates: list[str], ufrag: str, pwd: str, options: list[str], pacing_s: float
) -> None:
    """Refused with an error of ours where it is told, or left out; never found out by a task later."""

    async def main(net: virtual.Network) -> None:
        async with trio.open_nursery() as nursery:
            await good_server(net, nursery)
            host = home(net)
            config = AgentConfig(
                servers=[IceServer("stun:good.example")], network=host, randbytes=host.randbytes, tcp_candidates=True
            )
            async with open_agent(config, role=Role.CONTROLLING) as agent:
                for number in range(2):
                    try:
                        credentials = ice.Credentials(ufrag, pwd) if number else ice.Credentials("peer", "p" * 24)
                        agent.set_remote_credentials(credentials, options=options, pacing_s=pacing_s)
                    except (IceError, ValueError):
                        continue
                for text in candidates:
                    try:
                        agent.add_remote_candidate(text)
                    except IceError:
                        continue
                await serves_on(agent)
                await trio.sleep(10)
                await serves_on(agent)
            nursery.cancel_scope.cancel()

    run(main)


@SETTINGS
@given(st.lists(st.binary(max_size=300), max_size=4), st.sampled_from(["http", "socks5"]))
def test_trap_68_nothing_a_proxy_answers_is_more_than_an_error(parts: list[bytes], scheme: str) -> None:
    """It stands between us and every server."""

    async def main(net: virtual.Network) -> None:
        proxy, host = net.host(net.internet, name="proxy"), net.host(net.internet, name="host")
        listener = await proxy.listen_tcp(proxy.address, 8080)

        async def answer() -> None:
            stream = await listener.accept()
            for part in parts:
                await stream.send_all(part)
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            try:
                where = Proxy(scheme, proxy.address, 8080, "u", "p")
                await trio.aclose_forcefully(await connect_through(host, where, "turn.example", 443))
            except ProxyError:
                pass
            nursery.cancel_scope.cancel()
        await listener.aclose()

    run(main)


@SETTINGS
@given(st.lists(st.binary(max_size=80), min_size=1, max_size=8))
def test_trap_68_nothing_a_gateway_answers_ends_an_agent(said: list[bytes]) -> None:
    """PCP and NAT-PMP: the box on the wall, or who says he is it."""

    async def main(net: virtual.Network) -> None:
        async with trio.open_nursery() as nursery:
            await good_server(net, nursery)
            host, gateway = home(net), net.host(net.internet, name="gateway")
            sock = await gateway.open_udp(gateway.address, 5351)

            async def answer() -> None:
                at = 0
                while True:
                    for batch in await sock.receive():
                        request = batch.data
                        for head in (b"", bytes((request[0], request[1] | 128)), bytes((0, 129, 0, 0))):
                            sock.send_nowait([head + said[at % len(said)]], batch.remote)
                            at += 1

            async def gateways() -> list[Any]:
                from iceagent.net.gateway import Gateway

                await trio.lowlevel.checkpoint()
                return [Gateway(gateway.address, host.interfaces()[-1].name)]

            host.gateways = gateways  # type: ignore[attr-defined]
            nursery.start_soon(answer)
            config = AgentConfig(
                servers=[IceServer("stun:good.example")], network=host, randbytes=host.randbytes, port_mapping=True
            )
            async with open_agent(config, role=Role.CONTROLLING) as agent:
                await serves_on(agent)
                await trio.sleep(10)
                await serves_on(agent)
            nursery.cancel_scope.cancel()

    run(main)


NAME = "4c8e1a6c-3c7e-4b0d-8f0a-000000000001.local"


@SETTINGS
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6), st.integers(0, 65535))
def test_trap_68_nothing_a_neighbour_multicasts_ends_an_agent(parts: list[bytes], flags: int) -> None:
    """mDNS: whoever is on the link may answer for the peer's name, and ask for ours."""

    async def main(net: virtual.Network) -> None:
        async with trio.open_nursery() as nursery:
            await good_server(net, nursery)
            host, neighbour = net.host(net.internet, name="host"), net.host(net.internet, name="neighbour")
            sock = await neighbour.open_multicast("224.0.0.251", 5353)
            config = AgentConfig(
                servers=[IceServer("stun:good.example")], network=host, randbytes=host.randbytes, mdns="publish"
            )
            async with open_agent(config, role=Role.CONTROLLING) as agent:
                names = [one.address.host for one in agent._gatherer.names.signalled()]
                agent.add_remote_candidate(f"candidate:1 1 udp 1 {NAME} 4000 typ host")
                await trio.sleep(0.1)
                labels = [
                    b"".join(bytes((len(one),)) + one for one in name.encode().split(b".")) for name in (*names, NAME)
                ]
                for part in parts:
                    for label in labels:
                        for counts in (b"\0\1\0\0\0\0\0\0", b"\0\0\0\1\0\0\0\0", b"\0\2\0\3\0\1\0\1"):
                            head = b"\0\0" + flags.to_bytes(2, "big") + counts + label + b"\0"
                            for tail in (part, b"\0\1\0\1" + part, b"\0\x1c\x80\1\0\0\0\x78\0\x10" + part):
                                sock.send_nowait([head + tail], TransportAddress("224.0.0.251", 5353))
                await trio.sleep(10)
                await lives(agent)
            sock.close()
            nursery.cancel_scope.cancel()

    run(main)


async def test_trap_68_a_relay_that_names_bad_credentials_ends_nobody(
    vnet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A secret file with a line end, at the relay: the server is left out and the log says so."""
    net = vnet()
    host = home(net)
    entry = {"urls": ["turn:evil.example"], "username": "u", "credential": "hunter2\n"}
    assert offered_servers([entry], "relay.example", host) == ()
    assert "evil.example" in caplog.text
    assert "hunter2" not in caplog.text


BAD_CREDENTIALS = ["p\n", "\t", "a\u00adb", "", "\ud800", 5, None]


@pytest.mark.parametrize("bad", BAD_CREDENTIALS)
@pytest.mark.parametrize("how", ["text", "nothing", "raises"])
async def test_trap_68_credentials_of_a_users_function_cost_that_server(vnet: Any, bad: Any, how: str) -> None:
    """It may read a file somebody else has written."""
    net = vnet()

    def source() -> Any:
        if how == "raises":
            raise ZeroDivisionError
        return turn.TurnCredentials("u", bad) if how == "text" else bad

    with trio.fail_after(1000):
        async with net, trio.open_nursery() as nursery:
            await good_server(net, nursery)
            await hostile_server(net, nursery, [(stun.MessageClass.ERROR, [stun.ErrorCode(401)])])
            host = home(net)
            servers = [IceServer("turn:evil.example", credentials=source), IceServer("stun:good.example")]
            config = AgentConfig(servers=servers, network=host, randbytes=host.randbytes)
            async with open_agent(config, role=Role.CONTROLLING) as agent:
                await serves_on(agent)
                await trio.sleep(3)
                await serves_on(agent)
            nursery.cancel_scope.cancel()
    for one in net.hosts():
        for sock in one.sockets:
            sock.close()


async def test_trap_68_a_route_that_does_what_nobody_foresaw_costs_itself_alone(
    vnet: Any, monkeypatch: pytest.MonkeyPatch, expects_unforeseen: None
) -> None:
    """The last line: what the tests above did not find."""
    net = vnet()

    def mad(_self: Any, _credentials: Any) -> float:
        raise MemoryError

    monkeypatch.setattr(TurnLogin, "rotate_in_s", mad)
    from iceagent.servers.turn import open_turn_server
    from iceagent.servers.turn_options import TurnOptions

    async with net, trio.open_nursery() as nursery:
        await good_server(net, nursery)
        server = net.host(net.internet, name="turn.example")
        options = TurnOptions([TransportAddress(server.address, 3478)], users={"u": "p"})
        async with open_turn_server(options, network=server, randbytes=server.randbytes):
            host = home(net)
            servers = [IceServer("turn:turn.example?transport=udp", **LOGIN), IceServer("stun:good.example")]
            config = AgentConfig(servers=servers, network=host, randbytes=host.randbytes)
            async with open_agent(config, role=Role.CONTROLLING) as agent:
                await serves_on(agent)
                await trio.sleep(3)
                await serves_on(agent)
        nursery.cancel_scope.cancel()
    assert math.isfinite(trio.current_time())
