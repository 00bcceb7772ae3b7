"""Several relays given at once: the first that says its welcome serves.

Each is dialled half a second after the one before it, or at once when that one has failed, so that the one named first
serves where it is well. A welcome takes TCP, TLS, the handshake of the websocket: four times to the relay and back.
Source: RFC 8305 section 5, whose attempts are connections; `icesignal.addresses` has those.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from icesignal import wire
from icesignal.dial import ADVICE, OpenStream, dial
from icesignal.errors import ProtocolMismatch, RelayRefused, RelayUnreachable, SignalError
from icesignal.tasks import open_background
from icesignal.transport import WebsocketConnection
from icesignal.url import RelayUrl

_SHOWN: Final = {wire.OFFERS_ROOMS: "rooms of many"}
RELAY_DELAY_S = 0.5  # ours: a welcome from a relay that is 125 ms away


@dataclass(frozen=True, slots=True)
class Way:
    """A relay, and what opens the connections to it; None for the usual way."""

    url: RelayUrl
    open_stream: OpenStream | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """How one of several relays is chosen.

    Attributes:
        in_turn: each is given its whole time before the next is dialled: those who do not wait for the one that is slow
            for them alone would be at another one than all others.
        needs: what it must offer, see `wire.Welcome`.
    """

    in_turn: bool = False
    needs: str | None = None


FIRST_TO_ANSWER: Final = Choice()


@dataclass(frozen=True, slots=True)
class Reached:
    """A relay that answered: by which way, the connection to it, and its welcome."""

    way: Way
    connection: WebsocketConnection
    welcome: wire.Welcome


@asynccontextmanager
async def dial_first(
    ways: Sequence[Way], *, ssl_context: ssl.SSLContext | None, timeout_s: float, choice: Choice = FIRST_TO_ANSWER
) -> AsyncGenerator[Reached, None]:
    """Open a connection to the first relay that says its welcome; it ends as the block does.

    Args:
        ways: in the order in which they are tried.
        ssl_context: for `wss` with other than the system's certificates.
        timeout_s: how long each of them may take.
        choice: which of them will do.
    Raises:
        RelayUnreachable, RelayRefused, ProtocolMismatch: as for `dial`; of several, what each of them said.
    """
    race = _Race(ways, ssl_context, timeout_s, choice)
    async with open_background() as nursery:
        nursery.start_soon(race.run, nursery)
        try:
            await race.decided.wait()
            if race.reached is None:
                raise race.error()
            yield race.reached
        finally:
            race.over.set()
            if race.reached is not None:
                with trio.CancelScope(shield=True):  # a connection ends in a bounded time, whatever the relay does
                    await race.ended.wait()


class _Race:
    """The attempts of one `dial_first`, each a task that holds its connection for as long as it is needed."""

    def __init__(
        self, ways: Sequence[Way], ssl_context: ssl.SSLContext | None, timeout_s: float, choice: Choice
    ) -> None:
        self.reached: Reached | None = None
        self.decided = trio.Event()
        self.over = trio.Event()  # the connection is no longer needed
        self.ended = trio.Event()  # and is closed
        self._ways = ways
        self._choice = choice
        self._dial = partial(dial, ssl_context=ssl_context, timeout_s=timeout_s)
        self._scopes: list[trio.CancelScope] = []
        self._errors: dict[int, SignalError] = {}

    async def run(self, nursery: trio.Nursery, number: int = 0) -> None:
        """Try a relay, and those after it when their turn comes; the first to be reached is kept until `over`."""
        failed = trio.Event()
        if number + 1 < len(self._ways):
            nursery.start_soon(self._run_next, nursery, number + 1, failed)
        with trio.CancelScope() as scope:
            self._scopes.append(scope)
            try:
                await self._try(self._ways[number], scope)
            except SignalError as error:
                self._errors[number] = error
                failed.set()
                if len(self._errors) == len(self._ways):
                    self.decided.set()

    async def _run_next(self, nursery: trio.Nursery, number: int, failed: trio.Event) -> None:
        with trio.move_on_after(math.inf if self._choice.in_turn else RELAY_DELAY_S):
            await failed.wait()
        if not self.decided.is_set():
            await self.run(nursery, number)

    async def _try(self, way: Way, scope: trio.CancelScope) -> None:
        is_first = False
        try:
            async with self._dial(way.url, open_stream=way.open_stream) as (connection, welcome):
                if self._choice.needs not in (None, *welcome.offers):
                    missing = _SHOWN.get(str(self._choice.needs), self._choice.needs)
                    raise RelayRefused(f"the relay {way.url.shown} has no {missing}; use another relay")
                is_first = self.reached is None
                if is_first:
                    self.reached = Reached(way, connection, welcome)
                    for other in self._scopes:
                        if other is not scope:
                            other.cancel()
                    self.decided.set()
                    with trio.CancelScope(shield=True):  # who is cancelled says goodbye over it first
                        await self.over.wait()
        finally:
            if is_first:
                self.ended.set()

    def error(self) -> SignalError:
        """Return what is to be raised when none was reached."""
        return all_failed([self._errors[number] for number in sorted(self._errors)])


def all_failed(errors: Sequence[SignalError]) -> SignalError:
    """Return what says that none of the relays can be used: what each has said, in one line."""
    if len(errors) == 1:
        return errors[0]
    each = "; ".join(str(error).removesuffix(ADVICE).rstrip(" .") for error in errors)
    text = f"none of {len(errors)} relays can be used: {each}. {ADVICE}"
    if all(isinstance(error, ProtocolMismatch) for error in errors):
        return ProtocolMismatch(text)
    if all(isinstance(error, RelayRefused) for error in errors):
        codes = {error.code for error in errors if isinstance(error, RelayRefused)}
        return RelayRefused(text, codes.pop() if len(codes) == 1 else "")
    return RelayUnreachable(text)
