"""`send` and `receive` as two processes: kills in mid-transfer, exit codes, standard streams."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest
from file_transfers import KillPlan, same_content, send_with_kills, start_transfer, wait_size
from processes import ICEAGENT, Process, Processes

pytestmark = pytest.mark.processes

THOROUGH = "ICEAGENT_THOROUGH" in os.environ
LARGE = 2_000_000_000 if THOROUGH else 60_000_000
SMALL = 20_000 if THOROUGH else 1_000
KILLS = 5 if THOROUGH else 2


@pytest.fixture
def relay(run: Processes) -> str:
    return str(run.iceagent("serve", "--json", "--listen", "127.0.0.1:0").wait_for("listening")["url"])


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "here" / "large"
    path.parent.mkdir()
    draw = random.Random(5)
    with path.open("wb") as file:
        for _ in range(LARGE // 1_000_000):
            file.write(draw.randbytes(1_000_000))
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    folder = tmp_path / "here" / "small"
    draw = random.Random(6)
    for number in range(SMALL):
        where = folder / str(number // 100)
        where.mkdir(parents=True, exist_ok=True)
        (where / f"{number}").write_bytes(draw.randbytes(draw.randrange(20_000)))
    return folder


@pytest.mark.parametrize("seed", [1, 2])
def test_a_large_file_through_kills_of_either_side(run: Processes, relay: str, large: Path, seed: int) -> None:
    """Each time both are started again, and what was there is not sent a second time."""
    into = large.parent.parent / "there"
    send_with_kills(run, relay, large, into, KillPlan(random.Random(seed), KILLS, LARGE))


def test_many_small_files_through_kills_of_either_side(run: Processes, relay: str, small: Path) -> None:
    into = small.parent.parent / "there"
    size = sum(path.stat().st_size for path in small.rglob("*") if path.is_file())
    send_with_kills(run, relay, small, into, KillPlan(random.Random(3), KILLS, size))


@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_who_is_left_ends_with_an_error_and_no_file_of_its_name(
    run: Processes, relay: str, large: Path, victim: str
) -> None:
    """A file that has its name is whole; its reader never sees a part of one."""
    into = large.parent.parent / "there"
    sender, receiver = start_transfer(run, relay, large, into)
    wait_size(into, LARGE // 10, receiver)
    killed, left = (sender, receiver) if victim == "sender" else (receiver, sender)
    killed.signal(signal.SIGKILL)
    left.signal(signal.SIGINT)  # what its user does; otherwise it waits for the other to come back
    assert killed.wait() == -signal.SIGKILL
    assert left.wait() == 130
    assert not (into / "large").exists()
    assert [path.suffix for path in into.iterdir()] == [".iceagent-part"]


def ended(process: Process) -> tuple[int, str]:
    code = process.wait()
    return code, next(line["message"] for line in process.lines + process.rest() if line["kind"] == "error")


def test_without_a_terminal_nothing_is_overwritten(run: Processes, relay: str, tmp_path: Path) -> None:
    """There is nobody to ask: one sentence on each side, and exit code 8; what overwrites nothing is taken."""
    (tmp_path / "file").write_text("new")
    into = tmp_path / "into"
    into.mkdir()
    for expected in ("new", "precious"):
        (into / "file").write_text("precious") if expected == "precious" else None
        os.utime(tmp_path / "file", ns=(9, 9))
        receiver = run.iceagent("receive", "--json", "--relay", relay, "--into", str(into))
        code = receiver.wait_for("code")
        assert code["command"].split()[:3] == ["iceagent", "send", "--relay"]
        sender = run.iceagent("send", "--json", "--relay", relay, "--to", code["code"], str(tmp_path / "file"))
        if expected == "new":
            assert (sender.wait(), receiver.wait()) == (0, 0)
        else:
            assert ended(receiver)[0] == 8
            status, sentence = ended(sender)
            assert status == 8
            assert "'file' is there already, and there is no terminal to ask at; --yes overwrites" in sentence
        assert (into / "file").read_text() == expected


def test_standard_streams(run: Processes, relay: str, tmp_path: Path) -> None:
    """`-` on both sides: bytes in, bytes out, nothing else on standard output."""
    data = random.Random(7).randbytes(3_000_000)
    source = tmp_path / "data"
    source.write_bytes(data)
    with source.open("rb") as opened:
        sender = run.start(*ICEAGENT, "send", "--json", "--relay", relay, "-", stdin=opened.fileno())
        code = sender.wait_for("code")["code"]
        command = [*ICEAGENT, "receive", "--json", "--relay", relay, "--into", "-", code]
        received = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert sender.wait() == 0
    assert received.stdout == data


def test_a_path_that_is_not_there_makes_no_code(run: Processes, relay: str, tmp_path: Path) -> None:
    sender = run.iceagent("send", "--json", "--relay", relay, str(tmp_path / "nothing"))
    status, sentence = ended(sender)
    assert status == 9
    assert sentence.startswith("cannot read ")
    assert not [line for line in sender.lines if line["kind"] == "code"]


def test_a_thousand_small_files_arrive_as_they_are(run: Processes, relay: str, small: Path) -> None:
    into = small.parent.parent / "there"
    sender, receiver = start_transfer(run, relay, small, into)
    assert (sender.wait(600), receiver.wait(600)) == (0, 0)
    assert same_content(small, into / "small")
    assert receiver.wait_for("transferred")["files"] == SMALL
