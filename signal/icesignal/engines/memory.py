"""The engine of a relay of one process: a `RoomTable`, its clock and its connections."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from icesignal import wire
from icesignal.engines.engine import Subscriber
from icesignal.expect import expect, expect_function
from icesignal.rooms import RoomLimits, RoomTable
from icesignal.sources import Balance, Charge, Levels
from icesignal.tasks import open_background
from icesignal.toll import Pressure

TICK_S = 1.0  # how late an expiry may come; each tick looks at every room once


class MemoryEngine:
    """Rooms that live and die with the process."""

    def __init__(
        self,
        *,
        limits: RoomLimits | None = None,
        randbytes: Callable[[int], bytes] = secrets.token_bytes,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Make an engine without rooms.

        Args:
            limits: the bounds of rooms and logs.
            randbytes: a cryptographic source.
            wall_clock: gives Unix time, by which tickets expire.
        """
        expect(RoomLimits, None, limits=limits)
        expect_function(randbytes=randbytes, wall_clock=wall_clock)
        self._table = RoomTable(randbytes=randbytes, limits=limits, wall_clock=wall_clock)
        self._ids = itertools.count(1)
        self._by_id: dict[int, Subscriber] = {}
        self._by_subscriber: dict[Subscriber, int] = {}

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None, None]:
        """Expire what is due while the block lasts."""
        async with open_background() as nursery:
            nursery.start_soon(self._tick)
            yield

    async def handle_frame(self, subscriber: Subscriber, frame: wire.Frame) -> None:
        """Take a frame; see `Engine`."""
        connection = self._by_subscriber.get(subscriber)
        if connection is None:
            connection = next(self._ids)
            self._by_subscriber[subscriber] = connection
            self._by_id[connection] = subscriber
        if connection not in self._by_id:
            await trio.lowlevel.checkpoint()
            return  # closed, and still talking
        self._table.handle_frame(trio.current_time(), connection, frame, subscriber.levels, subscriber.challenge)
        self._drain()
        await trio.lowlevel.checkpoint_if_cancelled()

    def drained(self, subscriber: Subscriber) -> None:
        """Give a connection more; see `Engine`."""
        connection = self._by_subscriber.get(subscriber)
        if connection is not None:
            self._table.handle_drained(trio.current_time(), connection)
            self._drain()

    async def disconnect(self, subscriber: Subscriber, *, hung_up: bool = False) -> None:
        """Note that a connection is gone; see `Engine`. Not a checkpoint, so that cleanup needs no shield."""
        connection = self._by_subscriber.pop(subscriber, None)
        if connection is not None:
            self._by_id.pop(connection, None)
            self._table.handle_disconnect(trio.current_time(), connection, hung_up=hung_up)
            self._drain()

    def is_ready(self) -> bool:
        """Return whether another room has place."""
        return self._table.room_count < self._table.limits.max_rooms

    async def pay(self, levels: Levels, charges: Sequence[Charge]) -> Balance | None:
        """Return None: there is but one node. Not a checkpoint, as the engine has one when it takes the frame."""
        return None

    def give_back(self, levels: Levels, charges: Sequence[Charge]) -> None:
        """Do nothing: there is but one node."""

    def pressure(self) -> Pressure:
        """Return what the table says; see `Engine`."""
        load = self._table.room_count / max(1, self._table.limits.max_rooms)
        return Pressure(self._table.guesses(trio.current_time()), load)

    def statistics(self) -> Mapping[str, int]:
        """Return the table's counters and gauges."""
        gauges = {
            "rooms": self._table.room_count,
            "sessions": self._table.session_count,
            "log_bytes": self._table.log_bytes,
            "guesses": int(self._table.guesses(trio.current_time())),
        }
        return {**self._table.counters, **gauges}

    def _drain(self) -> None:
        while (output := self._table.poll_output()) is not None:
            subscriber = self._by_id.get(output.connection)
            if subscriber is None:
                continue
            if output.frame is not None:
                subscriber.deliver(output.frame)
            if output.copies:
                subscriber.charge(output.copies, output.copied_bytes)
            if output.is_confirmed:
                subscriber.confirm()
            if output.close is not None:
                del self._by_id[output.connection]
                subscriber.close(output.close)

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            now = trio.current_time()
            due = self._table.next_timeout()
            if due is not None and due <= now:
                self._table.handle_timeout(now)
                self._drain()
