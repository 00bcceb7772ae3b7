"""`iceagent config`: whether this user's `config.toml` can be used, and what holds, and why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from iceagent.cli.completion import complete_peer
from iceagent.cli.defaults import ENVIRONMENT, RELAY_ENVIRONMENT, config_path, user_config
from iceagent.cli.exits import Exit
from iceagent.cli.options import Common, output_options

if TYPE_CHECKING:
    from iceagent.cli.user_config import UserConfig

IDENTITY_ENVIRONMENT = "ICEAGENT_IDENTITY"
HIDDEN = "…"  # in the place of what is secret
Value = str | float | bool | list[str]


@click.group("config", epilog="Example:  iceagent config show office")
def command() -> None:
    """Check this user's config.toml; show what holds, and where it comes from.

    It is ~/.config/iceagent/config.toml, or the file that ICEAGENT_CONFIG names (docs/config.md).
    """


@command.command("check", epilog="Example:  iceagent config check")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@output_options
def check(file: Path | None, as_json: bool, quiet: bool, verbose: int) -> int:
    """Tell whether the file can be used, and all that is wrong with it.

    Files of credentials are looked at, too. Nothing is opened, and nobody is asked. Without FILE: this user's own.
    """
    from icesignal.config import ConfigError

    from iceagent.cli.user_config import problems_of, read_user_config

    output = Common(as_json, quiet, verbose).open_output()
    path = file or config_path()
    if path is None:
        raise click.UsageError(f"there is no file to check: name one, or set {ENVIRONMENT}")
    try:
        problems = list(problems_of(path, read_user_config(path)))
    except ConfigError as error:
        problems = [str(error)]
    for problem in problems:
        output.error(Exit.USAGE, problem)
    if not problems:
        output.line("checked", f"{path} is good", file=str(path))
    return Exit.USAGE if problems else Exit.OK


class Setting(NamedTuple):
    """One thing that holds, and what has decided it."""

    name: str
    value: Value | None
    source: str


@command.command("show", epilog="Example:  iceagent config show office")
@click.argument("peer", required=False, shell_complete=complete_peer)
@output_options
def show(peer: str | None, as_json: bool, quiet: bool, verbose: int) -> int:
    """Show what holds where no option says otherwise, and where each comes from.

    With PEER: for sessions with this paired peer. Secrets are not shown.
    """
    output = Common(as_json, quiet, verbose).open_output()
    path = config_path()
    found = user_config()
    where = "no file is looked for" if path is None else f"{path}{'' if found else ' (not there)'}"
    settings = [
        Setting(
            "file", None if path is None else str(path), f"{ENVIRONMENT}" if os.environ.get(ENVIRONMENT) else "default"
        ),
        *_environment(found[1] if found else None, peer),
        *(_of_file(found[0], found[1], peer) if found else ()),
    ]
    for one in settings:
        shown = where if one.name == "file" else _shown(one.value)
        text = f"{one.name:<24} {shown}  [{one.source}]"
        output.line("setting", text, essential=True, name=one.name, value=one.value, source=one.source)
    return Exit.OK


def _shown(value: Value | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else "-" if value is None else str(value)


def _environment(config: UserConfig | None, peer: str | None) -> Iterator[Setting]:
    """Give the relay, which the environment decides before the file does, and the identity."""
    from iceagent.cli.user_config import relays_of

    named = [one.strip() for one in os.environ.get(RELAY_ENVIRONMENT, "").split(",") if one.strip()]
    of_file = list(relays_of(config, peer)) if config is not None else []
    source = RELAY_ENVIRONMENT if named else "file" if of_file else "default"
    relays = [without_secret(one) for one in named or of_file]
    yield Setting("relay", relays or None, source)
    identity = os.environ.get(IDENTITY_ENVIRONMENT)
    yield Setting("identity", identity or None, IDENTITY_ENVIRONMENT if identity else "default")


def without_secret(url: str) -> str:
    """Return the URL of a relay as it may be shown: without user, password and query."""
    from icesignal import parse_relay_url

    try:
        return parse_relay_url(url).shown
    except ValueError:
        return f"{HIDDEN} (not a relay's URL)"


def _of_file(path: Path, config: UserConfig, peer: str | None) -> Iterator[Setting]:
    from iceagent.cli.user_config import ConnectionTable, PeerTable

    own = config.peers.get(peer or "", PeerTable())
    for name in PeerTable.__struct_fields__:
        if name == "relay":
            continue
        value = getattr(own, name)
        source = f"file: peers.{peer}"
        if value is None and name in ConnectionTable.__struct_fields__:
            value, source = getattr(config.connection, name), "file: connection"
        if value is not None:
            yield Setting(name, list(value) if isinstance(value, tuple) else value, source)
    if config.stun:
        yield Setting("stun", list(config.stun), "file")
    for one in config.server:
        credential = (
            "" if one.credential_file is None else f", {one.username or HIDDEN}:{HIDDEN} of {one.credential_file}"
        )
        yield Setting("server", f"{one.url}{credential}", "file")
    if peer is None:
        for name in config.peers:
            yield Setting("peer", name, f"file: peers.{name}")
    for name, forwards in config.forwards.items():
        if peer in (None, forwards.peer):
            kinds = {"-L": forwards.local, "-R": forwards.remote, "-D": forwards.dynamic}
            listed = [f"{option} {text}" for option, texts in kinds.items() for text in texts]
            yield Setting(f"forwards.{name}", [forwards.peer, *listed], "file")
