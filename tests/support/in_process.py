"""A command without a process of its own, for what ends before anything begins: starting one takes most of a second.

That exit codes and output get out of a process is shown by those that have one.
"""

from __future__ import annotations

import io
import os
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest import mock

from iceagent.cli import main


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    returncode: int
    stdout: bytes
    stderr: bytes


def command(*arguments: str) -> Ended:
    """Run a command to its end, without our environment; what it does to loggers is undone after each test."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ICEAGENT_")}
    with mock.patch.dict(os.environ, environment, clear=True), redirect_stdout(out), redirect_stderr(err):
        code = main(list(arguments))
    return Ended(code, *(one.buffer.getvalue() for one in (out, err)))
