"""Which relay, by which way: proxies of the environment, machines without IPv6, URLs that cannot be."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import icesignal
import pytest
import trio

from iceagent import AgentConfig, LocalError
from iceagent.net import SystemNetwork
from iceagent.session import relay as relays
from iceagent.session.errors import RelayMissing

VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", relays.ENVIRONMENT)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def http_proxy(target_port: int) -> AsyncIterator[tuple[int, list[str]]]:
    """Run a CONNECT proxy that leads everything to one port; yield its own and what it was asked for."""
    asked: list[str] = []

    async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            while data := await source.receive_some():
                await sink.send_all(data)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def handler(client: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await client.receive_some()
        asked.append(request.split(b" ")[1].decode())
        if asked[-1].startswith("forbidden.example"):
            await client.send_all(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        async with await trio.open_tcp_stream("127.0.0.1", target_port) as server, trio.open_nursery() as nursery:
            await client.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
            nursery.start_soon(pump, client, server)
            nursery.start_soon(pump, server, client)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handler, listeners)
        yield listeners[0].socket.getsockname()[1], asked
        nursery.cancel_scope.cancel()


async def test_the_relay_is_reached_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only a proxy leads out, TURN got out and the relay did not; the proxy resolves the name."""
    async with icesignal.serve() as relay, http_proxy(relay.port) as (port, asked):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        async with relays.open_client("ws://relay.example") as client:
            assert await client.allocate()
        async with relays.open_client("ws://[2001:db8::1]:8080"):
            pass
        assert asked == ["relay.example:80", "[2001:db8::1]:8080"]


async def test_no_proxy_and_this_machine_are_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay of our own is at loopback; a proxy elsewhere would look for it there."""
    async with icesignal.serve() as relay, http_proxy(relay.port) as (port, asked):
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{port}")
        async with relays.open_client(relay.url), relays.open_client(f"ws://localhost:{relay.port}"):
            pass
        async with relays.open_relay(None) as place, relays.open_client(place.url) as client:
            assert await client.allocate()
        assert asked == []
        monkeypatch.setenv("NO_PROXY", "relay.invalid")
        with pytest.raises(icesignal.RelayUnreachable):
            async with relays.open_client("ws://relay.invalid"):
                pass
        assert asked == []


async def test_a_configured_proxy_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """And an empty one means none."""
    async with icesignal.serve() as relay, http_proxy(relay.port) as (port, asked):
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        config = AgentConfig(proxy=f"http://127.0.0.1:{port}")
        async with relays.open_client("ws://relay.example", config):
            assert asked == ["relay.example:80"]
        with pytest.raises(icesignal.RelayUnreachable):
            async with relays.open_client("ws://relay.invalid", AgentConfig(proxy="")):
                pass
        assert len(asked) == 1


async def test_a_proxy_that_does_not_help_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise one looks for the fault at the relay. Its password is not said."""
    async with icesignal.serve() as relay, http_proxy(relay.port) as (port, _asked):
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{port}")
        with pytest.raises(icesignal.RelayUnreachable, match=r"the proxy 127\.0\.0\.1 refuses.*NO_PROXY") as caught:
            async with relays.open_client("ws://forbidden.example"):
                pass
        assert "secret" not in str(caught.value)
    with pytest.raises(icesignal.RelayUnreachable, match=r"the proxy 127\.0\.0\.1 on the way.*refused"):
        async with relays.open_client("ws://relay.example"):
            pass


async def test_a_kernel_without_ipv6_and_without_a_route_still_starts_a_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """`listen` ended with 1 there; without netlink, too, it is alone, and not broken."""
    real = socket.socket

    def without(family: int = socket.AF_INET, *arguments: int, **options: object) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *arguments, **options)  # type: ignore[arg-type]

    def unreachable(*_arguments: object) -> None:
        raise OSError(101, "Network is unreachable")

    with monkeypatch.context() as patch:
        patch.setattr(relays.socket, "socket", without)
        patch.setattr(relays, "_OUTSIDE", (("192.0.2.1", socket.AF_INET), ("2001:db8::1", socket.AF_INET6)))
        patch.setattr(SystemNetwork, "interfaces", unreachable)
        assert relays.best_address((6,)) == "::1"
        assert relays.best_address((4,))


