"""`iceagent serve`: a relay and a STUN server in one process, on one port number, and a TURN server on request."""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import icesignal
import trio
from icesignal.config import limits_of
from icesignal.config_checks import read_status_token, turn_offers
from icesignal.config_option import config_option, status_option, turn_url_options
from icesignal.engines.choice import chosen_engine, engine_option
from icesignal.first_bytes import STUN_ALPN, StunConnection, Tls
from icesignal.ice_urls import check_stun
from icesignal.lifecycle import DRAIN_S, at, serve_until_signal
from icesignal.listener import AdminNotListening
from icesignal.log_format import LogFormat
from icesignal.seconds import Seconds
from icesignal.systemd import RELAY, HandedOver, Notifier, take_sockets
from icesignal.tls import HTTP, ServerTls, TlsError
from icesignal.turn_servers import Minted, TurnDirectory
from icesignal.wire import MAX_ICE_URLS

from iceagent.cli.help import rare
from iceagent.cli.listening import DEFAULT_LISTEN, parse_listen
from iceagent.cli.options import Common, output_options
from iceagent.cli.output import Output
from iceagent.cli.run import run_verb
from iceagent.cli.serve_config import ServeConfig, serve_problems, serve_values
from iceagent.cli.turn import drain_turn, own_host_urls, say_reloaded, serving_metrics, turn_urls
from iceagent.cli.turn_options import GROUP as TURN_GROUP
from iceagent.cli.turn_options import TurnArguments, parse_turn, turn_options
from iceagent.cli.urls import stun_urls
from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError
from iceagent.net.accepting import raise_descriptor_limit
from iceagent.servers.stun import DEFAULT_PORT, open_stun_server
from iceagent.servers.turn import TurnService, open_turn_server
from iceagent.servers.turn_options import TurnOptionsError
from iceagent.session.relay import best_address
from iceagent.tunnel.binds import bind_error

CREDENTIALS_S = 12 * 3600  # how long a member's credentials are good for new allocations
_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104 (to be compared with)
ServeRelay = Callable[..., AbstractAsyncContextManager[icesignal.Server]]
_ATTEMPTS = 16  # at finding one port that is free for both TCP and UDP, when the system chooses


