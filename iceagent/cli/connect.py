"""`iceagent connect`: the other side's pipe on standard input and output."""

from __future__ import annotations

import rich_click as click

from iceagent.cli.options import Common, code_argument, hard_nat_option, output_options, relay_option, with_hard_nat
from iceagent.cli.output import Output
from iceagent.cli.paths import follow_paths
from iceagent.cli.run import run_verb
from iceagent.cli.timeline import kept_timeline, timeline_option
from iceagent.session.background import open_background
from iceagent.tunnel.peer import join
from iceagent.tunnel.stdio import StandardStreams, run_pipe


@click.command("connect")
@code_argument
@relay_option
@hard_nat_option
@timeline_option
@output_options
def command(
    code: str, relay: str | None, hard_nat: bool, timeline: str | None, as_json: bool, quiet: bool, verbose: int
) -> int:
    """Join your standard input and output with those of `iceagent listen` on the other machine.

    CODE is what the other side printed. Either direction ends when its input ends.
    """
    output = Common(as_json, quiet, verbose).open_output(pipe=True)
    return run_verb(lambda: _connect(code, relay, timeline, output, hard_nat=hard_nat), output)


async def _connect(code: str, relay: str | None, timeline: str | None, output: Output, *, hard_nat: bool) -> None:
    with kept_timeline(timeline) as kept:
        config = with_hard_nat(kept, hard_nat=hard_nat)
        async with join(code, relay=relay, config=config) as link, open_background() as nursery:
            await nursery.start(lambda task_status: follow_paths(link, output, task_status=task_status))
            await run_pipe(link, StandardStreams(), opener=True)
