"""The traps of tunnels that no other page has: killed processes, spellings of hosts, floods of log lines, files."""

# ruff: noqa: SIM117 (what is around stands apart from what is tested)

from __future__ import annotations

import logging
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from fake_link import linked_sessions
from processes import Process, Processes

from iceagent.cli.timeline import kept_timeline
from iceagent.net.logs import LINES, RateLimit, limited_logger
from iceagent.session.streams import TUNNEL_SERVICE
from iceagent.tunnel import wire
from iceagent.tunnel.errors import LocalIOError
from iceagent.tunnel.forward import forward_local
from iceagent.tunnel.pump import arm, break_off, disarm
from iceagent.tunnel.serve import serve_forwards
from iceagent.tunnel.spec import TcpTarget


class _Reader:
    """Reads a connection to its end, and tells whether that was an end or a break."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.outcome = "unfinished"
        self.count = 0

    def read(self, connection: socket.socket) -> None:
        connection.settimeout(60)
        try:
            with connection:
                while data := connection.recv(65536):
                    self.count += len(data)
                    if self.count > 500_000:
                        self.started.set()
            self.outcome = "ended"
        except OSError as error:
            self.outcome = type(error).__name__
        self.started.set()


def _pour(connection: socket.socket) -> None:
    """Write until the connection breaks: an upload or a download that nobody has finished."""
    with suppress(OSError), connection:
        while True:
            connection.sendall(bytes(65536))


def _start(target: Callable[..., object], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    thread.start()
    return thread


def _tunnel(run: Processes, port: int) -> tuple[Process, Process, tuple[str, int]]:
    listener = run.iceagent("listen", "--once", "--json", "--allow", f"tcp:127.0.0.1:{port}")
    code = listener.wait_for("code")["code"]
    forwarder = run.iceagent("forward", "--json", "-L", f"0:127.0.0.1:{port}", code)
    host, _, near = forwarder.wait_for("forwarding")["bind"].rpartition(":")
    return listener, forwarder, (host, int(near))


@pytest.mark.processes
@pytest.mark.parametrize("upload", [True, False], ids=["listener in an upload", "forwarder in a download"])
def test_trap_63_a_killed_process_never_ends_a_stream_cleanly(run: Processes, upload: bool) -> None:
    """The system says goodbye for a process that was killed: the reader took half a file for a whole one, 8 of 16."""
    readers = [_Reader() for _ in range(3)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        listener, forwarder, near = _tunnel(run, server.getsockname()[1])
        threads = []
        for reader in readers:
            client = socket.create_connection(near, timeout=20)
            service, _ = server.accept()
            source, sink = (client, service) if upload else (service, client)
            threads += [_start(_pour, source), _start(reader.read, sink)]
        for reader in readers:
            assert reader.started.wait(30)
        os.kill((listener if upload else forwarder).pid, signal.SIGKILL)
        for thread in threads[1::2]:
            thread.join(30)
        assert [reader.outcome for reader in readers] == ["ConnectionResetError"] * len(readers)


async def test_trap_63_armed_from_accept_and_connect_on() -> None:
    """Before the first byte: whenever the process dies, the system resets what it finds."""
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        async with forward_local(joiner, f"0:127.0.0.1:{port}") as forward:
            client = await trio.open_tcp_stream("127.0.0.1", int(forward.bind.rpartition(":")[2]))
            service = await listeners[0].accept()
            ours = {stream.socket.fileno() for stream in (client, service, listeners[0])}
            lingering = [_linger(fd) for fd in _tcp_sockets_of_this_process() - ours]
            for stream in (client, service, listeners[0]):
                await stream.aclose()
    assert lingering == [(1, 0)] * 3  # one listens, one was accepted, one was connected


async def test_trap_63_a_clean_end_delivers_everything() -> None:
    """Taken off before the close, or the last bytes of every connection would be lost."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    near = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
    far = await listeners[0].accept()
    arm(far.socket)
    await far.send_all(bytes(100_000))
    disarm(far)
    await far.aclose()
    assert sum([len(data) async for data in near]) == 100_000
    await near.aclose()
    near = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
    far = await listeners[0].accept()
    break_off(far)
    with pytest.raises(trio.BrokenResourceError):
        await near.receive_some()
    await near.aclose()
    await listeners[0].aclose()


async def test_trap_63_what_ended_well_arrives_whole() -> None:
    """A client that reads late has the last bytes in the system's buffers when the forward closes its connection."""
    answer = bytes(20_000)  # more than its window, less than what the system takes from the forward at once

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(answer)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]), trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        async with forward_local(joiner, f"0:127.0.0.1:{port}") as forward:
            near = trio.socket.socket()
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await near.connect(("127.0.0.1", int(forward.bind.rpartition(":")[2])))
            async with trio.SocketStream(near) as client:
                await client.send_eof()
                await trio.testing.wait_all_tasks_blocked(0.1)
                assert sum([len(data) async for data in client]) == len(answer)
        nursery.cancel_scope.cancel()


def _tcp_sockets_of_this_process() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(name))) as sock:
            if (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM):
                found.add(int(name))
    return found


def _linger(fd: int) -> tuple[int, int]:
    with socket.socket(fileno=os.dup(fd)) as sock:
        value = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
    return int.from_bytes(value[:4], "little"), int.from_bytes(value[4:], "little")


