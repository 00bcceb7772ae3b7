"""Programs at `-D`, over a link in memory, with real sockets at both ends."""

# ruff: noqa: SIM117 (what is around stands apart from what is tested)

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from fake_link import linked_sessions
from udp_echo import udp_echo

from iceagent.session.session import Session
from iceagent.tunnel import dynamic
from iceagent.tunnel.errors import FailedError, RefusedError, SpecError
from iceagent.tunnel.forward import Forward, forward_dynamic
from iceagent.tunnel.proxy_protocol import write_address
from iceagent.tunnel.serve import serve_forwards
from iceagent.tunnel.stdio import StandardStreams, run_pipe


@asynccontextmanager
async def tcp_server() -> AsyncIterator[int]:
    """A server that answers with what it was told in capitals, once that has ended."""

    async def upper(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"".join([part async for part in stream]).upper())

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, upper, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def proxy(allow: list[str], spec: str = "0") -> AsyncIterator[Forward]:
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, allow):
        async with forward_dynamic(joiner, spec) as forward:
            yield forward


async def program(forward: Forward) -> trio.SocketStream:
    host, _, port = forward.bind.rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


async def read_all(stream: trio.SocketStream) -> bytes:
    return b"".join([part async for part in stream])


async def exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        assert more, data
        data += more
    return data


def socks5(host: str, port: int, command: int = 1) -> bytes:
    return b"\x05\x01\x00" + bytes((5, command, 0)) + write_address(host, port)


GRANTED5 = b"\x05\x00" + b"\x05\x00\x00\x01" + bytes(6)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::ffff:127.0.0.1"])
async def test_socks5_with_names_and_addresses(host: str) -> None:
    """What a program says before it is told that it may is not lost, nor is the answer to its end."""
    async with tcp_server() as port, proxy(["any"]) as forward:
        assert str(forward.target) == "any"
        async with await program(forward) as client:
            await client.send_all(socks5(host, port) + b"question")
            assert await exactly(client, len(GRANTED5)) == GRANTED5
            await client.send_eof()
            assert await read_all(client) == b"QUESTION"


async def test_socks4a_and_http_connect() -> None:
    async with tcp_server() as port, proxy([f"tcp:localhost:{port}"]) as forward:
        for said, granted in [
            (b"\x04\x01" + port.to_bytes(2, "big") + b"\0\0\0\1me\0localhost\0", b"\0\x5a" + bytes(6)),
            (
                b"CONNECT localhost:%d HTTP/1.1\r\nHost: x\r\n\r\n" % port,
                b"HTTP/1.1 200 Connection established\r\n\r\n",
            ),
        ]:
            async with await program(forward) as client:
                await client.send_all(said)
                assert await exactly(client, len(granted)) == granted
                await client.send_all(b"question")
                await client.send_eof()
                assert await read_all(client) == b"QUESTION"


