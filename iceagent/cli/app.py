"""The command `iceagent`: finds the verb, and turns mistakes on the command line into one sentence and exit code 2."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Sequence

import click
from click.exceptions import NoArgsIsHelpError

from iceagent import __version__
from iceagent.cli.exits import Exit
from iceagent.cli.output import output_of

VERBS = {
    "serve": "Run a relay, and a STUN server on the UDP port of the same number; with --turn a TURN server, too.",
    "listen": "Print a code, and wait for the other side to use it.",
    "connect": "Join your standard input and output with those of `iceagent listen` on the other machine.",
    "pair": "Pair with another machine, or another user: from then on the two connect by name, without a code.",
    "peers": "List the peers that this user has paired with; rename or remove one.",
    "forward": "Forward local ports or sockets to the other side, which runs `iceagent listen --allow ...`.",
    "turn": "Run a STUN and TURN server.",
    "check-config": "Tell whether the configuration of a server can be used, and all that is wrong with it.",
    "netcheck": "Tell what this network lets through, and what that means for connecting.",
}
"""Each verb and its line in the list: the first of its own help, repeated here so that the list imports no verb."""


class _Formatter(click.HelpFormatter):
    """Colours headings and options in their text, where the terminal shows colours; click takes them out elsewhere."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, click.style("Usage: ", bold=True) if prefix is None else prefix)

    def write_heading(self, heading: str) -> None:
        self.write(f"{'':{self.current_indent}}{click.style(heading, bold=True)}:\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl([(click.style(term, fg="cyan"), text) for term, text in rows], col_max, col_spacing)


class _Context(click.Context):
    formatter_class = _Formatter


class _Verbs(click.Group):
    """Imports a verb's module only when it is used, so that neither the others nor the list of them cost anything."""

    context_class = _Context

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return what the list shows of a verb."""
        return click.Command(cmd_name, short_help=VERBS[cmd_name]) if cmd_name in VERBS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb itself."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else load_verb(name), rest


def load_verb(name: str) -> click.Command:
    """Import a verb."""
    command = importlib.import_module(f"iceagent.cli.{name.replace('-', '_')}").command
    assert isinstance(command, click.Command)
    command.context_class = _Context
    return command


_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
    "color": False if os.environ.get("NO_COLOR") else None,  # https://no-color.org
}


@click.group(cls=_Verbs, context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="iceagent", message="%(prog)s %(version)s")
def app() -> None:
    """Connect two machines, through any NAT, and use the sockets of one on the other.

    On the machine with the service: iceagent listen --allow tcp:localhost:22

    It prints the command for the other one.
    """


def run_app(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    try:
        result = app.main(list(arguments), prog_name="iceagent", standalone_mode=False)
    except click.ClickException as error:
        _complain(error, arguments)
        return Exit.USAGE
    except click.Abort:
        output_of(arguments).error(Exit.INTERRUPTED, "interrupted")
        return Exit.INTERRUPTED
    except OSError as error:  # while help is printed or modules are read: verbs report their own
        output_of(arguments).error(Exit.LOCAL_IO, f"reading or writing failed: {error.strerror or error}")
        return Exit.LOCAL_IO
    return result if isinstance(result, int) else Exit.OK


def _complain(error: click.ClickException, arguments: Sequence[str]) -> None:
    """Print a mistake on the command line; who typed no verb at all gets the help, as it is."""
    if isinstance(error, NoArgsIsHelpError):
        error.show()
        return
    help_hint = "" if "--help" in error.format_message() else f" (see iceagent {_verb(error)}--help)"
    output_of(arguments).error(Exit.USAGE, error.format_message().rstrip(".") + help_hint)


def _verb(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    name = context.info_name if context is not None and context.parent is not None else ""
    return f"{name} " if name else ""
