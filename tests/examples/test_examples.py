"""The examples are the first code a user runs, so they run here, as real processes."""

from __future__ import annotations

import pytest
from example_process import example, line_of, say

pytestmark = pytest.mark.processes


def test_echo():
    """One stream, one question, one answer; both sides end by themselves."""
    with example("echo.py") as server, example("echo.py", line_of(server), "hello there") as client:
        assert line_of(client) == "hello there"
        assert client.wait() == 0
        assert server.wait() == 0


def test_chat():
    """Both may speak at any time; when one hangs up, both are done."""
    with example("chat.py") as here, example("chat.py", line_of(here).rpartition(" ")[2]) as there:
        for side in (here, there):
            assert line_of(side).startswith("connected: direct udp ")
        say(here, "hello")
        assert line_of(there) == "hello"
        say(there, "hello yourself")
        assert line_of(here) == "hello yourself"
        assert there.stdin is not None
        there.stdin.close()
        assert here.wait() == 0
        assert there.wait() == 0


@pytest.mark.parametrize(
    ("case", "verdict"),
    [
        ("", "because both NATs map per destination, round trip"),
        ("no-relay", "Both sides' NATs take another port for each destination (symmetric)"),
        ("open", "Connected directly over IPv4"),
    ],
)
def test_explain(case: str, verdict: str) -> None:
    """The verdict, the numbers and the story, as the page on them promises."""
    with example("explain.py", *filter(None, [case])) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert verdict in output
    assert "checks\n" in output
    assert "gathering-enough\n" in output


def test_own_signaling():
    """A line of text each way is all the signaling an agent needs."""
    with example("own_signaling.py") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "alice: 'hello from bob' over " in output
    assert "bob: 'hello from alice' over " in output
