"""`iceagent turn`: a STUN and TURN server alone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import click
import trio

from iceagent.cli.options import Common, output_options
from iceagent.cli.output import Output
from iceagent.cli.run import run_verb
from iceagent.cli.turn_options import TurnArguments, parse_turn, turn_options
from iceagent.core.address import TransportAddress, parse_address
from iceagent.errors import LocalError
from iceagent.net.accepting import raise_descriptor_limit
from iceagent.servers.turn import TurnService, open_turn_server
from iceagent.servers.turn_metrics import serve_metrics
from iceagent.session.relay import best_address
from iceagent.tunnel.binds import bind_error

DEFAULT_LISTEN = "0.0.0.0:3478"
DEFAULT_DEV_LISTEN = "127.0.0.1:3478"
_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104 (to be compared with)
_HANGUP = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
_SCHEMES = {"udp": ("turn", "udp"), "tcp": ("turn", "tcp"), "tls": ("turns", "tcp"), "dtls": ("turns", "udp")}


@click.command("turn")
@click.option(
    "--listen", metavar="HOST:PORT", multiple=True, help=f"Where, perhaps several times.  [default: {DEFAULT_LISTEN}]"
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
    """Serve until SIGTERM, then drain; a second SIGTERM ends at once. SIGHUP reads certificate and key again.

    `announce` is called when signals are heeded: whoever waits for its line may send one at once.
    """
    with trio.open_signal_receiver(signal.SIGTERM, *_HANGUP) as signals:
        async with trio.open_nursery() as nursery:
            announce()
            if arguments.metrics is not None:
                await _start_metrics(nursery, service, arguments.metrics, output)
            async for number in signals:
                if number != signal.SIGTERM:
                    _reload(service, output)
                elif service.is_draining:
                    break
                else:
                    count = len(service.core.allocations)
                    text = f"draining: {count} allocations, {arguments.drain_s:g} s"
                    output.line("draining", text, allocations=count, seconds=arguments.drain_s)
                    nursery.start_soon(_drain, service, arguments.drain_s, nursery.cancel_scope)
            nursery.cancel_scope.cancel()


async def _start_metrics(
    nursery: trio.Nursery, service: TurnService, address: TransportAddress, output: Output
) -> None:
    try:
        bound = await nursery.start(serve_metrics, service, address)
    except OSError as error:
        raise bind_error(str(address), error) from error
    output.line("metrics", f"metrics http://{bound}/metrics", url=f"http://{bound}/metrics")


async def _drain(service: TurnService, deadline_s: float, scope: trio.CancelScope) -> None:
    await service.drain(deadline_s)
    scope.cancel()


def _reload(service: TurnService, output: Output) -> None:
    try:
        service.reload_certificates()
        output.line("reloaded", "read certificate and key again", ok=True)
    except LocalError as error:
        output.line("reloaded", f"kept the old certificate: {error}", ok=False, message=str(error))
