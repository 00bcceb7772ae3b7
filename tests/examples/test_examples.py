"""The examples are the first code a user runs, so they run here, as real processes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from example_process import example, line_of, say
from processes import processes
from redis_process import running_redis

import iceagent

pytestmark = pytest.mark.processes


def test_echo():
    """One stream, one question, one answer; both sides end by themselves."""
    with example("echo.py") as server, example("echo.py", line_of(server), "hello there") as client:
        assert line_of(client) == "hello there"
        assert client.wait() == 0
        assert server.wait() == 0


def test_chat():
    """Both may speak at any time; when one hangs up, both are done."""
    with example("chat.py") as here, example("chat.py", line_of(here).rpartition(" ")[2]) as there:
        for side in (here, there):
            assert line_of(side).startswith("connected: direct udp ")
        say(here, "hello")
        assert line_of(there) == "hello"
        say(there, "hello yourself")
        assert line_of(here) == "hello yourself"
        assert there.stdin is not None
        there.stdin.close()
        assert here.wait() == 0
        assert there.wait() == 0


@pytest.mark.parametrize(
    ("case", "verdict"),
    [
        ("", "because both NATs map per destination, round trip"),
        ("no-relay", "Both sides' NATs take another port for each destination (symmetric)"),
        ("open", "Connected directly over IPv4"),
    ],
)
def test_explain(case: str, verdict: str) -> None:
    """The verdict, the numbers and the story, as the page on them promises."""
    with example("explain.py", *filter(None, [case])) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert verdict in output
    assert "checks\n" in output
    assert "gathering-enough\n" in output


def test_own_signaling():
    """A line of text each way is all the signaling an agent needs."""
    with example("own_signaling.py") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "alice: 'hello from bob' over " in output
    assert "bob: 'hello from alice' over " in output


def test_file_drop(tmp_path: Path) -> None:
    """Two senders, each by a code of its own, which are handed out one after the other."""
    inbox = tmp_path / "inbox"
    with example("file_drop.py", str(inbox)) as drop:
        lines = lines_of(drop)
        codes = (line.removeprefix("code: ") for line in lines if line.startswith("code: "))
        for name in ("one", "two"):
            (tmp_path / name).write_bytes(name.encode() * 1000)
            with example("file_drop.py", next(codes), str(tmp_path / name)) as sender:
                assert line_of(sender) == "sent 1 files, 3000 bytes"
                assert sender.wait() == 0
            assert (inbox / name).read_bytes() == (tmp_path / name).read_bytes()


def lines_of(process: subprocess.Popen[str]) -> Iterator[str]:
    """Give what it prints."""
    while line := line_of(process):
        yield line


def test_screen() -> None:
    """Frames come in their order, perhaps not each of them; no key is lost."""
    with example("screen.py") as desk, example("screen.py", line_of(desk)) as watcher:
        output, _ = watcher.communicate(timeout=60)
        assert watcher.returncode == 0
        assert line_of(desk) == "pressed: x"
        assert desk.wait() == 0
    numbers = [int(line.split(":")[0].removeprefix("frame ")) for line in output.splitlines()]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] >= 30


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
async def test_database(tmp_path: Path) -> None:
    """A client of the database's own, on a port of this side."""
    async with running_redis() as redis:
        place = f"127.0.0.1:{redis.port}"
        with (
            example("database.py", place) as server,
            example("database.py", line_of(server), place, "redis-cli", "-p", "PORT", "ECHO", "found") as client,
        ):
            output, _ = client.communicate(timeout=60)
            assert (output, client.returncode) == ("found\n", 0)


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed")
def test_ssh_over_link(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What ssh is told: where to connect, and under which name to keep the key; its answer is the exit code."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\necho "$@"\nexit 7\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with example("ssh_over_link.py") as server, example("ssh_over_link.py", line_of(server), "me@localhost") as client:
        words = line_of(client).split()
        assert words[0] == "-p"
        assert words[2:] == ["-o", "HostKeyAlias=iceagent-example", "me@localhost"]
        assert client.wait() == 7


def test_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By name, again and again."""
    ours, theirs = (iceagent.Identity.load(tmp_path / name / "identity") for name in ("ours", "theirs"))
    iceagent.PeerStore.beside(ours).pin("laptop", theirs.public)
    iceagent.PeerStore.beside(theirs).pin("office", ours.public)
    with processes() as started, ExitStack() as stack:
        relay = started.iceagent("serve", "--json", "--listen", "127.0.0.1:0").wait_for("listening")["url"]
        monkeypatch.setenv("ICEAGENT_RELAY", relay)
        monkeypatch.setenv("ICEAGENT_IDENTITY", str(tmp_path / "ours" / "identity"))
        service = stack.enter_context(example("service.py", "laptop"))
        assert line_of(service) == "serving laptop"
        monkeypatch.setenv("ICEAGENT_IDENTITY", str(tmp_path / "theirs" / "identity"))
        for _ in range(2):
            with example("service.py", "--ask", "office") as client:
                assert line_of(client).count(":") == 2
                assert client.wait() == 0
