"""The tutorial is typed as it stands, with ports that are free; and the recipes use options that there are."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click
import pytest

from iceagent.cli.app import load_verb

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
HOWTO = (ROOT / "docs" / "howto.md").read_text(encoding="utf-8")
CODES = ("4711-guitar-ozone@198.51.100.7:41234", "7-guitar-ozone")
SIGN = {"listen": "code: ", "forward": "forwarding ", "serve": "relay"}


def typed(page: str) -> list[str]:
    """Return the commands of a page, without their prompts."""
    blocks = re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return re.findall(r"^\w*\$ (.+)$", "".join(blocks), re.MULTILINE)


def free_ports(*wanted: str) -> Iterator[tuple[str, str]]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in wanted]
        for name, sock in zip(wanted, sockets, strict=True):
            sock.bind(("127.0.0.1", 0))
            yield name, str(sock.getsockname()[1])


@pytest.mark.processes
def test_every_line_of_the_tutorial_works(tmp_path: Path) -> None:
    """In its order, each in a shell of its own, on one machine; the code is the one that `listen` printed last."""
    (tmp_path / "found.txt").write_text("seen")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ICEAGENT_")}
    environment |= {"PATH": path, "PYTHONUNBUFFERED": "1", "XDG_RUNTIME_DIR": str(tmp_path)}
    ports = dict(free_ports("8000", "8080", "8081", "4433"))
    code = ""
    with ExitStack() as stack:
        for written in typed(TUTORIAL.partition("<!-- run by tests/examples/test_tutorial.py -->")[2]):
            line = re.sub("|".join(CODES), lambda _: code, written)  # noqa: B023  # called at once
            line = re.sub(r"\b(8000|8080|8081|4433)\b", lambda found: ports[found[0]], line)
            words = shlex.split(line)
            sign = "Serving" if words[0] == "python3" else SIGN.get(words[1])
            process = subprocess.Popen(
                "exec " + line,
                shell=True,  # as a person would type it
                cwd=tmp_path,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            stack.callback(stop, process)
            assert process.stdout is not None
            if sign is None:
                output, _ = process.communicate(timeout=60)
                assert process.returncode == 0, f"{line}: {output}"
                assert words[0] != "curl" or "found.txt" in output
                continue
            said = ""
            for answer in process.stdout:
                said += answer
                if sign in answer:
                    break
            else:
                raise AssertionError(f"{line}: {said}")
            if sign == SIGN["listen"]:
                code = answer.removeprefix(sign).strip()


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(20)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.parametrize("line", [line for line in typed(HOWTO) if "iceagent " in line.partition(" -")[0]])
def test_the_recipes_use_options_that_there_are(line: str) -> None:
    """Parsed as the command does, and not run."""
    words = shlex.split(line)
    words = words[words.index("iceagent") + 1 :] if "iceagent" in words else []
    if words:
        command = load_verb(words[0])
        assert isinstance(command, click.Command)
        with command.make_context(words[0], words[1:], resilient_parsing=False):
            pass
