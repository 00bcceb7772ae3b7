"""Routes to a relay on real sockets: UDP blocked, TCP blocked, all but the proxy; the best that works is used."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from coturn import free_port, make_certificate
from signaling import carry

from iceagent.agent import Agent, AgentConfig, CandidateType, IceServer, RelayAllocated, RelayFailed, Role, open_agent
from iceagent.core.address import TransportAddress, make_address
from iceagent.net import SystemNetwork
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TlsFiles, TurnOptions

HOST = "127.0.0.1"
USER, PASSWORD = "george", "correct horse"


class Ports:
    """Where the server listens, and ports where nobody does."""

    def __init__(self) -> None:
        self.tcp, self.tls, self.closed = free_port(), free_port(), free_port()


@asynccontextmanager
async def server(folder: Path, ports: Ports) -> AsyncIterator[str]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    if not certificate.exists():  # a restarted server shows the same one
        make_certificate(folder, HOST)
    options = TurnOptions(
        listen=[make_address(HOST, 0)],
        tcp_listen=[TransportAddress(HOST, ports.tcp)],
        tls_listen=[TransportAddress(HOST, ports.tls)],
        users={USER: PASSWORD},
        loopback=True,
        tls=TlsFiles(certificate, key),
        dtls=False,
    )
    async with open_turn_server(options):
        yield str(certificate)


@asynccontextmanager
async def http_proxy() -> AsyncIterator[tuple[int, list[str]]]:
    """An HTTP proxy that wants a password; the list fills with what was asked of it."""
    asked: list[str] = []
    token = base64.b64encode(b"me:hush").decode()

    async def handle(near: trio.SocketStream) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += bytes(await near.receive_some(1))
        assert f"Proxy-Authorization: Basic {token}".encode() in request
        target = request.split()[1].decode()
        asked.append(target)
        host, _, port = target.rpartition(":")
        async with near, await trio.open_tcp_stream(BEHIND.get(host, host), int(port)) as far:
            await near.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump, near, far, nursery)
                nursery.start_soon(pump, far, near, nursery)

    listener = await SystemNetwork().listen_tcp(HOST)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield listener.socket.getsockname()[1], asked
        nursery.cancel_scope.cancel()


BEHIND = {"turn.inside.invalid": HOST}


async def pump(source: trio.SocketStream, sink: trio.SocketStream, nursery: trio.Nursery) -> None:
    try:
        async for data in source:
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    nursery.cancel_scope.cancel()


def turn(url: str) -> IceServer:
    return IceServer(url, username=USER, credential=PASSWORD)


async def relay_of(config: AgentConfig, size: int = 200) -> tuple[Agent, list[str]]:
    """Connect an agent that may use relays only with one that has no relay; return it, closed, and what failed."""
    direct = AgentConfig(interfaces=["lo"], families=(4,))
    with trio.fail_after(60):
        async with open_agent(config, role=Role.CONTROLLING) as a, open_agent(direct, role=Role.CONTROLLED) as b:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carry, a, b)
                nursery.start_soon(carry, b, a)
                await a.wait_connected()
                await b.wait_connected()
            assert a.selected_pair is not None
            assert a.selected_pair.local.type is CandidateType.RELAY
            sent = [b"%04d" % number + b"x" * 1000 for number in range(size)]
            await a.send_many(sent)
            got: list[bytes] = []
            while len(got) < size:
                got += await b.receive_many()
            assert got == sent
            entries = [event for _, event in a._driver.timeline.entries()]
            return a, [event.transport for event in entries if isinstance(event, RelayFailed)]


def config(ca_file: str, *urls: str, proxy: str = "") -> AgentConfig:
    servers = [turn(url) for url in urls]
    return AgentConfig(
        servers=servers,
        transport_policy="relay",
        families=(4,),
        tls_ca_file=ca_file,
        proxy=proxy,
        gather_budget_s=1.0,
    )


def used(agent: Agent) -> list[tuple[str, bool]]:
    events = [event for _, event in agent._driver.timeline.entries()]
    return [(event.transport, event.via_proxy) for event in events if isinstance(event, RelayAllocated)]


async def test_tcp_where_udp_is_blocked(tmp_path):
    """A firewall that lets no UDP out: the same server over TCP, a stagger later; data whole and in order (trap 32)."""
    ports = Ports()
    async with server(tmp_path, ports) as ca_file:
        agent, _ = await relay_of(config(ca_file, f"turn:{HOST}:{ports.tcp}"))
        assert used(agent) == [("tcp", False)]


async def test_tls_where_everything_else_is_blocked(tmp_path):
    """What hotels and offices leave open is 443."""
    ports = Ports()
    async with server(tmp_path, ports) as ca_file:
        urls = (f"turn:{HOST}:{ports.closed}", f"turns:{HOST}:{ports.tls}")
        agent, _ = await relay_of(config(ca_file, *urls))
        assert used(agent) == [("tls", False)]


async def test_through_the_proxy_where_nothing_else_leaves(tmp_path):
    """The last route: the name is one that only the proxy can resolve, and TLS is verified inside."""
    ports = Ports()
    certificate, key = make_certificate(tmp_path, "turn.inside.invalid")
    options = TurnOptions(
        listen=[make_address(HOST, 0)],
        tcp_listen=(),
        tls_listen=[TransportAddress(HOST, ports.tls)],
        users={USER: PASSWORD},
        loopback=True,
        tls=TlsFiles(certificate, key),
        dtls=False,
    )
    async with open_turn_server(options), http_proxy() as (port, asked):
        url = f"turns:turn.inside.invalid:{ports.tls}"
        agent, failed = await relay_of(config(str(certificate), url, proxy=f"http://me:hush@{HOST}:{port}"))
        assert used(agent) == [("tls", True)]
        assert asked == [f"turn.inside.invalid:{ports.tls}"]
        assert set(failed) == {"tls"}  # the way without the proxy, as often as there was time to try it


async def test_a_certificate_for_another_name_fails_its_route_only(tmp_path):
    """Trap 5: never used, and told; the next way is tried."""
    ports = Ports()
    async with server(tmp_path, ports):
        (tmp_path / "other").mkdir()
        stranger, _ = make_certificate(tmp_path / "other", HOST)
        with_stranger = config(str(stranger), f"turns:{HOST}:{ports.tls}", f"turn:{HOST}:{ports.tcp}?transport=tcp")
        agent, _ = await relay_of(with_stranger)
        assert used(agent) == [("tcp", False)]


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_a_connection_that_breaks_is_made_again(tmp_path, transport):
    """TCP tells at once that the server is gone; the agent comes back when it does."""
    ports = Ports()
    url = f"turns:{HOST}:{ports.tls}" if transport == "tls" else f"turn:{HOST}:{ports.tcp}?transport=tcp"
    stops = [trio.Event(), trio.Event()]
    lives = iter(stops)

    async def serve(task_status: trio.TaskStatus[str]) -> None:
        async with server(tmp_path, ports) as ca_file:
            task_status.started(ca_file)
            await next(lives).wait()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            ca_file = await nursery.start(serve)
            async with open_agent(config(ca_file, url), role=Role.CONTROLLING) as agent:
                first = [candidate async for candidate in agent.local_candidates()]
                assert len(first) == 1
                stops[0].set()
                await trio.sleep(0.3)
                await nursery.start(serve)
                late = await anext(agent.late_candidates())
                assert late.address != first[0].address
            stops[1].set()
