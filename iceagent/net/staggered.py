"""Tries several addresses of one name: each a little after the one before it, or at once when that one has failed.

The first that works is used. So a dead first address costs a quarter of a second, and one that refuses no time.

Source: RFC 8305 sections 4 and 5; that servers are tried beyond the first address, RFC 5928 section 3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import trio

from iceagent.core.address import TransportAddress
from iceagent.net.api import Network

ATTEMPT_DELAY_S: Final = 0.25  # RFC 8305 section 5: "Connection Attempt Delay"

_Choice = TypeVar("_Choice")
_T = TypeVar("_T")


def interleave(addresses: Sequence[TransportAddress]) -> list[TransportAddress]:
    """Return addresses so that families take turns, in the order given within each; the first stays the first.

    Source: RFC 8305 section 4.
    """
    if not addresses:
        return []
    first = addresses[0].family
    queues = [deque(one for one in addresses if (one.family == first) is same) for same in (True, False)]
    found: list[TransportAddress] = []
    while any(queues):
        found += [queue.popleft() for queue in queues if queue]
    return found


async def first_of(
    choices: Sequence[_Choice],
    attempt: Callable[[_Choice], Awaitable[_T]],
    *,
    discard: Callable[[_T], Awaitable[object]],
    delay_s: float = ATTEMPT_DELAY_S,
    moves_on: Callable[[Exception], bool] = lambda error: isinstance(error, OSError),
    combine: Callable[[list[Exception]], Exception] | None = None,
) -> _T:
    """Return what the first successful attempt returns; the others are cancelled.

    Args:
        choices: what to try, best first.
        attempt: tries one; cleans up after itself when it is cancelled.
        discard: gets rid of what a second attempt that succeeded at the same time has returned; must not wait long.
        delay_s: seconds of silence after which the next one is tried beside those that go on.
        moves_on: whether an exception of an attempt is about this choice alone. Any other ends all, and is raised.
        combine: makes the exception to raise of those of all attempts, in the order they came; `summary` by default.

    Raises:
        OSError: there is no choice, or all have failed, each with its own error: the error says what each said.
        Exception: what the attempts raised, if it is the same for all, or `moves_on` says no to it.
    """
    if len(choices) == 1:
        return await attempt(choices[0])
    race = _Race(list(choices), attempt, delay_s, moves_on)
    kept = 0
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(race.run, nursery, 0)
        if not race.results:
            raise race.error(combine or summary)
        kept = 1
        return race.results[0]
    finally:
        for result in race.results[kept:]:
            with trio.CancelScope(shield=True):
                await discard(result)  # noqa: ASYNC102 - it must not wait long, as said above
        del race  # its errors hold this frame


class _Race(Generic[_Choice, _T]):
    """The attempts of one `first_of`: each starts the next one, in time or as soon as it fails."""

    def __init__(
        self,
        choices: list[_Choice],
        attempt: Callable[[_Choice], Awaitable[_T]],
        delay_s: float,
        moves_on: Callable[[Exception], bool],
    ) -> None:
        self.results: list[_T] = []
        self._choices = choices
        self._attempt = attempt
        self._delay_s = delay_s
        self._moves_on = moves_on
        self._failed = [trio.Event() for _ in choices]
        self._errors: list[Exception] = []
        self._final: Exception | None = None

    async def run(self, nursery: trio.Nursery, number: int) -> None:
        """Try one choice, once its turn has come."""
        if number >= len(self._choices):
            return
        nursery.start_soon(self._run_next, nursery, number)
        try:
            result = await self._attempt(self._choices[number])
        except Exception as error:
            self._errors.append(error)
            if not self._moves_on(error):
                self._final = error
                nursery.cancel_scope.cancel()
            self._failed[number].set()
        else:
            self.results.append(result)
            nursery.cancel_scope.cancel()

    async def _run_next(self, nursery: trio.Nursery, number: int) -> None:
        with trio.move_on_after(self._delay_s):
            await self._failed[number].wait()
        await self.run(nursery, number + 1)

    def error(self, combine: Callable[[list[Exception]], Exception]) -> Exception:
        """Return what is to be raised, nothing having worked."""
        if self._final is not None:
            return self._final
        return combine(self._errors) if self._errors else OSError("there is no address to try")


def summary(errors: list[Exception]) -> Exception:
    """Return one error for several attempts: the first, if all said the same, else one that says what each said."""
    words = list(dict.fromkeys(str(error) or type(error).__name__ for error in errors))
    if len(words) == 1:
        return errors[0]
    error = OSError(f"none of {len(errors)} addresses works: {'; '.join(words)}")
    error.__cause__ = ExceptionGroup("each address", errors)
    return error


async def connect_any(
    network: Network, addresses: Sequence[TransportAddress], *, local_host: str | None = None
) -> trio.abc.HalfCloseableStream:
    """Return a TCP connection to the first of several addresses of one name that takes it.

    Args:
        network: where connections come from.
        addresses: best first; families take turns.
        local_host: as in `Network.connect_tcp`.

    Raises:
        OSError: none does.
    """
    return await first_of(
        interleave(addresses),
        lambda address: network.connect_tcp(address, local_host=local_host),
        discard=trio.aclose_forcefully,
    )
