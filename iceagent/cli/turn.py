"""`iceagent turn`: a STUN and TURN server alone."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import click
from icesignal.lifecycle import serve_until_signal
from icesignal.systemd import Notifier
from icesignal.tls import TlsError

from iceagent.cli.options import Common, output_options
from iceagent.cli.output import Output
from iceagent.cli.run import run_verb
from iceagent.cli.turn_options import TurnArguments, parse_turn, turn_options
from iceagent.core.address import TransportAddress, parse_address
from iceagent.errors import LocalError
from iceagent.net.accepting import raise_descriptor_limit
from iceagent.net.tasks import open_background
from iceagent.servers.turn import TurnService, open_turn_server
from iceagent.servers.turn_metrics import serve_metrics
from iceagent.session.relay import best_address
from iceagent.tunnel.binds import bind_error

DEFAULT_LISTEN = "0.0.0.0:3478"
DEFAULT_DEV_LISTEN = "127.0.0.1:3478"
_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104 (to be compared with)
_SCHEMES = {"udp": ("turn", "udp"), "tcp": ("turn", "tcp"), "tls": ("turns", "tcp"), "dtls": ("turns", "udp")}


@click.command("turn", epilog="Example:  iceagent turn --users /etc/iceagent/users")
@click.option(
    "--listen", metavar="HOST:PORT", multiple=True, help=f"Where; again for more.  [default: {DEFAULT_LISTEN}]"
)
@turn_options
@output_options
def command(listen: tuple[str, ...], as_json: bool, quiet: bool, verbose: int, **values: Any) -> int:
    """Run a STUN and TURN server.

    Peers in private and reserved networks are denied unless --allow-peer names them. docs/turn.md has more.
    """
    output = Common(as_json, quiet, verbose).open_output()
    return run_verb(lambda: _turn(listen, values, output), output)


async def _turn(listen: tuple[str, ...], values: dict[str, Any], output: Output) -> None:
    raise_descriptor_limit()
    default = DEFAULT_DEV_LISTEN if values["insecure_dev"] else DEFAULT_LISTEN
    arguments = parse_turn([_listen_address(text) for text in listen or (default,)], values)
    async with AsyncExitStack() as stack:
        try:
            service = await stack.enter_async_context(open_turn_server(arguments.options))
        except OSError as error:
            raise bind_error(", ".join(map(str, arguments.options.listen)), error) from error
        await run_turn(service, arguments, output, lambda: show(output, service, arguments))


def _listen_address(text: str) -> TransportAddress:
    try:
        return parse_address(text)
    except ValueError:
        raise LocalError(f"--listen {text!r} is not IP:PORT, as in {DEFAULT_LISTEN} or [::]:3478") from None


def turn_urls(service: TurnService) -> list[str]:
    """Return the URLs of a server, as RFC 7065 writes them, with an address that others may know."""
    urls = []
    for transport, address in service.addresses:
        scheme, over = _SCHEMES[transport]
        urls.append(f"{scheme}:{shown(service, address)}?transport={over}")
    return urls


def own_host_urls(service: TurnService) -> list[str]:
    """Return the URLs of a server with an empty host, which a relay's client fills with the relay's own.

    Where the server is seen under another address than the relay, its URLs name it.
    """
    if any(bound != public for bound, public in service.core.relay_hosts.items()):
        return turn_urls(service)
    own = {service.address.host, *_WILDCARDS}
    urls = []
    for (transport, address), url in zip(service.addresses, turn_urls(service), strict=True):
        scheme, over = _SCHEMES[transport]
        urls.append(f"{scheme}::{address.port}?transport={over}" if address.host in own else url)
    return urls


def shown(service: TurnService, address: TransportAddress) -> str:
    """Return the address under which others reach a server that listens at `address`."""
    of_family = ((":" in bound, public) for bound, public in service.core.relay_hosts.items())
    announced = [public for is_six, public in of_family if is_six == (":" in address.host)]
    host = address.host
    if host in _WILDCARDS:
        host = announced[0] if announced else best_address()
    else:
        host = service.core.relay_hosts.get(host, host)
    return str(TransportAddress(host, address.port))


def show(output: Output, service: TurnService, arguments: TurnArguments) -> None:
    """Print where a server listens."""
    urls = turn_urls(service)
    stun = f"stun:{shown(service, service.address)}"
    fields: dict[str, Any] = {"turn": urls[0], "urls": urls, "stun": stun, "realm": arguments.options.realm}
    text = "\n".join(f"TURN  {url}" for url in urls)
    if arguments.shown is not None:
        username, password = arguments.shown
        fields |= {"username": username, "credential": password}
        text += f"\nuser  {username}\npassword  {password}"
    output.line("listening", text, essential=True, **fields)


async def run_turn(
    service: TurnService, arguments: TurnArguments, output: Output, announce: Callable[[], None]
) -> None:
    """Serve until SIGTERM, then drain; a second SIGTERM ends at once. SIGHUP reads certificate and key again."""
    async with serving_metrics(service, arguments, output) as announce_metrics:

        def announce_all() -> None:
            announce()
            announce_metrics()

        await serve_until_signal(
            (),
            Notifier.of(os.environ),
            announce=announce_all,
            reload=partial(say_reloaded, output, service.reload_certificates),
            drain=partial(drain_turn, service, arguments, output),
        )


@asynccontextmanager
async def serving_metrics(
    service: TurnService, arguments: TurnArguments, output: Output
) -> AsyncGenerator[Callable[[], None], None]:
    """Serve the metrics that were asked for while the block lasts; yield what prints where they are.

    Raises:
        BindError: the address is not ours, or its port taken.
    """
    async with open_background() as nursery:
        address = arguments.metrics
        if address is None:
            yield lambda: None
            return
        try:
            bound = await nursery.start(serve_metrics, service, address)
        except OSError as error:
            raise bind_error(str(address), error) from error
        url = f"http://{bound}/metrics"
        yield partial(output.line, "metrics", f"metrics {url}", url=url)


async def drain_turn(service: TurnService, arguments: TurnArguments, output: Output) -> None:
    """Refuse new allocations; return when the others have ended, or had the time."""
    count = len(service.core.allocations)
    text = f"draining: {count} allocations, {arguments.drain_s:g} s"
    output.line("draining", text, allocations=count, seconds=arguments.drain_s)
    await service.drain(arguments.drain_s)


def say_reloaded(output: Output, reload: Callable[[], None]) -> None:
    """Read certificate and key again, and print whether they can be used; the old ones stay else."""
    try:
        reload()
    except (LocalError, TlsError) as error:
        output.line("reloaded", f"kept the old certificate: {error}", ok=False, message=str(error))
    else:
        output.line("reloaded", "read certificate and key again", ok=True)
