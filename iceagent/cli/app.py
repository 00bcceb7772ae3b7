"""The command `iceagent`: finds the verb, and turns mistakes on the command line into one sentence and exit code 2."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence

import click
from click.exceptions import NoArgsIsHelpError

from iceagent import __version__
from iceagent.cli.exits import Exit
from iceagent.cli.help import ALL, EVERYTHING, VerbContext, help_all_option, with_help_all
from iceagent.cli.output import output_of

VERBS = {
    "listen": "Print a code, and wait for the other side to use it.",
    "connect": "Join your standard input and output with those of the other side.",
    "forward": "Forward local ports or sockets to the other side.",
    "nc": "Join standard input and output with HOST:PORT of the other side.",
    "send": "Send files and folders to the other side.",
    "receive": "Receive the files and folders that the other side sends.",
    "pair": "Pair with another machine: from then on connect by name.",
    "peers": "List the peers this user has paired with; rename or remove one.",
    "ping": "Measure the way to the other side, and see whether it is direct.",
    "status": "Show what your running commands do: with whom, and which way.",
    "up": "Open the forwards that config.toml calls NAME.",
    "forwards": "Add and remove forwards of an `iceagent forward` that runs.",
    "trace": "Show what happened to a connection: a file that --timeline wrote.",
    "netcheck": "Tell what this network lets through, and what that means.",
    "serve": "Run a relay and a STUN server; with --turn a TURN server, too.",
    "turn": "Run a STUN and TURN server.",
    "check-config": "Tell whether the configuration of a server can be used, and all that is wrong with it.",
    "config": "Check this user's config.toml; show what holds, and where it comes from.",
    "completion": "Print what bash, zsh or fish needs to complete commands of iceagent.",
    "man": "Print the manual page of a command, for man.",
}
"""Each verb and its line in the list: the first of its own help, repeated here so that the list imports no verb."""

SELDOM = ("serve", "turn", "check-config", "config", "completion", "man", "forwards", "trace")
"""Verbs of operators and for setting up: `iceagent --help` only names them, `--help-all` has a line for each."""

MEANT = {"help": "--help", "version": "--version", "relay": "serve", "join": "connect", "server": "serve"}
"""What other programs call what we have, too."""


class _Verbs(click.Group):
    """Imports a verb's module only when it is used, so that neither the others nor the list of them cost anything."""

    context_class = VerbContext

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return what the list shows of a verb."""
        return click.Command(cmd_name, short_help=VERBS[cmd_name]) if cmd_name in VERBS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs that everybody uses, and the names of the others."""
        everything = ctx.meta.get(EVERYTHING, False)
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, line in VERBS.items() if everything or name not in SELDOM])
        if not everything:
            formatter.write_paragraph()
            formatter.write_text(f"For servers and for setting up: {', '.join(SELDOM)} ({ALL})")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb itself; one that there is not is told with those like it."""
        if args and args[0] not in VERBS and args[0][:1] != "-" and not ctx.resilient_parsing:
            raise click.UsageError(_unknown_verb(args[0]), ctx)
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else load_verb(name), rest


def load_verb(name: str) -> click.Command:
    """Import a verb."""
    command = importlib.import_module(f"iceagent.cli.{name.replace('-', '_')}").command
    assert isinstance(command, click.Command)
    return with_help_all(command)


def _unknown_verb(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), [*VERBS, *MEANT], n=2, cutoff=0.6)
    meant = dict.fromkeys(MEANT.get(one, one) for one in near)
    shown = f"{name[:40]!r} is no command of iceagent"
    return f"{shown}; did you mean {' or '.join(meant)}?" if meant else f"{shown}, which are {', '.join(VERBS)}"


_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
    "color": False if os.environ.get("NO_COLOR") else None,  # https://no-color.org
}


_EXAMPLE = """
On the machine with the service:  iceagent listen --allow tcp:localhost:22
It prints the command for the other one. More: iceagent COMMAND --help
"""


@click.group(cls=_Verbs, context_settings=_SETTINGS, epilog=_EXAMPLE, params=[help_all_option()])
@click.version_option(__version__, prog_name="iceagent", message="%(prog)s %(version)s")
def app() -> None:
    """Connect two machines through any NAT: for sockets, pipes and files."""


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
    is_of_this_line = isinstance(error, click.UsageError) and "--help" not in error.format_message()
    help_hint = f" (see iceagent {_verb(error)}--help)" if is_of_this_line else ""
    output_of(arguments).error(Exit.USAGE, error.format_message().rstrip(".") + help_hint)


def _verb(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    words = context.command_path.split()[1:] if context is not None else ()
    return "".join(f"{word} " for word in words)
