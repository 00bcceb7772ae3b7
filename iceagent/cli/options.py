"""The options that all verbs share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import click
from icesignal.log_format import handler_to
from icesignal.seconds import Seconds

from iceagent.cli.completion import complete_peer
from iceagent.cli.defaults import use_relays
from iceagent.cli.output import Output

F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Common:
    """What the shared options say."""

    as_json: bool
    quiet: bool
    verbose: int

    def open_output(self, *, pipe: bool = False, log_format: Literal["text", "json"] = "text") -> Output:
        """Return where lines go, and let the library's log go there too; `pipe`: stdout carries payload.

        With the log format `json` the log goes to standard error as JSON, whatever form other lines have.
        """
        output = Output(as_json=self.as_json, quiet=self.quiet, pipe=pipe)
        handler = handler_to(sys.stderr, "json") if log_format == "json" else None
        output.follow_log(self.verbose, handler)
        return output


def output_options(function: F) -> F:
    """Add `--json`, `-q` and `-v`."""
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON lines, for programs.")(function)
    function = click.option("-q", "--quiet", is_flag=True, help="Print only the code and errors.")(function)
    return click.option("-v", "--verbose", count=True, help="Print what happens; twice for everything.")(function)


def relay_option(function: F) -> F:
    """Add `--relay`, which may be given again."""
    return click.option(
        "--relay",
        callback=_refuse_empty,
        metavar="URL",
        multiple=True,
        help="Where both meet: ws://HOST:PORT.  [env: ICEAGENT_RELAY]",
    )(function)


def _refuse_empty(context: click.Context, _: click.Parameter, urls: Sequence[str]) -> Sequence[str]:
    """Refuse a URL that is empty, such as a shell's variable that is not set: `listen` would start a relay here.

    Without any, those of this user's file stand where those of the environment would.
    """
    if not all(url.strip() for url in urls):
        raise click.BadParameter("it is empty; name the relay, as ws://HOST:PORT, or leave the option out")
    if not urls:
        use_relays(context)
    return urls


def code_argument(function: F) -> F:
    """Add the argument CODE; one that is read out in several words may be typed so, too."""
    return click.argument(
        "code",
        nargs=-1,
        required=True,
        envvar="ICEAGENT_CODE",
        metavar="CODE",
        callback=_one_text,
        shell_complete=complete_peer,
        is_eager=True,  # whom it names decides on defaults of others
    )(function)


def _one_text(_: click.Context, __: click.Parameter, words: Sequence[str]) -> str:
    return " ".join(words)


def timeout_option(help_text: str) -> Callable[[F], F]:
    """Return what adds `--timeout`, with a number of seconds above 0."""
    return click.option(
        "--timeout",
        "timeout_s",
        type=Seconds(min=0, min_open=True),
        metavar="SECONDS",
        help=help_text,
    )
