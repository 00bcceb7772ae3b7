"""Forwards over a link in memory, with real sockets at both ends."""

# ruff: noqa: SIM117 (what is around stands apart from what is tested)

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from fake_link import linked_sessions

from iceagent.errors import LocalError
from iceagent.session.outages import Outage, OutageKind
from iceagent.tunnel import wire
from iceagent.tunnel.errors import BindError, FailedError, RefusedError, SpecError
from iceagent.tunnel.forward import Forward, check_allowed, forward_local
from iceagent.tunnel.local import accept_connections
from iceagent.tunnel.serve import serve_forwards
from iceagent.tunnel.spec import TcpTarget


@asynccontextmanager
async def tcp_server(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, handler, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def forwarded(spec: str, allow: list[str]) -> AsyncIterator[Forward]:
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, allow):
        async with forward_local(joiner, spec) as forward:
            yield forward


async def connect(forward: Forward) -> trio.SocketStream:
    host, _, port = forward.bind.rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


async def read_all(stream: trio.SocketStream) -> bytes:
    return b"".join([part async for part in stream])


async def upper(stream: trio.SocketStream) -> None:
    """Answer only once the question has ended, as `printf x | nc` needs it."""
    async with stream:
        await stream.send_all((await read_all(stream)).upper())


async def test_trap_45_half_close_passes_through():
    """A client that ends its question must still get the answer."""
    async with tcp_server(upper) as port, forwarded(f"0:127.0.0.1:{port}", [f"tcp:127.0.0.1:{port}"]) as forward:
        async with await connect(forward) as client:
            await client.send_all(b"question" * 50_000)
            await client.send_eof()
            assert await read_all(client) == b"QUESTION" * 50_000


async def test_a_server_that_ends_first_leaves_the_other_direction_open():
    """The end of the answer is not the end of the question."""
    got: list[bytes] = []
    ended = trio.Event()

    async def server(stream: trio.SocketStream) -> None:
        await stream.send_all(b"hello")
        await stream.send_eof()
        got.append(await read_all(stream))
        ended.set()

    async with tcp_server(server) as port, forwarded(f"0:127.0.0.1:{port}", ["any"]) as forward:
        async with await connect(forward) as client:
            assert await read_all(client) == b"hello"
            await client.send_all(b"still here")
            await client.send_eof()
            await ended.wait()
    assert got == [b"still here"]


async def test_a_refused_connection_resets_the_near_socket_and_the_session_lives_on(caplog):
    """A client must see at once what it would see without the tunnel; the log must say why."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = unused.getsockname()[1]
        async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]):
            async with tcp_server(upper) as port:
                async with forward_local(joiner, f"0:127.0.0.1:{dead}") as broken:
                    with caplog.at_level(logging.WARNING):
                        async with await connect(broken) as client:
                            with pytest.raises(trio.BrokenResourceError) as caught:
                                await client.receive_some()
                    assert isinstance(caught.value.__cause__, ConnectionResetError)
                async with forward_local(joiner, f"0:127.0.0.1:{port}") as whole:
                    async with await connect(whole) as client:
                        await client.send_all(b"x")
                        await client.send_eof()
                        assert await read_all(client) == b"X"
    assert any("connection refused" in record.getMessage() for record in caplog.records)


async def test_a_reset_passes_through():
    """Half an answer must not look like a whole one."""

    async def server(stream: trio.SocketStream) -> None:
        await stream.send_all(b"half")
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()

    async with tcp_server(server) as port, forwarded(f"0:127.0.0.1:{port}", ["any"]) as forward:
        async with await connect(forward) as client:
            with pytest.raises(trio.BrokenResourceError):
                await read_all(client)


async def test_trap_46_a_slow_reader_stops_the_writer():
    """Nothing between the two sockets may buffer without bound."""
    sent = 0

    async def server(stream: trio.SocketStream) -> None:
        nonlocal sent
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(bytes(65536))
                sent += 65536

    async with tcp_server(server) as port, forwarded(f"0:127.0.0.1:{port}", ["any"]) as forward:
        async with await connect(forward) as client:
            await client.receive_some(1)
            previous = -1
            while sent != previous:
                previous = sent
                await trio.testing.wait_all_tasks_blocked(0.05)
            assert sent < 32 * 1024 * 1024


async def test_unix_to_unix(tmp_path):
    """A Unix socket of the other machine, as a Unix socket here, that only this user may open."""
    far, near = tmp_path / "far.sock", tmp_path / "near.sock"
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await sock.bind(str(far))
    sock.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, upper, [trio.SocketListener(sock)])
        async with forwarded(f"unix:{near}:unix:{far}", [f"unix:{far}"]) as forward:
            assert forward.bind == f"unix:{near}"
            assert near.stat().st_mode & 0o777 == 0o600
            async with await trio.open_unix_socket(str(near)) as client:
                await client.send_all(b"hello")
                await client.send_eof()
                assert await read_all(client) == b"HELLO"
        nursery.cancel_scope.cancel()
    assert not near.exists()


async def test_a_stale_unix_socket_is_replaced_and_a_file_is_not(tmp_path):
    """A killed process leaves its socket behind; a file with that name is somebody's data."""
    stale, file = tmp_path / "stale.sock", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    file.write_text("precious")
    async with forwarded(f"unix:{stale}:localhost:22", ["any"]):
        pass
    with pytest.raises(BindError, match="not a socket"):
        async with forwarded(f"unix:{file}:localhost:22", ["any"]):
            pass
    assert file.read_text() == "precious"


