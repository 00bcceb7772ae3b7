"""What holds for every test: when it is over, no socket and no child process of it is left; chance is repeatable."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from amount import amount
from hypothesis import HealthCheck, is_hypothesis_test, settings
from processes import Processes, processes

from iceagent.cli.json_lines import check_line
from iceagent.cli.output import SCHEMA, Output
from iceagent.net.logs import RateLimit

# The speed of the machine is no property of the code: neither a slow example nor slow drawing is a failure. Examples
# are the same in every run, so that a change fails by its own doing; `--hypothesis-profile=explore` draws others.
# A test that tries many more, or few, says so itself.
settings.register_profile(
    "repeatable",
    max_examples=amount(100, 40),
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("explore", settings.get_profile("repeatable"), derandomize=False)
settings.load_profile("repeatable")


# Who starts the tests in the background of a script, or under nohup, hands on ignored signals; the processes that the
# tests start shall heed them. A handler is not handed on: it is theirs to decide.
for _number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let `make thorough` run the tests of Hypothesis, all of which try more there."""
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.thorough)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Let the garbage collector overlook what is there before the first test, and stays: 4,000 tests and all imports.

    Else each of its rounds looks at all of that again, for half a second; and who counts objects has to look at it too.
    """
    gc.collect()
    gc.freeze()


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


@pytest.fixture(autouse=True)
def fresh_log_limits() -> None:
    """Let each test hear all its lines: what others of this process have logged does not count."""
    for logger in list(logging.Logger.manager.loggerDict.values()):
        for limit in getattr(logger, "filters", ()):
            if isinstance(limit, RateLimit):
                limit._kinds.clear()


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    """Undo what a command that a test runs in this process does to our loggers: the next test may listen to them."""
    loggers = [logging.getLogger(name) for name in ("iceagent", "icesignal")]
    before = [(logger, list(logger.handlers), logger.level) for logger in loggers]
    yield
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)


class _Unforeseen(logging.Handler):
    """Keeps what is logged as unforeseen."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.words.append(record.getMessage())


@pytest.fixture
def expects_unforeseen() -> None:
    """For tests that make something unforeseen happen."""


@pytest.fixture(autouse=True)
def nothing_unforeseen(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail where an error was contained (`iceagent.net.tasks`): a fault stays one, though it ends nothing."""
    handler = _Unforeseen()
    logger = logging.getLogger("iceagent.unforeseen")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert not handler.words or "expects_unforeseen" in request.fixturenames, handler.words


@pytest.fixture(autouse=True)
def lines_are_of_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold every line that a command of this process prints against its schema, whether or not it is printed as JSON.

    Those of other processes are held against it in `processes.Process`.
    """
    line = Output.line

    def checked(self: Output, kind: str, text: str, *, essential: bool = False, **fields: Any) -> None:
        check_line(json.loads(json.dumps({"kind": kind, **fields, "schema": SCHEMA})))
        line(self, kind, text, essential=essential, **fields)

    monkeypatch.setattr(Output, "line", checked)


@pytest.fixture
def run() -> Iterator[Processes]:
    """Start processes that end with the test."""
    with processes() as started:
        yield started