@click.command("serve", epilog="Example:  iceagent serve --listen 0.0.0.0:4433 --turn")
@config_option(ServeConfig, serve_values, serve_problems)
@click.option(
    "--listen", metavar="HOST:PORT", default=DEFAULT_LISTEN, show_default=True, help="Where; port 0 for any free one."
)
@click.option("--turn", "with_turn", is_flag=True, help="Run a TURN server, too; members get credentials for it.")
@rare(
    "Relay",
    click.option(
        "--stun",
        metavar="URL",
        multiple=True,
        callback=stun_urls,
        help="Another STUN server to tell peers of: stun.example:3478.",
    ),
    click.option(
        "--trusted-proxy",
        metavar="NETWORK",
        multiple=True,
        help="Whose X-Forwarded-For, Forwarded and PROXY to believe.",
    ),
    click.option(
        "--allow-origin",
        metavar="ORIGIN",
        multiple=True,
        help="A web page that may use the relay: https://page.example.",
    ),
    click.option(
        "--admin-listen", metavar="HOST:PORT", help="Where operators read /metrics, which is nowhere else then."
    ),
    status_option,
    click.option(
        "--relay-drain",
        type=Seconds(0, 3600),
        default=DRAIN_S,
        show_default=True,
        help="Seconds over which the relay's clients are sent away after SIGTERM.",
    ),
    turn_url_options,
    engine_option(),
)
@rare(
    TURN_GROUP,
    click.option(
        "--turn-listen",
        metavar="HOST:PORT",
        help="TURN over UDP and TCP here.  [default: UDP on the relay's port number, TCP on 3478]",
    ),
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
    admin_listen: str | None,
    status_token_file: str | None,
    relay_drain: float,
    turn_url: tuple[str, ...],
    turn_secret_file: str | None,
    log_format: LogFormat,
    engine: str,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **values: Any,
) -> int:
    """Run a relay and a STUN server; with --turn a TURN server, too.

    STUN is on the UDP port of the same number; with --tls-cert and --tls-key the relay is wss:// as well. The other
    commands need to know only the relay: `--relay URL`.
    """
    output = Common(as_json, quiet, verbose).open_output(log_format=log_format)
    try:
        check_stun(stun)
        others = TurnDirectory(turn_offers(config, turn_url, turn_secret_file), config.regions)
        status_token = read_status_token(status_token_file)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    relay = partial(
        icesignal.serve,
        trusted_proxies=trusted_proxy,
        allow_origins=allow_origin,
        limits=limits_of(config, icesignal.Limits),
        engine=chosen_engine(engine, limits_of(config, icesignal.RoomLimits)),
        status_token=status_token,
    )
    plan = Plan(listen, admin_listen, turn_listen, with_turn, stun, others, values, relay_drain, relay)
    return run_verb(lambda: _serve(plan, output), output)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be served.

    Attributes:
        listen, admin_listen, turn_listen: as they were typed; None: not at all, or as the others say.
        with_turn: whether there is a TURN server.
        stun: URLs of other STUN servers.
        others: other TURN servers.
        values: the options of a TURN server by parameter name, and TLS, which is the relay's, too.
        drain_s: within which clients are sent away.
        relay: opens the relay.
    """

    listen: str
    admin_listen: str | None
    turn_listen: str | None
    with_turn: bool
    stun: Sequence[str]
    others: TurnDirectory
    values: dict[str, Any]
    drain_s: float
    relay: ServeRelay


async def _serve(plan: Plan, output: Output) -> None:
    raise_descriptor_limit()
    values = plan.values
    try:
        sockets = take_sockets(os.environ)
    except HandedOver as error:
        raise LocalError(str(error)) from None
    addresses = await parse_listen(plan.listen)
    if sockets.get(RELAY):  # the relay has its port; STUN is to be beside it
        port = sockets[RELAY][0].getsockname()[1]
        addresses = [TransportAddress(one.host, port) for one in addresses]
    arguments, tls = None, _tls(values["tls_cert"], values["tls_key"], with_turn=plan.with_turn)
    if plan.with_turn:
        arguments = await _turn_arguments(addresses, plan.turn_listen, values)
    elif plan.turn_listen is not None or values["users"] or values["secret_file"] or values["insecure_dev"]:
        raise LocalError("the options of a TURN server need --turn")
    admin = None if plan.admin_listen is None else await parse_listen(plan.admin_listen, "--admin-listen")
    relay = partial(
        plan.relay,
        admin=None if admin is None else ([one.host for one in admin], admin[0].port),
        sockets=sockets,
    )
    async with AsyncExitStack() as stack:
        server, turn = await _open_servers(stack, addresses, arguments, plan, relay, tls)
        announce = partial(_announce, output, server, turn, addresses, has_tls=tls is not None)
        if turn is not None and arguments is not None:
            announce_metrics = await stack.enter_async_context(serving_metrics(turn, arguments, output))
        else:
            announce_metrics = _nothing

        def announce_all() -> None:
            announce()
            announce_metrics()

        def reload() -> None:
            if tls is not None:
                tls.reload()
            if turn is not None:
                turn.reload_certificates()

        async def drain() -> None:
            count = server.statistics()["connections_open"]
            text = f"draining: {count} connections, {plan.drain_s:g} s"
            output.line("draining", text, connections=count, seconds=plan.drain_s)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.drain_within, plan.drain_s)
                if turn is not None and arguments is not None:
                    nursery.start_soon(drain_turn, turn, arguments, output)

        await serve_until_signal(
            (),
            Notifier.of(os.environ),
            announce=announce_all,
            reload=partial(say_reloaded, output, reload),
            drain=drain,
        )


def _nothing() -> None:
    pass


def _announce(
    output: Output,
    server: icesignal.Server,
    turn: TurnService | None,
    addresses: Sequence[TransportAddress],
    *,
    has_tls: bool,
) -> None:
    shown = TransportAddress(_reachable(addresses), server.port)
    fields: dict[str, Any] = {"url": f"ws://{shown}", "stun": f"stun:{shown}"}
    lines = [f"relay {fields['url']}"]
    if has_tls:
        fields["tls_url"] = f"wss://{shown}"
        lines.append(f"relay {fields['tls_url']}")
    lines.append(f"STUN  {fields['stun']}")
    if turn is not None:
        urls = turn_urls(turn)
        lines += [f"TURN  {one}" for one in urls]
        fields |= {"turn": urls[0], "urls": urls, "realm": turn.options.realm}
    if server.admin_addresses:
        fields["admin"] = f"http://{at(*server.admin_addresses[0])}"
        lines.append(f"admin {fields['admin']}")
    output.line("listening", "\n".join(lines), essential=True, **fields)


def _tls(certificate: Path | None, key: Path | None, *, with_turn: bool) -> ServerTls | None:
    """Return what the relay encrypts with; with a TURN server on its port that is named to its clients, too."""
    if certificate is None or key is None:
        if certificate is None and key is None:
            return None
        raise LocalError("--tls-cert and --tls-key come together")
    try:
        return ServerTls(str(certificate), str(key), (HTTP, STUN_ALPN) if with_turn else (HTTP,))
    except TlsError as error:
        raise LocalError(str(error)) from None


async def _turn_arguments(
    addresses: Sequence[TransportAddress], turn_listen: str | None, values: dict[str, Any]
) -> TurnArguments:
    """Return the TURN server's arguments; without a secret of the operator's it gets one for this run."""
    if turn_listen is None:
        udp = list(addresses)
        tcp = [TransportAddress(one.host, DEFAULT_PORT if one.port else 0) for one in addresses]
    else:
        tcp = await parse_listen(turn_listen, "--turn-listen")
        udp = list(dict.fromkeys([*addresses, *tcp]))
    return parse_turn(udp, values, tcp_listen=tcp, secret=secrets.token_urlsafe(32))


async def _open_servers(
    stack: AsyncExitStack,
    addresses: Sequence[TransportAddress],
    arguments: TurnArguments | None,
    plan: Plan,
    relay: ServeRelay,
    tls: ServerTls | None,
) -> tuple[icesignal.Server, TurnService | None]:
    """Open relay and STUN server, or relay and TURN server, on one port number.

    Raises:
        BindError: the address is not ours, or its port taken.
        LocalError: a network or an origin is malformed.
    """
    hosts = [one.host for one in addresses]
    minted = Minted()
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
                servers = partial(_ice_servers, port, turn, others=plan, minted=minted)
                serve_stun = None if turn is None else _stun_server(turn)
                opening = relay(
                    host=hosts,
                    port=port,
                    ice_servers=servers,
                    ssl_context=None if tls is None else Tls(tls.context, is_required=False, serve_stun=serve_stun),
                    more_metrics=None if turn is None else partial(_turn_metrics, turn),
                )
                server = await trial.enter_async_context(opening)
                if turn is not None and tls is not None:
                    for one in addresses:
                        turn.note_shared(TransportAddress(one.host, port))
            except ValueError as error:
                raise LocalError(str(error)) from None
            except AdminNotListening as error:
                raise bind_error(plan.admin_listen or "", error) from error
            except OSError as error:
                if addresses[0].port == 0 and attempt + 1 < _ATTEMPTS:
                    continue
                raise bind_error(" and ".join(map(str, addresses)), error) from error
            await stack.enter_async_context(trial.pop_all())
            return server, turn
    raise AssertionError("the last attempt returns or raises")


def _stun_server(turn: TurnService) -> Callable[[StunConnection], Awaitable[None]]:
    """Return what serves clients of a TURN server that came to the relay's port."""

    async def serve(connection: StunConnection) -> None:
        local, remote = TransportAddress(*connection.local), TransportAddress(*connection.remote)
        await turn.serve_stream(connection.stream, local, remote, connection.settle)

    return serve


