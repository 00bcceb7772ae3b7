"""Standard streams that are closed or full, and Ctrl-C where no verb runs yet or any more."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import click
import pytest
from processes import ICEAGENT, PATIENCE_S, Process, Processes

from iceagent.cli import app, main

SECRET = b"the payload, and nothing but the payload\n" * 100
SELF_INTERRUPT = """
import os, signal, sys
end = os._exit
def interrupted(code):
    os.kill(os.getpid(), signal.SIGINT)
    end(code)
os._exit = interrupted
sys.argv = ["iceagent", "--version"]
from iceagent.cli import main
main()
"""

SWALLOWED = """
import os, signal, sys
class Dying:
    def __del__(self): os.kill(os.getpid(), NUMBER)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "iceagent.cli.exits": Dying()
sys.meta_path.insert(0, Finder())
sys.argv = ["iceagent", "--version", "--json"]
from iceagent.cli import main
main()
"""
"""Python prints what is raised while an object goes, and forgets it; importing lets one go for every module."""


def shell(redirection: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run iceagent under a shell that redirects its streams."""
    script = f'exec "$@" {redirection}'
    command = ["sh", "-c", script, "sh", *ICEAGENT, *arguments]
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)


def offer(run: Processes, payload: bytes) -> tuple[Process, str]:
    """Start a pipe that has `payload` to send; return it and the code, which carries the relay."""
    script = 'printf %s "$0" | exec "$@"'
    listener = run.start("sh", "-c", f"{script} 2>&1", payload.decode(), *ICEAGENT, "listen", "--json")
    return listener, listener.wait_for("code")["code"]


@pytest.mark.processes
def test_payload_for_a_closed_stdout_goes_nowhere(run):
    """The number of a closed stream would be given to the next socket, and the payload to whoever is behind it."""
    _, code = offer(run, SECRET)
    done = shell(">&-", "connect", code)
    assert done.returncode == 9
    assert b"cannot write to standard output: Bad file descriptor" in done.stderr


@pytest.mark.processes
def test_lines_for_a_closed_stderr_do_not_mix_with_the_payload(run):
    """print() takes standard output where standard error is missing."""
    _, code = offer(run, SECRET)
    done = shell("2>&-", "connect", code)
    assert (done.returncode, done.stdout) == (0, SECRET)


@pytest.mark.processes
def test_a_closed_stdin_has_ended(run):
    """As if it were empty."""
    _, code = offer(run, SECRET)
    done = shell("<&-", "connect", code)
    assert (done.returncode, done.stdout) == (0, SECRET)


@pytest.mark.processes
@pytest.mark.parametrize("option", ["--version", "--help"])
def test_help_on_a_full_disk_is_one_sentence(option):
    """Not a traceback."""
    done = shell(">/dev/full", option)
    assert done.returncode == 9
    assert done.stderr == b"iceagent: reading or writing failed: No space left on device\n"


@pytest.mark.processes
def test_an_interrupt_while_the_process_ends_is_not_shown():
    """Who presses Ctrl-C twice must not see a traceback, and the exit code stays."""
    done = subprocess.run([sys.executable, "-c", SELF_INTERRUPT], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"iceagent ")


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_interrupt_is_lost_while_modules_are_imported(number: int) -> None:
    """As an exception it is, once in some hundreds: the command then runs on as if nobody had pressed Ctrl-C."""
    code = SWALLOWED.replace("NUMBER", str(int(number)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (130, "")
    assert {"kind": "error", "exit": 130}.items() <= json.loads(done.stdout).items()


@pytest.mark.processes
def test_the_process_ends_with_its_last_line() -> None:
    """What the interpreter does of itself before it ends takes seconds on a busy machine, and nothing bounds it."""
    code = "import atexit, time; atexit.register(time.sleep, 600); from iceagent.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "forward"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("iceagent: Missing argument")


def test_an_interrupt_before_the_verb_runs_is_told(monkeypatch, capsys):
    """click turns Ctrl-C into its own exception while it reads the command line and imports the verb."""

    def interrupted(*_: object, **__: object) -> None:
        raise click.Abort

    monkeypatch.setattr(app.app, "main", interrupted)
    assert main(["forward", "--json"]) == 130
    line = json.loads(capsys.readouterr().out)
    assert {"kind": "error", "exit": 130}.items() <= line.items()
