"""What is said while the other side is waited for, during outages and on failure: to a person, and to a program."""

from __future__ import annotations

import io
import json
import re
import sys
from contextlib import suppress
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from fake_link import linked

from iceagent.agent.explain import Verdict, VerdictKind
from iceagent.cli.exits import Exit
from iceagent.cli.output import Output
from iceagent.cli.progress import AGAIN_S, follow_paths, shown_progress
from iceagent.cli.run import run_verb
from iceagent.core.address import TransportAddress
from iceagent.link import LinkClosedByPeer, WishRefused
from iceagent.session.errors import NoPath
from iceagent.session.outages import Outage, OutageKind
from iceagent.session.path import Path
from iceagent.session.progress import Stage
from iceagent.session.session import Session

VERDICT = Verdict(VerdictKind.PEER_NEVER_CHECKED, "Not one check came.", ("3 checks sent",), "Look at the firewall.")


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_nothing_is_said_of_what_is_quick(autojump_clock, capsys):
    """A connection takes a fraction of a second; lines that flash by help nobody."""
    async with shown_progress(Output(as_json=True)) as progress:
        progress.enter(Stage.PEER)
        await trio.sleep(1)
        progress.enter(Stage.OPEN)
        await trio.sleep(60)
    assert capsys.readouterr().out == ""


async def test_the_first_line_comes_within_three_seconds_and_none_is_far_from_the_next(autojump_clock, capsys):
    """Forty seconds without a word were taken for a program that hangs."""
    said: list[float] = []

    class Noting(Output):
        def line(self, *arguments: Any, **fields: Any) -> None:
            said.append(trio.current_time())
            super().line(*arguments, **fields)

    begun = trio.current_time()
    async with shown_progress(Noting(as_json=True)) as progress:
        await trio.sleep(4)
        progress.enter(Stage.PEER)
        await trio.sleep(5)
        progress.enter(Stage.PATH, lambda: VERDICT)
        await trio.sleep(35)
        ended = trio.current_time()
        progress.enter(Stage.OPEN)
    assert said[0] - begun <= 3
    times = [*said, ended]
    assert max(b - a for a, b in pairwise(times)) <= AGAIN_S
    told = lines(capsys.readouterr().out)
    assert [one["stage"] for one in told] == ["relay", "peer", "path", "path", "path", "path"]
    assert {one["kind"] for one in told} == {"waiting"}
    assert told[-1]["verdict"] == "peer-never-checked"
    assert told[-1]["seconds"] == 30.0


async def test_a_person_reads_what_is_waited_for_and_quiet_is_quiet(autojump_clock, capsys):
    """On standard error; `-q` leaves the code and errors."""
    for quiet in (False, True):
        async with shown_progress(Output(quiet=quiet)) as progress:
            progress.enter(Stage.PATH, lambda: VERDICT)
            await trio.sleep(13)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.splitlines() == (
            []
            if quiet
            else [
                "trying the paths to the other side: Not one check came (2 s)",
                "trying the paths to the other side: Not one check came (12 s)",
            ]
        )


async def test_waiting_for_a_person_is_not_told_again_and_again(autojump_clock, capsys):
    """A listener waits for hours; what counts begins when somebody uses the code."""
    async with shown_progress(Output(as_json=True)) as progress:
        progress.enter(Stage.CODE)
        await trio.sleep(3600)
        progress.enter(Stage.PEER)
        await trio.sleep(3)
    assert [one["stage"] for one in lines(capsys.readouterr().out)] == ["peer"]


class Terminal(io.StringIO):
    """A terminal that remembers what was written to it."""

    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        """Return the lines that can be read there in the end."""
        lines = []
        for line in self.getvalue().split("\n"):
            lines.append(line.rpartition("\r\x1b[K")[2])
        return lines


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    found = Terminal()
    monkeypatch.setattr("iceagent.cli.output.sys", SimpleNamespace(stderr=found, stdout=sys.stdout))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return found


async def test_on_a_terminal_one_line_moves_while_the_two_are_being_connected(autojump_clock, terminal):
    """What is tried, and for how long; when it is over there is nothing of it."""
    async with shown_progress(Output()) as progress:
        await trio.sleep(0.3)
        assert terminal.getvalue() == "", "what is quick does not flash by"
        await trio.sleep(1.1)
        progress.enter(Stage.PEER)
        await trio.sleep(3)
        progress.enter(Stage.PATH, lambda: VERDICT)
        await trio.sleep(62)
        assert re.fullmatch(r"[|/\\-] 62 s trying the paths .*: Not one check came", terminal.shown()[-1])
        progress.enter(Stage.OPEN)
    moved = terminal.getvalue().split("\r\x1b[K")
    assert "\n" not in terminal.getvalue()
    assert len(moved) > 4 * 60
    assert any("1 s waiting for the relay" in one for one in moved)
    assert any("3 s waiting for the other side, which" in one for one in moved)
    assert terminal.shown() == [""]


