"""The control socket of a running command: whose it is, what it answers, what becomes of it."""

from __future__ import annotations

import io
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from fake_link import linked

from iceagent.cli import status
from iceagent.cli.control import client, folder, leftovers, server
from iceagent.cli.control.messages import MAX_REQUEST, CommandStatus
from iceagent.cli.control.running import Running
from iceagent.cli.output import Output
from iceagent.cli.status_lines import format_bytes, status_lines
from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError
from iceagent.session import path as paths
from iceagent.session.outages import Outage, OutageKind
from iceagent.session.progress import Progress, Stage
from iceagent.session.session import Session
from iceagent.tunnel.traffic import MAX_TARGETS, OTHERS, Traffic, shown_traffic, traffic_of, traffic_to

pytestmark = pytest.mark.skipif(not folder.is_supported(), reason="this system has no such sockets")
NOBODY = 65534


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder of the test's own."""
    there = tmp_path / "run"
    there.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(there))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return there / "iceagent"


@asynccontextmanager
async def controlled(running: Running | None = None) -> AsyncIterator[Path]:
    running = running or Running()
    running.verb = running.verb or "forward"
    async with server.open_control(running) as path:
        assert path is not None
        yield path


async def say(path: Path, text: bytes) -> dict[str, Any] | None:
    """Return the answer to what is sent, None if there is none."""
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await sock.connect(str(path))
    received = b""
    async with trio.SocketStream(sock) as stream:
        try:
            await stream.send_all(text)
            while part := await stream.receive_some():
                received += part
        except trio.BrokenResourceError:
            pass
    return json.loads(received) if received else None


async def ask(path: Path, request: str, **arguments: object) -> Any:
    return await say(path, json.dumps({"version": 1, "request": request, "arguments": arguments}).encode() + b"\n")


# Whose it is


async def test_trap_111_folder_and_socket_are_their_owners_alone(runtime: Path) -> None:
    """What can be asked there tells whom one talks to, and may open ports."""
    async with controlled() as path:
        assert path == runtime / f"{os.getpid()}.sock"
        assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert os.listdir(runtime) == [path.name]
    assert os.listdir(runtime) == []


def _open_to_a_group(runtime: Path) -> None:
    runtime.mkdir()
    runtime.chmod(0o750)


def _open_to_the_world(runtime: Path) -> None:
    runtime.mkdir()
    runtime.chmod(0o701)


def _a_link(runtime: Path) -> None:
    elsewhere = runtime.parent.parent / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    runtime.symlink_to(elsewhere)


def _a_file(runtime: Path) -> None:
    runtime.write_text("")


