"""The QUIC library seeds its generator before anybody waits for it."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from iceagent.link import backends


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What threads were started for, as in a process that has seeded nothing yet."""
    calls: list[object] = []

    class Thread(threading.Thread):
        def start(self) -> None:
            calls.append(self._target)  # type: ignore[attr-defined]

    monkeypatch.setattr(backends, "_begun", threading.Event())
    monkeypatch.setattr(threading, "Thread", Thread)
    return calls


def test_it_is_done_once_in_a_thread(started: list[object]) -> None:
    """A listener makes many links, and only the first key takes long."""
    backends.gather_entropy()
    backends.gather_entropy()
    assert len(started) == 1, "qh3 has no key exchange by that name any more: see iceagent/link/backends.py"


def test_another_library_is_left_alone(started: list[object]) -> None:
    backends.gather_entropy("aioquic")
    assert started == []


def test_without_the_library_nothing_happens(started: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is missing is told by who opens a link."""
    monkeypatch.setitem(sys.modules, "qh3._hazmat", None)
    backends.gather_entropy()
    assert started == []


@pytest.mark.processes
def test_a_process_that_only_wanted_the_library_ready_ends_well() -> None:
    """The thread holds no lock at the end, and nothing is said on standard error."""
    code = "from iceagent.link import preload; preload()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr == ""
