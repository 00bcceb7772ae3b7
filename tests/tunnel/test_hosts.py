"""Hosts in one form, and the addresses of binds and targets: all families, all addresses, zones."""

# ruff: noqa: SIM117 (what is around stands apart from what is tested)

from __future__ import annotations

import contextlib
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from fake_link import linked_sessions
from hypothesis import given, settings
from hypothesis import strategies as st
from udp_echo import udp_echo

from iceagent.core.address import TransportAddress
from iceagent.tunnel import binds, targets
from iceagent.tunnel.binds import bind_port
from iceagent.tunnel.datagrams import TargetSocket
from iceagent.tunnel.errors import BindError, FailedError
from iceagent.tunnel.forward import forward_local
from iceagent.tunnel.serve import serve_forwards
from iceagent.tunnel.spec import PortBind, TcpTarget, UnixTarget, canonical_host, parse_forward, same_host
from iceagent.tunnel.targets import connect_target, explain_os_error


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1.", "10.0.0.1"),
        ("10.1", "10.0.0.1"),
        ("0x0a000001", "10.0.0.1"),
        ("0XA.0.0.1", "10.0.0.1"),
        ("167772161", "10.0.0.1"),
        ("\uff11\uff10.0.0.1", "10.0.0.1"),  # full-width digits, which IDNA folds
        ("10\u30020\u30020\u30021", "10.0.0.1"),  # ideographic full stops
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:a00:1%eth0", "10.0.0.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("FE80::1%eth0", "fe80::1%eth0"),
        ("LocalHost.", "localhost"),
        ("B\u00fccher.example", "xn--bcher-kva.example"),
        ("db_1.internal", "db_1.internal"),
    ],
)
def test_a_host_has_one_form(text, form):
    """A resolver reads more spellings than a comparison of texts does."""
    assert canonical_host(text) == form == canonical_host(form)
    assert TcpTarget(text, 1) == TcpTarget(form, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "10.0.0.1..",
        "localhost..",
        "\u3002\u3002",
        "1.2.3.4.5",
        "256.1.1.1",
        "h.1",
        "0x",
        "010.0.0.1",
        "1.2.3.08",
        "4294967296",
        "a%b",
        "::1.",
        "a b",
    ],
)
def test_what_could_be_read_in_two_ways_is_no_host(text):
    """Neither an address nor a name; asked of a resolver, each would be one or the other."""
    with pytest.raises(ValueError, match=r"host|address"):
        canonical_host(text)


@settings(deadline=None)
@given(st.text(max_size=20) | st.from_regex(r"[0-9a-fx.:%]{1,20}", fullmatch=True))
def test_a_form_is_its_own_form(text):
    """Whatever comes, it is a ValueError or a text that does not change any more."""
    with contextlib.suppress(ValueError):
        form = canonical_host(text)
        assert canonical_host(form) == form
        assert form.isprintable()


def test_a_numeric_host_is_what_the_system_reads_in_it():
    """Ours and the resolver's reading must agree, or a rule says one thing and the connection another."""
    for text in ("10.1", "0x0a000001", "167772161", "1.2.3", "0", "0xff.255"):
        assert canonical_host(text) == socket.inet_ntoa(socket.inet_aton(text))


def test_a_zone_is_an_interface_by_name_or_number():
    """The kernel takes both; a rule with one allows the other."""
    name = socket.if_nameindex()[0]
    assert same_host(f"fe80::1%{name[1]}", f"fe80::1%{name[0]}")
    assert not same_host(f"fe80::1%{name[1]}", "fe80::1%nowhere")
    assert not same_host(f"fe80::1%{name[1]}", "fe80::1")
    spec = parse_forward(f"[fe80::1%{name[1]}]:2222:[fe80::2%eth7]:22")
    assert str(spec.bind) == f"[fe80::1%{name[1]}]:2222"
    assert str(spec.target) == "tcp:[fe80::2%eth7]:22"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@needs_ipv6
async def test_every_interface_is_both_families_on_one_port(kind):
    """`*:0` gave one family only; the other was refused, or found another program there."""
    sockets = await bind_port(PortBind("", 0), kind)
    try:
        assert {sock.family for sock in sockets} == {socket.AF_INET, socket.AF_INET6}
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
    finally:
        for sock in sockets:
            sock.close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_a_name_is_all_its_addresses_that_are_ours(kind, monkeypatch):
    """Programs that ask for `localhost` try them in an order of their own."""
    answer = [TransportAddress(host, 0) for host in ("127.0.0.1", "192.0.2.1", "127.0.0.2")]

    async def resolve(host: str, port: int) -> list[TransportAddress]:
        await trio.lowlevel.checkpoint()
        return answer

    monkeypatch.setattr(binds, "resolve", resolve)
    sockets = await bind_port(PortBind("here.example", 0), kind)
    assert [sock.getsockname()[0] for sock in sockets] == ["127.0.0.1", "127.0.0.2"]
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    for sock in sockets:
        sock.close()
    answer[:] = [TransportAddress("192.0.2.1", 0)]
    with pytest.raises(BindError, match="no interface"):
        await bind_port(PortBind("here.example", 0), kind)


