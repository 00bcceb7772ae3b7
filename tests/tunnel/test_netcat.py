"""One target on standard input and output, over a link in memory, with real sockets at the far end."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from fake_link import link_of, linked_sessions

from iceagent.link import LinkClosedByPeer
from iceagent.session.errors import PeerLeft
from iceagent.tunnel import serve
from iceagent.tunnel.errors import FailedError, RefusedError, SpecError
from iceagent.tunnel.netcat import join_target, parse_target
from iceagent.tunnel.serve import serve_forwards
from iceagent.tunnel.spec import TcpTarget, UnixTarget
from iceagent.tunnel.targets import connect_target


class Local:
    """Standard input that is given, and standard output that is kept."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.got = b""
        self.ended = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.parts.pop(0) if self.parts else b""

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.got += data

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self.ended.set()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def server(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[TcpTarget]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        yield TcpTarget("127.0.0.1", listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def test_both_directions_end_apart() -> None:
    async def upper(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"".join([part async for part in stream]).upper())

    local = Local(b"hello ", b"there" * 50_000)
    async with server(upper) as target, linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]):
        await join_target(joiner, local, target)
    assert local.got == b"HELLO " + b"THERE" * 50_000
    assert local.ended.is_set()


async def test_it_ends_only_when_the_target_has_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side drops what is under way when we are gone: a slow reader must have it all by then."""
    got, ended = bytearray(), trio.Event()

    async def connect(*arguments: Any) -> trio.SocketStream:
        stream = await connect_target(*arguments)
        assert isinstance(stream, trio.SocketStream)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # the system keeps little for it
        return stream

    monkeypatch.setattr(serve, "connect_target", connect)

    async def slow(stream: trio.SocketStream) -> None:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await stream.send_eof()
        await trio.sleep(0.3)
        async for part in stream:
            got.extend(part)
        ended.set()

    async with server(slow) as target, linked_sessions() as (joiner, inviter):
        async with serve_forwards(inviter, ["any"]):
            await join_target(joiner, Local(bytes(200_000)), target)
        await ended.wait()  # it breaks if it was reset
    assert len(got) == 200_000


async def test_what_cannot_be_is_told() -> None:
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["tcp:127.0.0.1:*"]):
        with pytest.raises(RefusedError, match="tcp:localhost:1: it allows only"):
            await join_target(joiner, Local(), TcpTarget("localhost", 1))
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            with pytest.raises(FailedError, match="refused"):
                await join_target(joiner, Local(b"x" * 100_000), TcpTarget("127.0.0.1", unused.getsockname()[1]))


async def test_a_connection_that_breaks_is_no_end() -> None:
    async def breaks(stream: trio.SocketStream) -> None:
        await stream.send_all(b"half")
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()

    async with server(breaks) as target, linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]):
        with pytest.raises(PeerLeft, match="broke before its end"):
            await join_target(joiner, Local(), target)


async def test_a_session_that_is_closed_is_no_end_either() -> None:
    async def waits(stream: trio.SocketStream) -> None:
        await stream.send_all(b"half")
        link_of(both[1]).close(LinkClosedByPeer("the other side has closed the session"))
        await trio.sleep_forever()

    async with server(waits) as target, linked_sessions() as both, serve_forwards(both[1], ["any"]):
        with pytest.raises(PeerLeft):
            await join_target(both[0], Local(), target)


def test_targets_as_they_are_written() -> None:
    assert parse_target("db:5432") == TcpTarget("db", 5432)
    assert parse_target("[::1]:22") == TcpTarget("::1", 22)
    assert parse_target("22") == TcpTarget("localhost", 22)
    assert parse_target("unix:/run/x") == UnixTarget("/run/x")
    for text in ("", "h", "h:0", "h:1:2", "unix:", ":22", "::1:22"):
        with pytest.raises(SpecError, match="A right one: localhost:22"):
            parse_target(text)
