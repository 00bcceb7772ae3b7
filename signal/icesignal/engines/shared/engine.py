"""The engine of a relay of many nodes: a `Node`, the store that they share, its clock and its connections."""

from __future__ import annotations

import itertools
import logging
import math
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final, Protocol

import trio

from icesignal import wire
from icesignal.engines.engine import Subscriber
from icesignal.engines.shared.node import Asked, Node
from icesignal.engines.shared.requests import Pay, Reply, Request
from icesignal.engines.shared.state import Change
from icesignal.pauses import jittered
from icesignal.registry import RoomLimits
from icesignal.sources import Balance, Charge, Levels
from icesignal.tasks import open_background
from icesignal.toll import Pressure

logger = logging.getLogger("icesignal.engine")
TICK_S: Final = 1.0  # how late an expiry may come; each tick looks at every room once
REQUESTS: Final = 32  # to the store at once; each waits for one answer
PAYMENTS: Final = 8  # at once
BACKS: Final = 1_000  # payments that wait to be given back
PATIENCE_S: Final = 5.0  # how long a client waits for a store that is away; it gives up itself after twice as long
FIRST_PAUSE_S: Final = 0.05  # before a store that is away is tried again; each is twice the one before
LONGEST_PAUSE_S: Final = 1.0
STEADY_S: Final = 10.0  # after so long without a fault the pauses are short again
FLUSH_S: Final = 2.0  # at the end, for what is under way: that members are away


class StoreAway(Exception):
    """The store does not answer; what was asked has been done, or not. Its text is for people, without secrets."""


class StoreRefused(ValueError):
    """The store answers, and will never do what is asked of it. Its text is for people, without secrets."""


class Store(Protocol):
    """What all nodes share."""

    async def check(self) -> None:
        """Find out whether it is what it is said to be, if it answers at all.

        Raises:
            StoreRefused: it is not, or does not know us; to try again later would not help.
        """
        ...

    async def perform(self, request: Request) -> Reply:
        """Do what is asked.

        Raises:
            StoreAway: nobody knows whether it was done.
        """
        ...

    def listen(self, node: int) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """Listen to what other nodes store of rooms that this one has connections in, from now on.

        Entering it, too, raises what iterating raises:

        Raises:
            StoreAway: something may have been missed.
        """
        ...