def _in_a_folder_of_all(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    runtime.parent.chmod(0o777)


@pytest.mark.parametrize(
    "make",
    [_open_to_a_group, _open_to_the_world, _a_link, _a_file, _in_a_folder_of_all],
    ids=lambda make: make.__name__,
)
async def test_trap_111_a_folder_that_others_get_into_is_not_used(runtime: Path, make: Any) -> None:
    """The command runs without; and nobody is asked who may be anybody."""
    make(runtime)
    async with server.open_control(Running()) as path:
        assert path is None
    with pytest.raises(LocalError, match="cannot be asked"):
        await client.ask_all()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to give a folder away")
async def test_trap_111_a_folder_of_somebody_elses_is_not_used(runtime: Path) -> None:
    """Though its mode is right."""
    runtime.mkdir(mode=0o700)
    os.chown(runtime, NOBODY, NOBODY)
    async with server.open_control(Running()) as path:
        assert path is None


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to give a folder away")
async def test_a_runtime_folder_of_somebody_elses_is_left_to_him(runtime: Path, tmp_path: Path) -> None:
    """As under sudo, which keeps the variable: the other folder is used."""
    os.chown(runtime.parent, NOBODY, NOBODY)
    async with controlled() as path:
        assert path.parent == tmp_path / "state" / "iceagent" / "run"


async def test_without_a_runtime_folder_the_state_folder_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in ("", "relative", str(tmp_path / "not there")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        async with controlled() as path:
            assert path.parent == tmp_path / "state" / "iceagent" / "run"
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def asked_as(user: int, path: Path) -> bytes:
    """Return what another user gets at a socket: in a process of his own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(20)
                sock.connect(str(path))
                os.write(writing, b"in ")
                sock.sendall(b'{"version": 1, "request": "status"}\n')
                while part := sock.recv(4096):
                    os.write(writing, part)
        except OSError as error:
            os.write(writing, type(error).__name__.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def _open_up(path: Path) -> None:
    """Let everybody in, as a careless owner might."""
    path.chmod(0o777)
    for place in path.parents:
        if place.stat().st_uid == os.geteuid() and place not in (Path("/"), Path("/tmp")):
            place.chmod(place.stat().st_mode | 0o011)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize(("is_open", "said"), [(False, b"PermissionError"), (True, b"in ")])
async def test_trap_111_another_user_gets_nothing(tmp_path: Path, is_open: bool, said: bytes) -> None:
    """The folder keeps him out; and where somebody has opened that, the kernel says who he is."""
    async with controlled() as path:
        if is_open:
            _open_up(path)
        heard = await trio.to_thread.run_sync(asked_as, NOBODY, path)
        assert heard in (said, said + b"BrokenPipeError", said + b"ConnectionResetError")


async def test_trap_111_who_is_not_the_owner_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the test cannot become somebody else."""
    async with controlled() as path:
        assert (await ask(path, "status"))["ok"]
        for stranger in (lambda sock: os.geteuid() + 1, _unknown):
            with monkeypatch.context() as patched:
                patched.setattr(folder, "user_of_peer", stranger)
                assert await ask(path, "status") is None


def _unknown(sock: object) -> int:
    raise OSError("the kernel does not say")


def test_macos_says_it_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """By LOCAL_PEERCRED, at the level 0; another version of the answer is not guessed at."""

    class Socket:
        version = 0

        def getsockopt(self, level: int, name: int, size: int, /) -> bytes:
            assert (level, name) == (0, 1)
            return self.version.to_bytes(4, sys.byteorder) + (501).to_bytes(4, sys.byteorder) + bytes(68)

    sock = Socket()
    monkeypatch.delattr(socket, "SO_PEERCRED", raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert folder.is_supported()
    assert folder.user_of_peer(sock) == 501
    sock.version = 1
    with pytest.raises(OSError, match="not known"):
        folder.user_of_peer(sock)


@pytest.mark.parametrize("missing", ["AF_UNIX", "geteuid", "SO_PEERCRED"])
async def test_where_the_system_has_no_such_sockets_the_command_runs_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    """As on Windows, and says so at debug."""
    caplog.set_level("DEBUG", logger="iceagent")
    if missing == "SO_PEERCRED":
        monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(os if missing == "geteuid" else socket, missing)
    async with server.open_control(Running()) as path:
        assert path is None
    assert "no control socket: this system has no sockets that say who uses them" in caplog.text


# What it answers


async def test_a_command_says_what_it_does() -> None:
    """From the attempt to the session with its forwards, and never the words of a code."""
    running = Running()
    here = TransportAddress("192.0.2.1", 1), TransportAddress("192.0.2.2", 2)
    session = Session(
        linked()[0],
        inviter=False,
        read_path=lambda: paths.Path(False, "turn-udp", *here, rtt_s=0.018, because="both NATs map per destination"),
        read_traffic=lambda: (1_234_567, 89),
    )
    session.peer, session.relay = "office", "relay.example"
    progress = Progress()
    async with controlled(running) as path:
        with running.attempt(progress):
            progress.peer = "code 7"
            (attempt,) = (await ask(path, "status"))["value"]["sessions"]
            assert (attempt["state"], attempt["peer"], attempt["path"]) == ("connecting", "code 7", None)
            assert attempt["doing"] == "waiting for the relay"
            progress.enter(Stage.CODE)
            (attempt,) = (await ask(path, "status"))["value"]["sessions"]
            assert attempt["state"] == "waiting"
            progress.enter(Stage.OPEN)
            traffic = Traffic("tcp:localhost:22", ["127.0.0.1:2222"])
            with running.session(session), shown_traffic(session, traffic), traffic.connection():
                traffic.sent += 500
                (status,) = await client.ask_all()
                assert isinstance(status, CommandStatus)
                (shown,) = status.sessions
                assert (shown.state, shown.peer, shown.relay) == ("connected", "office", "relay.example")
                assert shown.path is not None
                assert (shown.path.direct, shown.path.rtt_ms) == (False, 18.0)
                assert shown.path.because == "both NATs map per destination"
                text = "\n".join(status_lines(status))
                assert "office: connected since" in text
                assert "relayed turn-udp 192.0.2.2:2 rtt 18 ms (both NATs map per destination)" in text
                assert "sent 1.2 MB, received 89 B" in text
                assert "127.0.0.1:2222 to tcp:localhost:22: 1 open, 1 in all, sent 500 B, received 0 B" in text
                session.notify_outage(Outage(OutageKind.RECONNECTING, 40.0))
                (status,) = await client.ask_all(os.getpid())
                assert isinstance(status, CommandStatus)
                assert status.sessions[0].state == "reconnecting"
                assert 39 < status.since - status.sessions[0].since < 45
                assert "reconnecting" in status.sessions[0].doing
                session.notify_outage(Outage(OutageKind.BACK, 41.0))
                assert (await ask(path, "status"))["value"]["sessions"][0]["state"] == "connected"
        assert (await ask(path, "status"))["value"]["sessions"] == []


async def test_a_verb_adds_what_it_can_be_asked_for() -> None:
    """As `forward` does with forwards, which come and go while it runs."""
    running = Running()
    specs: list[str] = []

    async def add(arguments: Mapping[str, Any]) -> list[str]:
        await trio.lowlevel.checkpoint()
        if "spec" not in arguments:
            raise ValueError("name a spec")
        specs.append(arguments["spec"])
        return specs

    async with controlled(running) as path:
        with running.handling("forward.add", add):
            assert await ask(path, "forward.add", spec="1:a:2") == {
                "version": 1, "ok": True, "error": "", "value": ["1:a:2"], "exit": 0,
            }  # fmt: skip
            refused = await ask(path, "forward.add")
            assert (refused["ok"], refused["error"]) == (False, "name a spec")
            unknown = await ask(path, "forward.paint")
            assert unknown["error"] == (
                "`iceagent forward` cannot do that while it runs; it knows: forward.add, status"
            )
        assert not (await ask(path, "forward.add", spec="1:a:2"))["ok"]


@pytest.mark.parametrize(
    "said",
    [
        b"\n",
        b"status\n",
        b"\xff\xfe\n",
        b"[" * 10_000 + b"\n",
        b'{"version": 1}\n',
        b'{"version": "1", "request": "status"}\n',
        b'{"version": 2, "request": "status"}\n',
        b'{"version": 1, "request": "status", "arguments": 7}\n',
        b"x" * (MAX_REQUEST + 1),
    ],
    ids=range(9),
)
async def test_trap_112_what_is_no_request_is_answered_with_what_is_wrong(said: bytes) -> None:
    """It comes from a program of this user's, which may be anything; the command goes on."""
    async with controlled() as path:
        answer = await say(path, said)
        assert answer is not None
        assert not answer["ok"]
        assert answer["error"]
        assert (await ask(path, "status"))["ok"]


async def test_trap_112_a_line_without_an_end_is_cut_off() -> None:
    """Else it would fill the memory of a command that runs for months."""
    async with controlled() as path:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.setblocking(False)
            sent = 0
            with trio.move_on_after(20):
                while sent < 8 * 1024 * 1024:
                    try:
                        sent += sock.send(b"x" * 65536)
                    except BlockingIOError:
                        await trio.sleep(0.01)
                    except OSError:
                        break
            assert sent < 2 * 1024 * 1024


async def test_trap_112_more_than_a_few_at_once_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a descriptor and a task; when they are gone, others get in."""
    monkeypatch.setattr(server, "PATIENCE_S", 3600.0)
    async with controlled() as path:
        silent = [socket.socket(socket.AF_UNIX) for _ in range(server.MAX_ASKERS)]
        for sock in silent:
            sock.connect(str(path))
        assert await ask(path, "status") is None
        for sock in silent:
            sock.close()
        while await ask(path, "status") is None:
            await trio.sleep(0.01)


async def test_trap_112_who_says_nothing_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is for others."""
    monkeypatch.setattr(server, "PATIENCE_S", 0.1)
    async with controlled() as path:
        with trio.move_on_after(30) as scope:
            assert await say(path, b"") is None
        assert not scope.cancelled_caught


# What becomes of it


def dead_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


@pytest.fixture
def dead() -> int:
    """The process id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


async def test_trap_112_what_dead_processes_left_is_removed_and_nothing_else(runtime: Path, dead: int) -> None:
    """By whoever comes next, be it a command or `status`; the living, and what is no socket of ours, are let be."""
    runtime.mkdir(mode=0o700)
    async with controlled() as path:
        for name in (f"{dead}.sock", f".{dead}.new", "notes.sock"):
            dead_socket(runtime / name)
        (runtime / "12.sock").write_text("mine")
        (runtime / "notes.txt").write_text("mine")
        (status,) = [one for one in await client.ask_all() if isinstance(one, CommandStatus)]
        assert status.pid == os.getpid()
        assert sorted(os.listdir(runtime)) == sorted(["12.sock", "notes.sock", "notes.txt", path.name])
        dead_socket(runtime / f"{dead}.sock")
        folder.sweep(runtime)
        assert not (runtime / f"{dead}.sock").exists()
        assert path.exists()


async def test_trap_112_a_name_of_the_living_stays() -> None:
    """Whoever looks after the dead does not disturb the others."""
    async with controlled() as path:
        assert not folder.remove_dead(path)
        assert (await ask(path, "status"))["ok"]


async def test_a_dead_socket_whose_process_id_lives_again_is_removed(runtime: Path) -> None:
    """Ids are given out anew: it is whether somebody listens that counts."""
    runtime.mkdir(mode=0o700)
    dead_socket(runtime / f"{os.getppid()}.sock")
    assert await client.ask_all() == []
    assert os.listdir(runtime) == []
    dead_socket(runtime / f"{os.getpid()}.sock")
    async with controlled() as path:
        assert (await ask(path, "status"))["ok"]


async def test_a_name_that_another_process_has_is_left_to_it(runtime: Path) -> None:
    """Containers that share a folder count their processes apart."""
    runtime.mkdir(mode=0o700)
    path = runtime / f"{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        async with server.open_control(Running()) as ours:
            assert ours is None
        assert path.exists()


async def test_it_is_removed_also_where_no_finally_runs() -> None:
    """After the grace period of a Ctrl-C the process ends at once."""
    async with controlled() as path:
        assert path in leftovers.paths
        leftovers.remove_all()
        assert not path.exists()


async def test_nothing_is_running() -> None:
    """Neither the folder nor a command need be there."""
    assert await client.ask_all() == []
    with pytest.raises(LocalError, match="process id 7"):
        await client.ask_all(7)


async def test_a_command_that_does_not_answer_is_named(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be stopped; the others are shown all the same."""
    monkeypatch.setattr(client, "PATIENCE_S", 0.2)
    runtime.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(runtime / f"{os.getppid()}.sock"))
        sock.listen()
        async with controlled():
            first, second = sorted(await client.ask_all(), key=lambda one: isinstance(one, CommandStatus))
    assert first == client.Unanswered(os.getppid(), "it has not answered for 0.2 s")
    assert isinstance(second, CommandStatus)


async def test_what_is_watched_is_drawn_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Again where it has changed, and no longer or wider than the screen: else it would leave a trail."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("iceagent.cli.status.sys", SimpleNamespace(stderr=terminal))
    monkeypatch.setattr("iceagent.cli.output.sys", SimpleNamespace(stderr=terminal))
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "4")
    screen = status._Screen(Output())
    running = Running()
    async with controlled(running):
        await screen.show(None)
        first = terminal.getvalue()
        assert first.count("\n") == 2
        for _ in range(3):
            with running.attempt(Progress()):
                await screen.show(None)
            await screen.show(None)
    drawn = terminal.getvalue().removeprefix(first).split("\x1b[J")
    assert drawn[0] == "\x1b[2F"
    assert "waiting for the relay" in drawn[1]
    assert all(len(line) < 40 for part in drawn for line in part.split("\n"))
    assert status.fitting(["a" * 9, "b", "c", "d"], 5, 4) == ["aaaa", "b", "and "]
    assert status.fitting(["a", "b", "c"], 5, 4) == ["a", "b", "c"]


# What is counted


def test_what_the_other_side_asks_for_is_counted_apart_up_to_a_bound() -> None:
    """It may ask for any number of targets."""
    session = Session(linked()[0], inviter=True)
    for number in range(1000):
        with traffic_to(session, f"tcp:localhost:{number}").connection():
            traffic_to(session, f"tcp:localhost:{number}").sent += 1
    counted = traffic_of(session)
    assert len(counted) == MAX_TARGETS + 1
    assert sum(one.sent for one in counted) == sum(one.total for one in counted) == 1000
    assert counted[-1].target == OTHERS
    assert not any(one.open for one in counted)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9949, "9.9 kB"), (9950, "10 kB"), (999_400, "999 kB"),
        (999_600, "1.0 MB"), (12_345_678_901, "12 GB"), (10**19, "10000 PB"),
    ],
)  # fmt: skip
def test_bytes_have_as_many_digits_as_mean_something(count: int, text: str) -> None:
    assert format_bytes(count) == text
