"""`--config FILE` and `check-config FILE`, for all commands that run a relay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from icesignal.config import ConfigError, RelayConfig, read_config

C = TypeVar("C", bound=RelayConfig)
F = TypeVar("F", bound=Callable[..., object])


def config_option(
    kind: type[C], values_of: Callable[[Path, C], Mapping[str, object]], problems_of: Callable[[Path, C], Iterable[str]]
) -> Callable[[F], F]:
    """Return a decorator that adds `--config FILE`, whose values become the defaults of the other options.

    What has no option is in the context's `obj`, the configuration itself; it is an empty one without a file.

    Args:
        kind: what a file may say.
        values_of: gives options of the command by parameter name, None for those left as they are.
        problems_of: gives what would keep the command from starting.
    """

    def use(context: click.Context, _: click.Parameter, path: Path | None) -> None:
        context.obj = kind()
        if path is None:
            return
        try:
            config = read_config(path, kind)
        except ConfigError as error:
            raise click.UsageError(str(error), context) from None
        for problem in problems_of(path, config):
            raise click.UsageError(problem, context)
        context.obj = config
        given = {name: value for name, value in values_of(path, config).items() if value is not None}
        context.default_map = {**(context.default_map or {}), **given}

    return click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=use,
        help="Read options from a TOML file; those given here win over it.",
    )


def relay_values(_: Path, config: RelayConfig) -> dict[str, Any]:
    """Return the options that all relays have, by parameter name."""
    return {
        "listen": config.listen,
        "admin_listen": config.admin_listen,
        "status_token_file": config.status_token_file,
        "drain": config.drain_s,
        "log_format": config.log_format,
        "trusted_proxy": config.trusted_proxies or None,
        "allow_origin": config.allow_origins or None,
        "tls_cert": config.tls and config.tls.cert,
        "tls_key": config.tls and config.tls.key,
        "stun": config.stun or None,
        "engine": config.engine,
    }


def check_file(path: Path, kind: type[C], problems_of: Callable[[Path, C], Iterable[str]]) -> list[str]:
    """Return a sentence for all that is wrong with a configuration, and with what it names."""
    try:
        return list(problems_of(path, read_config(path, kind)))
    except ConfigError as error:
        return [str(error)]


def status_option(function: F) -> F:
    """Add `--status-token-file`."""
    return click.option(
        "--status-token-file",
        metavar="FILE",
        help="The token for /status, a page of numbers and charts at --admin-listen.",
    )(function)


def turn_url_options(function: F) -> F:
    """Add `--turn-url`, `--turn-secret-file` and `--log-format`."""
    function = click.option(
        "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Of log lines."
    )(function)
    function = click.option(
        "--turn-secret-file", metavar="FILE", help="The secret that is shared with them, as coturn's use-auth-secret."
    )(function)
    return click.option(
        "--turn-url",
        metavar="URL",
        multiple=True,
        help="A TURN server that members get credentials for, as in turn:turn.example:3478?transport=udp. Repeatable.",
    )(function)
