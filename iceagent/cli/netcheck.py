"""`iceagent netcheck`: what this network lets through, alone or together with the other side's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import click
import trio

from iceagent.agent import IceServer
from iceagent.cli.codes import show_code
from iceagent.cli.netcheck_lines import show_prediction, show_report
from iceagent.cli.options import Common, output_options, relay_option, timeout_option
from iceagent.cli.output import Output
from iceagent.cli.run import run_verb
from iceagent.cli.urls import stun_urls
from iceagent.core.discovery import PredictedPath, SideView, predict
from iceagent.net.tasks import open_background
from iceagent.session.errors import NoPath, RelayError
from iceagent.session.netcheck import CheckOptions, Report, check_network, compare, netcheck_invite, netcheck_join
from iceagent.session.relay import named_relays


@dataclass(frozen=True, slots=True)
class _CheckRequest:
    """Which of the three checks it is."""

    invite: bool
    peer: str | None
    timeout_s: float | None


@click.command("netcheck", epilog="Example:  iceagent netcheck --relay ws://relay.example:4433")
@click.option(
    "--stun",
    "servers",
    metavar="URL",
    multiple=True,
    callback=stun_urls,
    help="A STUN server to ask: HOST[:PORT]; or turn:HOST, turns:HOST.",
)
@click.option("--invite", is_flag=True, help="Print a code for the other side's --peer CODE; both print the path.")
@click.option("--peer", metavar="CODE", help="Compare with the side that printed CODE.")
@click.option("--lifetime", is_flag=True, help="Find out how long an idle mapping lives, in 5 minutes.")
@click.option("--portal", "portal_url", metavar="URL", help="A page that answers 204, to find login pages with.")
@click.option("--no-upnp", is_flag=True, help="Do not look for UPnP.")
@timeout_option("With --invite: give up if nobody comes.")
@relay_option
@output_options
def command(
    servers: Sequence[str],
    invite: bool,
    peer: str | None,
    lifetime: bool,
    portal_url: str | None,
    no_upnp: bool,
    timeout_s: float | None,
    relay: Sequence[str],
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> int:
    """Tell what this network lets through, and what that means.

    With --invite here and --peer CODE there, both sides tell whether they would be connected directly, and why.
    """
    if invite and peer is not None:
        raise click.UsageError("--invite makes a code and --peer uses one; leave out one of them")
    if timeout_s is not None and not invite:
        raise click.UsageError("--timeout is how long --invite waits; leave it out, or add --invite")
    output = Common(as_json, quiet, verbose).open_output()
    options = CheckOptions(servers=servers, portal_url=portal_url, lifetime=lifetime, upnp=not no_upnp)
    wish = _CheckRequest(invite, peer, timeout_s)
    return run_verb(lambda: _netcheck(options, wish, relay, output), output)


async def _netcheck(options: CheckOptions, wish: _CheckRequest, relay: Sequence[str], output: Output) -> None:
    _check_urls(options.servers)
    options = replace(options, relay=named_relays(relay))
    if wish.invite:
        await _invite(options, wish, relay, output)
    elif wish.peer is not None:
        await _join(options, wish.peer, relay, output)
    else:
        _conclude(await _check(options, output))


def _check_urls(servers: Sequence[str]) -> None:
    for url in servers:
        IceServer(url)  # raises LocalError before anything is asked


async def _check(options: CheckOptions, output: Output) -> Report:
    report = await check_network(options)
    show_report(report, output)
    return report


def _conclude(report: Report) -> None:
    """Turn what makes a script stop into the error with its exit code."""
    if report.relay is not None and not report.relay.ok:
        relay = report.relay
        advice = f"the relay {relay.url}: {relay.detail}; check the address and the network"
        raise RelayError(relay.detail if relay.url in relay.detail else advice)
    if report.udp_works is False and not any(server.ok for server in report.servers):
        raise NoPath("no server answers, neither over UDP nor over TCP; check the names, or ask another (--stun URL)")


async def _invite(options: CheckOptions, wish: _CheckRequest, relay: Sequence[str], output: Output) -> None:
    async with netcheck_invite(relay=relay) as waiting:
        if waiting.is_own_relay:
            options = replace(options, relay=())  # it is on this machine and knows no servers
        named = ["--relay", waiting.relay_url] if relay and "@" not in waiting.code else []
        other = " ".join(["iceagent", "netcheck", *named, "--peer", waiting.code])
        show_code(output, code=waiting.code, relay=waiting.relay_url, command=other)
        async with _checking(options, output) as report_of:
            channel = await waiting.wait_peer(wish.timeout_s)
            await _compare(await report_of(), lambda view: compare(channel, view), output)


async def _join(options: CheckOptions, code: str, relay: Sequence[str], output: Output) -> None:
    async with netcheck_join(code, relay=relay) as (channel, url):
        report = await _check(replace(options, relay=(url,)), output)
        await _compare(report, lambda view: compare(channel, view), output)


@asynccontextmanager
async def _checking(options: CheckOptions, output: Output) -> AsyncIterator[Callable[[], Awaitable[Report]]]:
    """Run the check while the body waits for the other side; yields what waits for its end."""
    done = trio.Event()
    reports: list[Report] = []

    async def run() -> None:
        reports.append(await _check(options, output))
        done.set()

    async def wait() -> Report:
        await done.wait()
        return reports[0]

    async with open_background() as nursery:
        nursery.start_soon(run)
        yield wait


async def _compare(report: Report, exchange: Callable[[SideView], Awaitable[SideView]], output: Output) -> None:
    ours = report.side_view()
    prediction = predict(ours, await exchange(ours))
    show_prediction(prediction, output)
    if prediction.outcome is PredictedPath.IMPOSSIBLE and prediction.certain:
        raise NoPath(f"the two sides cannot be connected: {prediction.reason}")
