"""Everything the command line prints.

Standard output belongs to the payload of the pipe verbs (`connect`, `listen` without `--allow`). With `--json` the
other verbs print their lines there, one JSON object each; the pipe verbs print them on standard error. Without
`--json` all lines are for people and go to standard error. The JSON schema is in docs/cli.md.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO

_CLEAR = "\r\x1b[K"  # back to the beginning of the line, and nothing in it
SCHEMA = 1  # raised when a key changes its meaning; new keys and kinds may come at any time


class Output:
    """Prints lines, for a person or for a program."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, pipe: bool = False) -> None:
        """`quiet` leaves only the code and errors to a person; `pipe`: standard output carries payload."""
        self.as_json = as_json
        self.quiet = quiet
        self.pipe = pipe
        self._is_moving = False

    def line(self, kind: str, text: str, *, essential: bool = False, **fields: Any) -> None:
        """Print one line.

        Args:
            kind: of the JSON object.
            text: what a person reads instead.
            essential: printed with `-q` too.
            fields: the other keys of the JSON object.
        """
        if self.as_json:
            stream = sys.stderr if self.pipe else sys.stdout
            _print(json.dumps({"kind": kind, **fields, "schema": SCHEMA}), stream)
        elif essential or not self.quiet:
            self.still()
            _print(_shown(text), sys.stderr)

    @property
    def can_move(self) -> bool:
        """Whether there is a terminal on which a line can move, and somebody who wants to see it."""
        is_terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        return is_terminal and not (self.as_json or self.quiet)

    def move(self, text: str) -> None:
        """Show a line in the place of the one shown so before; the next line that is printed takes its place."""
        columns = shutil.get_terminal_size().columns
        shown = _one_line(_shown(text))
        self.raw(f"{_CLEAR}{shown[: max(1, columns - 1)]}")
        self._is_moving = True

    def still(self) -> None:
        """Take away the line that moves, if there is one."""
        if self._is_moving:
            self._is_moving = False
            self.raw(_CLEAR)

    def raw(self, text: str) -> None:
        """Write what a terminal obeys, such as how to go back to the beginning of a line; never words of others."""
        if sys.stderr is not None:
            with suppress(OSError):
                sys.stderr.write(text)
                sys.stderr.flush()

    def error(self, code: int, message: str, *, verdict: Mapping[str, object] | None = None) -> None:
        """Print why the command ends with a code other than 0, and the verdict of `Agent.explain()`."""
        extra = {} if verdict is None else {"verdict": verdict}
        self.line("error", f"iceagent: {_one_line(message)}", essential=True, exit=int(code), message=message, **extra)

    def follow_log(self, verbose: int, handler: logging.Handler | None = None) -> None:
        """Print what the library logs: warnings, with `-v` the course of things, with `-vv` everything.

        Args:
            verbose: how often `-v` was given.
            handler: takes the records instead.
        """
        logging.getLogger().addHandler(logging.NullHandler())
        for name in ("iceagent", "icesignal"):  # not what they stand on, which logs messages and their sizes
            logger = logging.getLogger(name)
            logger.addHandler(handler or _LogHandler(self))
            logger.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG))


class _LogHandler(logging.Handler):
    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        message = self.format(record)
        name, logged = record.levelname.lower(), record.getMessage()
        text = f"{name}: {_one_line(logged)}{message.removeprefix(logged)}"  # those of a traceback are lines of ours
        self._output.line("log", text, level=name, logger=record.name, message=message)


def output_of(arguments: Sequence[str]) -> Output:
    """Return where to complain about a command line that is not parsed, or not yet."""
    pipe = bool(arguments) and (
        arguments[0] in {"connect", "nc"}
        or (arguments[0] == "receive" and not {"--into=-", "-"}.isdisjoint(arguments))
        or (arguments[0] == "listen" and not any(argument.startswith("--allow") for argument in arguments))
    )
    return Output(as_json="--json" in arguments, pipe=pipe)


def _shown(text: str) -> str:
    """Return text without anything that a terminal obeys: words of a peer or a relay may be in it."""
    return "".join(one if one.isprintable() or one == "\n" else "?" for one in text)


def _one_line(text: str) -> str:
    """Return text without line breaks: what others say in it could otherwise look like a line of ours."""
    return "?".join(text.splitlines())


def _print(text: str, stream: TextIO | None) -> None:
    if stream is None:  # closed from the start; print() would take standard output instead
        return
    with suppress(OSError):  # whoever read our lines is gone; the tunnel is not
        print(text, file=stream, flush=True)
