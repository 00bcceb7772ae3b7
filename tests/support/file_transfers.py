"""`iceagent send` and `receive` as processes, killed in mid-transfer and started again."""

from __future__ import annotations

import filecmp
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from processes import PATIENCE_S, Ended, Process, Processes


@dataclass
class KillPlan:
    """How often one of the two is killed, drawn which and when: after how many bytes."""

    draw: random.Random
    kills: int
    size: int

    def points(self) -> list[int]:
        """Return after how many bytes in the target the kills come, ascending."""
        return sorted(self.draw.randrange(self.size // 20, self.size * 19 // 20) for _ in range(self.kills))


def start_transfer(run: Processes, relay: str, source: Path, into: Path) -> tuple[Process, Process]:
    """Start both sides; return sender and receiver."""
    sender = run.iceagent("send", "--json", "--relay", relay, str(source))
    code = sender.wait_for("code")["code"]
    receiver = run.iceagent("receive", "--json", "--yes", "--relay", relay, "--into", str(into), code)
    return sender, receiver


def send_with_kills(run: Processes, relay: str, source: Path, into: Path, plan: KillPlan) -> tuple[float, float]:
    """Send through kills; return the seconds in which both sides were there, and those of the pauses.

    A pause lasts from the kill to the start of the next two commands: the one that is left is ended, too.
    """
    began_at, paused = time.monotonic(), 0.0
    for point in plan.points():
        sender, receiver = start_transfer(run, relay, source, into)
        wait_size(into, point, receiver)
        victim, other = (sender, receiver) if plan.draw.random() < 0.5 else (receiver, sender)
        killed_at = time.monotonic()
        victim.signal(signal.SIGKILL)
        other.signal(signal.SIGKILL)
        victim.wait()
        other.wait()
        paused += time.monotonic() - killed_at
    sender, receiver = start_transfer(run, relay, source, into)
    codes = sender.wait(600), receiver.wait(600)
    seconds = time.monotonic() - began_at - paused
    if codes != (0, 0) or not same_content(source, into / source.name):
        raise Ended(f"it did not arrive: {codes} {sender.errors} {receiver.errors} {receiver.lines}")
    return seconds, paused


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    sizes = []
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.stat(os.path.join(where, name)).st_size)
            except FileNotFoundError:
                continue  # it has its own name now
    return sum(sizes)


def wait_size(folder: Path, size: int, receiver: Process) -> None:
    """Wait until a folder has so many bytes, or the receiver has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while size_of(folder) < size and receiver.is_running:
        if time.monotonic() > deadline:
            raise Ended(f"{folder} has {size_of(folder)} bytes, not {size}")
        time.sleep(0.01)


def same_content(ours: Path, theirs: Path) -> bool:
    """Return whether two files, or all files of two folders, are the same byte for byte, and nothing is left over."""
    if ours.is_file():
        return theirs.is_file() and filecmp.cmp(ours, theirs, shallow=False)
    names = sorted(str(path.relative_to(ours)) for path in ours.rglob("*"))
    if names != sorted(str(path.relative_to(theirs)) for path in theirs.rglob("*")):
        return False
    files = [name for name in names if (ours / name).is_file()]
    return filecmp.cmpfiles(ours, theirs, files, shallow=False)[0] == files
