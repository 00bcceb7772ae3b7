"""Errors nobody has foreseen end what they happen in, and nothing beside it."""

from __future__ import annotations

import logging

import pytest
import trio

from iceagent.net.tasks import contained, run_contained


async def _fail() -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError("a secret")


async def test_a_neighbour_goes_on(expects_unforeseen: None, caplog: pytest.LogCaptureFixture) -> None:
    """Sixteen servers are asked from one nursery; one of them may be mad."""
    done = []

    async def neighbour() -> None:
        await trio.sleep(0.01)
        done.append(True)

    with caplog.at_level(logging.ERROR):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_contained, "stun:mad.example", _fail)
            nursery.start_soon(neighbour)
    assert done
    assert "stun:mad.example is given up: unforeseen ValueError" in caplog.text
    assert "a secret" not in caplog.text


async def test_the_traceback_is_there_at_debug(expects_unforeseen: None, caplog: pytest.LogCaptureFixture) -> None:
    """Who reports a fault needs more than its name."""
    with caplog.at_level(logging.DEBUG):
        await run_contained("it", _fail)
    assert "in _fail" in caplog.text


async def test_cancellation_is_no_failure() -> None:
    """A task that swallows it would never end."""
    with trio.CancelScope() as scope, contained("it"):
        scope.cancel()
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_an_error_beside_a_cancellation_is_contained_too(expects_unforeseen: None) -> None:
    """Both come in one group when a nursery is cancelled while a child fails."""
    failures: list[Exception] = []

    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError

    with trio.CancelScope() as scope:
        with contained("it", failures.append):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_when_cancelled)
                nursery.start_soon(trio.sleep_forever)
                await trio.lowlevel.checkpoint()
                scope.cancel()
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert len(failures) == 1
