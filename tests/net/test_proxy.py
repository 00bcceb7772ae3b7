"""Through HTTP CONNECT and SOCKS5 proxies, TLS verified inside: trap 5."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from coturn import make_certificate
from named import Named

from iceagent.core import turn
from iceagent.core.address import TransportAddress, make_address
from iceagent.errors import LocalError
from iceagent.net import SystemNetwork
from iceagent.net.proxy import Proxy, ProxyError, connect_through, parse_proxy, proxy_for, proxy_from_environment
from iceagent.net.turn.allocation import TurnLogin, open_turn_socket
from iceagent.net.turn.connect import TurnConnectOptions, TurnServerAddress
from iceagent.servers.turn import TurnService, open_turn_server
from iceagent.servers.turn_options import TlsFiles, TurnOptions

HOST = "127.0.0.1"
NAME = "turn.example.org"
LOGIN = TurnLogin(turn.TurnCredentials("george", "secret"))


class ProxyServer:
    """A proxy that connects wherever it is told, `names` being its resolver; `asked` remembers what for."""

    def __init__(self, *, credentials: tuple[str, str] | None = None) -> None:
        self.asked: list[tuple[str, int]] = []
        self.names: dict[str, str] = {NAME: HOST}
        self.credentials = credentials

    async def http(self, stream: trio.SocketStream) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += bytes(await stream.receive_some(1))
        lines = request.decode().split("\r\n")
        host, _, port = lines[0].split()[1].rpartition(":")
        if self.credentials is not None:
            token = base64.b64encode(":".join(self.credentials).encode()).decode()
            if f"Proxy-Authorization: Basic {token}" not in lines:
                await stream.send_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return
        await self.splice(stream, host.strip("[]"), int(port), b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n")

    async def socks5(self, stream: trio.SocketStream) -> None:
        _, count = await exactly(stream, 2)
        methods = await exactly(stream, count)
        if self.credentials is not None:
            if 2 not in methods:
                await stream.send_all(b"\x05\xff")
                return
            await stream.send_all(b"\x05\x02")
            _, size = await exactly(stream, 2)
            name = await exactly(stream, size)
            (size,) = await exactly(stream, 1)
            good = (name.decode(), (await exactly(stream, size)).decode()) == self.credentials
            await stream.send_all(b"\x01\x00" if good else b"\x01\x01")
            if not good:
                return
        else:
            await stream.send_all(b"\x05\x00")
        _, _, _, kind = await exactly(stream, 4)
        size = (await exactly(stream, 1))[0] if kind == 3 else {1: 4, 4: 16}[kind]
        raw = await exactly(stream, size)
        host = raw.decode() if kind == 3 else ".".join(map(str, raw))
        port = int.from_bytes(await exactly(stream, 2), "big")
        await self.splice(stream, host, port, b"\x05\x00\x00\x03\x03abc\x00\x00")

    async def splice(self, near: trio.SocketStream, host: str, port: int, welcome: bytes) -> None:
        self.asked.append((host, port))
        far = await trio.open_tcp_stream(self.names.get(host, host), port)
        await near.send_all(welcome)

        async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
            try:
                async for data in source:
                    await sink.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(pump, near, far)
            nursery.start_soon(pump, far, near)


async def exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await stream.receive_some(size - len(data))
        assert part
        data += bytes(part)
    return data


@asynccontextmanager
async def running(handler: Callable[[trio.SocketStream], object]) -> AsyncIterator[int]:
    listener = await SystemNetwork().listen_tcp(HOST)

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            await handler(stream)  # type: ignore[misc]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield int(listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def turn_server(folder: Path, *names: str, dtls: bool = False) -> AsyncIterator[tuple[TurnService, str]]:
    certificate, key = make_certificate(folder, *names)
    options = TurnOptions(
        listen=[make_address(HOST, 0)],
        users={"george": "secret"},
        loopback=True,
        tls=TlsFiles(certificate, key),
        dtls=dtls,
    )
    async with open_turn_server(options) as server:
        yield server, str(certificate)


def port_of(server: TurnService, transport: str) -> int:
    return next(address.port for kind, address in server.addresses if kind == transport)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize("credentials", [None, ("me", "pass word")])
async def test_turn_over_tls_through_a_proxy(tmp_path, scheme, credentials):
    """The last of the routes: an office that lets nothing out but its proxy. Names are the proxy's to resolve."""
    proxy = ProxyServer(credentials=credentials)
    name, password = credentials or ("", "")
    with trio.fail_after(60):
        async with turn_server(tmp_path, NAME) as (server, ca_file), running(getattr(proxy, scheme)) as port:
            options = TurnConnectOptions(proxy=Proxy(scheme, HOST, port, name, password), ca_file=ca_file)
            target = TurnServerAddress(NAME, port_of(server, "tls"), "tls")
            async with open_turn_socket(SystemNetwork(), target, login=LOGIN, options=options) as allocation:
                assert allocation.relayed_addresses[0].host == HOST
            assert proxy.asked == [(NAME, target.port)]


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_trap_5_tls_through_a_proxy_is_verified_too(tmp_path, scheme):
    """A proxy is exactly who could show another certificate."""
    proxy = ProxyServer()
    with trio.fail_after(60):
        async with (
            turn_server(tmp_path, "other.example.org") as (server, ca_file),
            running(getattr(proxy, scheme)) as port,
        ):
            options = TurnConnectOptions(proxy=Proxy(scheme, HOST, port), ca_file=ca_file)
            target = TurnServerAddress(NAME, port_of(server, "tls"), "tls")
            with pytest.raises(OSError, match="certificate"):
                async with open_turn_socket(SystemNetwork(), target, login=LOGIN, options=options):
                    pass