class SharedEngine:
    """Rooms that live in a store, and are worked on by many nodes."""

    def __init__(
        self,
        store: Store,
        *,
        limits: RoomLimits | None = None,
        randbytes: Callable[[int], bytes] = secrets.token_bytes,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Make a node.

        Args:
            store: what the nodes share.
            limits: the bounds of rooms and logs.
            randbytes: a cryptographic source.
            patience_s: how long a client waits for a store that is away before it is sent away itself.
        """
        self._store = store
        self._randbytes = randbytes
        self._patience_s = patience_s
        number = int.from_bytes(randbytes(4), "big") >> 1
        self.node = Node(number=number, randbytes=randbytes, limits=limits or RoomLimits())
        self._numbers = itertools.count(1)
        self._by_connection: dict[int, Subscriber] = {}
        self._by_subscriber: dict[Subscriber, int] = {}
        self._waiting: dict[int, trio.Event] = {}
        self._offset_s = 0.0  # the store's time is this much later than ours
        self._listening = trio.CancelScope()
        self._why_away = ""
        self._flushed: trio.Event | None = None
        self._is_said_away: bool | None = None
        self._paying = trio.CapacityLimiter(PAYMENTS)
        self._backs_in, self._backs_out = trio.open_memory_channel[Pay](BACKS)
        self._requests_in, self._requests_out = trio.open_memory_channel[Asked](math.inf)  # one a room at most, and
        # one for each connection that is on its way into one

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None, None]:
        """Talk to the store while the block lasts; what is under way at its end is finished, if it can be soon.

        Raises:
            StoreRefused: the store will never do what it is asked. One that does not answer yet is waited for.
        """
        await self._store.check()
        async with open_background() as nursery:
            for _ in range(REQUESTS):
                nursery.start_soon(self._work)
            nursery.start_soon(self._give_back)
            nursery.start_soon(self._stay_in_touch)
            nursery.start_soon(self._tick)
            try:
                yield
            finally:
                self._flushed = trio.Event()
                self._drain()
                with trio.move_on_after(FLUSH_S, shield=True):
                    await self._flushed.wait()

    @property
    def is_in_touch(self) -> bool:
        """Whether the store answers."""
        return not self.node.is_away

    async def handle_frame(self, subscriber: Subscriber, frame: wire.Frame) -> None:
        """Take a frame; see `Engine`. Returns once it has been dealt with."""
        connection = self._by_subscriber.get(subscriber)
        if connection is None:
            connection = self.node.connection(next(self._numbers))
            self._by_subscriber[subscriber] = connection
            self._by_connection[connection] = subscriber
        if connection not in self._by_connection:
            await trio.lowlevel.checkpoint()
            return  # closed, and still talking
        done = self._waiting[connection] = trio.Event()
        self.node.handle_frame(self._now(), connection, frame, subscriber.levels, subscriber.challenge)
        self._drain()
        with trio.move_on_after(jittered(self._patience_s, self._randbytes(1)[0])) as waiting:
            await done.wait()
        self._waiting.pop(connection, None)
        if waiting.cancelled_caught and connection in self._by_connection:
            self.node.counters["sent_away"] += 1
            self.node.withdraw(connection)
            self._close(connection, wire.CloseCode.GOING_AWAY)

    def drained(self, subscriber: Subscriber) -> None:
        """Give a connection more; see `Engine`."""
        connection = self._by_subscriber.get(subscriber)
        if connection is not None:
            self.node.handle_drained(self._now(), connection)
            self._drain()

    async def disconnect(self, subscriber: Subscriber, *, hung_up: bool = False) -> None:
        """Note that a connection is gone; see `Engine`. Not a checkpoint: the store hears of it when it can."""
        connection = self._by_subscriber.pop(subscriber, None)
        if connection is not None:
            self._by_connection.pop(connection, None)
            self._waiting.pop(connection, None)
            self.node.handle_disconnect(self._now(), connection, hung_up=hung_up)
            self._drain()

    def is_ready(self) -> bool:
        """Return whether the store answers and another room has place."""
        return not self.node.is_away and self.node.has_place()

    async def pay(self, levels: Levels, charges: Sequence[Charge]) -> Balance | None:
        """Take from the budgets in the store; None while it is away, where each node counts for itself."""
        await trio.lowlevel.checkpoint()
        if self.node.is_away or not charges:
            return None
        with trio.move_on_after(self._patience_s):
            async with self._paying:
                try:
                    answer = (await self._store.perform(Pay(levels, tuple(charges)))).answer
                except StoreAway:
                    return None
                return answer if isinstance(answer, Balance) else None
        return None

    def give_back(self, levels: Levels, charges: Sequence[Charge]) -> None:
        """Give back to the budgets in the store; what has no place in the queue comes back by itself, later."""
        if charges:
            with suppress(trio.WouldBlock):
                self._backs_in.send_nowait(Pay(levels, tuple(charges)))

    async def _give_back(self) -> None:
        """Take what is given back to the store, one at a time."""
        async for back in self._backs_out:
            if not self.node.is_away:
                with suppress(StoreAway):
                    await self._store.perform(back)

    def pressure(self) -> Pressure:
        """Return what the node knows; see `Engine`."""
        return self.node.pressure(self._now())

    def statistics(self) -> Mapping[str, int]:
        """Return this node's counters and gauges; what several nodes work on is counted by each."""
        node = self.node
        gauges = {"rooms": node.room_count, "sessions": node.session_count, "log_bytes": node.log_bytes}
        guesses = int(node.pressure(self._now()).guesses)
        return {**node.counters, **gauges, "guesses": guesses, "store_away": int(node.is_away)}

    # -- the store

    async def _work(self) -> None:
        """Take requests to the store, one at a time."""
        async for asked in self._requests_out:
            try:
                reply = await self._store.perform(asked.request)
            except StoreAway as error:
                self._why_away = str(error)
                self.node.handle_failure(asked.number)
                self._listening.cancel()
            else:
                self._offset_s = reply.time - trio.current_time()
                self.node.handle_reply(self._now(), asked.number, reply.answer)
            self._drain()

    async def _stay_in_touch(self) -> None:
        """Hear what other nodes do; begin again, after growing pauses, when the store is away."""
        pause_s = FIRST_PAUSE_S
        while True:
            back_at = math.inf
            with trio.CancelScope() as self._listening:
                try:
                    async with self._store.listen(self.node.number) as changes:
                        self._offset_s = (await self._store.perform(self.node.first_beat())).time - trio.current_time()
                        self._say_back()
                        back_at = trio.current_time()
                        self.node.handle_back(self._now())
                        self._drain()
                        async for change in changes:
                            self.node.handle_change(self._now(), change)
                            self._drain()
                except StoreAway as error:
                    self._why_away = str(error)
            self.node.handle_lost()
            self._say_away()
            self._drain()
            if trio.current_time() - back_at >= STEADY_S:
                pause_s = FIRST_PAUSE_S
            await trio.sleep(jittered(pause_s, self._randbytes(1)[0]))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _say_away(self) -> None:
        if self._is_said_away is not True:
            self._is_said_away = True
            logger.warning("the store is away, and no room can be entered until it is back: %s", self._why_away)

    def _say_back(self) -> None:
        if self._is_said_away is not False:
            self._is_said_away = False
            logger.info("the store answers")

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            if not self.node.is_away:
                self.node.handle_timeout(self._now())
                self._drain()

    def _now(self) -> float:
        return trio.current_time() + self._offset_s

    def _drain(self) -> None:
        node = self.node
        while (asked := node.poll_request()) is not None:
            self._requests_in.send_nowait(asked)
        while (action := node.poll_action()) is not None:
            subscriber = self._by_connection.get(action.connection)
            if subscriber is None:
                continue
            if action.frame is not None:
                subscriber.deliver(action.frame)
            if action.copies:
                subscriber.charge(action.copies, action.copied_bytes)
            if action.is_confirmed:
                subscriber.confirm()
            if action.close is not None:
                self._close(action.connection, action.close)
        while (connection := node.poll_finished()) is not None:
            done = self._waiting.get(connection)
            if done is not None:
                done.set()
        if self._flushed is not None and (node.is_idle or node.is_away):
            self._flushed.set()

    def _close(self, connection: int, code: wire.CloseCode) -> None:
        self._by_connection.pop(connection).close(code)
