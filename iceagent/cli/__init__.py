"""The command line: one module per verb, imported when it is asked for."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn, TextIO


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `iceagent` and return its exit code (see `iceagent.cli.exits`).

    Args:
        arguments: None for those of the process, which then ends with this call.
    """
    if arguments is not None:
        return _run(arguments)
    hold_standard_streams()
    gc.disable()  # until the verb runs: modules are no garbage, and looking for it takes a tenth of the start
    try:
        code = _run(sys.argv[1:], is_process=True)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is ending; a second Ctrl-C would only show where
    return _end(code)


def _end_when_interrupted(arguments: Sequence[str]) -> None:
    """Until a verb takes Ctrl-C and SIGTERM into its own hands, have them end the process where they meet it.

    There is nothing to tidy up yet. As an exception, Ctrl-C would be lost whenever it met a callback of the import
    system's, which Python runs as an object goes: what those raise is printed and forgotten.
    """
    from iceagent.cli.output import output_of  # now: later it might be in the middle of being imported

    def interrupted(_: int, __: object) -> None:
        with suppress(RuntimeError):  # it came in the middle of another line
            output_of(arguments).error(130, "interrupted")
        os._exit(130)

    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is usual:  # a shell's background job does not hear Ctrl-C
            signal.signal(number, interrupted)


def _end(code: int) -> NoReturn:
    """End the process at once: what the interpreter tidies up before its own end is of no use to anybody any more.

    It takes 0.3 s of a core, seconds on a busy machine, and nothing watches over it: who pressed Ctrl-C would wait.
    """
    streams: tuple[TextIO | None, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        with suppress(OSError, ValueError):  # nobody reads it, or it was closed
            if stream is not None:
                stream.flush()
    os._exit(code)


def _run(arguments: Sequence[str], *, is_process: bool = False) -> int:
    try:
        if is_process:
            _end_when_interrupted(arguments)
        from iceagent.cli.app import run_app  # here, so that Ctrl-C while modules are read ends as it should

        return run_app(arguments)
    except KeyboardInterrupt:
        from iceagent.cli.output import output_of

        output_of(arguments).error(130, "interrupted")
        return 130


def hold_standard_streams() -> None:
    """Put something in the place of standard streams that were closed (`>&-`), so that no socket gets their numbers.

    Payload for standard output would otherwise go to whoever is at the other end of that socket. What stands there
    fails as a closed stream does: standard input cannot be read, the others cannot be written.
    """
    for number, wrong_way in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, wrong_way)  # takes the lowest free number: this one
