"""How a new code is shown: the code, the command for the other machine, and with `--qr` that command as a picture."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TypeVar

import click

from iceagent.cli.code_reach import reach_of
from iceagent.cli.output import Output

F = TypeVar("F", bound=Callable[..., object])
BORDER = 2  # modules of light around it; four are the norm, and two are enough on a screen
_WANTED = "iceagent.qr"


def qr_option(function: F) -> F:
    """Add `--qr`, for verbs that show a code by `show_code`."""
    return click.option(
        "--qr",
        is_flag=True,
        expose_value=False,
        callback=_want,
        help="Show the command for the other machine as a QR code, too.",
    )(function)


def _want(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Note that it is wanted; look for what draws it before anything begins."""
    if wanted and find_spec("segno") is None:
        raise click.UsageError("--qr needs the package segno; install it: pip install 'iceagent[qr]'")
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    if wanted and not _can_draw(encoding):
        raise click.UsageError(f"--qr: characters of {encoding} cannot draw it; use a locale of UTF-8")
    context.meta[_WANTED] = wanted


def _can_draw(encoding: str) -> bool:
    try:
        "█▀▄".encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def show_code(output: Output, *, code: str, relay: str, command: str) -> None:
    """Print a new code.

    Args:
        output: where.
        code: such as 7-guitar-ozone.
        relay: URL of the relay where it was made.
        command: what to paste on the other machine.
    """
    reach = reach_of(code)
    text = code if output.quiet else f"code: {code}\non the other machine, run:  {command}"
    if reach is not None and not output.quiet:
        text += f"\n{reach.text}"
    where = None if reach is None else reach.where
    output.line("code", text, essential=True, code=code, relay=relay, command=command, reach=where)
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get(_WANTED) and not output.as_json and sys.stderr is not None:
        sys.stderr.write(qr_of(command))
        sys.stderr.flush()


def qr_of(text: str) -> str:
    """Return a QR code as lines for a terminal, two modules to a character: light ones are drawn, for dark screens."""
    import segno

    rows = [bytes(row) for row in segno.make_qr(text, error="l").matrix_iter(border=BORDER)]
    if len(rows) % 2:
        rows.append(bytes(len(rows[0])))
    shapes = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}  # a dark module is 1
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return "".join("".join(shapes[over, under] for over, under in zip(*pair, strict=True)) + "\n" for pair in pairs)
