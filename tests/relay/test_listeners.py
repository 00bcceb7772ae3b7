"""What a relay listens for on one port, what only its operator sees, and how it goes away."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import icesignal
import pytest
import trio
from icesignal import wire
from icesignal.first_bytes import STUN_ALPN, StunConnection, Tls
from icesignal.server import Server, serve
from icesignal.tls import HTTP, ServerTls
from relay_client import RawClient, connect_raw
from turn_wire import make_certificate

HttpExchange = Callable[[int, bytes], Awaitable[bytes]]
GET = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def certified(tmp_path: Path) -> tuple[ServerTls, ssl.SSLContext]:
    """A relay's TLS, and a client's context that trusts it."""
    files = make_certificate(tmp_path)
    tls = ServerTls(str(files.certificate), str(files.key), (HTTP, STUN_ALPN))
    return tls, ssl.create_default_context(cafile=str(files.certificate))


async def open_tls(server: Server, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    raw = await trio.open_tcp_stream("127.0.0.1", server.port)
    return trio.SSLStream(raw, context, server_hostname="127.0.0.1", https_compatible=True)


async def test_one_port_serves_ws_and_wss(certified: tuple[ServerTls, ssl.SSLContext]) -> None:
    """By the first byte; both clients are in the same rooms."""
    tls, trusting = certified
    async with serve(ssl_context=Tls(tls.context, is_required=False)) as server:
        assert server.url.startswith("ws://")
        async with (
            icesignal.open_client(f"wss://127.0.0.1:{server.port}", ssl_context=trusting) as inviter,
            icesignal.open_client(server.url) as joiner,
        ):
            await joiner.join(await inviter.allocate(), b"hello")
            with trio.fail_after(60):
                assert await inviter.wait_peer() == b"hello"


async def test_where_tls_is_required_nothing_is_said_without(
    certified: tuple[ServerTls, ssl.SSLContext], http_exchange: HttpExchange
) -> None:
    """A relay that was started for wss alone has no door beside it."""
    async with serve(ssl_context=certified[0].context) as server:
        assert not (await http_exchange(server.port, GET % b"/healthz")).startswith(b"HTTP")


@pytest.mark.parametrize(
    "head",
    [b"PROXY TCP4 192.0.2.9 192.0.2.1 1111 80\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n"],
)
async def test_a_client_behind_a_proxy_is_refused_without_another_byte(
    certified: tuple[ServerTls, ssl.SSLContext], http_exchange: HttpExchange, head: bytes
) -> None:
    """Its request has been read: nothing more comes, and the first byte of TLS would not."""
    limits = icesignal.Limits(connections=icesignal.Rate(0, 0))
    tls = Tls(certified[0].context, is_required=False)
    async with serve(ssl_context=tls, trusted_proxies=["127.0.0.1"], limits=limits) as server:
        assert (await http_exchange(server.port, head)).startswith(b"HTTP/1.1 429 ")


@pytest.mark.parametrize(
    ("alpn", "first", "is_stun"),
    [
        ([], bytes.fromhex("000300002112a442"), True),
        ([STUN_ALPN], b"GET ", True),
        ([], GET % b"/healthz", False),
        ([HTTP], GET % b"/healthz", False),
        (["h2"], GET % b"/healthz", False),
    ],
)
async def test_after_tls_stun_goes_to_the_turn_server(
    certified: tuple[ServerTls, ssl.SSLContext], alpn: list[str], first: bytes, is_stun: bool
) -> None:
    """By the protocol that the client names, else by the first byte; every byte arrives there."""
    tls, trusting = certified
    if alpn:
        trusting.set_alpn_protocols(alpn)
    seen: list[bytes] = []

    async def serve_stun(connection: StunConnection) -> None:
        assert connection.remote[0] == connection.local[0] == "127.0.0.1"
        seen.append(bytes(await connection.stream.receive_some()))
        await connection.stream.send_all(b"stun")

    async with serve(ssl_context=Tls(tls.context, is_required=False, serve_stun=serve_stun)) as server:
        stream = await open_tls(server, trusting)
        async with stream:
            with trio.fail_after(60):
                await stream.send_all(first)
                answer = bytes(await stream.receive_some())
    assert (answer == b"stun") is is_stun
    assert seen == ([first] if is_stun else [])
    assert answer.startswith(b"stun" if is_stun else b"HTTP/1.1 200 ")


async def test_a_turn_client_behind_a_proxy_is_where_the_proxy_says(
    certified: tuple[ServerTls, ssl.SSLContext],
) -> None:
    """With its own port: two proxies may have the same one, and their clients were one to the TURN server."""
    tls, trusting = certified
    seen: list[tuple[str, int]] = []

    async def serve_stun(connection: StunConnection) -> None:
        seen.append(connection.remote)
        await connection.stream.send_all(b"stun")

    both = Tls(tls.context, is_required=False, serve_stun=serve_stun)
    async with serve(ssl_context=both, trusted_proxies=["127.0.0.1"]) as server:
        raw = await trio.open_tcp_stream("127.0.0.1", server.port)
        await raw.send_all(b"PROXY TCP4 192.0.2.9 192.0.2.1 1111 443\r\n")
        async with trio.SSLStream(raw, trusting, server_hostname="127.0.0.1", https_compatible=True) as stream:
            with trio.fail_after(60):
                await stream.send_all(bytes.fromhex("000300002112a442"))
                assert await stream.receive_some() == b"stun"
    assert seen == [("192.0.2.9", 1111)]


async def test_a_turn_client_without_allocation_gives_its_place_away(
    certified: tuple[ServerTls, ssl.SSLContext],
) -> None:
    """Until it is settled: strangers must not keep members out by a few bytes of STUN."""
    tls, trusting = certified
    settle = trio.Event()
    ended: list[str] = []

    async def serve_stun(connection: StunConnection) -> None:
        name = bytes(await connection.stream.receive_some())[-1:].decode()
        if name == "b":
            connection.settle()
            settle.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.append(name)

    limits = icesignal.Limits(max_connections=2)
    async with (
        serve(ssl_context=Tls(tls.context, is_required=False, serve_stun=serve_stun), limits=limits) as server,
        AsyncExitStack() as stack,
    ):
        for name in (b"a", b"b"):
            stream = await stack.enter_async_context(await open_tls(server, trusting))
            await stream.send_all(bytes(20) + name)
        with trio.fail_after(60):
            await settle.wait()
            async with icesignal.open_client(server.url) as client:
                await client.allocate()
                assert ended == ["a"]


async def test_trap_78_with_a_listener_for_operators_metrics_are_on_no_other(http_exchange: HttpExchange) -> None:
    """They tell strangers how busy a relay is, and when. Health is for load balancers, on both."""
    async with serve(admin=("127.0.0.1", 0)) as server:
        admin = server.admin_addresses[0][1]
        for path, public, own in (
            ("/healthz", 200, 200),
            ("/readyz", 200, 200),
            ("/metrics", 404, 200),
            ("/v1", 426, 426),
        ):
            for port, status in ((server.port, public), (admin, own)):
                answer = await http_exchange(port, GET % path.encode())
                assert answer.startswith(b"HTTP/1.1 %d " % status), (path, port)
        assert b"<td>" not in await http_exchange(server.port, GET % b"/")
        assert b"icesignal_pages_total" in await http_exchange(admin, GET % b"/metrics")
        upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        assert b" 101 " not in await http_exchange(admin, upgrade)
        for nonsense in (b"\x00\xff\r\n\r\n", b"GET /" + b"x" * 20_000):
            assert (await http_exchange(admin, nonsense)).startswith(b"HTTP/1.1 4")


async def test_every_metric_says_what_it_means_and_is(http_exchange: HttpExchange) -> None:
    """HELP and TYPE stand once before each, and each line is one that Prometheus reads."""
    parser = pytest.importorskip("prometheus_client.parser")
    async with serve() as server, icesignal.open_client(server.url) as client:
        await client.allocate()
        text = (await http_exchange(server.port, GET % b"/metrics")).partition(b"\r\n\r\n")[2].decode()
    families = list(parser.text_string_to_metric_families(text))
    assert len(families) == text.count("# HELP ") == text.count("# TYPE ") > 10
    assert all(family.documentation for family in families)
    kinds = {family.name: family.type for family in families}
    assert kinds["icesignal_engine_rooms"] == "gauge"
    assert kinds["icesignal_websockets"] == "counter"


async def test_clients_are_sent_away_one_by_one() -> None:
    """All at once they would all come back at once. Who is still there is served, but makes no rooms any more."""
    turns = iter((0.0, 1.0))
    ends: dict[str, int] = {}
    ended = trio.Event()

    async def wait(name: str, client: RawClient) -> None:
        ends[name] = await client.end()
        ended.set()

    async with serve() as server, connect_raw(server.url) as one, connect_raw(server.url) as other:
        clients = {"one": one, "other": other}
        with trio.fail_after(60):
            async with trio.open_nursery() as drains:
                drains.start_soon(server.drain_within, 3600.0, lambda: next(turns))
                waits = trio.CancelScope()
                with waits:
                    async with trio.open_nursery() as waiting:
                        for name, client in clients.items():
                            waiting.start_soon(wait, name, client)
                        await ended.wait()
                        waits.cancel()
                (gone,) = ends
                assert ends[gone] == wire.CloseCode.GOING_AWAY
                left = next(client for name, client in clients.items() if name != gone)
                answer = await left.ask(wire.Allocate(session=bytes(16)))
                assert isinstance(answer, wire.Error)
                assert answer.code == wire.RelayErrorCode.BUSY
                with pytest.raises(icesignal.SignalError):
                    async with icesignal.open_client(server.url):
                        pass
                drains.cancel_scope.cancel()
        assert server.statistics()["rooms_while_draining"] == 1


async def test_draining_ends_when_the_last_client_has_gone() -> None:
    """And not before: whoever is there is told."""
    async with serve() as server, connect_raw(server.url) as client, trio.open_nursery() as nursery:
        codes: list[int] = []

        async def wait() -> None:
            codes.append(await client.end())

        nursery.start_soon(wait)
        with trio.fail_after(60):
            await server.drain_within(0.0)
            assert server.statistics()["connections_open"] <= 1
    assert codes == [wire.CloseCode.GOING_AWAY]