@pytest.mark.parametrize("asked", ["127.0.0.1.", "127.1", "0x7f000001", "2130706433", "::ffff:127.0.0.1", "127.0.0.1"])
async def test_trap_64_what_was_compared_is_what_is_connected_to(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`10.0.0.1.` passed a rule for 10.0.0.1 and went to DNS as a name: whoever answers there decides."""

    async def asks_dns(*_: object, **__: object) -> None:
        raise AssertionError("a rule with an address let a name through")

    monkeypatch.setattr(trio.socket, "getaddrinfo", asks_dns)
    greeted = trio.Event()
    async with linked_sessions() as (joiner, inviter), trio.open_nursery() as nursery:
        with trio.socket.socket() as server:
            await server.bind(("127.0.0.1", 0))
            server.listen()
            port = server.getsockname()[1]

            async def greet() -> None:
                (await server.accept())[0].close()
                greeted.set()

            nursery.start_soon(greet)
            async with serve_forwards(inviter, [f"tcp:127.0.0.1:{port}"]):
                stream = await joiner.streams.open_service(TUNNEL_SERVICE)
                await wire.send_request(stream, wire.StreamRequest("open", "tcp", host=asked, port=port, version=1))
                assert (await wire.receive_answer(stream)).status == "ok"
                await greeted.wait()
                stream.reset()


async def test_trap_64_a_spelling_that_is_no_host_reaches_no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also under the rule that allows everything of its port."""

    async def asks_dns(*_: object, **__: object) -> None:
        raise AssertionError("asked a resolver")

    monkeypatch.setattr(trio.socket, "getaddrinfo", asks_dns)
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["tcp:*:*"]):
        for asked in ("127.0.0.1.1", "0127.0.0.1", "256.0.0.1", "127.0.0.1%lo", "127.0.0.1 x", "\x1b[2J"):
            stream = await joiner.streams.open_service(TUNNEL_SERVICE)
            await wire.send_request(stream, wire.StreamRequest("open", "tcp", host=asked, port=1, version=1))
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                await wire.receive_answer(stream)


@pytest.mark.parametrize("wish", ["forbidden", "dead", "nonsense"])
async def test_trap_65_a_peer_cannot_grow_the_log(wish: str, caplog: pytest.LogCaptureFixture) -> None:
    """A wish a millisecond was 8.6 MB of log a minute, for as long as the peer liked."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        dead = free.getsockname()[1]
    caplog.set_level(logging.INFO)
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, [f"tcp:127.0.0.1:{dead}"]):
        for number in range(200):
            target = TcpTarget(f"host{number}" if wish == "forbidden" else "127.0.0.1", dead)
            stream = await joiner.streams.open_service(TUNNEL_SERVICE)
            if wish == "nonsense":
                await stream.send_all(b"\x00\x01" + bytes([number]))
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await wire.receive_answer(stream)
            else:
                await wire.send_request(stream, wire.request_for(target))
                assert (await wire.receive_answer(stream)).status == ("failed" if wish == "dead" else "refused")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("iceagent.tunnel")]
    assert 0 < len(lines) <= 2 * LINES
    assert any("left out" in line for line in lines)


def test_trap_65_what_was_left_out_is_counted_and_the_next_period_is_heard() -> None:
    """Silence would hide the attack; and a flood of one kind must not hide a line of another."""
    now = 0.0
    logger = logging.Logger("test")
    logger.addFilter(RateLimit(lines=3, period_s=60, clock=lambda: now))
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    for number in range(100):
        logger.warning("refused %d", number)
    logger.warning("another kind")
    logger.debug("asked for")
    now = 61.0
    logger.warning("refused %d", 100)
    assert heard == [
        "refused 0",
        "refused 1",
        "refused 2 (more of this kind are left out for up to 60 s)",
        "another kind",
        "asked for",
        "refused 100 (97 more of this kind were left out before)",
    ]


def test_trap_65_names_of_kinds_are_bounded() -> None:
    """Text that somebody else chooses must not become the key of a table without end."""
    logger = limited_logger("iceagent.test-of-kinds")
    (limit,) = logger.filters
    for number in range(10_000):
        logger.warning(f"kind {number}")
    assert isinstance(limit, RateLimit)
    assert len(limit._kinds) <= 256


@pytest.mark.parametrize("found", ["nothing", "readable file", "hard link"])
def test_trap_66_a_timeline_is_its_owners_alone(found: str, tmp_path: Path) -> None:
    """It holds the addresses of both sides. A file from before keeps neither its mode nor its other names."""
    path, other = tmp_path / "timeline.json", tmp_path / "other"
    other.write_text("somebody's")
    if found == "readable file":
        path.write_text("old")
        path.chmod(0o666)
    elif found == "hard link":
        os.link(other, path)
    mask = os.umask(0)
    try:
        with kept_timeline(str(path)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == ""
    assert other.read_text() == "somebody's"


@pytest.mark.parametrize("found", ["link", "dangling link", "fifo", "folder", "socket"])
def test_trap_66_a_timeline_goes_through_no_link(found: str, tmp_path: Path) -> None:
    """In a folder of several users, a link leads root's timeline into any file; a fifo hands it to a reader."""
    path, other = tmp_path / "timeline.json", tmp_path / "other"
    if found == "link":
        other.write_text("somebody's")
    if found.endswith("link"):
        path.symlink_to(other)
    elif found == "fifo":
        os.mkfifo(path)
    elif found == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as sock:  # for a device, which is not ours to risk
            sock.bind(str(path))
    with pytest.raises(LocalIOError, match="cannot be written"):
        with kept_timeline(str(path)):
            raise AssertionError("went on")
    assert path.is_symlink() or path.exists()
    assert other.exists() is (found == "link")
    assert not other.exists() or other.read_text() == "somebody's"
