"""`iceagent serve`: a relay and a STUN server in one process, on one port number."""

from __future__ import annotations

from contextlib import AsyncExitStack

import icesignal
import rich_click as click
import trio

from iceagent.cli.options import Common, output_options
from iceagent.cli.output import Output
from iceagent.cli.run import run_verb
from iceagent.core.address import TransportAddress, make_address
from iceagent.errors import LocalError
from iceagent.servers.stun import open_stun_server
from iceagent.session.relay import best_address
from iceagent.tunnel.datagrams import resolve_udp
from iceagent.tunnel.local import bind_error
from iceagent.tunnel.spec import parse_host, parse_port, split_fields

DEFAULT_LISTEN = "0.0.0.0:8080"
_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104 (to be compared with)
_ATTEMPTS = 16  # at finding one port that is free for both TCP and UDP, when the system chooses


@click.command("serve")
@click.option(
    "--listen", metavar="HOST:PORT", default=DEFAULT_LISTEN, show_default=True, help="Where; port 0 for any free one."
)
@output_options
def command(listen: str, as_json: bool, quiet: bool, verbose: int) -> int:
    """Run a relay, and a STUN server on the UDP port of the same number.

    The other commands need to know only the relay: `--relay URL`.
    """
    output = Common(as_json, quiet, verbose).open_output()
    return run_verb(lambda: _serve(listen, output), output)


async def _serve(listen: str, output: Output) -> None:
    address = await _parse_listen(listen)
    async with AsyncExitStack() as stack:
        port = await _open_servers(stack, address)
        shown = TransportAddress(_reachable(address), port)
        url, stun = f"ws://{shown}", f"stun:{shown}"
        output.line("listening", f"relay {url}\nSTUN  {stun}", essential=True, url=url, stun=stun)
        await trio.sleep_forever()


async def _parse_listen(text: str) -> TransportAddress:
    """Return the address to bind of `HOST:PORT`, `[::1]:PORT` or `:PORT`.

    Raises:
        LocalError: the text is none of these, or the name does not resolve.
    """
    try:
        *hosts, port = split_fields(text)
        host = parse_host(hosts[0]) if len(hosts) == 1 and hosts[0] else ""
        if len(hosts) != 1:
            raise ValueError("HOST or PORT is missing")
        _, (literal, number, *_) = await resolve_udp(host, parse_port(port, zero=True), passive=True)
    except (ValueError, OSError) as error:
        raise LocalError(f"--listen {text!r} cannot be: {error}. A right one: {DEFAULT_LISTEN}, or [::]:8080") from None
    return make_address(literal, number)


async def _open_servers(stack: AsyncExitStack, address: TransportAddress) -> int:
    """Open both servers on one port number and return it.

    Raises:
        BindError: the address is not ours, or its port taken.
    """
    for attempt in range(_ATTEMPTS):
        async with AsyncExitStack() as trial:
            try:
                stun = await trial.enter_async_context(open_stun_server(address.host, address.port))
                port = stun.address.port
                servers = [{"urls": [f"stun::{port}"]}]
                serving = icesignal.serve(host=address.host, port=port, ice_servers=servers)
                await trial.enter_async_context(serving)
            except OSError as error:
                if address.port == 0 and attempt + 1 < _ATTEMPTS:
                    continue
                raise bind_error(str(address), error) from error
            await stack.enter_async_context(trial.pop_all())
            return port
    raise AssertionError("the last attempt returns or raises")


def _reachable(bound: TransportAddress) -> str:
    """Return the address under which others reach what is bound to `bound`."""
    return best_address((bound.family,)) if bound.host in _WILDCARDS else bound.host
