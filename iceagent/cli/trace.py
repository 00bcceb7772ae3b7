"""`iceagent trace`: what `--timeline` has written, as a table and as a chart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from iceagent.cli.options import Common, output_options
from iceagent.cli.output import Output
from iceagent.cli.run import run_verb

if TYPE_CHECKING:
    from iceagent.cli.trace_read import Trace

LONGEST = 50  # characters of a column that others are aligned with
_EXAMPLE = """
Example:  iceagent trace connection.json --svg connection.svg
"""


@click.command("trace", epilog=_EXAMPLE)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--svg", type=click.Path(dir_okay=False), metavar="OUT", help="Draw it as a chart, too, into this file.")
@output_options
def command(file: Path, svg: str | None, as_json: bool, quiet: bool, verbose: int) -> int:
    """Show what happened to a connection: a file that --timeline wrote.

    A table of what happened when, between whom, and what came of it.
    """
    output = Common(as_json, quiet, verbose).open_output()

    async def run() -> None:
        await trio.lowlevel.checkpoint()
        _show(file, svg, output)

    return run_verb(run, output)


def _show(file: Path, svg: str | None, output: Output) -> None:
    from iceagent.cli.trace_read import read_trace
    from iceagent.cli.trace_words import Row, row_of

    trace = read_trace(file)
    rows = [row_of(event) for event in trace.events]
    widths = [
        min(LONGEST, max(map(len, words), default=0))
        for words in ([row.what for row in rows], [row.between for row in rows])
    ]

    def show(row: Row, event: dict[str, object]) -> None:
        columns = (f"{row.t:10.3f}", row.what.ljust(widths[0]), row.between.ljust(widths[1]), row.result)
        output.line(
            "event",
            "  ".join(columns).rstrip(),
            essential=True,
            t=row.t,
            event=str(event["kind"]),
            what=row.what,
            between=row.between,
            result=row.result,
        )

    if trace.forgotten > 0:
        output.line("forgotten", f"{trace.forgotten} earlier events were not kept", count=trace.forgotten)
    for row, event in zip(rows, trace.events, strict=True):
        show(row, event)
    verdict = trace.verdict
    output.line(
        "conclusion",
        f"in the end: {' '.join(filter(None, (verdict.summary, verdict.remedy)))}",
        started=trace.started,
        verdict=verdict.kind,
        summary=verdict.summary,
        remedy=verdict.remedy,
    )
    if svg is not None:
        _draw(trace, file.name, svg, output)


def _draw(trace: Trace, name: str, svg: str, output: Output) -> None:
    from iceagent.cli.timeline import kept_timeline
    from iceagent.cli.trace_svg import draw

    with kept_timeline(svg, "the chart") as kept:
        assert kept is not None
        kept.text = draw(trace, name)
    output.line("drawn", f"drawn into {svg}", file=svg)
