"""Which engine a relay runs on, as an operator writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from icesignal.engines.engine import Engine
from icesignal.engines.memory import MemoryEngine
from icesignal.registry import RoomLimits

MEMORY = "memory"
ENGINE_VARIABLE = "ICEAGENT_ENGINE"
F = TypeVar("F", bound=Callable[..., object])


def make_engine(url: str, limits: RoomLimits) -> Engine:
    """Return the engine that a URL names; what it needs is imported here only.

    Args:
        url: `memory` or `redis://…`, see `redis_url.parse_redis_url`.
        limits: the bounds of rooms and logs.
    Raises:
        ValueError: it is none, or a package is missing. The text does not have the URL's password.
    """
    if url == MEMORY:
        return MemoryEngine(limits=limits)
    try:
        from icesignal.engines import redis, redis_url
        from icesignal.engines.shared import SharedEngine
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("coredis", "anyio"):
            raise
        raise ValueError("this engine needs coredis: pip install 'iceagent[redis]'") from None
    store = redis.RedisStore(redis_url.parse_redis_url(url), max_rooms=limits.rooms_per_source)
    return SharedEngine(store, limits=limits)


def chosen_engine(url: str, limits: RoomLimits) -> Engine:
    """Return the engine that `--engine` names.

    Raises:
        click.BadParameter: it is none, see `make_engine`.
    """
    try:
        return make_engine(url, limits)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--engine") from None


def engine_option() -> Callable[[F], F]:
    """Return a decorator that adds `--engine`."""

    def check(context: click.Context, parameter: click.Parameter, value: str) -> str:
        source = context.get_parameter_source(parameter.name or "")
        if source is click.core.ParameterSource.COMMANDLINE and "@" in value:
            raise click.UsageError(
                "a password on the command line is seen by everybody on this machine; put the engine's URL into "
                f"{ENGINE_VARIABLE} or the configuration file",
                context,
            )
        return value

    return click.option(
        "--engine",
        default=MEMORY,
        show_default=True,
        envvar=ENGINE_VARIABLE,
        metavar="URL",
        callback=check,
        help="Where rooms are kept: memory, or redis://HOST[:PORT][/DB], which several nodes share.",
    )
