"""`iceagent listen`: wait for the other side, then serve forwards to it or pipe to it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import click
import trio

from iceagent.cli.codes import qr_option
from iceagent.cli.completion import complete_peer
from iceagent.cli.connection import ConnectionOptions, connection_options
from iceagent.cli.help import rare
from iceagent.cli.joiners import Joiners
from iceagent.cli.options import Common, output_options, relay_option, timeout_option
from iceagent.cli.output import Output
from iceagent.cli.peer_options import verification, verify_option
from iceagent.cli.run import run_verb
from iceagent.cli.timeline import TimelineFile, kept_timeline, timeline_option
from iceagent.errors import LocalError
from iceagent.net.tasks import open_background
from iceagent.session.standing import MOST_PEERS, StandingListener
from iceagent.tunnel.allow import AllowRule, doubt_about, parse_rules
from iceagent.tunnel.peer import Link
from iceagent.tunnel.stdio import StandardStreams, run_pipe

if TYPE_CHECKING:
    from iceagent.agent import AgentConfig
    from iceagent.session.pairing.words import Verify

_log = logging.getLogger(__name__)

_EXAMPLE = "Example:  iceagent listen --allow tcp:localhost:22"


@click.command("listen", epilog=_EXAMPLE)
@click.option(
    "--allow",
    metavar="RULE",
    multiple=True,
    help="Let the other side reach tcp:HOST:PORT, udp:HOST:PORT, unix:PATH or any; again for more. Without it your "
    "standard input and output are the pipe of `iceagent connect`.",
)
@rare(
    "Forwards",
    click.option(
        "--allow-remote-listen",
        "listening",
        metavar="PORT",
        multiple=True,
        help="Let the other side have PORT opened here (forward -R): [BIND:]PORT[/udp], unix:PATH or any; again for "
        "more. The same as --allow listen:PORT.",
    ),
)
@click.option(
    "--name",
    "peer",
    metavar="NAME",
    multiple=True,
    shell_complete=complete_peer,
    is_eager=True,  # who it is decides on defaults of others
    help="Wait for the paired peer NAME, which needs no code; again for more.",
)
@click.option("--once", is_flag=True, help="End with the first session, as always without --allow.")
@click.option(
    "--peers",
    "most_peers",
    type=click.IntRange(min=1, max=10_000),
    metavar="N",
    help=f"How many at once; {MOST_PEERS} unless given.",
)
@timeout_option("Give up if nobody comes.")
@qr_option
@verify_option
@relay_option
@connection_options
@timeline_option
@output_options
def command(
    allow: Sequence[str],
    listening: Sequence[str],
    peer: Sequence[str],
    once: bool,
    most_peers: int | None,
    timeout_s: float | None,
    verify: bool,
    relay: Sequence[str],
    connection: ConnectionOptions,
    timeline: str | None,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> int:
    """Print a code, and wait for the other side to use it.

    With --allow more codes follow. Without a relay, one is started here.
    """
    allow = (*allow, *(f"listen:{text}" for text in listening))
    output = Common(as_json, quiet, verbose).open_output(pipe=not allow)

    async def run() -> None:
        with kept_timeline(timeline) as kept:
            verifying = verification(output, wanted=verify)
            wish = _ListenWish(parse_rules(allow), peer, relay, timeout_s, verifying, once or not allow, most_peers)
            wish.check()
            await _listen(wish, connection.config(), output, kept)

    return run_verb(run, output, has_peer=True)


@dataclass(frozen=True, slots=True)
class _ListenWish:
    """What is let in, who, where, and how long it is waited for."""

    rules: Sequence[AllowRule]
    names: Sequence[str]
    relay: Sequence[str]
    timeout_s: float | None
    verify: Verify | None
    once: bool
    most_peers: int | None

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            LocalError: so it does.
        """
        if self.once and (self.most_peers or 1) > 1:
            raise LocalError("--peers is for a listener that stays; leave out --once, and give --allow")
        if self.most_peers is not None and self.most_peers < len(self.names):
            raise LocalError(f"--peers {self.most_peers} is less than the {len(self.names)} names that are waited for")


async def _listen(wish: _ListenWish, config: AgentConfig | None, output: Output, timeline: TimelineFile | None) -> None:
    joiners = Joiners(
        wish.rules,
        output,
        partial(_use, wish.rules),
        timeline=timeline,
        one=wish.once,
        hard_nat=config is not None and bool(config.hard_nat),
    )
    most = max(1, len(wish.names)) if wish.once else wish.most_peers or max(MOST_PEERS, len(wish.names))
    listener = StandingListener(
        Link,
        joiners.open_attempt,
        most_peers=most,
        on_full=(lambda: None) if wish.once else joiners.report_full,
        config=config,
        verify=wish.verify,
    )

    async def listen() -> None:
        if not wish.names:
            await listener.run_codes(wish.relay, timeout_s=wish.timeout_s)
        async with open_background() as waiting:
            for name in wish.names:
                output.line("listening", f"waiting for {name}", peer=name)
                waiting.start_soon(partial(listener.run_peer, name, wish.relay, timeout_s=wish.timeout_s))
            await trio.sleep_forever()

    async with open_background() as watching:
        watching.start_soon(_warn_of_doubts, wish.rules)
        await joiners.run(listen)


async def _use(rules: Sequence[AllowRule], link: Link, taken: trio.Event) -> None:
    if rules:
        taken.set()
        async with link.serve_forwards(rules):
            await link.wait_closed()
    else:
        await run_pipe(link, StandardStreams(), opener=False, begun=taken)


async def _warn_of_doubts(rules: Sequence[AllowRule]) -> None:
    """Say what a rule allows that is not there: the other side would only find out once it has used the code."""
    for rule in rules:
        doubt = await doubt_about(rule)
        if doubt is not None:
            _log.warning("--allow %s: %s; the other side can reach it once that has changed", rule, doubt)
