"""Which exception leaves an `async with` that has tasks: one answer for agents, links, servers and sessions."""

from __future__ import annotations

import pytest
import trio

from iceagent.net.tasks import open_background


async def crash() -> None:
    raise ZeroDivisionError


async def fail_late() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise KeyError


async def raise_in_body(error: Exception) -> None:
    async with open_background() as nursery:
        nursery.start_soon(trio.sleep_forever)
        raise error


async def crash_beside_a_body() -> None:
    async with open_background() as nursery:
        nursery.start_soon(crash)
        await trio.sleep_forever()


async def crash_beside_a_nursery(*tasks) -> None:
    async with open_background() as background, trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(task)
        background.start_soon(crash)


async def test_tasks_end_with_the_body():
    async with open_background() as nursery:
        nursery.start_soon(trio.sleep_forever)


@pytest.mark.parametrize(
    "wrong", [ValueError(), ExceptionGroup("two", [ValueError(), ExceptionGroup("", [KeyError()])])]
)
async def test_an_error_of_the_body_leaves_as_it_was(wrong):
    """A nursery makes a group that passes through it anew, which nobody could compare, or find a traceback in."""
    with pytest.raises(type(wrong)) as caught:
        await raise_in_body(wrong)
    assert caught.value is wrong
    assert caught.value.__context__ is None


async def test_an_error_of_a_task_leaves_without_a_group():
    with pytest.raises(ZeroDivisionError):
        await crash_beside_a_body()


async def test_an_error_of_a_task_leaves_a_body_that_has_a_nursery_without_a_group():
    """What the body raises then is a group of cancellations, which is nobody's error."""
    with pytest.raises(ZeroDivisionError):
        await crash_beside_a_nursery(trio.sleep_forever, trio.sleep_forever)


async def test_of_two_errors_the_bodys_leaves_without_cancellations():
    with pytest.raises(ExceptionGroup) as caught:
        await crash_beside_a_nursery(fail_late, trio.sleep_forever)
    assert [type(error) for error in caught.value.exceptions] == [KeyError]


async def test_a_cancellation_from_outside_passes():
    with trio.CancelScope() as outside:
        async with open_background() as nursery:
            nursery.start_soon(trio.sleep_forever)
            outside.cancel()
            await trio.sleep_forever()
    assert outside.cancelled_caught
