"""`iceagent listen`: wait for the other side, then serve forwards to it or pipe to it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
import trio

from iceagent.cli.codes import qr_option, show_code
from iceagent.cli.completion import complete_peer
from iceagent.cli.connection import ConnectionOptions, connection_options
from iceagent.cli.options import Common, output_options, relay_option, timeout_option
from iceagent.cli.output import Output
from iceagent.cli.peer_options import verification, verify_option
from iceagent.cli.progress import closing_words, follow_paths, shown_progress
from iceagent.cli.run import run_verb
from iceagent.cli.timeline import TimelineFile, kept_timeline, timeline_option
from iceagent.errors import NetworkError
from iceagent.net.tasks import open_background
from iceagent.session.errors import NobodyCame, PeerLeft, RelayError
from iceagent.tunnel.allow import AllowRule, doubt_about, parse_rules
from iceagent.tunnel.peer import Invitation, Link, invite, listen
from iceagent.tunnel.spec import join_host_port
from iceagent.tunnel.stdio import StandardStreams, run_pipe

if TYPE_CHECKING:
    from iceagent.agent import AgentConfig
    from iceagent.session.pairing.words import Verify

AGAIN_S = 1.0  # ours: between a session that failed and the next
LONGEST_PAUSE_S = 30.0  # each is twice the one before
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
@click.option(
    "--name",
    "peer",
    metavar="NAME",
    shell_complete=complete_peer,
    is_eager=True,  # who it is decides on defaults of others
    help="Wait for the paired peer NAME, which needs no code.",
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
    peer: str | None,
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

    Without a relay, one is started here and the code carries its address.
    """
    output = Common(as_json, quiet, verbose).open_output(pipe=not allow)

    async def run() -> None:
        with kept_timeline(timeline) as kept:
            wish = _ListenWish(parse_rules(allow), timeout_s, relay, verification(output, wanted=verify))
            if peer is None:
                await _listen(wish, connection.config(), output, kept)
            else:
                await _listen_to_peer(peer, wish, connection.config(), output, kept)

    return run_verb(run, output, has_peer=True)


@dataclass(frozen=True, slots=True)
class _ListenWish:
    """What is let in, where, and how long it is waited for."""

    rules: Sequence[AllowRule]
    timeout_s: float | None
    relay: Sequence[str]
    verify: Verify | None


async def _listen(wish: _ListenWish, config: AgentConfig | None, output: Output, timeline: TimelineFile | None) -> None:
    async with (
        open_background() as watching,
        shown_progress(output, timeline) as progress,
        invite(relay=wish.relay, config=config, progress=progress, verify=wish.verify) as invitation,
    ):
        watching.start_soon(_warn_of_doubts, wish.rules)
        _show_code(invitation, wish.rules, output, hard_nat=config is not None and bool(config.hard_nat))
        async with invitation.accept(timeout_s=wish.timeout_s) as link:
            await _use(link, wish.rules, output)


async def _listen_to_peer(
    peer: str, wish: _ListenWish, config: AgentConfig | None, output: Output, timeline: TimelineFile | None
) -> None:
    """Wait for a paired peer: for a pipe once, with rules until the command is ended."""
    pause_s, has_met = AGAIN_S, False
    async with open_background() as watching:
        watching.start_soon(_warn_of_doubts, wish.rules)
        output.line("listening", f"waiting for {peer}", peer=peer)
        while True:
            try:
                async with (
                    shown_progress(output, timeline) as progress,
                    listen(
                        peer,
                        relay=wish.relay,
                        config=config,
                        progress=progress,
                        verify=wish.verify,
                        timeout_s=wish.timeout_s,
                    ) as link,
                ):
                    pause_s, has_met = AGAIN_S, True
                    await _use(link, wish.rules, output)
            except (NetworkError, PeerLeft) as error:  # of this session; the next one may be well
                # A relay that was there is waited for; one that never was may be mistyped.
                if not wish.rules or isinstance(error, NobodyCame) or (isinstance(error, RelayError) and not has_met):
                    raise
                output.line("closed", f"{error}; waiting for {peer} again", reason=str(error))
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            if not wish.rules:
                return


async def _use(link: Link, rules: Sequence[AllowRule], output: Output) -> None:
    async with open_background() as nursery:
        await nursery.start(lambda task_status: follow_paths(link, output, task_status=task_status))
        if rules:
            await _serve(link, rules)
            words = closing_words(link)
            output.line("closed", words, reason=words)
        else:
            await run_pipe(link, StandardStreams(), opener=False)


async def _warn_of_doubts(rules: Sequence[AllowRule]) -> None:
    """Say what a rule allows that is not there: the other side would only find out once it has used the code."""
    for rule in rules:
        doubt = await doubt_about(rule)
        if doubt is not None:
            _log.warning("--allow %s: %s; the other side can reach it once that has changed", rule, doubt)


async def _serve(link: Link, rules: Sequence[AllowRule]) -> None:
    async with link.serve_forwards(rules):
        await link.wait_closed()


def _show_code(invitation: Invitation, rules: Sequence[AllowRule], output: Output, *, hard_nat: bool) -> None:
    command = other_command(invitation.code, rules, invitation.relay_url, hard_nat=hard_nat)
    show_code(output, code=invitation.code, relay=invitation.relay_url, command=command)


def other_command(code: str, rules: Sequence[AllowRule], relay_url: str, *, hard_nat: bool = False) -> str:
    """Return what to paste on the other machine; it names the relay unless the code does."""
    options = ["--hard-nat"] * hard_nat + ([] if "@" in code else ["--relay", relay_url])
    if not rules:
        return shlex.join(["iceagent", "connect", *options, code])
    return shlex.join(["iceagent", "forward", *options, "-L", example_forward(rules[0]), code])


def example_forward(rule: AllowRule) -> str:
    """Return a forward that the rule allows."""
    if rule.kind == "unix":
        return f"8080:{rule}"
    port = rule.port or 80
    suffix = "/udp" if rule.kind == "udp" else ""
    return f"{_near_port(port)}:{join_host_port(rule.host or 'localhost', port)}{suffix}"


def _near_port(port: int) -> int:
    """Return a port like the far one that needs no privileges: 22 gives 2222, 80 gives 8080, 53 gives 5353."""
    well_known = {22: 2222, 80: 8080, 443: 8443, 53: 5353}
    return port if port > 1023 else well_known.get(port, 10_000 + port)
