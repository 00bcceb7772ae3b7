"""`icesignal-relay`: a relay, alone."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import click
import trio

from icesignal.config import RelayConfig, limits_of
from icesignal.config_checks import problems_of, read_status_token, turn_offers
from icesignal.config_option import check_file, config_option, relay_values, status_option, turn_url_options
from icesignal.engines.choice import chosen_engine, engine_option
from icesignal.ice_urls import check_stun
from icesignal.lifecycle import DRAIN_S, at, serve_until_signal
from icesignal.listener import AdminNotListening, raise_descriptor_limit
from icesignal.log_format import LogFormat, handler_to
from icesignal.registry import RoomLimits
from icesignal.seconds import Seconds
from icesignal.server import Server, serve
from icesignal.sources import Limits
from icesignal.systemd import HandedOver, Notifier, take_sockets
from icesignal.tls import ServerTls, TlsError
from icesignal.turn_servers import TurnDirectory
from icesignal.url import parse_host

EXIT_USAGE = 2
EXIT_LOCAL_IO = 9
EXIT_INTERRUPTED = 130


def parse_listen(text: str) -> tuple[str | None, int]:
    """Return host and port of `HOST:PORT`, `[::1]:PORT`, `:PORT` or `*:PORT` (all addresses), or `PORT` (loopback).

    Raises:
        click.BadParameter: it is none of these.
    """
    if text.isascii() and text.isdigit():
        text = f"127.0.0.1:{text}"
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and len(port) < 10 and int(port) <= 65535):
        raise click.BadParameter(f"{text!r} is not HOST:PORT, as in 0.0.0.0:8080 or [::]:8080")
    if host in ("", "*"):
        return None, int(port)
    in_brackets = host.startswith("[") and host.endswith("]")
    try:
        return parse_host(host[1:-1] if in_brackets else host, in_brackets=in_brackets), int(port)
    except ValueError:
        raise click.BadParameter(f"{host!r} is not a host; IPv6 needs brackets, as in [::1]:8080") from None


def _tls(certificate: str | None, key: str | None) -> ServerTls | None:
    if certificate is None or key is None:
        if certificate is None and key is None:
            return None
        raise click.UsageError("--tls-cert and --tls-key belong together")
    try:
        return ServerTls(certificate, key)
    except TlsError as error:
        raise click.UsageError(str(error)) from None


def _problems_of(path: Path, config: RelayConfig) -> Iterator[str]:
    """Give what is wrong with a configuration, that of this command's own options, too."""
    for key, text in (("listen", config.listen), ("admin_listen", config.admin_listen)):
        try:
            parse_listen(text or "0")
        except click.BadParameter as error:
            yield f"{path}: {key}: {error.message}"
    yield from problems_of(path, config)


class CannotServe(Exception):
    """What is configured cannot be served; the sentence says why."""


class OutputFailed(Exception):
    """What whoever started the relay waits for cannot be written."""


async def _run(
    open_relay: Callable[[], AbstractAsyncContextManager[Server]], tls: ServerTls | None, drain_s: float, as_json: bool
) -> int:
    def say(text: str, **fields: object) -> None:
        try:
            click.echo(json.dumps(fields) if as_json else text, err=not as_json)
        except OSError as error:
            if fields["kind"] == "listening":  # whoever waits for it would wait for ever
                raise OutputFailed(f"where it listens cannot be printed: {(error.strerror or '').lower()}") from None

    def announce() -> None:
        admin = {"admin": f"http://{at(*server.admin_addresses[0])}"} if server.admin_addresses else {}
        text = "".join(f", {key} {value}" for key, value in admin.items())
        say(f"listening on {server.url}{text}", kind="listening", url=server.url, **admin)

    def reload() -> None:
        if tls is None:
            say("nothing to read again: there is no certificate", kind="reloaded", ok=True)
            return
        try:
            tls.reload()
        except TlsError as error:
            say(f"kept the old certificate: {error}", kind="reloaded", ok=False, message=str(error))
        else:
            say("read certificate and key again", kind="reloaded", ok=True)

    async def drain() -> None:
        count = server.statistics()["connections_open"]
        say(f"draining: {count} connections, {drain_s:g} s", kind="draining", connections=count, seconds=drain_s)
        await server.drain_within(drain_s)

    async with AsyncExitStack() as stack:
        try:
            server = await stack.enter_async_context(open_relay())
        except ValueError as error:  # of what is configured; one that comes later is an error of ours
            raise CannotServe(str(error)) from None
        ended_by = await serve_until_signal(
            (signal.SIGINT,), Notifier.of(os.environ), announce=announce, reload=reload, drain=drain
        )
    return EXIT_INTERRUPTED if ended_by == signal.SIGINT else 0