async def test_a_port_in_use_is_a_bind_error():
    """The user chose the port; he must hear that it is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BindError, match="already in use"):
            async with forwarded(f"{taken.getsockname()[1]}:h:1", ["any"]):
                pass


async def test_a_forbidden_forward_fails_when_it_opens():
    """Not at the first connection, when nobody looks."""
    with pytest.raises(RefusedError, match="tcp:localhost:80"):
        async with forwarded("0:localhost:22", ["tcp:localhost:80"]):
            pass


async def test_a_forbidden_request_is_refused_even_if_nobody_asked_before():
    """The policy is enforced where the target is, whatever the other side's program does."""
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, []):
        stream = await joiner.streams.open_service("iceagent.tunnel")
        await wire.send_request(stream, wire.request_for(TcpTarget("127.0.0.1", 1)))
        assert (await wire.receive_answer(stream)).status == "refused"


async def test_a_side_that_serves_nothing_is_noticed(autojump_clock):
    """Both sides may run different programs; waiting for ever would tell nothing."""
    async with linked_sessions() as (joiner, _):
        with pytest.raises(FailedError, match="serves no forwards"):
            await check_allowed(joiner, TcpTarget("localhost", 22))


async def test_a_silent_path_is_no_fact_about_the_other_side(autojump_clock):
    """Who was killed, or lost its network, does not "serve no forwards": the time of an outage does not count."""
    async with linked_sessions() as (joiner, inviter), trio.open_nursery() as nursery:
        joiner.notify_outage(Outage(OutageKind.SILENT, 2.0))

        async def come_back() -> None:
            await trio.sleep(29.0)
            joiner.notify_outage(Outage(OutageKind.RESTARTING, 29.0))
            await trio.sleep(29.0)
            joiner.notify_outage(Outage(OutageKind.BACK, 58.0))
            await nursery.start(serve, inviter)

        async def serve(session, task_status) -> None:
            async with serve_forwards(session, ["any"]):
                task_status.started()
                await trio.sleep_forever()

        nursery.start_soon(come_back)
        await check_allowed(joiner, TcpTarget("localhost", 22))
        nursery.cancel_scope.cancel()


async def test_a_side_that_answers_nothing_after_an_outage_is_noticed(autojump_clock):
    """The clock begins anew, and runs."""
    async with linked_sessions() as (joiner, _):
        joiner.notify_outage(Outage(OutageKind.SILENT, 2.0))
        joiner.notify_outage(Outage(OutageKind.BACK, 2.0))
        with pytest.raises(FailedError, match="serves no forwards"):
            await check_allowed(joiner, TcpTarget("localhost", 22))


@pytest.mark.parametrize(
    "garbage", [b"", b"\0", b"\xff\xff", b"\0\4junk", b"\0\1\x80", b"\0\x0c\x81\xa2op\xa4open\xff\xff"]
)
async def test_garbage_requests_harm_nothing(garbage):
    """A stream's first bytes come from the network."""
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]):
        stream = await joiner.streams.open_service("iceagent.tunnel")
        await stream.send_all(garbage)
        await stream.send_eof()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.receive_some(100)
        await check_allowed(joiner, TcpTarget("localhost", 22))


