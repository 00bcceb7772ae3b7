"""`iceagent man`: manual pages, made of the texts that `--help-all` prints."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from iceagent import __version__
from iceagent.cli.exits import Exit
from iceagent.cli.help import VerbContext, option_groups

_EXAMPLE = """
Example:  iceagent man forward | man -l -
          iceagent man --into ~/.local/share/man/man1
"""

EXIT_MEANINGS = {
    Exit.OK: "done",
    Exit.INTERNAL: "internal error: a bug; -vv shows where",
    Exit.USAGE: "the command line is wrong",
    Exit.RELAY: "the relay cannot be reached",
    Exit.CODE: "the code is wrong, expired, used up or in use",
    Exit.NO_PATH: "no network path to the other side, or it was lost, or closed before the end",
    Exit.NOBODY_CAME: "nobody came",
    Exit.NOT_DIRECT: "a direct path was required, and only a relayed one is possible",
    Exit.REFUSED: "refused by the other side or by its policy",
    Exit.LOCAL_IO: "this machine: port in use, no permission, output closed, a damaged identity",
    Exit.VERSION: "the two sides, or one and the relay, run versions that do not fit",
    Exit.INTERRUPTED: "interrupted",
}
"""As in docs/cli.md; a test compares them."""

ENVIRONMENT = {
    "ICEAGENT_RELAY": "the relay, if neither --relay nor the code names one; several with commas between them",
    "ICEAGENT_CONFIG": "this user's configuration; /dev/null for none",
    "ICEAGENT_IDENTITY": "the file of this user's identity",
    "ICEAGENT_CODE": "the code, for connect, forward and nc without one",
    "HTTPS_PROXY, ALL_PROXY": "a proxy to the relay and to TURN servers over TCP, the first that is set",
    "NO_PROXY": "whom to reach without",
    "NO_COLOR": "no colours in help texts",
}

_SPECIAL = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}  # groff_char(7)


@click.command("man", epilog=_EXAMPLE)
@click.argument("verb", required=False)
@click.option("--into", metavar="FOLDER", help="Write the pages of all commands there.")
def command(verb: str | None, into: str | None) -> int:
    """Print the manual page of a command, for man.

    Without VERB it is the page of iceagent itself.
    """
    from iceagent.cli.app import VERBS

    if verb is not None and verb not in VERBS:
        raise click.BadParameter(f"{verb[:40]!r} is no command of iceagent", param_hint="VERB")
    if into is None:
        click.echo(page(verb), nl=False)
        return Exit.OK
    folder = Path(into)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one in [None, *VERBS] if verb is None else [verb]:
            (folder / f"{page_name(one)}.1").write_text(page(one), encoding="ascii")
    except OSError as error:
        raise OSError(error.errno, f"{into} cannot be written: {error.strerror}") from error
    return Exit.OK


def page_name(verb: str | None) -> str:
    """Return what a page is called, such as `iceagent-listen`."""
    return "iceagent" if verb is None else f"iceagent-{verb}"


def page(verb: str | None = None) -> str:
    """Return a manual page in the language of man(7), ASCII alone; None for that of `iceagent`."""
    from iceagent.cli.app import VERBS, app, load_verb

    found = app if verb is None else load_verb(verb)
    context = VerbContext(found, info_name=" ".join(filter(None, ["iceagent", verb])))
    name = page_name(verb)
    lines = [
        f'.TH "{escaped(name.upper())}" 1 "" "iceagent {__version__}" "iceagent"',
        *(".SH NAME", f"{escaped(name)} \\- {escaped(found.get_short_help_str(500).rstrip('.'))}"),
        *(".SH SYNOPSIS", *_synopsis(context), ".SH DESCRIPTION", *_paragraphs(found.help or "")),
    ]
    for heading, rows in option_groups(context, everything=True).items():
        lines += [f'.SH "{escaped(heading.upper())}"', *_terms(rows)]
    if verb is None:
        lines += [".SH COMMANDS", *_terms([(f"iceagent-{one}(1)", line) for one, line in VERBS.items()])]
    elif isinstance(found, click.Group):
        lines += [".SH COMMANDS", *_commands(found, context)]
    if found.epilog:
        lines += [".SH EXAMPLES", ".nf", *map(escaped, inspect.cleandoc(found.epilog).splitlines()), ".fi"]
    lines += [".SH EXIT STATUS", *_terms([(str(int(code)), text) for code, text in EXIT_MEANINGS.items()])]
    lines += [".SH ENVIRONMENT", *_terms(list(ENVIRONMENT.items()))]
    others = "iceagent(1)" if verb is not None else ", ".join(f"iceagent-{one}(1)" for one in VERBS)
    lines += [".SH SEE ALSO", escaped(others)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return a line of text as man(7) wants it: nothing in it is a request, and a hyphen is one that can be pasted."""
    out = "".join(_SPECIAL.get(one, one if one.isascii() else f"\\[u{ord(one):04X}]") for one in text)
    return f"\\&{out}" if out[:1] == "." else out


def _synopsis(context: click.Context) -> Iterator[str]:
    yield f"\\fB{escaped(context.command_path)}\\fR {escaped(' '.join(context.command.collect_usage_pieces(context)))}"


def _paragraphs(text: str) -> Iterator[str]:
    """Give the paragraphs of a help text; click keeps the lines of one that begins with a backspace."""
    for one in re.split(r"\n\s*\n", inspect.cleandoc(text.partition("\f")[0])):
        lines = [line.strip() for line in one.splitlines()]
        if lines[:1] == ["\b"]:
            yield from (".PP", ".nf", *map(escaped, lines[1:]), ".fi")
        elif one.strip():
            yield from (".PP", escaped(" ".join(lines)))


def _terms(rows: list[tuple[str, str]]) -> Iterator[str]:
    for term, text in rows:
        yield from (".TP", f"\\fB{escaped(term)}\\fR", escaped(" ".join(text.split())))


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    for name, one in group.commands.items():
        inner = VerbContext(one, parent=context, info_name=name)
        yield f'.SS "{escaped(inner.command_path)}"'
        yield from _synopsis(inner)
        yield from _paragraphs(one.help or "")
        for rows in option_groups(inner, everything=True).values():
            yield from _terms(rows)
        if one.epilog:
            yield from (".PP", ".nf", *map(escaped, inspect.cleandoc(one.epilog).splitlines()), ".fi")
