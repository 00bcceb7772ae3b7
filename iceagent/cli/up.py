"""`iceagent up`: a set of forwards that this user's `config.toml` has a name for."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from iceagent.cli import forward
from iceagent.cli.defaults import ENVIRONMENT, config_path, user_config
from iceagent.cli.help import with_help_all

if TYPE_CHECKING:
    from iceagent.cli.user_config import ForwardsTable

_EXAMPLE = """
Example:  iceagent up office
with this in ~/.config/iceagent/config.toml (docs/config.md):
          [forwards.office]
          peer = "office"
          local = ["2222:localhost:22"]
"""


def _complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from iceagent.cli.completion import names_of_forwards

    return [name for name in names_of_forwards() if name.startswith(incomplete)]


@click.command("up", epilog=_EXAMPLE, context_settings={"ignore_unknown_options": True})
@click.argument("name", shell_complete=_complete)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(context: click.Context, name: str, options: Sequence[str]) -> int:
    """Open the forwards that config.toml calls NAME.

    OPTIONS are those of `iceagent forward`, whose command this is in fewer words.
    """
    forwards = _forwards(name)
    given = [("-L", forwards.local), ("-R", forwards.remote), ("-D", forwards.dynamic)]
    arguments = [*options, *(word for option, texts in given for text in texts for word in (option, text))]
    verb = with_help_all(forward.command)
    with verb.make_context("forward", [*arguments, "--", forwards.peer], parent=context.parent) as inner:
        result = verb.invoke(inner)
    assert isinstance(result, int)
    return result


def _forwards(name: str) -> ForwardsTable:
    found = user_config()
    if found is None:
        where = config_path() or f"the file that {ENVIRONMENT} names"
        raise click.ClickException(f"there is no {where}, which would say what {name!r} is (docs/config.md)")
    path, config = found
    if name in config.forwards:
        return config.forwards[name]
    near = get_close_matches(name, config.forwards, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(config.forwards) or 'none'}"
    raise click.ClickException(f"{path} has no forwards of the name {name!r}; {hint}")
