"""`iceagent forward`: sockets of the other machine, here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
import trio

from iceagent.cli.connection import ConnectionOptions, connection_options
from iceagent.cli.help import rare
from iceagent.cli.open_forwards import open_forwards
from iceagent.cli.options import Common, code_argument, output_options, relay_option, timeout_option
from iceagent.cli.output import Output
from iceagent.cli.peer_options import JoinWish, verification, verify_option
from iceagent.cli.progress import closing_words, follow_paths, shown_progress
from iceagent.cli.returns import Returns
from iceagent.cli.run import run_verb
from iceagent.cli.timeline import TimelineFile, kept_timeline, timeline_option
from iceagent.net.tasks import open_background
from iceagent.session.connect import PAIRED_OUTAGE_S
from iceagent.session.errors import PeerLeft
from iceagent.tunnel.errors import SpecError
from iceagent.tunnel.forward import Forward
from iceagent.tunnel.spec import ForwardSpec, check_distinct, parse_dynamic, parse_forward

if TYPE_CHECKING:
    from iceagent.agent import AgentConfig

_EXAMPLE = "Example:  iceagent forward -L 2222:localhost:22 7-guitar-ozone"


@click.command("forward", epilog=_EXAMPLE)
@code_argument
@click.option(
    "-L",
    "specs",
    metavar="PORT:HOST:PORT",
    multiple=True,
    help="Forward PORT here to HOST:PORT there; BIND:PORT, unix:PATH and a /udp at the end, too; again for more.",
)
@click.option(
    "-R",
    "remote",
    metavar="PORT:HOST:PORT",
    multiple=True,
    help="Forward PORT there to HOST:PORT here, as -L the other way round; there: listen --allow-remote-listen PORT.",
)
@click.option(
    "-D",
    "dynamic",
    metavar="PORT",
    multiple=True,
    help="Take programs that speak SOCKS or HTTP CONNECT to PORT here wherever they want there; BIND:PORT, too.",
)
@rare(
    "Peers",
    click.option("--once", is_flag=True, help="With a name: end with the first session, as always with a code."),
)
@timeout_option("With a name: give up if the peer does not come.")
@verify_option
@relay_option
@connection_options
@timeline_option
@output_options
def command(
    code: str,
    specs: Sequence[str],
    remote: Sequence[str],
    dynamic: Sequence[str],
    once: bool,
    timeout_s: float | None,
    verify: bool,
    relay: Sequence[str],
    connection: ConnectionOptions,
    timeline: str | None,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> int:
    """Forward local ports or sockets to the other side.

    CODE is what the other side's `iceagent listen --allow` printed, or the name of a paired peer, which runs `iceagent
    listen --name`; its next process is found again.
    """
    output = Common(as_json, quiet, verbose).open_output()

    async def forward() -> None:
        with kept_timeline(timeline) as kept:
            wish = JoinWish(code, relay, verification(output, wanted=verify), timeout_s)
            await _forward(wish, _parsed(specs, remote, dynamic), connection.config(), output, kept, once=once)

    return run_verb(forward, output, has_peer=True)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Forwards of sockets here, and of sockets there."""

    local: Sequence[ForwardSpec]
    remote: Sequence[ForwardSpec]


def _parsed(specs: Sequence[str], remote: Sequence[str], dynamic: Sequence[str]) -> _Wanted:
    wanted = _Wanted([*map(parse_forward, specs), *map(parse_dynamic, dynamic)], [*map(parse_forward, remote)])
    if not (wanted.local or wanted.remote):
        raise SpecError("nothing is to be forwarded; say what with -L, -R or -D, as -L 2222:localhost:22")
    check_distinct(wanted.local)
    check_distinct(wanted.remote, "there")
    return wanted


async def _forward(
    wish: JoinWish,
    wanted: _Wanted,
    config: AgentConfig | None,
    output: Output,
    timeline: TimelineFile | None,
    *,
    once: bool,
) -> None:
    wish.check()
    async with open_forwards(lambda forward: _show(forward, output)) as forwards:
        for spec in wanted.local:  # open before the code is used: it is good for one try
            await forwards.keep(spec)
        for spec in wanted.remote:
            await forwards.keep(spec, is_remote=True)

        async def carry(wish: JoinWish, is_open: trio.Event) -> None:
            async with (
                shown_progress(output, timeline) as progress,
                wish.join(config, progress) as link,
                open_background() as nursery,
            ):
                is_open.set()
                await nursery.start(lambda task_status: follow_paths(link, output, task_status=task_status))
                await forwards.carry(link)
                raise PeerLeft(closing_words(link))

        if once or wish.peer() is None:
            await carry(wish, trio.Event())
        given_s = None if config is None else config.outage_s
        await Returns(wish, output, PAIRED_OUTAGE_S if given_s is None else given_s).run(carry)


def _show(forward: Forward, output: Output) -> None:
    target, binds = str(forward.target), list(forward.binds)
    shown = " and ".join(binds)
    text = {
        "local": f"forwarding {shown} to {target}",
        "remote": f"forwarding {shown} over there to {target} here",
        "dynamic": f"forwarding {shown} to wherever programs want, by SOCKS and HTTP CONNECT",
    }[forward.direction]
    output.line("forwarding", text, bind=forward.bind, binds=binds, target=target, direction=forward.direction)
