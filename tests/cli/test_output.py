"""What the command line prints: words of others are shown, never obeyed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from iceagent.cli import main
from iceagent.cli.exits import Exit
from iceagent.cli.output import Output

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\nicesagent: all is well\u2028more\x85\u202e\x9b31m"


@pytest.fixture
def logged() -> Iterator[logging.Logger]:
    """Yield the library's logger; what a test adds to it is taken off again."""
    logger = logging.getLogger("iceagent")
    before, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = before
    logger.setLevel(level)


def test_trap_44_no_words_of_others_are_obeyed_by_a_terminal(
    capsys: pytest.CaptureFixture[str], logged: logging.Logger
) -> None:
    """A path that the other side asks for, a relay's error: escape sequences repaint, line breaks forge our lines."""
    output = Output()
    output.follow_log(0)
    logged.warning("refused the other side's wish for %s", f"unix:/run/{HOSTILE}")
    output.error(3, f"the relay says: {HOSTILE}")
    shown = capsys.readouterr().err
    assert [line.partition(":")[0] for line in shown.split("\n")] == ["warning", "iceagent", ""]
    assert all(one.isprintable() for one in shown.replace("\n", ""))
    assert "all is well" in shown, "shown it is"


def test_a_program_gets_the_words_as_they_are(capsys: pytest.CaptureFixture[str], logged: logging.Logger) -> None:
    """JSON has escapes of its own; nothing is lost there."""
    output = Output(as_json=True)
    output.follow_log(0)
    logged.warning("wish for %s", HOSTILE)
    output.error(3, HOSTILE)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["message"] for line in lines] == [f"wish for {HOSTILE}", HOSTILE]
    assert all(line.isascii() for line in lines)


def test_a_traceback_keeps_its_lines(capsys: pytest.CaptureFixture[str], logged: logging.Logger) -> None:
    """At debug it tells where, one line for each call."""
    Output().follow_log(0)
    try:
        raise ValueError("here")
    except ValueError:
        logged.exception("broken %s", "off\nhere")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: broken off?here"
    assert lines[1].startswith("Traceback")
    assert lines[-1] == "ValueError: here"


def test_lines_of_ours_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """The code and the command for the other machine stand below each other."""
    text = "code: 7-guitar-ozone\non the other machine, run:  iceagent connect 7-guitar-ozone"
    Output().line("code", text, code="7-guitar-ozone", relay="ws://h:1", command="iceagent connect 7-guitar-ozone")
    assert capsys.readouterr().err.count("\n") == 2


def test_no_verb_at_all_shows_the_help_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Its lines are ours: they are no words of others, and not one sentence."""
    assert main([]) == Exit.USAGE
    shown = capsys.readouterr().err
    assert "?" not in shown
    assert [line for line in shown.splitlines() if line.startswith("  listen ")]
