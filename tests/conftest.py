"""What holds for every test: when it is over, no socket and no child process of it is left."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def open_sockets() -> set[str]:
    """Return this process's sockets, by inode."""
    sockets = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith("socket:"):
            sockets.add(target)
    return sockets


def children() -> set[int]:
    """Return the process ids of this process's children."""
    return {int(pid) for tasks in Path("/proc/self/task").glob("*/children") for pid in tasks.read_text().split()}


def left_over(sockets: set[str], processes: set[int]) -> tuple[set[str], set[int]]:
    """Return what is there now and was not before."""
    return open_sockets() - sockets, children() - processes


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare sockets and children before and after; threads of the standard library get a moment to finish.

    Tests that need root share laboratories, which a fixture of their own takes down.
    """
    if sys.platform != "linux" or request.node.get_closest_marker("root"):
        yield
        return
    before = open_sockets(), children()
    yield
    for _ in range(20):
        if not any(left_over(*before)):
            return
        gc.collect()
        time.sleep(0.05)
    sockets, processes = left_over(*before)
    assert not sockets, f"sockets left open: {sockets}"
    assert not processes, f"child processes left: {processes}"