async def test_a_line_that_is_printed_takes_the_place_of_the_one_that_moves(autojump_clock, terminal):
    """A warning, and above all the error at the end, stand alone on theirs."""
    output = Output()
    with suppress(NoPath):
        async with shown_progress(output) as progress:
            progress.enter(Stage.PEER)
            await trio.sleep(2)
            output.line("log", "warning: something", level="warning", logger="x", message="something")
            await trio.sleep(2)
            raise NoPath("none")
    output.error(5, "none")
    assert terminal.shown() == ["warning: something", "iceagent: none", ""]


async def test_the_line_that_moves_is_no_longer_than_the_screen_is_wide(autojump_clock, terminal):
    """Else it would leave a trail; nor does it do what words of others would have a terminal do."""
    async with shown_progress(Output()) as progress:
        progress.relay = "relay\x1b[2J.example\n" + "x" * 200
        await trio.sleep(5)
        moved = terminal.getvalue().split("\r\x1b[K")
    assert max(map(len, moved)) == 79
    assert "\x1b" not in "".join(moved)
    assert "\n" not in terminal.getvalue()


@pytest.mark.parametrize("options", [{"as_json": True}, {"quiet": True}])
async def test_nothing_moves_for_programs_and_where_it_is_to_be_quiet(autojump_clock, terminal, options):
    async with shown_progress(Output(**options)):
        await trio.sleep(60)
    assert terminal.getvalue() == ""


async def test_a_code_waits_without_a_line_that_moves(autojump_clock, terminal):
    """A person is to read it, and to mark it with the mouse."""
    async with shown_progress(Output()) as progress:
        progress.enter(Stage.CODE)
        await trio.sleep(600)
        assert terminal.getvalue() == ""
        progress.enter(Stage.PEER)
        await trio.sleep(1)
        assert "waiting for the other side, which" in terminal.getvalue()


async def test_an_error_leaves_as_it_was_raised(autojump_clock):
    """The exit code is made of its type."""
    with pytest.raises(NoPath):
        async with shown_progress(Output()):
            raise NoPath("none")


async def test_outages_are_a_line_each(autojump_clock, capsys):
    """Silent, looking for another way, back: as text and as JSON."""
    path = Path(True, "udp", TransportAddress("192.0.2.1", 1), TransportAddress("192.0.2.2", 2))
    session = Session(linked()[0], inviter=True, read_path=lambda: path)
    session.notify_outage(Outage(OutageKind.SILENT, 6.04))
    session.notify_outage(Outage(OutageKind.RESTARTING, 7.0))
    session.notify_outage(Outage(OutageKind.BACK, 21.6))
    for as_json in (True, False):
        with trio.move_on_after(1):
            await follow_paths(session, Output(as_json=as_json))
        if as_json:
            told = [one for one in lines(capsys.readouterr().out) if one["kind"] == "outage"]
            assert not any(one["here"] for one in told)
            assert [(one["state"], one["seconds"]) for one in told] == [
                ("silent", 6.0), ("restarting", 7.0), ("back", 21.6),
            ]  # fmt: skip
            session.notify_outage(Outage(OutageKind.BACK, 21.6))
    assert "the other side answers again, after 22 s" in capsys.readouterr().err


def test_outages_nobody_reads_cost_no_memory():
    """A library's user need not follow them; a path that flaps for a year must not fill the machine."""
    session = Session(linked()[0], inviter=True)
    for _ in range(1000):
        session.notify_outage(Outage(OutageKind.SILENT, 6))


@pytest.mark.parametrize("as_json", [True, False])
def test_the_error_line_has_verdict_and_remedy(capsys, as_json):
    """They were known to the agent and told to nobody."""
    error = NoPath(f"no path to the other side: {VERDICT.summary} {VERDICT.remedy}")
    error.verdict = VERDICT

    async def body() -> None:
        raise error

    with suppress(SystemExit):
        assert run_verb(body, Output(as_json=as_json)) is Exit.NO_PATH
    captured = capsys.readouterr()
    if as_json:
        (line,) = lines(captured.out)
        assert line["verdict"] == VERDICT.as_dict()
        assert "Look at the firewall." in str(line["message"])
    else:
        assert captured.err == "iceagent: no path to the other side: Not one check came. Look at the firewall.\n"


@pytest.mark.parametrize(
    ("cause", "code", "words"),
    [
        (LinkClosedByPeer("the other side has closed the session"), Exit.NO_PATH, "has closed the session"),
        (WishRefused("the other side asked for tcp:h:1, and left"), Exit.REFUSED, "asked for tcp:h:1"),
    ],
)
def test_a_stream_that_broke_says_why_its_link_has_ended(capsys, cause, code, words):
    """The other side may leave at any moment, also between two lines of ours: that is no internal error."""

    async def body() -> None:
        raise trio.BrokenResourceError("the link has ended") from cause

    assert run_verb(body, Output()) is code
    assert words in capsys.readouterr().err
