"""`iceagent status` of real commands: what it shows, and that nothing is left of them however they end."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import ICEAGENT, Process, Processes
from tunnels import TRAFFIC

pytestmark = pytest.mark.processes

Start = Callable[..., Process]


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A runtime folder of the test's own."""
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def start(run: Processes, runtime: Path) -> Start:
    """Start a command whose control socket is in that folder."""
    return lambda *arguments: run.start("env", f"XDG_RUNTIME_DIR={runtime}", *ICEAGENT, *arguments)


def status(runtime: Path, *arguments: str) -> list[dict[str, Any]]:
    """Return what `status` prints."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
    command = [*ICEAGENT, "status", "--json", *arguments]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    return [json.loads(line) for line in asked.stdout.splitlines()]


def test_status_shows_both_ends_of_a_tunnel_and_what_it_has_carried(
    start: Start, run: Processes, runtime: Path
) -> None:
    """With whom, on which path, since when, how much: and no word of the code."""
    target = run.start(*TRAFFIC, "source").wait_for("ready")["port"]
    listener = start("listen", "--json", "--allow", f"tcp:127.0.0.1:{target}")
    code = listener.wait_for("code")["code"]
    (waiting,) = status(runtime)
    assert (waiting["kind"], waiting["verb"], waiting["pid"]) == ("status", "listen", listener.pid)
    assert [one["state"] for one in waiting["sessions"]] == ["waiting"]
    forward = start("forward", "--json", "-L", f"0:127.0.0.1:{target}", code)
    bind = forward.wait_for("forwarding")["bind"]
    run.start(*TRAFFIC, "sink", bind, "--bytes", "1000000").wait_for("done")
    shown = {one["pid"]: one for one in status(runtime)}
    assert set(shown) == {listener.pid, forward.pid}
    assert not any(word in json.dumps(list(shown.values())) for word in code.partition("@")[0].split("-")[1:])
    for process, binds in ((listener, []), (forward, [bind])):
        sessions = [one for one in shown[process.pid]["sessions"] if one["state"] == "connected"]
        assert [one["peer"] for one in sessions] == [f"code {code.partition('-')[0]}"]
        assert sessions[0]["path"]["direct"]
        (carried,) = sessions[0]["forwards"]
        assert (carried["target"], carried["binds"]) == (f"tcp:127.0.0.1:{target}", binds)
        assert (carried["total"], carried["open"]) == (1, 0)
        way, other = ("sent", "received") if process is listener else ("received", "sent")
        assert carried[way] >= 1_000_000 > carried[other]
        assert sessions[0][way] > carried[way] // 2
    (one,) = status(runtime, str(forward.pid))
    assert one["pid"] == forward.pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_of_a_command_however_it_ends(start: Start, runtime: Path, number: int) -> None:
    """Whoever is killed leaves its socket, which the next `status` removes without a word about it."""
    listener = start("listen", "--json", "--allow", "any")
    listener.wait_for("code")
    folder = runtime / "iceagent"
    assert os.listdir(folder) == [f"{listener.pid}.sock"]
    listener.signal(number)
    listener.wait()
    assert len(os.listdir(folder)) == (number == signal.SIGKILL)
    assert [one["kind"] for one in status(runtime)] == ["none"]
    assert os.listdir(folder) == []


def test_a_process_id_without_a_command_is_said(runtime: Path) -> None:
    """Exit 2, and what to do."""
    (line,) = status(runtime, "1")
    assert (line["kind"], line["exit"]) == ("error", 2)


def test_status_is_watched_in_its_place(start: Start, runtime: Path) -> None:
    """On a terminal the lines are drawn over those before; Ctrl-C ends it."""
    listener = start("listen", "--json", "--allow", "any")
    listener.wait_for("code")
    here, there = pty.openpty()
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
    watching = subprocess.Popen([*ICEAGENT, "status", "--watch"], stderr=there, stdout=there, env=environment)
    os.close(there)
    shown = b""
    try:
        while b"\x1b[3F\x1b[J" not in shown:
            shown += os.read(here, 4096)
        assert f"listen, process {listener.pid}".encode() in shown
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 130
    finally:
        watching.kill()
        watching.wait()
        os.close(here)
