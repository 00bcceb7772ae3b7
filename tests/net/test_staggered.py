"""Several addresses of one name: none of them is the only one that is tried."""

from __future__ import annotations

import errno

import pytest
import trio
from trio.testing import MockClock

from iceagent.core.address import TransportAddress
from iceagent.net.staggered import ATTEMPT_DELAY_S, connect_any, first_of, interleave
from iceagent.net.system import SystemNetwork


async def _discard(value: object) -> None:
    await trio.lowlevel.checkpoint()


async def test_a_silent_first_choice_costs_one_delay_and_no_timeout(autojump_clock: MockClock) -> None:
    """Somebody's name has a dead address first: he waits a quarter of a second, not for a timeout."""

    async def attempt(choice: str) -> str:
        await trio.sleep(100 if choice == "dead" else 0.01)
        return choice

    assert await first_of(["dead", "living"], attempt, discard=_discard) == "living"
    assert trio.current_time() < ATTEMPT_DELAY_S + 0.1


async def test_a_refusal_moves_on_at_once(autojump_clock: MockClock) -> None:
    """What is refused is certain; there is nothing to wait for."""

    async def attempt(choice: int) -> int:
        await trio.sleep(0.01)
        if choice < 5:
            raise OSError(errno.ECONNREFUSED, "refused")
        return choice

    started_at = trio.current_time()
    assert await first_of(range(6), attempt, discard=_discard) == 5
    assert trio.current_time() - started_at == pytest.approx(0.06)


async def test_when_all_fail_the_error_says_what_each_said() -> None:
    """A user who reads one of two reasons mends the wrong one."""

    async def attempt(choice: str) -> str:
        await trio.lowlevel.checkpoint()
        raise OSError(choice)

    with pytest.raises(OSError, match=r"none of 2 addresses works: no route; refused"):
        await first_of(["no route", "refused"], attempt, discard=_discard)
    with pytest.raises(OSError, match=r"^same$"):
        await first_of(["same", "same"], attempt, discard=_discard)
    with pytest.raises(OSError, match="no address"):
        await first_of([], attempt, discard=_discard)


async def test_an_error_that_is_not_about_the_address_ends_all() -> None:
    """A wrong password is wrong at every address; asking them all would lock the account."""
    tried = []

    async def attempt(choice: int) -> int:
        await trio.lowlevel.checkpoint()
        tried.append(choice)
        raise LookupError("wrong password")

    with pytest.raises(LookupError, match="wrong password"):
        await first_of([1, 2, 3], attempt, discard=_discard)
    assert tried == [1]


async def test_of_two_that_succeed_together_one_is_discarded(autojump_clock: MockClock) -> None:
    """A connection nobody knows of would stay open for ever."""
    discarded = []

    async def attempt(choice: int) -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep_until(10)
        return choice

    async def discard(choice: int) -> None:
        await trio.lowlevel.checkpoint()
        discarded.append(choice)

    won = await first_of([1, 2], attempt, discard=discard)
    assert sorted([won, *discarded]) == [1, 2]


async def test_cancelled_from_outside_leaves_nothing_open(autojump_clock: MockClock) -> None:
    """Who gives up while an attempt succeeds never gets its result, so it has to be closed here."""
    discarded = []

    async def attempt(choice: int) -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        return choice

    async def discard(choice: int) -> None:
        await trio.lowlevel.checkpoint()
        discarded.append(choice)

    with trio.move_on_after(1) as scope:
        await first_of([7], attempt, discard=discard)
    assert discarded == [7] or not scope.cancelled_caught


def test_families_take_turns() -> None:
    """Where one family is broken, the second attempt is one of the other family."""
    six = [TransportAddress(f"2001:db8::{n}", 1) for n in (1, 2, 3)]
    four = [TransportAddress(f"192.0.2.{n}", 1) for n in (1, 2)]
    assert interleave([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
    assert interleave([]) == []


async def test_a_tcp_connection_goes_to_the_address_that_listens() -> None:
    """Real sockets: the first address refuses, the second one is ours."""
    network = SystemNetwork()
    listener = await network.listen_tcp("127.0.0.1")
    port = listener.socket.getsockname()[1]
    stream = await connect_any(network, [TransportAddress("::1", port), TransportAddress("127.0.0.1", port)])
    async with stream, listener:
        assert stream.socket.getpeername()[:2] == ("127.0.0.1", port)  # type: ignore[attr-defined]
