"""`iceagent status`: what the running commands do, asked at their control sockets (docs/status.md)."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import click
import trio

from iceagent.cli.control.messages import CommandStatus
from iceagent.cli.options import Common, output_options
from iceagent.cli.output import Output
from iceagent.cli.run import run_verb

WATCH_S = 1.0  # between two looks


_EXAMPLE = """
Example:  iceagent status --watch
"""


@click.command("status", epilog=_EXAMPLE)
@click.argument("pid", type=click.IntRange(min=1), required=False)
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@output_options
def command(pid: int | None, watch: bool, as_json: bool, quiet: bool, verbose: int) -> int:
    """Show what your running commands do: with whom, and which way.

    PID is the process id of one of them.
    """
    output = Common(as_json, quiet, verbose).open_output()

    async def run() -> None:
        if watch:
            await _watch(pid, output)
        else:
            await _show(pid, output)

    return run_verb(run, output)


async def _show(pid: int | None, output: Output) -> None:
    from iceagent.cli.control.client import ask_all
    from iceagent.cli.status_lines import status_lines

    found = await ask_all(pid)
    if not found:
        output.line("none", "no command of this user has a session or waits for one")
    for one in found:
        if isinstance(one, CommandStatus):
            output.line("status", "\n".join(status_lines(one)), essential=True, **fields_of(one))
        else:
            text = f"process {one.pid}: {one.why}"
            output.line("unanswered", text, essential=True, pid=one.pid, reason=one.why)


def fields_of(status: CommandStatus) -> dict[str, object]:
    """Return the keys of the JSON line."""
    import msgspec

    built: dict[str, object] = msgspec.to_builtins(status)
    return built


async def _watch(pid: int | None, output: Output) -> None:
    """Show it every second: on a terminal in the same place, else, where it has changed, below what was shown."""
    screen = _Screen(output)
    while True:
        await screen.show(pid)
        await trio.sleep(WATCH_S)


def fitting(lines: Sequence[str], columns: int, rows: int) -> list[str]:
    """Return what a screen can show of lines: what is longer would take more of its rows than are counted."""
    room = max(1, rows - 1)
    cut = [line[: max(1, columns - 1)] for line in lines]
    return cut if len(cut) <= room else [*cut[: room - 1], f"and {len(cut) - room + 1} lines more"[: columns - 1]]


class _Screen(Output):
    """Collects what is shown, and shows it in the place of what was shown before."""

    def __init__(self, output: Output) -> None:
        super().__init__(as_json=output.as_json, quiet=output.quiet)
        self._collected: list[str] = []
        self._shown = 0
        self._last: Sequence[str] = ()

    def line(self, kind: str, text: str, *, essential: bool = False, **fields: object) -> None:
        """Collect a line for people; one for programs is printed."""
        if self.as_json:
            super().line(kind, text, essential=essential, **fields)
        else:
            self._collected += text.split("\n")

    async def show(self, pid: int | None) -> None:
        """Ask, and show the answers."""
        self._collected = []
        await _show(pid, self)
        lines, stream = self._collected, sys.stderr
        if self.as_json or stream is None or list(self._last) == lines:
            return
        self._last = lines
        if stream.isatty():
            self.raw(f"\x1b[{self._shown}F\x1b[J" if self._shown else "")
            lines = fitting(lines, *shutil.get_terminal_size())
            self._shown = len(lines)
        for line in lines:
            self.raw(f"{line}\n")
