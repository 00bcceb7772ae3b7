"""`icesignal-relay`: a relay, alone."""

from __future__ import annotations

import json
import logging
import signal
import ssl
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
import trio

from icesignal.listener import raise_descriptor_limit
from icesignal.server import serve
from icesignal.url import parse_host

EXIT_USAGE = 2
EXIT_BIND = 9
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


class _NeedsPassword(Exception):
    """A key is encrypted."""


def _no_password() -> str:
    """Refuse: OpenSSL's own way would ask the terminal, and wait for it."""
    raise _NeedsPassword


def _ssl_context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if (certificate is None) != (key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, _no_password)
    except _NeedsPassword:
        raise click.UsageError(
            f"{key} is encrypted, and a server has nobody to ask for its password; decrypt it: "
            f"openssl pkey -in {key} -out FILE"
        ) from None
    except (OSError, ssl.SSLError) as error:
        raise click.UsageError(f"the certificate or its key cannot be used: {error}") from None
    return context


async def _run(
    host: str | None,
    port: int,
    ice_servers: Sequence[Mapping[str, Any]],
    ssl_context: ssl.SSLContext | None,
    proxies: Sequence[str],
    origins: Sequence[str],
    as_json: bool,
) -> int:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with serve(
            host=host,
            port=port,
            ice_servers=ice_servers,
            ssl_context=ssl_context,
            trusted_proxies=proxies,
            allow_origins=origins,
        ) as server:
            line = json.dumps({"kind": "listening", "url": server.url}) if as_json else f"listening on {server.url}"
            click.echo(line, err=not as_json)
            async for number in signals:
                return EXIT_INTERRUPTED if number == signal.SIGINT else 0
    return 0


def _fail(as_json: bool, code: int, message: str) -> None:
    if as_json:
        click.echo(json.dumps({"kind": "error", "exit": code, "message": message}))
    click.echo(f"icesignal-relay: {message}", err=True)
    sys.exit(code)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Where to listen.")
@click.option(
    "--stun",
    multiple=True,
    metavar="URL",
    help="A STUN server to tell peers of, as in stun:stun.example:3478; stun::3478 means this very host. Repeatable.",
)
@click.option("--tls-cert", metavar="FILE", help="PEM certificate chain, for wss.")
@click.option("--tls-key", metavar="FILE", help="PEM private key of the certificate.")
@click.option("--trusted-proxy", multiple=True, metavar="NETWORK", help="Whose X-Forwarded-For and PROXY to believe.")
@click.option(
    "--allow-origin", multiple=True, metavar="ORIGIN", help="A web page that may use it, as in https://p.example."
)
@click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout.")
@click.option("-v", "--verbose", count=True, help="Say more; repeatable.")
@click.version_option(package_name="iceagent")
def main(
    listen: str,
    stun: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
    trusted_proxy: tuple[str, ...],
    allow_origin: tuple[str, ...],
    as_json: bool,
    verbose: int,
) -> None:
    """Run an icesignal relay: it introduces peers to each other and sees only sealed messages."""
    logging.basicConfig(level=[logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)])
    logging.getLogger("trio-websocket").setLevel(logging.WARNING)  # at debug it would show message sizes and addresses
    raise_descriptor_limit()
    host, port = parse_listen(listen)
    for url in stun:
        if not url.startswith(("stun:", "stuns:")):
            raise click.BadParameter(f"{url!r} is not a STUN URL, as in stun:stun.example:3478", param_hint="--stun")
    entries = [{"urls": [url]} for url in stun]
    context = _ssl_context(tls_cert, tls_key)
    try:
        code = trio.run(_run, host, port, entries, context, trusted_proxy, allow_origin, as_json)
    except ValueError as error:
        _fail(as_json, EXIT_USAGE, str(error))
    except OSError as error:
        _fail(as_json, EXIT_BIND, f"cannot listen on {listen}: {error.strerror or error}")
    else:
        sys.exit(code)
