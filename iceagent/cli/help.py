"""What `--help` and `--help-all` print: the first fits a screen of 80 columns and 24 lines, the second has everything.

A verb needs nothing for it but an example (`epilog`), and around rare options `rare`, with the heading under which
`--help-all` shows them. Manual pages come from the same texts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import click

ALL = "--help-all"
OPTIONS = "Options"
COMMON = {"verbose", "quiet", "as_json"}
"""The options of every verb, by parameter name: one line of `--help` for all of them."""


EVERYTHING = "iceagent.everything"  # in the context's `meta`, while all is printed
F = TypeVar("F", bound=Callable[..., object])
_groups: WeakKeyDictionary[click.Parameter, str] = WeakKeyDictionary()


def rare(group: str, *decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Return a decorator that adds the options of others, which only `--help-all` shows, under the heading `group`."""

    def add(function: F) -> F:
        for decorate in reversed(decorators):
            count = len(getattr(function, "__click_params__", ()))
            function = decorate(function)
            for parameter in getattr(function, "__click_params__", ())[count:]:
                _groups[parameter] = group
        return function

    return add


def group_of(parameter: click.Parameter) -> str | None:
    """Return the heading of a rare option, None for the others."""
    return _groups.get(parameter)


class HelpFormatter(click.HelpFormatter):
    """Colours headings and options in their text, where the terminal shows colours; click takes them out elsewhere."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the first line."""
        super().write_usage(prog, args, click.style("Usage: ", bold=True) if prefix is None else prefix)

    def write_heading(self, heading: str) -> None:
        """Write the line above options or commands."""
        self.write(f"{'':{self.current_indent}}{click.style(heading, bold=True)}:\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write options or commands, and beside each what it does."""
        super().write_dl([(click.style(term, fg="cyan"), text) for term, text in rows], col_max, col_spacing)


class VerbContext(click.Context):
    """The context of every verb: its help is ours."""

    formatter_class = HelpFormatter

    def __init__(self, command: click.Command, parent: click.Context | None = None, **attributes: Any) -> None:
        """Take what the command line leaves open from this user's file, for whoever meets others at a relay."""
        super().__init__(command, parent, **attributes)
        if self.default_map is None and any(one.name == "relay" for one in command.params):
            from iceagent.cli.defaults import UserDefaults

            self.default_map = cast("dict[str, Any]", UserDefaults(self))

    def get_help(self) -> str:
        """Return what `--help` prints."""
        return help_of(self)


def with_help_all(command: click.Command) -> click.Command:
    """Return a command, and its subcommands, with our help and the option `--help-all`, where it would show more."""
    command.context_class = VerbContext
    has_one = any(ALL in one.opts for one in command.params)
    if not has_one and any(one.name in COMMON or group_of(one) is not None for one in command.params):
        command.params.append(help_all_option())
    if isinstance(command, click.Group):
        for one in command.commands.values():
            with_help_all(one)
    return command


def help_all_option() -> click.Option:
    """Return the option that prints everything and ends the command."""

    def show(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            click.echo(help_of(context, everything=True), color=context.color)
            context.exit()

    return click.Option(
        [ALL], is_flag=True, is_eager=True, expose_value=False, callback=show, help="Show all options and exit."
    )


def help_of(context: click.Context, *, everything: bool = False) -> str:
    """Return the help of a command, without a line end; `everything`: with its rare options."""
    command = context.command
    context.default_map = None  # the defaults are those of the program
    formatter = context.make_formatter()
    command.format_usage(context, formatter)
    command.format_help_text(context, formatter)
    for heading, rows in option_groups(context, everything=everything).items():
        with formatter.section(heading):
            formatter.write_dl(rows)
    if isinstance(command, click.Group):
        context.meta[EVERYTHING] = everything
        command.format_commands(context, formatter)
    if not everything and any(one.name in COMMON for one in command.params):
        formatter.write(f"\nAlso: -v, -q for more and for fewer lines; --json, for programs; {ALL}\n")
    if command.epilog:
        formatter.write("\n")
        formatter.write("".join(f"{line}\n" for line in inspect.cleandoc(command.epilog).splitlines()))
    return formatter.getvalue().rstrip("\n")


def option_groups(context: click.Context, *, everything: bool) -> dict[str, list[tuple[str, str]]]:
    """Return the headings, and under each the options with their texts, in their order; without empty ones."""
    groups: dict[str, list[tuple[str, str]]] = {OPTIONS: []}
    for parameter in context.command.get_params(context):
        group = group_of(parameter)
        if isinstance(parameter, click.Option) and (everything or (group is None and not _is_usual(parameter))):
            record = parameter.get_help_record(context)
            if record is not None:
                groups.setdefault(group or OPTIONS, []).append(record)
    return {heading: rows for heading, rows in groups.items() if rows}


def _is_usual(option: click.Option) -> bool:
    """Return whether every verb has it, so that nobody needs its line on the first screen."""
    return option.name in COMMON or not {ALL, "--help", "--version"}.isdisjoint(option.opts)
