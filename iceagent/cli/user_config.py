"""What `config.toml` may say for this user: relays, servers, peers and sets of forwards. docs/config.md has all.

What the file says stands below the environment, and the environment below the command line. The file is its owner's:
one that others can write is refused, and one that others can read if it holds a secret. Secrets else are in files that
it names.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from icesignal import parse_relay_url, parse_relay_urls
from icesignal.config import ConfigError, Number, Positive, Table, Words, beside, read_table
from icesignal.config_checks import secret_file_problems

from iceagent.cli.urls import with_scheme
from iceagent.errors import IceError, LocalError

if TYPE_CHECKING:
    from iceagent.agent import IceServer

MAX_SECRET_BYTES = 4096  # of the first line of a file
Listed = tuple[Words, ...]
OneOrMore = Words | Annotated[Listed, msgspec.Meta(min_length=1, max_length=8)]


class ConnectionTable(Table, frozen=True, kw_only=True):
    """`[connection]`: the options of the same names, for `listen`, `connect`, `forward` and their like."""

    ip: Literal[4, 6] | None = None
    interface: Listed | None = None
    deny_interface: Listed | None = None
    deny_remote: Listed | None = None
    relay_only: bool | None = None
    direct: bool | None = None
    hard_nat: bool | None = None
    give_up_after: Number | None = None
    verify: bool | None = None


class PeerTable(ConnectionTable, frozen=True, kw_only=True):
    """`[peers.NAME]`: the same for one paired peer; where it is met, how long it is waited for, what it may reach."""

    relay: OneOrMore | None = None
    timeout: Positive | None = None
    allow: Listed | None = None


class ServerTable(Table, frozen=True, kw_only=True):
    """One of `[[server]]`: a STUN or TURN server of ours, beside those that the relay names."""

    url: Words
    username: Words | None = None
    credential_file: Words | None = None


class ForwardsTable(Table, frozen=True, kw_only=True):
    """`[forwards.NAME]`: what `iceagent up NAME` opens."""

    peer: Words
    local: Listed = ()
    remote: Listed = ()
    dynamic: Listed = ()


class UserConfig(Table, frozen=True, kw_only=True):
    """All of the file."""

    relay: OneOrMore | None = None
    stun: Listed = ()
    connection: ConnectionTable = ConnectionTable()
    server: Annotated[tuple[ServerTable, ...], msgspec.Meta(max_length=16)] = ()
    peers: dict[str, PeerTable] = msgspec.field(default_factory=dict)
    forwards: dict[str, ForwardsTable] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"  # URLs may hold passwords


def read_user_config(path: Path) -> UserConfig:
    """Return what a file says.

    Raises:
        ConfigError: it cannot be read, others may write it, or it is not as it must be; one sentence, with the line.
    """
    modes: list[int] = []

    def problem_of(found: os.stat_result) -> str | None:
        modes.append(found.st_mode)
        return _place_problem(path, found)

    config = read_table(path, UserConfig, problem_of)
    if os.name == "posix" and modes[0] & (stat.S_IRGRP | stat.S_IROTH) and any(map(_has_secret, all_relays(config))):
        raise ConfigError(f"{path} holds a secret of a relay, and others can read it; run `chmod 600 {path}`")
    return config


def _place_problem(path: Path, found: os.stat_result) -> str | None:
    """Return why a file is not to be obeyed: whoever can write it decides whom this user trusts."""
    if not stat.S_ISREG(found.st_mode):
        return "is no plain file"
    if os.name != "posix":
        return None
    if found.st_uid not in (os.geteuid(), 0):
        return "belongs to another user; make one of your own"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others, who would decide whom you connect to; run `chmod go-w {path}`"
    return None


def _has_secret(url: str) -> bool:
    try:
        place = parse_relay_url(url)
    except ValueError:
        return False  # it is told, and not used
    return place.authorization is not None or "?" in place.target


def listed(relay: OneOrMore | None) -> Sequence[str]:
    """Return the URLs of a key that has one or several."""
    return () if relay is None else (relay,) if isinstance(relay, str) else relay


def all_relays(config: UserConfig) -> Iterator[str]:
    """Give every URL of a relay in a file."""
    yield from listed(config.relay)
    for peer in config.peers.values():
        yield from listed(peer.relay)


def relays_of(config: UserConfig, peer: str | None) -> Sequence[str]:
    """Return the relays for a peer, for everybody where it has none of its own."""
    own = listed(config.peers[peer].relay) if peer is not None and peer in config.peers else ()
    return own or listed(config.relay)


def servers_of(path: Path, config: UserConfig) -> tuple[IceServer, ...]:
    """Return the STUN and TURN servers of a file, with their credentials.

    Raises:
        LocalError: a URL or a credential cannot be used; the sentence says why.
    """
    from iceagent.agent import IceServer

    servers = [IceServer(with_scheme(url)) for url in config.stun]
    for number, one in enumerate(config.server, 1):
        try:
            secret = None if one.credential_file is None else _read_secret(beside(path, one.credential_file))
            servers.append(IceServer(one.url, username=one.username, credential=secret))
        except LocalError as error:
            raise LocalError(f"{path}: server {number}: {error}") from None
    return tuple(servers)


def _read_secret(path: str) -> str:
    for problem in secret_file_problems(path):
        raise LocalError(problem)
    try:
        with open(path, "rb") as file:
            secret = file.readline(MAX_SECRET_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError(f"{path} cannot be read: {error}") from None
    if not secret:
        raise LocalError(f"{path} is empty; its first line is the credential")
    return secret


def option_defaults(config: UserConfig, peer: str | None) -> dict[str, Any]:
    """Return options that a file gives, by parameter name: those of the peer, else those of `[connection]`."""
    own = config.peers.get(peer, PeerTable()) if peer is not None else PeerTable()
    tables: tuple[ConnectionTable, ...] = (own, config.connection)
    values: dict[str, Any] = {}
    for name in ConnectionTable.__struct_fields__:
        values[name] = next((found for table in tables if (found := getattr(table, name)) is not None), None)
    ip = values.pop("ip")
    values |= {"only_ipv4": True if ip == 4 else None, "only_ipv6": True if ip == 6 else None}
    values["give_up_after_s"] = values.pop("give_up_after")
    values |= {"timeout_s": own.timeout, "allow": own.allow, "servers": config.stun or None}
    return {name: value for name, value in values.items() if value is not None}


def problems_of(path: Path, config: UserConfig) -> Iterator[str]:
    """Give a sentence for all that cannot be used in a file that could be read."""
    from iceagent.session.pairing.store import is_name

    relays: dict[str, OneOrMore | None] = {
        "relay": config.relay,
        **{f"peers.{name}.relay": peer.relay for name, peer in config.peers.items()},
    }
    for key, relay in relays.items():
        try:
            if relay is not None:
                parse_relay_urls(listed(relay))
        except ValueError as error:
            yield f"{path}: {key}: {error}"
    try:
        servers_of(path, config)
    except LocalError as error:
        yield str(error) if str(path) in str(error) else f"{path}: stun: {error}"
    for key, table in [
        ("connection", config.connection),
        *((f"peers.{name}", one) for name, one in config.peers.items()),
    ]:
        yield from (f"{path}: {key}.{problem}" for problem in _prefix_problems(table))
    for name, peer in config.peers.items():
        if not is_name(name):
            yield f"{path}: peers.{name!r}: no paired peer can have this name, as in office-2"
        yield from (f"{path}: peers.{name}.allow: {problem}" for problem in _allow_problems(peer.allow or ()))
    for name, forwards in config.forwards.items():
        yield from (f"{path}: forwards.{name}{problem}" for problem in _forwards_problems(forwards))


def _prefix_problems(table: ConnectionTable) -> Iterator[str]:
    import ipaddress

    for text in table.deny_remote or ():
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            yield f"deny_remote: {error}; a right one: 10.0.0.0/8, or fd00::/8"


def _allow_problems(rules: Sequence[str]) -> Iterator[str]:
    from iceagent.tunnel.allow import parse_allow

    for rule in rules:
        try:
            parse_allow(rule)
        except IceError as error:
            yield str(error)


def _forwards_problems(forwards: ForwardsTable) -> Iterator[str]:
    from iceagent.session.pairing.store import is_name
    from iceagent.tunnel.spec import check_distinct, parse_dynamic, parse_forward

    if not is_name(forwards.peer):
        yield f".peer: {forwards.peer!r} can be no paired peer's name, as in office-2"
    if not (forwards.local or forwards.remote or forwards.dynamic):
        yield ': it opens nothing; add local = ["2222:localhost:22"]'
    for key, parse, texts, where in (
        ("local", parse_forward, forwards.local, "here"),
        ("remote", parse_forward, forwards.remote, "there"),
        ("dynamic", parse_dynamic, forwards.dynamic, "here"),
    ):
        try:
            check_distinct([parse(text) for text in texts], where)
        except IceError as error:
            yield f".{key}: {error}"