def _fail(as_json: bool, code: int, message: str) -> None:
    with suppress(OSError):  # nobody reads it, or the disk is full
        if as_json:
            click.echo(json.dumps({"kind": "error", "exit": code, "message": message}))
    with suppress(OSError):
        click.echo(f"icesignal-relay: {message}", err=True)
    sys.exit(code)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@config_option(RelayConfig, relay_values, _problems_of)
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Where to listen.")
@click.option(
    "--admin-listen",
    metavar="HOST:PORT",
    help="Where operators read /metrics, /healthz and /readyz; /metrics is nowhere else then.",
)
@status_option
@click.option(
    "--drain",
    type=Seconds(0, 3600),
    default=DRAIN_S,
    show_default=True,
    help="Seconds over which clients are sent away after SIGTERM.",
)
@click.option(
    "--stun",
    multiple=True,
    metavar="URL",
    help="A STUN server to tell peers of, as in stun:stun.example:3478; stun::3478 means this very host. Repeatable.",
)
@turn_url_options
@engine_option()
@click.option("--tls-cert", metavar="FILE", help="PEM certificate chain, for wss.")
@click.option("--tls-key", metavar="FILE", help="PEM private key of the certificate.")
@click.option("--trusted-proxy", multiple=True, metavar="NETWORK", help="Whose X-Forwarded-For and PROXY to believe.")
@click.option(
    "--allow-origin", multiple=True, metavar="ORIGIN", help="A web page that may use it, as in https://p.example."
)
@click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout.")
@click.option("-v", "--verbose", count=True, help="Say more; repeatable.")
@click.version_option(package_name="iceagent")
@click.pass_context
def main(
    context: click.Context,
    listen: str,
    admin_listen: str | None,
    status_token_file: str | None,
    drain: float,
    stun: tuple[str, ...],
    turn_url: tuple[str, ...],
    turn_secret_file: str | None,
    log_format: LogFormat,
    engine: str,
    tls_cert: str | None,
    tls_key: str | None,
    trusted_proxy: tuple[str, ...],
    allow_origin: tuple[str, ...],
    as_json: bool,
    verbose: int,
) -> None:
    """Run an icesignal relay: it introduces peers to each other and sees only sealed messages."""
    if context.invoked_subcommand is not None:
        return
    level = [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
    logging.basicConfig(level=level, handlers=[handler_to(sys.stderr, log_format)])
    logging.getLogger("trio-websocket").setLevel(logging.WARNING)  # at debug it would show message sizes and addresses
    raise_descriptor_limit()
    host, port = parse_listen(listen)
    tls = _tls(tls_cert, tls_key)
    config: RelayConfig = context.obj
    try:
        check_stun(stun)
        turn = TurnDirectory(turn_offers(config, turn_url, turn_secret_file), config.regions)
        status_token = read_status_token(status_token_file)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    relay = partial(
        serve,
        host=host,
        port=port,
        limits=limits_of(config, Limits),
        engine=chosen_engine(engine, limits_of(config, RoomLimits)),
        ice_servers=lambda source: [*({"urls": [url]} for url in stun), *turn.entries(source)],
        ssl_context=None if tls is None else tls.context,
        trusted_proxies=trusted_proxy,
        allow_origins=allow_origin,
        admin=None if admin_listen is None else parse_listen(admin_listen),
        status_token=status_token,
    )
    try:
        relay = partial(relay, sockets=take_sockets(os.environ))
        gc.freeze()  # what is there now stays, and need not be looked at whenever rooms have come and gone
        code = trio.run(_run, relay, tls, drain, as_json)
    except (CannotServe, HandedOver) as error:
        _fail(as_json, EXIT_USAGE, str(error))
    except OutputFailed as error:
        _fail(as_json, EXIT_LOCAL_IO, str(error))
    except OSError as error:
        where = admin_listen if isinstance(error, AdminNotListening) else listen
        _fail(as_json, EXIT_LOCAL_IO, f"cannot listen on {where}: {error.strerror or error}")
    else:
        sys.exit(code)


@main.command("check-config")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def check_config(file: Path) -> None:
    """Tell whether a configuration can be used: exit code 0, or 2 and a sentence for all that is wrong."""
    problems = check_file(file, RelayConfig, _problems_of)
    for problem in problems:
        click.echo(f"icesignal-relay: {problem}", err=True)
    if problems:
        sys.exit(EXIT_USAGE)
    click.echo(f"{file} is good")