@pytest.mark.parametrize("named_by", ["argument", "environment"])
async def test_a_malformed_url_is_refused_before_anything_is_tried(
    monkeypatch: pytest.MonkeyPatch, named_by: str
) -> None:
    """By the name of the variable, if it comes from there; and without what may be a password."""
    url = "wss://me:secret/word@relay.example"
    if named_by == "environment":
        monkeypatch.setenv(relays.ENVIRONMENT, url)
    argument = url if named_by == "argument" else None
    code = icesignal.Code("7", ("guitar", "ozone"))
    with pytest.raises(LocalError, match="%2F") as inviter:
        async with relays.open_relay(argument):
            pass
    with pytest.raises(LocalError, match="%2F") as joiner:
        relays.relay_for(code, argument)
    for caught in (inviter, joiner):
        assert "secret" not in str(caught.value)
        assert (relays.ENVIRONMENT in str(caught.value)) == (named_by == "environment")


async def test_what_is_printed_of_a_relay_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line with the command for the other machine ends up in chats and logs."""
    place = relays.RelayPlace("wss://me:secret@relay.example/v1?token=secret")
    assert place.shown == "wss://relay.example/v1?\u2026"
    assert "secret" not in repr(place)


async def test_each_of_several_relays_is_reached_by_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """One behind the proxy, one that `NO_PROXY` names; neither hides that the other is well."""
    async with icesignal.serve() as relay, http_proxy(relay.port) as (port, asked):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", "relay.invalid")
        async with relays.open_client(["ws://relay.invalid", "ws://relay.example"]) as client:
            assert client.url == "ws://relay.example"
        assert asked == ["relay.example:80"]
        async with relays.open_client(["ws://forbidden.example", f"ws://localhost:{relay.port}/v1"]) as client:
            assert client.url == f"ws://localhost:{relay.port}/v1"
        with pytest.raises(
            icesignal.RelayUnreachable, match=r"none of 2 relays can be used: .*forbidden.*NO_PROXY.*; .*relay\.invalid"
        ):
            async with relays.open_client(["ws://forbidden.example", "ws://relay.invalid"]):
                pass


async def test_the_environment_names_several_relays_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments replace them all; the code says which of them it is, with what the list has beside."""
    monkeypatch.setenv(relays.ENVIRONMENT, " ws://one.example , wss://me:secret@two.example/v1,")
    assert relays.named_relays(None) == ("ws://one.example", "wss://me:secret@two.example/v1")
    assert relays.named_relays(()) == relays.named_relays(None)
    assert relays.named_relays(["ws://three.example"]) == ("ws://three.example",)
    async with relays.open_relay(None) as place:
        assert place.urls == relays.named_relays(None)
        assert place.hosts == ("one.example", "two.example")
        assert "secret" not in repr(place)
    bare, two = icesignal.parse_code("7-guitar-ozone"), icesignal.parse_code("7-guitar-ozone@wss://two.example/v1")
    assert relays.relay_for(two, None) == "wss://me:secret@two.example/v1"
    assert relays.relay_for(two, ["ws://one.example", "ws://three.example"]) == "wss://two.example/v1"
    assert relays.relay_for(two, ["ws://three.example"]) == "ws://three.example"
    with pytest.raises(RelayMissing, match=r"2 are given here.*--relay URL"):
        relays.relay_for(bare, None)
    monkeypatch.setenv(relays.ENVIRONMENT, "ws://one.example,gopher://x")
    with pytest.raises(LocalError, match=f"{relays.ENVIRONMENT}: relay 2 of 2: .*neither ws"):
        relays.named_relays(None)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_says_nothing_is_told_and_not_the_relay_behind_it(scheme: str) -> None:
    """Whoever looks for the fault looks at the relay else, which is well; the proxy may be one of last year's."""

    async def say_nothing(client: trio.SocketStream) -> None:
        while await client.receive_some():
            pass

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, say_nothing, listeners)
        config = AgentConfig(proxy=f"{scheme}://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        with pytest.raises(
            icesignal.RelayUnreachable, match=r"the proxy 127\.0\.0\.1 did not connect to relay\.example"
        ):
            async with relays.open_client("ws://relay.example", config, timeout_s=0.5):
                pass
        nursery.cancel_scope.cancel()


async def test_tls_asked_of_a_relay_without_it_is_told_in_words() -> None:
    """`[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)` says nothing of what to do."""
    async with icesignal.serve() as relay:
        with pytest.raises(icesignal.RelayUnreachable, match=r"does not speak TLS there; .* write ws://"):
            async with relays.open_client(f"wss://127.0.0.1:{relay.port}"):
                pass
