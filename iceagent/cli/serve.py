"""`iceagent serve`: a relay and a STUN server in one process, on one port number."""

from __future__ import annotations

from contextlib import AsyncExitStack

import icesignal
import rich_click as click
import trio

from iceagent.cli.options import Common, output_options
from iceagent.cli.output import Output
from iceagent.cli.run import run_verb
from iceagent.core.address import TransportAddress, parse_address
from iceagent.errors import LocalError
from iceagent.servers.stun import open_stun_server
from iceagent.session.relay import best_address
from iceagent.tunnel.local import bind_error

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
    try:
        address = parse_address(listen)
    except ValueError:
        raise LocalError(f"--listen {listen!r} is not IP:PORT; a right one: {DEFAULT_LISTEN}, or [::]:8080") from None
    async with AsyncExitStack() as stack:
        port = await _open_servers(stack, address)
        url, stun = f"ws://{_shown(address.host, port)}", f"stun:{_shown(address.host, port)}"
        output.line("listening", f"relay {url}\nSTUN  {stun}", essential=True, url=url, stun=stun)
        await trio.sleep_forever()


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


def _shown(host: str, port: int) -> str:
    """Return the address under which others reach a server bound to `host`."""
    return str(TransportAddress(best_address() if host in _WILDCARDS else host, port))
