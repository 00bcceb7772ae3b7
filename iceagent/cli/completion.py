"""`iceagent completion`: what a shell reads to complete commands, options, and names of peers and of forwards."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import click

from iceagent.cli.exits import Exit

SHELLS = ("bash", "zsh", "fish")
_EXAMPLE = """
Example:  source <(iceagent completion bash)
          iceagent completion zsh >"${fpath[1]}/_iceagent"
          iceagent completion fish >~/.config/fish/completions/iceagent.fish
"""


@click.command("completion", epilog=_EXAMPLE)
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> int:
    """Print what bash, zsh or fish needs to complete commands of iceagent.

    SHELL is bash, zsh or fish. Names of paired peers and of forwards are completed, too.
    """
    from click.shell_completion import get_completion_class

    from iceagent.cli.app import app

    found = get_completion_class(shell)
    assert found is not None
    text = found(app, {}, "iceagent", "_ICEAGENT_COMPLETE").source_vars()
    click.echo(found.source_template % text)
    return Exit.OK


def names_of_forwards() -> Sequence[str]:
    """Return the sets of forwards of this user's file; none where it cannot be read: a shell is no place for errors."""
    from iceagent.cli.defaults import config_path

    path = config_path()
    if path is None or not path.is_file():
        return ()
    from icesignal.config import ConfigError

    from iceagent.cli.user_config import read_user_config

    with suppress(ConfigError):
        return sorted(read_user_config(path).forwards)
    return ()


def names_of_peers() -> Sequence[str]:
    """Return the paired peers; none where they cannot be read."""
    from iceagent.session.errors import IdentityError
    from iceagent.session.pairing.identity import identity_path
    from iceagent.session.pairing.store import PeerStore

    with suppress(IdentityError):
        return list(PeerStore.at(identity_path()).peers())
    return ()


def complete_peer(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of paired peers that begin so, for click."""
    return [name for name in names_of_peers() if name.startswith(incomplete)]