async def test_a_port_that_is_taken_in_one_family_is_taken(monkeypatch):
    """With port 0 another is chosen; a port that was asked for is an error, and leaves nothing open."""
    hosts = [TransportAddress("127.0.0.1", 0), TransportAddress("127.0.0.2", 0)]

    async def resolve(host: str, port: int) -> list[TransportAddress]:
        await trio.lowlevel.checkpoint()
        return hosts

    monkeypatch.setattr(binds, "resolve", resolve)
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match="already in use"):
            await bind_port(PortBind("here.example", port), socket.SOCK_STREAM)
        socket.create_server(("127.0.0.1", port)).close()


@asynccontextmanager
async def tcp_greeter(host: str) -> AsyncIterator[int]:
    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(host.encode())
        await stream.aclose()

    (listener,) = await trio.open_tcp_listeners(0, host=host)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, greet, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def resolving_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    async def resolve(host: str, port: int) -> list[TransportAddress]:
        await trio.lowlevel.checkpoint()
        return [TransportAddress(one, port) for one in hosts]

    monkeypatch.setattr(targets, "resolve", resolve)


async def test_a_target_is_tried_beyond_its_first_address(monkeypatch):
    """`localhost` is `::1` first on many machines, and many services listen on 127.0.0.1 alone."""
    resolving_to(monkeypatch, "127.0.0.2", "127.0.0.1")
    async with tcp_greeter("127.0.0.1") as port, await connect_target(TcpTarget("db.example", port)) as stream:
        assert await stream.receive_some() == b"127.0.0.1"
    with pytest.raises(FailedError, match=r"^connection refused$"):
        await connect_target(TcpTarget("db.example", port))


async def test_each_reason_is_told_once(monkeypatch):
    """Two addresses may fail in two ways; the listener's user needs both."""
    resolving_to(monkeypatch, "127.0.0.2", "255.255.255.255")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(FailedError, match=r"^connection refused, "):
        await connect_target(TcpTarget("db.example", port))
    assert explain_os_error(OSError(13, "x")) == "permission denied"


async def test_an_address_without_its_interface_is_told_so():
    """The kernel's own word for it is `invalid argument`."""
    with pytest.raises(FailedError, match="fe80::1%eth0"):
        await connect_target(TcpTarget("fe80::1", 22))


async def test_a_refused_datagram_goes_to_the_next_address(monkeypatch):
    """`udp:localhost:53` with `::1 localhost` first was silent for ever; now not even the first question is lost."""
    resolving_to(monkeypatch, "127.0.0.3", "127.0.0.2", "127.0.0.1")
    async with (
        udp_echo(prefix=b"127.0.0.1 ") as port,
        linked_sessions() as (joiner, inviter),
        serve_forwards(inviter, ["any"]),
    ):
        async with forward_local(joiner, f"0:dns.example:{port}/udp") as forward:
            with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                await client.connect(("127.0.0.1", int(forward.bind.rpartition(":")[2])))
                for number in range(5):
                    await client.send(b"%d" % number)
                    assert await client.recv(100) == b"127.0.0.1 %d" % number


async def test_a_service_that_comes_later_on_another_address_is_found():
    """All refuse, then one is started: the next datagram goes round again."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    target = TargetSocket([TransportAddress("127.0.0.1", port), TransportAddress("127.0.0.2", port)])
    answers: list[bytes] = []

    async def receive() -> None:
        while True:
            answers.extend(await target.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        for data in (b"a", b"b", b"c"):
            target.send(data)
            await trio.sleep(0.01)
        async with udp_echo("127.0.0.2", port, prefix=b"127.0.0.2 "):
            target.send(b"d")
            while not answers:
                await trio.sleep(0.01)
        assert answers == [b"127.0.0.2 d"]
        nursery.cancel_scope.cancel()
    target.close()


async def test_trap_46_datagrams_that_nobody_answers_are_few() -> None:
    """They wait to be sent to the next address. Counted by their bytes alone, empty ones waited without end."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        target = TargetSocket([TransportAddress("127.0.0.1", port), TransportAddress("127.0.0.2", port)])
        tracemalloc.start()
        try:
            for _ in range(3_000):
                target.send(b"")
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
            target.close()
    assert held < 10_000, "fewer bytes than there were datagrams, with their places and ours"


@needs_ipv6
async def test_trap_69_a_udp_forward_answers_from_the_address_asked():
    """A forward on every interface is a UDP server, too: what answers from elsewhere is dropped by NATs and clients."""
    async with (
        udp_echo(prefix=b"127.0.0.1 ") as port,
        linked_sessions() as (joiner, inviter),
        serve_forwards(inviter, ["any"]),
    ):
        async with forward_local(joiner, f"*:0:127.0.0.1:{port}/udp") as forward:
            near = int(forward.bind.rpartition(":")[2])
            assert len(forward.binds) == 2
            for family, host in ((socket.AF_INET, "127.0.0.7"), (socket.AF_INET6, "::1")):
                with trio.socket.socket(family, socket.SOCK_DGRAM) as client:
                    await client.connect((host, near))  # hears from that address only
                    await client.send(b"x")
                    assert await client.recv(100) == b"127.0.0.1 x"


async def test_a_unix_target_that_is_not_there_is_told():
    """As for TCP."""
    with pytest.raises(FailedError, match="no such file"):
        await connect_target(UnixTarget("/nowhere/at/all"))