def _turn_metrics(turn: TurnService) -> str:
    try:
        return turn.metrics().decode()
    except TurnOptionsError:  # prometheus-client is not installed
        return ""


def _ice_servers(
    port: int, turn: TurnService | None, host: str, others: Plan | None = None, minted: Minted | None = None
) -> list[dict[str, Any]]:
    """Return what one member of a room is given: under the relay's own host, with credentials for its own address."""
    stun = [f"stun::{port}", *(() if others is None else others.stun)]
    servers: list[dict[str, Any]] = [{"urls": [url]} for url in stun]
    if turn is not None:
        make = partial(turn.make_credentials_at, host, CREDENTIALS_S)
        username, credential, ttl_s = (minted or Minted()).get(host, make, CREDENTIALS_S)
        urls = list(dict.fromkeys(own_host_urls(turn)))  # both families have one name
        servers.append({"urls": urls[:MAX_ICE_URLS], "username": username, "credential": credential, "ttl": ttl_s})
    return servers if others is None else [*servers, *others.others.entries(host)]


def _reachable(bound: Sequence[TransportAddress]) -> str:
    """Return the address under which others reach what is bound to all of `bound`."""
    families = [one.family for one in bound if one.host in _WILDCARDS]
    return best_address(families) if families else bound[0].host
