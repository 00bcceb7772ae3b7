"""What verbs take from this user's `config.toml` where neither the command line nor the environment says anything.

Nothing of it is imported before there is such a file; and it is read only once a verb asks, so that help needs none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from iceagent.agent import IceServer
    from iceagent.cli.user_config import UserConfig

ENVIRONMENT = "ICEAGENT_CONFIG"
RELAY_ENVIRONMENT = "ICEAGENT_RELAY"
_KEPT = "iceagent.user_config"
_EXCLUDE = (("only_ipv4", "only_ipv6"), ("hard_nat", "relay_only"), ("direct", "relay_only"))


def config_path() -> Path | None:
    """Return the file of this user, be it there or not; None where there is to be none.

    `ICEAGENT_CONFIG`, else `config.toml` in `$XDG_CONFIG_HOME/iceagent` or `~/.config/iceagent`.
    """
    named = os.environ.get(ENVIRONMENT, "")
    if named:
        return None if named == os.devnull else Path(named)
    folder = os.environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(folder):  # a relative one is to be ignored (XDG Base Directory Specification)
        return Path(folder) / "iceagent" / "config.toml"
    try:
        return Path.home() / ".config" / "iceagent" / "config.toml"
    except RuntimeError:  # a user without a home
        return None


def user_config() -> tuple[Path, UserConfig] | None:
    """Return the file of this user and what it says; None where there is none. It is read once for a command.

    Raises:
        click.ClickException: it cannot be used; or the file that the environment names is not there.
    """
    kept = click.get_current_context().find_root().meta
    if _KEPT not in kept:
        path = config_path()
        is_there = path is not None and (os.environ.get(ENVIRONMENT) or os.path.lexists(path))
        kept[_KEPT] = (path, _read(path)) if path is not None and is_there else None
    found: tuple[Path, UserConfig] | None = kept[_KEPT]
    return found


def _read(path: Path) -> UserConfig:
    from icesignal.config import ConfigError

    from iceagent.cli.user_config import problems_of, read_user_config

    try:
        config = read_user_config(path)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    for problem in problems_of(path, config):
        raise click.ClickException(problem)
    return config


def user_servers() -> tuple[IceServer, ...]:
    """Return the STUN and TURN servers of this user's file."""
    found = user_config()
    if found is None:
        return ()
    from iceagent.cli.user_config import servers_of

    return servers_of(*found)


def use_relays(context: click.Context) -> None:
    """Let the relays of the file stand where those of the environment would, if it names none.

    So a code that names its relay has precedence over them, as over `ICEAGENT_RELAY`, and `--relay` over both.
    """
    if os.environ.get(RELAY_ENVIRONMENT, "").strip() or context.resilient_parsing:
        return
    found = user_config()
    if found is None:
        return
    from iceagent.cli.user_config import relays_of

    relays = relays_of(found[1], peer_of(context))
    if relays:
        before = os.environ.get(RELAY_ENVIRONMENT)
        os.environ[RELAY_ENVIRONMENT] = ",".join(one.replace(",", "%2C") for one in relays)
        context.call_on_close(lambda: _restore(before))


def _restore(before: str | None) -> None:
    if before is None:
        os.environ.pop(RELAY_ENVIRONMENT, None)
    else:
        os.environ[RELAY_ENVIRONMENT] = before


def peer_of(context: click.Context) -> str | None:
    """Return the name of the paired peer that a command is about, or a code; both options are read first of all."""
    found = context.params.get("peer") or context.params.get("code")
    if isinstance(found, tuple):  # of several names none decides on what all of them share
        found = found[0] if len(found) == 1 else None
    return found if isinstance(found, str) else None


class UserDefaults(Mapping[str, Any]):
    """What the file says for a verb, as click takes defaults: read when the first one is asked for."""

    def __init__(self, context: click.Context) -> None:
        """`context` is the verb's."""
        self._context = context

    def __getitem__(self, name: str) -> Any:
        return self._values()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def _values(self) -> dict[str, Any]:
        found = None if self._context.resilient_parsing else user_config()
        if found is None:
            return {}
        from iceagent.cli.user_config import option_defaults

        values = option_defaults(found[1], peer_of(self._context))
        for one, other in (*_EXCLUDE, *(pair[::-1] for pair in _EXCLUDE)):
            if self._context.params.get(one):  # of the command line, which is looked at first
                values.pop(other, None)
        return values
