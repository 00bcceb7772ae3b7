"""`iceagent serve`: a relay and a STUN server in one process, on one port number, and a TURN server on request."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any

import click
import icesignal
import trio
from icesignal.config import limits_of
from icesignal.config_option import config_option

from iceagent.cli.listening import DEFAULT_LISTEN, parse_listen
from iceagent.cli.options import Common, output_options
from iceagent.cli.output import Output
from iceagent.cli.run import run_verb
from iceagent.cli.serve_config import ServeConfig, serve_problems, serve_values
from iceagent.cli.turn import own_host_urls, run_turn, turn_urls
from iceagent.cli.turn_options import TurnArguments, parse_turn, turn_options
from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError
from iceagent.net.accepting import raise_descriptor_limit
from iceagent.servers.stun import DEFAULT_PORT, open_stun_server
from iceagent.servers.turn import TurnService, open_turn_server
from iceagent.session.relay import best_address
from iceagent.tunnel.binds import bind_error

CREDENTIALS_S = 12 * 3600  # how long a member's credentials are good for new allocations
MAX_URLS = 8  # of one entry, docs/relay-protocol.md section 9
_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104 (to be compared with)
ServeRelay = Callable[..., AbstractAsyncContextManager[icesignal.Server]]
_ATTEMPTS = 16  # at finding one port that is free for both TCP and UDP, when the system chooses


@click.command("serve")
@config_option(ServeConfig, serve_values, serve_problems)
@click.option(
    "--stun", metavar="URL", multiple=True, help="Another STUN server to tell peers of: stun:stun.example:3478."
)
@click.option(
    "--listen", metavar="HOST:PORT", default=DEFAULT_LISTEN, show_default=True, help="Where; port 0 for any free one."
)
@click.option("--turn", "with_turn", is_flag=True, help="Run a TURN server, too; members get credentials for it.")
@click.option(
    "--turn-listen",
    metavar="HOST:PORT",
    help="TURN over UDP and TCP here.  [default: UDP on the relay's port number, TCP on 3478]",
)
@click.option(
    "--trusted-proxy", metavar="NETWORK", multiple=True, help="Whose X-Forwarded-For, Forwarded and PROXY to believe."
)
@click.option(
    "--allow-origin", metavar="ORIGIN", multiple=True, help="A web page that may use the relay: https://page.example."
)
@turn_options
@output_options
@click.pass_obj
def command(
    config: ServeConfig,
    /,
    stun: tuple[str, ...],
    listen: str,
    with_turn: bool,
    turn_listen: str | None,
    trusted_proxy: tuple[str, ...],
    allow_origin: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    verbose: int,
    **values: Any,
) -> int:
    """Run a relay, and a STUN server on the UDP port of the same number; with --turn a TURN server, too.

    The other commands need to know only the relay: `--relay URL`.
    """
    output = Common(as_json, quiet, verbose).open_output()
    relay = partial(
        icesignal.serve,
        trusted_proxies=trusted_proxy,
        allow_origins=allow_origin,
        limits=limits_of(config, icesignal.Limits),
        engine=icesignal.MemoryEngine(limits=limits_of(config, icesignal.RoomLimits)),
    )
    return run_verb(lambda: _serve(listen, turn_listen, stun, values, output, relay, with_turn=with_turn), output)


async def _serve(
    listen: str,
    turn_listen: str | None,
    others: Sequence[str],
    values: dict[str, Any],
    output: Output,
    relay: ServeRelay,
    *,
    with_turn: bool,
) -> None:
    raise_descriptor_limit()
    addresses = await parse_listen(listen)
    arguments = None
    if with_turn:
        arguments = await _turn_arguments(addresses, turn_listen, values)
    elif turn_listen is not None or values["users"] or values["secret_file"] or values["insecure_dev"]:
        raise LocalError("the options of a TURN server need --turn")
    async with AsyncExitStack() as stack:
        port, turn = await _open_servers(stack, addresses, arguments, others, relay)
        shown = TransportAddress(_reachable(addresses), port)
        url, stun = f"ws://{shown}", f"stun:{shown}"
        text = f"relay {url}\nSTUN  {stun}"
        if turn is None or arguments is None:
            output.line("listening", text, essential=True, url=url, stun=stun)
            await trio.sleep_forever()
        else:
            urls = turn_urls(turn)
            text = "\n".join([text, *(f"TURN  {one}" for one in urls)])
            fields = {"turn": urls[0], "urls": urls, "realm": arguments.options.realm}
            line = partial(output.line, "listening", text, essential=True, url=url, stun=stun, **fields)
            await run_turn(turn, arguments, output, line)


async def _turn_arguments(
    addresses: Sequence[TransportAddress], turn_listen: str | None, values: dict[str, Any]
) -> TurnArguments:
    """Return the TURN server's arguments; without a secret of the operator's it gets one for this run."""
    if turn_listen is None:
        udp = list(addresses)
        tcp = [TransportAddress(one.host, DEFAULT_PORT if one.port else 0) for one in addresses]
    else:
        tcp = await parse_listen(turn_listen)
        udp = list(dict.fromkeys([*addresses, *tcp]))
    return parse_turn(udp, values, tcp_listen=tcp, secret=secrets.token_urlsafe(32))


async def _open_servers(
    stack: AsyncExitStack,
    addresses: Sequence[TransportAddress],
    arguments: TurnArguments | None,
    others: Sequence[str],
    relay: ServeRelay,
) -> tuple[int, TurnService | None]:
    """Open relay and STUN server, or relay and TURN server, on one port number; return it.

    Raises:
        BindError: the address is not ours, or its port taken.
        LocalError: a network or an origin is malformed.
    """
    hosts = [one.host for one in addresses]
    for attempt in range(_ATTEMPTS):
        async with AsyncExitStack() as trial:
            try:
                if arguments is None:
                    turn, port = None, addresses[0].port
                    for one in addresses:
                        stun = await trial.enter_async_context(open_stun_server(one.host, port))
                        port = stun.address.port
                else:
                    turn = await trial.enter_async_context(open_turn_server(arguments.options))
                    port = turn.address.port
                servers = partial(_ice_servers, port, turn, others=others)
                await trial.enter_async_context(relay(host=hosts, port=port, ice_servers=servers))
            except ValueError as error:
                raise LocalError(str(error)) from None
            except OSError as error:
                if addresses[0].port == 0 and attempt + 1 < _ATTEMPTS:
                    continue
                raise bind_error(" and ".join(map(str, addresses)), error) from error
            await stack.enter_async_context(trial.pop_all())
            return port, turn
    raise AssertionError("the last attempt returns or raises")


def _ice_servers(port: int, turn: TurnService | None, host: str, others: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return what one member of a room is given: under the relay's own host, with credentials for its own address."""
    servers: list[dict[str, Any]] = [{"urls": [url]} for url in (f"stun::{port}", *others)]
    if turn is not None:
        username, credential = turn.make_credentials_at(host, CREDENTIALS_S)
        urls = list(dict.fromkeys(own_host_urls(turn)))  # both families have one name
        servers.append({"urls": urls[:MAX_URLS], "username": username, "credential": credential, "ttl": CREDENTIALS_S})
    return servers


def _reachable(bound: Sequence[TransportAddress]) -> str:
    """Return the address under which others reach what is bound to all of `bound`."""
    families = [one.family for one in bound if one.host in _WILDCARDS]
    return best_address(families) if families else bound[0].host
