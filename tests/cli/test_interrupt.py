"""What an interrupt does to a verb, in the test's own time: an end within 2 s, and at once if it comes twice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest
import trio

from iceagent.cli import run
from iceagent.cli.exits import Exit
from iceagent.cli.output import Output

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


class Left(BaseException):
    """Stands for the end of the process."""


class Timer:
    """Stands for `threading.Timer`: what was set, and for when."""

    made: list[Timer]

    def __init__(self, interval: float, function: Callable[[], None]) -> None:
        self.interval = interval
        self.function = function
        self.is_started = False
        self.daemon = False
        self.made.append(self)

    def start(self) -> None:
        assert self.daemon, "a timer that is no daemon keeps the process from ending by itself"
        self.is_started = True


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[Timer]:
    """Take time and the end of the process into the test's hands."""
    monkeypatch.setattr(Timer, "made", [], raising=False)
    monkeypatch.setattr(threading, "Timer", Timer)

    def leave() -> None:
        raise Left

    monkeypatch.setattr(run, "_exit_now", leave)
    return Timer.made


async def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    await trio.sleep(0)


def test_a_clean_end_after_an_interrupt_has_less_than_2_s(
    timers: list[Timer], capsys: pytest.CaptureFixture[str]
) -> None:
    """A verb that hears the interrupt ends by itself, and a timer is set that would end it within 2 s anyway."""

    async def body() -> None:
        await interrupt()
        await trio.sleep_forever()

    assert run.run_verb(body, Output(as_json=True)) is Exit.INTERRUPTED
    assert [timer.is_started for timer in timers] == [True]
    assert timers[0].interval < 2
    with pytest.raises(Left):
        timers[0].function()


def test_a_verb_that_does_not_let_go_is_ended_by_the_timer(timers: list[Timer]) -> None:
    """Whatever is shielded or hangs in a thread: when the time is up, nothing is waited for."""

    async def body() -> None:
        await interrupt()
        with trio.CancelScope(shield=True):
            while not timers:
                await trio.sleep(0)
            timers[0].function()

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(run._Supervisor(body, [signal.SIGINT]).run)
    assert caught.group_contains(Left)


def test_the_second_interrupt_ends_the_process_at_once(timers: list[Timer]) -> None:
    """Who presses Ctrl-C twice does not want to wait for a clean end."""

    async def body() -> None:
        await interrupt()
        with trio.CancelScope(shield=True):
            while not timers:
                await trio.sleep(0)
            await interrupt()
            await trio.sleep(0.1)

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(run._Supervisor(body, [signal.SIGINT]).run)
    assert caught.group_contains(Left)
