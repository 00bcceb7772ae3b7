"""`iceagent connect`: the other side's pipe on standard input and output."""

from __future__ import annotations

from collections.abc import Sequence

import click

from iceagent.cli.connection import ConnectionOptions, connection_options
from iceagent.cli.options import Common, code_argument, output_options, relay_option, timeout_option
from iceagent.cli.output import Output
from iceagent.cli.peer_options import JoinWish, verification, verify_option
from iceagent.cli.progress import follow_paths, shown_progress
from iceagent.cli.run import run_verb
from iceagent.cli.timeline import kept_timeline, timeline_option
from iceagent.net.tasks import open_background
from iceagent.tunnel.stdio import StandardStreams, run_pipe

_EXAMPLE = """
Example:  there$ tar c . | iceagent listen
          here$  iceagent connect 7-guitar-ozone | tar x
"""


@click.command("connect", epilog=_EXAMPLE)
@code_argument
@timeout_option("With a name: give up if the peer does not come.")
@verify_option
@relay_option
@connection_options
@timeline_option
@output_options
def command(
    code: str,
    timeout_s: float | None,
    verify: bool,
    relay: Sequence[str],
    connection: ConnectionOptions,
    timeline: str | None,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> int:
    """Join your standard input and output with those of the other side.

    CODE is what the other side's `iceagent listen` printed, or the name of a paired peer, which runs `iceagent listen
    --name`. Either direction ends when its input ends.
    """
    output = Common(as_json, quiet, verbose).open_output(pipe=True)
    wish = JoinWish(code, relay, verification(output, wanted=verify), timeout_s)
    return run_verb(lambda: _connect(wish, connection, timeline, output), output, has_peer=True)


async def _connect(wish: JoinWish, connection: ConnectionOptions, timeline: str | None, output: Output) -> None:
    with kept_timeline(timeline) as kept:
        config = connection.config()
        async with (
            shown_progress(output, kept) as progress,
            wish.join(config, progress) as link,
            open_background() as nursery,
        ):
            await nursery.start(lambda task_status: follow_paths(link, output, task_status=task_status))
            await run_pipe(link, StandardStreams(), opener=True)
