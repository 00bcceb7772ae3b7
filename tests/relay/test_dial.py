"""Reaching a relay: what the request says, and every address of its name."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import h11
import icesignal
import pytest
import trio
from icesignal.addresses import ATTEMPT_DELAY_S, Address, interleave
from icesignal.dial import HANDSHAKE_SHARE_S
from icesignal.server import Server, serve

Handler = Callable[[trio.SocketStream], Awaitable[object]]


@asynccontextmanager
async def listening(handler: Handler, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Run a server that does to each connection what `handler` does; yield its port."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host=host)
        nursery.start_soon(trio.serve_listeners, handler, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def names(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let `relay.test` have these addresses."""
    real = trio.socket.getaddrinfo

    async def getaddrinfo(host: str, port: int, **options: int) -> list[Any]:
        if host != "relay.test":
            return await real(host, port, **options)
        return [entry for one in hosts for entry in await real(one, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)


@asynccontextmanager
async def dead_port(host: str, port: int) -> AsyncIterator[None]:
    """Make an address to which connections neither succeed nor fail: its backlog is full."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex((host, port))
        try:
            yield
        finally:
            for filler in fillers:
                filler.close()


async def request_to(url_of: Callable[[int], str]) -> h11.Request:
    """Return what a client asks of the relay at a URL."""
    requests: list[h11.Request] = []

    async def handler(stream: trio.SocketStream) -> None:
        parser = h11.Connection(h11.SERVER)
        parser.receive_data(await stream.receive_some())
        event = parser.next_event()
        assert isinstance(event, h11.Request)
        requests.append(event)

    async with listening(handler) as port:
        with pytest.raises(icesignal.RelayUnreachable):
            async with icesignal.open_client(url_of(port)):
                pass
    return requests[0]


async def test_the_request_says_all_that_the_url_says() -> None:
    """Gateways in front of relays ask for a password, a token in the query, or a path."""
    request = await request_to(lambda port: f"ws://me:secret@127.0.0.1:{port}/relay/v1?token=x")
    headers = dict(request.headers)
    assert request.target == b"/relay/v1?token=x"
    assert headers[b"host"].startswith(b"127.0.0.1:")
    assert headers[b"authorization"] == b"Basic bWU6c2VjcmV0"
    assert [value for name, value in request.headers if name == b"host"] == [headers[b"host"]], "once"


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (b"301 Moved", "points elsewhere"),
        (b"401 Unauthorized", "user name and password"),
        (b"403 Forbidden", "let us in"),
        (b"404 Not Found", "host, port and path"),
        (b"429 Too Many", "try again in a minute"),
        (b"502 Bad Gateway", "does not answer as a relay"),
        (b"503 Unavailable", "try again in a minute"),
    ],
)
async def test_each_refusal_says_what_to_do(status: bytes, says: str) -> None:
    """In a sentence without what the URL hides."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status)

    async with listening(handler) as port:
        with pytest.raises(icesignal.SignalError, match=says) as caught:
            async with icesignal.open_client(f"ws://me:secret@127.0.0.1:{port}/?token=secret"):
                pass
    assert "secret" not in str(caught.value)


async def test_a_dead_first_address_costs_a_quarter_of_a_second(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """RFC 8305: the next is tried beside it, and not after its timeout."""
    async with serve(host="127.0.0.1") as relay, dead_port("127.0.0.9", relay.port):
        names(monkeypatch, "127.0.0.9", "127.0.0.1")
        began = trio.current_time()
        async with icesignal.open_client(f"ws://relay.test:{relay.port}") as client:
            assert trio.current_time() - began <= ATTEMPT_DELAY_S + 0.05
            assert await client.allocate()


async def test_a_refusing_first_address_costs_nothing(monkeypatch: pytest.MonkeyPatch, autojump_clock: object) -> None:
    """It has said so."""
    async with serve(host="127.0.0.1") as relay:
        names(monkeypatch, "127.0.0.9", "127.0.0.8", "127.0.0.1")
        began = trio.current_time()
        async with icesignal.open_client(f"ws://relay.test:{relay.port}"):
            assert trio.current_time() - began <= 0.05


@pytest.mark.parametrize("manner", ["hangs up", "no relay", "another certificate", "says nothing"])
async def test_an_address_without_a_relay_leads_to_the_next(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, manner: str
) -> None:
    """That something accepts the connection does not make it the relay."""

    async def handler(stream: trio.SocketStream) -> None:
        async with stream:
            if manner == "no relay":
                await stream.receive_some()
                await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            elif manner == "another certificate":
                await stream.send_all(b"\x15\x03\x03\x00\x02\x02\x28")
            elif manner == "says nothing":
                await trio.sleep_forever()

    async with serve(host="127.0.0.1") as relay, listening(handler, "127.0.0.9", relay.port):
        names(monkeypatch, "127.0.0.9", "127.0.0.1")
        began = trio.current_time()
        async with icesignal.open_client(f"ws://relay.test:{relay.port}") as client:
            assert trio.current_time() - began <= HANDSHAKE_SHARE_S + 0.1
            assert await client.allocate()


async def test_all_addresses_failing_says_what_each_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, as for one address."""
    async with serve(host="127.0.0.1") as relay:
        port = relay.port
    names(monkeypatch, "127.0.0.9", "127.0.0.1")
    with pytest.raises(icesignal.RelayUnreachable, match="connection refused") as caught:
        async with icesignal.open_client(f"ws://relay.test:{port}"):
            pass
    assert str(caught.value).count("refused") == 1


async def test_a_name_without_addresses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a resolver raises is a sentence, and no traceback."""

    async def getaddrinfo(*_arguments: object, **_options: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(icesignal.RelayUnreachable, match="not known"):
        async with icesignal.open_client("ws://relay.test:1"):
            pass


def test_families_take_turns() -> None:
    """A family that is broken as a whole must not be tried out first."""
    six = [Address(socket.AF_INET6, (f"2001:db8::{n}", 1, 0, 0)) for n in range(3)]
    four = [Address(socket.AF_INET, (f"192.0.2.{n}", 1)) for n in range(2)]
    assert interleave([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
    assert interleave([]) == []


async def test_the_certificate_is_asked_for_without_the_final_dot(relay: Server, monkeypatch) -> None:
    """`relay.example.` is the same name; certificates name it without the dot (RFC 6066 section 3)."""
    asked: list[object] = []

    def refuse(_context: ssl.SSLContext, *_arguments: object, server_hostname: object, **_options: object) -> None:
        asked.append(server_hostname)
        raise ssl.SSLError(1, "enough")

    monkeypatch.setattr(ssl.SSLContext, "wrap_bio", refuse)
    for host in ("localhost.", "127.0.0.1"):
        with pytest.raises(icesignal.RelayUnreachable, match="enough"):
            async with icesignal.open_client(f"wss://{host}:{relay.port}"):
                pass
    assert asked == [b"localhost", b"127.0.0.1"]


async def test_streams_may_be_opened_in_another_way(relay: Server) -> None:
    """As through a proxy, which resolves the name itself."""
    asked: list[tuple[str, int]] = []

    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        asked.append((host, port))
        return await trio.open_tcp_stream("127.0.0.1", relay.port)

    async with icesignal.open_client("ws://relay.invalid:4711", open_stream=open_stream) as client:
        assert await client.allocate()
    assert asked == [("relay.invalid", 4711)]


async def test_the_state_of_the_connection_is_told(autojump_clock: object) -> None:
    """Who waits sees whether it is the relay that he waits for."""
    states: list[icesignal.RelayState] = []
    async with serve() as relay, icesignal.open_client(relay.url, on_state=states.append) as client:
        await client.allocate()
        assert client.state is icesignal.RelayState.CONNECTED
        for peer in list(relay._peers):
            peer.close(icesignal.wire.CloseCode.TOO_SLOW)
        while len(states) < 3:
            await trio.sleep(0.01)
    assert states[:3] == [
        icesignal.RelayState.CONNECTED,
        icesignal.RelayState.LOST,
        icesignal.RelayState.CONNECTED,
    ]