@pytest.mark.parametrize(
    "request_",
    [
        wire.StreamRequest("open", "tcp", host="", port=1),
        wire.StreamRequest("open", "tcp", host="h", port=0),
        wire.StreamRequest("open", "unix", path="x" * 500),
        wire.StreamRequest("open", "udp", host="a b", port=1, flow=2),
        wire.StreamRequest("open", "udp", host="127.0.0.1", port=9, flow=0),
        wire.StreamRequest("open", "pipe"),
    ],
)
async def test_impossible_requests_are_not_served(request_):
    """Well-formed is not yet sensible."""
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]):
        stream = await joiner.streams.open_service("iceagent.tunnel")
        await wire.send_request(stream, request_)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            assert (await wire.receive_answer(stream)).status != "ok"
        await check_allowed(joiner, TcpTarget("localhost", 22))


async def test_a_name_that_does_not_resolve_is_a_reason():
    """ "Failed" alone would send the user to the wrong place."""
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]):
        stream = await joiner.streams.open_service("iceagent.tunnel")
        await wire.send_request(stream, wire.request_for(TcpTarget("does-not-exist.invalid", 1)))
        answer = await wire.receive_answer(stream)
    assert answer == wire.Answer("failed", "the name does not resolve", "host")


async def test_trap_44_control_characters_of_the_other_side_never_reach_a_terminal():
    """Trap 44 for reasons: an escape sequence in a refusal could repaint the user's screen."""
    with pytest.raises(RefusedError) as caught:
        wire.Answer("refused", "\x1b[2Jnice\r\n" + "x" * 1000).raise_unless_ok(TcpTarget("h", 1))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 400


async def test_no_more_connections_at_once_than_the_limit():
    """Each costs a task and two sockets; the other side must not choose how many."""
    open_now = most = 0

    async def server(stream: trio.SocketStream) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await upper(stream)
        open_now -= 1

    async def client(forward: Forward) -> None:
        async with await connect(forward) as stream:
            await stream.send_all(b"x")
            await trio.testing.wait_all_tasks_blocked(0.01)
            await stream.send_eof()
            assert await read_all(stream) == b"X"

    async with tcp_server(server) as port, linked_sessions() as (joiner, inviter):
        async with serve_forwards(inviter, ["any"], limit=3), forward_local(joiner, f"0:127.0.0.1:{port}") as forward:
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(client, forward)
    assert most <= 3


async def test_out_of_file_descriptors_is_said_once_and_passes(caplog, autojump_clock):
    """It may last for hours; what waits in the backlog is served when it has passed."""
    near, far = trio.testing.memory_stream_pair()

    class Exhausted(trio.abc.Listener[trio.abc.HalfCloseableStream]):
        def __init__(self) -> None:
            self.attempts = 0

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

        async def accept(self) -> trio.abc.HalfCloseableStream:
            self.attempts += 1
            await trio.lowlevel.checkpoint()
            if self.attempts <= 50:
                raise OSError(errno.EMFILE, "Too many open files")
            if self.attempts == 51:
                return near
            await trio.sleep_forever()
            raise AssertionError

    async def handle(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"served")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: accept_connections(Exhausted(), handle, limit=10))
        assert await far.receive_some() == b"served"
        nursery.cancel_scope.cancel()
    assert [record.message for record in caplog.records] == ["connections have to wait: too many open files"]


async def test_a_unix_socket_cannot_carry_udp():
    """Said when the forward is written, not when it stays silent."""
    with pytest.raises(SpecError):
        async with forwarded("unix:/nowhere/x:127.0.0.1:53/udp", ["any"]):
            pass


async def test_reserved_stream_names_are_not_for_applications():
    """An application that opened `iceagent.tunnel` could be taken for a forward."""
    async with linked_sessions() as (joiner, _):
        with pytest.raises(LocalError, match="reserved"):
            await joiner.open_stream("iceagent.tunnel")


async def test_nothing_is_left_after_a_forward():
    """Sockets that survive their forward are found by the next one as a port in use."""
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    async with tcp_server(upper) as port:
        async with forwarded(f"0:127.0.0.1:{port}", ["any"]) as forward:
            bind = forward.bind
            client = await connect(forward)
        with contextlib.suppress(trio.BrokenResourceError):
            assert await client.receive_some() == b""
        await client.aclose()
        host, _, gone = bind.rpartition(":")
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(gone))) == errno.ECONNREFUSED
    after = set(os.listdir("/proc/self/fd")) if before else set()
    assert len(after) <= len(before)
