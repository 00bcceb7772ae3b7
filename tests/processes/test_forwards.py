"""`iceagent forwards`: forwards of a command that runs come and go, without another code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import ICEAGENT, Process, Processes
from tunnels import TRAFFIC

pytestmark = pytest.mark.processes

Ask = Callable[..., tuple[int, list[dict[str, Any]]]]


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def start(run: Processes, runtime: Path) -> Callable[..., Process]:
    return lambda *arguments: run.start("env", f"XDG_RUNTIME_DIR={runtime}", *ICEAGENT, *arguments)


@pytest.fixture
def ask(runtime: Path) -> Ask:
    """Run a command that asks another, and return its exit code and lines."""

    def run_it(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
        ended = subprocess.run(
            [*ICEAGENT, *arguments, "--json"], capture_output=True, text=True, timeout=60, env=environment, check=False
        )
        return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]

    return run_it


def is_open(bind: str) -> bool:
    host, _, port = bind.rpartition(":")
    with socket.socket() as sock:
        return sock.connect_ex((host, int(port))) == 0


def test_forwards_come_and_go_while_the_command_runs(start: Callable[..., Process], run: Processes, ask: Ask) -> None:
    """Of those from its start and of later ones; what is refused ends nothing."""
    target = run.start(*TRAFFIC, "source").wait_for("ready")["port"]
    listener = start("listen", "--json", "--allow", f"tcp:127.0.0.1:{target}", "--allow", "tcp:localhost:9")
    forward = start("forward", "--json", "-L", "0:localhost:9", listener.wait_for("code")["code"])
    first = forward.wait_for("forwarding")["bind"]

    code, (added,) = ask("forwards", "add", "-L", f"0:127.0.0.1:{target}")
    assert (code, added["kind"], added["target"]) == (0, "forwarding", f"tcp:127.0.0.1:{target}")
    assert forward.wait_for("forwarding")["bind"] == added["bind"], "the command says it, too"
    run.start(*TRAFFIC, "sink", added["bind"], "--bytes", "100000").wait_for("done")
    _, found = ask("status", str(forward.pid))
    carried = {one["binds"][0]: one["received"] for one in found[0]["sessions"][0]["forwards"]}
    assert carried[added["bind"]] >= 100_000
    assert carried[first] == 0

    code, (refused,) = ask("forwards", "add", "-L", "0:localhost:10")
    assert (code, refused["exit"]) == (8, 8)
    assert "refuses tcp:localhost:10" in refused["message"] or "allows only" in refused["message"]
    code, (taken,) = ask("forwards", "add", "-L", f"{first.rpartition(':')[2]}:localhost:9")
    assert (code, taken["kind"]) == (9, "error")
    code, (malformed,) = ask("forwards", "add", "-L", "everything")
    assert (code, malformed["kind"]) == (2, "error")

    for bind in (added["bind"], first):
        assert is_open(bind)
        code, (removed,) = ask("forwards", "remove", bind.rpartition(":")[2])
        assert (code, removed["kind"], removed["bind"]) == (0, "forward-removed", bind)
        while is_open(bind):
            pass
    code, (unknown,) = ask("forwards", "remove", first)
    assert code == 2
    assert "no forward is open at" in unknown["message"]
    code, (dynamic,) = ask("forwards", "add", "-D", "0", str(forward.pid))
    assert (code, dynamic["kind"]) == (0, "forwarding")
    assert is_open(dynamic["bind"])
    assert forward.stop() == 130
    assert not is_open(dynamic["bind"])


def test_it_is_said_which_command_is_meant(start: Callable[..., Process], ask: Ask) -> None:
    """None that could take it; or several."""
    code, (none,) = ask("forwards", "add", "-L", "0:localhost:9")
    assert code == 2
    assert "no `iceagent forward` is connected" in none["message"]
    code, (nothing,) = ask("forwards", "add")
    assert code == 2
    assert "nothing is to be added; say what" in nothing["message"]
    pids = []
    for _ in range(2):
        listener = start("listen", "--json", "--allow", "any")
        forward = start("forward", "--json", "-L", "0:localhost:9", listener.wait_for("code")["code"])
        forward.wait_for("forwarding")
        pids.append(forward.pid)
    code, (several,) = ask("forwards", "add", "-L", "0:localhost:9")
    assert code == 2
    assert several["message"] == f"several run: name the process, one of {', '.join(map(str, sorted(pids)))}"
    assert ask("forwards", "add", "-L", "0:localhost:9", str(pids[1]))[0] == 0
