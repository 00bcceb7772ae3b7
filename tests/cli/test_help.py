"""`--help` and `--help-all`: what they show, and that the first fits a screen; and verbs that there are not."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from in_process import command

from iceagent.cli.app import MEANT, SELDOM, VERBS, app, load_verb
from iceagent.cli.help import COMMON, VerbContext, group_of, help_of

COLUMNS, LINES = 80, 24 - 1  # the prompt is beneath it


def every_command() -> Iterator[tuple[str, ...]]:
    for verb in VERBS:
        yield (verb,)
        found = load_verb(verb)
        if isinstance(found, click.Group):
            yield from ((verb, name) for name in found.commands)


@pytest.fixture(autouse=True)
def screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


@pytest.mark.parametrize("words", [(), *every_command()], ids=" ".join)
def test_help_fits_a_screen_and_shows_an_example(words: tuple[str, ...]) -> None:
    """Its first lines would have left the screen of whoever asked, and an example says more than all of them."""
    ended = command(*words, "--help")
    assert ended.returncode == 0
    lines = ended.stdout.decode().splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    example = "\n".join(lines[-6:])
    assert "xample:  " in example or not words
    assert f"iceagent {' '.join(words)}".rstrip() in example


@pytest.mark.parametrize("words", list(every_command()), ids=" ".join)
def test_help_all_shows_every_option(words: tuple[str, ...]) -> None:
    """Each once, the rare ones under their headings."""
    found: click.Command = load_verb(words[0])
    if len(words) > 1:
        assert isinstance(found, click.Group)
        found = found.commands[words[1]]
    if not any("--help-all" in one.opts for one in found.params):
        assert all(group_of(one) is None and one.name not in COMMON for one in found.params), "some are not shown"
        return
    ended = command(*words, "--help-all")
    assert ended.returncode == 0
    text = ended.stdout.decode()
    shown = [line.strip().split("  ")[0].replace(",", "").split() for line in text.splitlines() if line[:3] == "  -"]
    options = [one for one in found.params if isinstance(one, click.Option)]
    assert [one.name for one in options if sum(one.opts[-1] in names for names in shown) != 1] == []
    headings = {group for one in found.params if (group := group_of(one)) is not None}
    assert all(f"\n{heading}:\n" in text for heading in headings)


def test_all_commands_are_listed_by_help_all() -> None:
    text = command("--help-all").stdout.decode()
    assert all(f"\n  {verb} " in text for verb in VERBS)
    short = command("--help").stdout.decode()
    assert all(f"\n  {verb} " in short for verb in VERBS if verb not in SELDOM)
    assert set(SELDOM) <= set(VERBS)


def test_help_is_the_same_when_it_is_asked_for_twice() -> None:
    """A verb that is loaded again, as by completion, gets no second `--help-all`."""
    first, second = load_verb("listen"), load_verb("listen")
    assert first is second
    assert len([one for one in first.params if "--help-all" in one.opts]) == 1
    context = VerbContext(first, info_name="listen", parent=VerbContext(app, info_name="iceagent"))
    assert help_of(context) == help_of(context)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("forwar", "forward"), ("lisen", "listen"), ("Connect", "connect"), ("help", "--help"), ("relay", "serve")],
)
def test_a_verb_with_a_slip_is_told_with_the_one_like_it(typed: str, meant: str) -> None:
    ended = command(typed, "--whatever")
    assert ended.returncode == 2
    assert f"did you mean {meant}" in ended.stderr.decode()


def test_what_is_no_verb_at_all_gets_the_list() -> None:
    ended = command("\x1b[31mxyzzy")
    assert ended.returncode == 2
    assert "which are listen, connect" in ended.stderr.decode()
    assert b"\x1b" not in ended.stderr


def test_a_slip_in_a_subcommand_and_in_an_option_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert b"'rename'" in command("peers", "renam").stderr
    assert b"--allow" in command("listen", "--alow", "any").stderr


def test_other_programs_names_are_no_verbs() -> None:
    """One that becomes a verb is no longer a hint."""
    assert set(MEANT) & set(VERBS) == set()
    assert {one for one in MEANT.values() if one[0] != "-"} <= set(VERBS)