@pytest.mark.parametrize(("scheme", "words"), [("http", "407.*user name"), ("socks5", "wants a user name")])
async def test_a_proxy_that_wants_a_password_says_so(scheme, words):
    """The user must learn what to write into HTTPS_PROXY."""
    proxy = ProxyServer(credentials=("me", "secret"))
    with trio.fail_after(60):
        async with running(getattr(proxy, scheme)) as port:
            with pytest.raises(ProxyError, match=words):
                await connect_through(SystemNetwork(), Proxy(scheme, HOST, port), NAME, 443)


@pytest.mark.parametrize(
    ("scheme", "answer"),
    [
        ("http", b"HTTP/1.1 403 Forbidden\r\n\r\n"),
        ("http", b"SSH-2.0-OpenSSH\r\n\r\n"),
        ("http", b"x" * 20000),
        ("http", b""),
        ("socks5", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("socks5", b"\x05\x00\x05\x02\x00\x01\0\0\0\0\0\0"),
        ("socks5", b"\x05"),
    ],
)
async def test_a_proxy_that_refuses_or_talks_nonsense_is_an_error(scheme, answer):
    """Bounded and named, whatever it sends; the next route is not held up."""

    async def nonsense(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if answer:
            with suppress(trio.BrokenResourceError):  # we hang up as soon as the first bytes are nonsense
                await stream.send_all(answer)
                await stream.send_eof()

    with trio.fail_after(60):
        async with running(nonsense) as port:
            with pytest.raises(ProxyError):
                await connect_through(SystemNetwork(), Proxy(scheme, HOST, port), NAME, 443)


async def test_what_an_http_proxy_says_before_its_answer_is_skipped() -> None:
    """RFC 9110 section 15.2: any number of interim responses may come first; what follows the last is the tunnel's."""

    async def slow(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nSSH-2.0")

    with trio.fail_after(60):
        async with running(slow) as port:
            stream = await connect_through(SystemNetwork(), Proxy("http", HOST, port), NAME, 443)
            assert await stream.receive_some(100) == b"SSH-2.0"
            await trio.aclose_forcefully(stream)


def test_proxies_are_read_from_urls_and_the_environment():
    """`HTTPS_PROXY` as curl understands it; a password is never shown."""
    assert parse_proxy("http://me:p%40ss@proxy:3128") == Proxy("http", "proxy", 3128, "me", "p@ss")
    assert parse_proxy("socks5h://[::1]") == Proxy("socks5", "::1", 1080)
    assert parse_proxy("proxy:3128").scheme == "http"
    assert proxy_from_environment({}) is None
    assert proxy_from_environment({"https_proxy": "http://proxy:1"}) == Proxy("http", "proxy", 1)
    assert "secret" not in repr(Proxy("http", "proxy", 1, "me", "secret"))
    for bad in ("ftp://me:hush@proxy", "http://", "http://me:hush@proxy:port"):
        with pytest.raises(LocalError) as caught:
            parse_proxy(bad)
        assert "hush" not in str(caught.value)


async def test_ipv4_literals_go_as_addresses_through_socks5():
    """What needs no resolving is not given to a resolver."""
    proxy = ProxyServer()

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.send_all(b"hi")

    with trio.fail_after(60):
        async with running(hang_up) as target, running(proxy.socks5) as port:
            stream = await connect_through(SystemNetwork(), Proxy("socks5", HOST, port), HOST, target)
            async with stream:
                assert bytes(await stream.receive_some()) == b"hi"
    assert proxy.asked == [(HOST, target)]
    assert TransportAddress(HOST, target).family == 4


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://proxy:0", "1 to 65535"),
        ("http://proxy:8080/path", "after its port"),
        ("http://proxy:8080?x=hunter2", "after its port"),
        ("http://pro\nxy:8080", "line break"),
        ("http://:hunter2@proxy", "no user name"),
        ("socks5://me@proxy", "1 to 255 bytes"),
        (f"socks5://me:{'hunter2' * 40}@proxy", "1 to 255 bytes"),
        ("http://me%3Ayou:hunter2@proxy", "no colon"),
        ("http://me:hunter2%0d%0a@proxy", "control characters"),
        ("http://a..b:1", "cannot be read"),
    ],
)
def test_each_part_of_a_proxys_url_is_used_or_refused(url: str, words: str) -> None:
    """What is dropped in silence fails later, elsewhere; and no message shows the password."""
    with pytest.raises(LocalError, match=words) as caught:
        parse_proxy(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("no_proxy", "exempt", "not_exempt"),
    [
        ("*", ["turn.example.org", "192.0.2.1"], []),
        ("example.org", ["example.org", "turn.example.org", "TURN.example.org."], ["badexample.org", "example.com"]),
        (".example.org", ["turn.example.org"], ["notexample.org"]),
        ("*.example.org", ["turn.example.org"], ["example.com"]),
        ("a.example, b.example", ["a.example", "x.b.example"], ["c.example"]),
        ("10.0.0.0/8", ["10.1.2.3"], ["11.1.2.3", "turn.example"]),
        ("2001:db8::/32", ["2001:db8::7"], ["2001:db9::7"]),
        ("192.0.2.1", ["192.0.2.1"], ["192.0.2.10"]),
        ("[2001:db8::1]:3478", ["2001:db8::1"], ["2001:db8::2"]),
        ("2001:db8::1", ["2001:db8::1"], ["2001:db8::2"]),
        ("turn.example:3478", ["turn.example"], []),
        ("turn.example:443", [], ["turn.example"]),
        ("", ["localhost", "127.0.0.1", "::1", "a.localhost"], ["turn.example"]),
    ],
)
def test_no_proxy_says_whom_to_reach_without(no_proxy: str, exempt: list[str], not_exempt: list[str]) -> None:
    """A relay in the office is asked for past the office's proxy, which would refuse."""
    environment = {"HTTPS_PROXY": "http://proxy:3128", "no_proxy": no_proxy}
    assert [host for host in exempt if proxy_for(host, 3478, environment) is not None] == []
    assert [host for host in not_exempt if proxy_for(host, 3478, environment) is None] == []


def test_an_unusable_variable_is_told_and_no_proxy_used(caplog: pytest.LogCaptureFixture) -> None:
    """In silence nobody would find out why nothing leaves the office."""
    assert proxy_for("turn.example", 3478, {"ALL_PROXY": "ftp://me:hunter2@proxy"}) is None
    assert "ALL_PROXY" in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_proxys_name_with_a_dead_first_address_works() -> None:
    """Two A records: one host is down, another takes connections and says nothing. Only a moment is lost."""
    proxy = ProxyServer()
    target = await SystemNetwork().listen_tcp(HOST)
    network = Named({"proxy.example": ["127.0.0.2", "127.0.0.3", HOST]})
    async with running(proxy.http) as port, target:
        mute = await network.listen_tcp("127.0.0.3", port)
        async with mute:
            with trio.fail_after(60):
                stream = await connect_through(
                    network, Proxy("http", "proxy.example", port), HOST, target.socket.getsockname()[1]
                )
            await trio.aclose_forcefully(stream)
    assert len(proxy.asked) == 1


async def test_a_host_that_would_end_a_line_of_the_request_is_not_asked_for() -> None:
    """Whoever names the server would write the request's headers."""
    proxy = ProxyServer()
    async with running(proxy.http) as port:
        for host in ("evil\r\nX: y", "a b", "", "x" * 300, "[::1]"):
            with pytest.raises(ProxyError, match="no proxy is asked for"):
                await connect_through(SystemNetwork(), Proxy("http", HOST, port), host, 1)
    assert not proxy.asked


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls", "dtls"])
async def test_a_turn_servers_name_is_tried_beyond_its_first_address_over_every_transport(
    tmp_path: Path, transport: str
) -> None:
    """RFC 5928: one address is dead, one takes connections and is mute, the third is the server."""
    async with turn_server(tmp_path, NAME, dtls=True) as (service, ca_file):
        port = port_of(service, transport)
        network = Named({NAME: ["127.0.0.2", "127.0.0.3", HOST]})
        mute = await network.listen_tcp("127.0.0.3", port)
        silent = await network.open_udp("127.0.0.3", port)
        async with mute:
            server = TurnServerAddress(NAME, port, transport)
            options = TurnConnectOptions(ca_file=ca_file)
            async with open_turn_socket(network, server, login=LOGIN, options=options) as allocation:
                assert allocation.place == TransportAddress(HOST, port)
        silent.close()