async def test_what_the_far_side_says_becomes_a_code(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = unused.getsockname()[1]
        async with proxy(["tcp:127.0.0.1:*", "tcp:does-not-exist.invalid:*"]) as forward:
            for host, port, code, status in [
                ("127.0.0.2", 80, 2, 403),
                ("127.0.0.1", dead, 5, 502),
                ("does-not-exist.invalid", 80, 4, 502),
            ]:
                async with await program(forward) as client:
                    await client.send_all(socks5(host, port))
                    assert await read_all(client) == b"\x05\x00" + bytes((5, code, 0, 1)) + bytes(6)
                async with await program(forward) as client:
                    await client.send_all(b"CONNECT %s:%d HTTP/1.1\r\nHost: x\r\n\r\n" % (host.encode(), port))
                    assert (await read_all(client)).startswith(b"HTTP/1.1 %d " % status)
    assert any("refuses tcp:127.0.0.2:80" in record.getMessage() for record in caplog.records)


async def test_trap_102_what_a_browsers_page_can_send_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of any site may have its browser send requests here: whatever their body holds, none of them goes on."""
    opened: list[object] = []

    async def connect(session: Session, target: object) -> None:
        opened.append(target)
        raise FailedError("nothing")

    monkeypatch.setattr(dynamic, "connect_through", connect)
    inner = b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n" + socks5("127.0.0.1", 22)
    async with proxy(["any"]) as forward:
        for status, head in (
            (405, b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(inner)),
            (405, b"GET http://127.0.0.1:80/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
            (405, b"GET / HTTP/1.1\r\nHost: rebound\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
            (400, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(inner)),
        ):
            async with await program(forward) as client:
                await client.send_all(head + inner)
                answer = await read_all(client)
                assert answer.startswith(b"HTTP/1.1 %d " % status)
                assert answer.count(b"HTTP/1.1") == 1
                assert b"nosniff" in answer
    assert opened == []


@asynccontextmanager
async def associated(forward: Forward, port: int = 0) -> AsyncIterator[tuple[trio.SocketStream, tuple[str, int]]]:
    async with await program(forward) as control:
        await control.send_all(socks5("0.0.0.0", port, command=3))
        answer = await exactly(control, 12)
        assert answer[:6] == b"\x05\x00\x05\x00\x00\x01"
        yield control, (socket.inet_ntoa(answer[6:10]), int.from_bytes(answer[10:], "big"))


async def test_datagrams_to_several_targets_are_answered_from_each() -> None:
    async with udp_echo() as one, udp_echo() as other, proxy(["udp:127.0.0.1:*", "udp:localhost:*"]) as forward:
        async with associated(forward) as (control, where):
            with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                await sock.bind(("127.0.0.1", 0))
                for host, port in [("127.0.0.1", one), ("127.0.0.1", other), ("localhost", one)]:
                    data = b"\0\0\0" + write_address(host, port) + b"hello" * 500
                    await sock.sendto(data, where)
                    assert await sock.recvfrom(65535) == (data, where)
            await control.send_eof()
            assert await read_all(control) == b""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(where)  # it ended with its connection


async def test_trap_103_nobody_else_uses_the_datagrams_of_a_program() -> None:
    """The port is open to every user of this machine: only the one that the program sends from counts."""
    async with udp_echo() as port, proxy(["any"]) as forward:
        data = b"\0\0\0" + write_address("127.0.0.1", port) + b"x"
        with (
            trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own,
            trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        ):
            await own.bind(("127.0.0.1", 0))
            await other.bind(("127.0.0.1", 0))
            for told in (0, own.getsockname()[1]):
                async with associated(forward, told) as (_, where):
                    if told:
                        await other.sendto(data + b"stolen", where)
                    await own.sendto(data, where)
                    assert (await own.recvfrom(2000))[0] == data
                    await other.sendto(data + b"stolen", where)
                    await own.sendto(data + b"again", where)
                    assert (await own.recvfrom(2000))[0] == data + b"again"
                    with trio.move_on_after(0.1) as silence:
                        await other.recvfrom(2000)
                    assert silence.cancelled_caught


async def test_a_program_that_says_nothing_is_let_go(monkeypatch, caplog, autojump_clock) -> None:
    async with proxy(["any"]) as forward:
        async with await program(forward) as client:
            await client.send_all(b"\x05")
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
    assert any("has not said within 30 s" in record.getMessage() for record in caplog.records)


async def test_programs_that_leave_at_any_point_leave_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with tcp_server() as port, proxy(["any"]) as forward:
        whole = socks5("127.0.0.1", port)
        for end in range(len(whole) + 1):
            async with await program(forward) as client:
                await client.send_all(whole[:end])
                if end % 2:
                    await client.send_eof()
                    assert len(await read_all(client)) in {0, 2, 12}
        for end in range(0, len(whole), 3):
            client = await program(forward)
            await client.send_all(whole[:end])
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await client.aclose()
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


async def test_a_dynamic_forward_fails_at_once_where_nothing_is_allowed() -> None:
    with pytest.raises(RefusedError, match="allows nothing"):
        async with proxy([]):
            pass
    with pytest.raises(SpecError, match="1080"):
        async with proxy(["any"], "h:h:h"):
            pass
    async with linked_sessions() as (joiner, inviter), trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run_pipe(inviter, StandardStreams(), opener=False))
        with pytest.raises(RefusedError, match="offers a pipe"):
            async with forward_dynamic(joiner, "0"):
                pass
        nursery.cancel_scope.cancel()


async def test_a_unix_socket_takes_connections_and_no_datagrams(tmp_path) -> None:
    async with tcp_server() as port, proxy(["any"], f"unix:{tmp_path}/s") as forward:
        async with await trio.open_unix_socket(forward.bind.removeprefix("unix:")) as client:
            await client.send_all(socks5("localhost", port) + b"q")
            assert await exactly(client, 12) == GRANTED5
            await client.send_eof()
            assert await read_all(client) == b"Q"
        async with await trio.open_unix_socket(forward.bind.removeprefix("unix:")) as client:
            await client.send_all(socks5("0.0.0.0", 0, command=3))
            assert (await exactly(client, 12))[3] == 7
