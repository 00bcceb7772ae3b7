"""`iceagent nc`: one target of the other side's on standard input and output."""

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
from iceagent.tunnel.netcat import join_target, parse_target
from iceagent.tunnel.stdio import StandardStreams

_EXAMPLE = """
Example:  iceagent nc office localhost:22
          ssh -o ProxyCommand='iceagent nc office localhost:%p' me@office
"""


@click.command("nc", epilog=_EXAMPLE)
@code_argument
@click.argument("target", metavar="HOST:PORT")
@timeout_option("With a name: give up if the peer does not come.")
@verify_option
@relay_option
@connection_options
@timeline_option
@output_options
def command(
    code: str,
    target: str,
    timeout_s: float | None,
    verify: bool,
    relay: Sequence[str],
    connection: ConnectionOptions,
    timeline: str | None,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> int:
    """Join standard input and output with HOST:PORT of the other side.

    CODE is what the other side's `iceagent listen --allow` printed, or the name of a paired peer. unix:PATH is a
    target, too, and PORT is localhost:PORT. It ends when both directions have, and prints nothing but errors without
    -v.
    """
    output = Common(as_json, quiet or not (verbose or as_json or verify), verbose).open_output(pipe=True)
    wish = JoinWish(code, relay, verification(output, wanted=verify), timeout_s)
    return run_verb(lambda: _join(wish, target, connection, timeline, output), output, has_peer=True)


async def _join(wish: JoinWish, text: str, connection: ConnectionOptions, timeline: str | None, output: Output) -> None:
    target = parse_target(text)
    wish.check()
    with kept_timeline(timeline) as kept:
        config = connection.config()
        async with (
            shown_progress(output, kept) as progress,
            wish.join(config, progress) as link,
            open_background() as nursery,
        ):
            await nursery.start(lambda task_status: follow_paths(link, output, task_status=task_status))
            await join_target(link, StandardStreams(), target)
