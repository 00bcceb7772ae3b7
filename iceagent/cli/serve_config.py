"""The configuration file of `iceagent serve`: that of a relay, and a table for its TURN server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from icesignal.config import Number, RelayConfig, Table, Whole, Words, beside
from icesignal.config_checks import problems_of, secret_file_problems
from icesignal.config_option import relay_values

from iceagent.cli.listening import A_RIGHT_ONE, DEFAULT_LISTEN, split_listen
from iceagent.cli.turn_options import DEFAULT_PORTS, DEFAULT_QUOTAS, parse_turn, read_secrets, read_users
from iceagent.core.address import TransportAddress, parse_address
from iceagent.core.turn.server.policy import PeerPolicy, PolicyError
from iceagent.errors import LocalError
from iceagent.servers.turn_options import DEFAULT_REALM, MIN_SECRET_CHARACTERS

_FREE = TransportAddress("127.0.0.1", 0)  # stands for where it will listen, which is looked at as it starts


class TurnServerTable(Table, frozen=True, kw_only=True):
    """`[turn_server]`: that there is one, and what `iceagent serve --turn` has options for. docs/turn.md has each."""

    listen: Words | None = None
    realm: Words = DEFAULT_REALM
    users: Words | None = None
    secret_file: Words | None = None
    tls_listen: tuple[Words, ...] = ()
    tcp: bool = True
    external_ips: tuple[Words, ...] = ()
    relay_ips: tuple[Words, ...] = ()
    ports: Words = DEFAULT_PORTS
    allow_peers: tuple[Words, ...] = ()
    deny_peers: tuple[Words, ...] = ()
    relay_only: bool = False
    user_quota: Whole = DEFAULT_QUOTAS["user"]
    source_quota: Whole = DEFAULT_QUOTAS["source"]
    total_quota: Whole = DEFAULT_QUOTAS["total"]
    max_rate: Whole | None = None
    alternate: Words | None = None
    drain_s: Number = 30.0
    metrics: Words | None = None


class ServeConfig(RelayConfig, frozen=True, kw_only=True):
    """What a file may say of relay, STUN and TURN."""

    turn_server: TurnServerTable | None = None


def serve_values(path: Path, config: ServeConfig) -> dict[str, Any]:
    """Return the options of `iceagent serve` that a file gives, by parameter name; None where it says nothing."""
    values = relay_values(path, config)
    values["relay_drain"] = values.pop("drain")
    turn = config.turn_server
    return values if turn is None else values | {"with_turn": True} | _turn_values(path, config, turn)


def _turn_values(path: Path, config: ServeConfig, turn: TurnServerTable) -> dict[str, Any]:
    return {
        "turn_listen": turn.listen,
        "realm": turn.realm,
        "users": turn.users and Path(beside(path, turn.users)),
        "secret_file": turn.secret_file and Path(beside(path, turn.secret_file)),
        "tls_cert": config.tls and Path(config.tls.cert),  # the TURN server's, too
        "tls_key": config.tls and Path(config.tls.key),
        "tls_listen": turn.tls_listen,
        "no_tcp": not turn.tcp,
        "external_ip": turn.external_ips,
        "relay_ip": turn.relay_ips,
        "ports": turn.ports,
        "allow_peer": turn.allow_peers,
        "deny_peer": turn.deny_peers,
        "relay_only": turn.relay_only,
        "user_quota": turn.user_quota,
        "source_quota": turn.source_quota,
        "total_quota": turn.total_quota,
        "max_rate": turn.max_rate,
        "alternate": turn.alternate,
        "drain": turn.drain_s,
        "metrics": turn.metrics,
    }


def serve_problems(path: Path, config: ServeConfig) -> Iterator[str]:
    """Give a sentence for all that would keep the servers from starting, or would make them unsafe."""
    yield from problems_of(path, config)
    turn = config.turn_server
    for key, text in (
        ("listen", config.listen),
        ("admin_listen", config.admin_listen),
        ("turn_server.listen", turn and turn.listen),
    ):
        try:
            split_listen(text or DEFAULT_LISTEN)
        except ValueError as error:
            yield f"{path}: {key}: {text!r} cannot be: {error}. {A_RIGHT_ONE}"
    if turn is None:
        return
    values = _turn_values(path, config, turn)
    found = [*_secrets_problems(values), *_policy_problems(path, turn)]
    yield from found
    if not found:
        try:
            parse_turn([_FREE], {**values, "insecure_dev": False}, secret="x" * MIN_SECRET_CHARACTERS)
        except LocalError as error:
            yield f"{path}: turn_server: {error}"


def _secrets_problems(values: dict[str, Any]) -> Iterator[str]:
    """Give what is wrong with the files of users and secrets."""
    readers: dict[str, Callable[[Path], Iterable[str]]] = {"users": read_users, "secret_file": read_secrets}
    for key, read in readers.items():
        file: Path | None = values[key]
        if file is None:
            continue
        found = list(secret_file_problems(str(file)))
        try:
            lines = [] if found else read(file)
        except LocalError as error:
            found = [str(error)]
        else:
            if key == "secret_file" and any(len(line) < MIN_SECRET_CHARACTERS for line in lines):
                found = [f"{file}: a secret has at least {MIN_SECRET_CHARACTERS} characters"]
        yield from found


def _policy_problems(path: Path, turn: TurnServerTable) -> Iterator[str]:
    """Give what is wrong with the rules for peers and with the second address."""
    try:
        PeerPolicy(allow=turn.allow_peers, deny=turn.deny_peers)
    except PolicyError as error:
        yield f"{path}: turn_server: {error}"
    if turn.alternate is not None:
        try:
            parse_address(turn.alternate)
        except ValueError:
            yield f"{path}: turn_server.alternate: {turn.alternate!r} is not IP:PORT, as in 192.0.2.1:3478"
