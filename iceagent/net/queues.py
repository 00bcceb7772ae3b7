"""Bounded queues: what a socket has received, and what waits to be written to a connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio

from iceagent.net.api import IcmpError, SocketStatistics
from iceagent.net.batch import Batch

_MAX_ERRORS: Final = 64
_BATCH_COST: Final = 128  # bytes charged per batch besides its content


class ReceiveQueue:
    """Batches and errors on their way to one reader.

    Args:
        capacity: bytes that may wait; who fills it asks `fits` or heeds `put` and `wait_room`.
        statistics: counts what is put here.
        closed: what the error says that readers get after `close`.
    """

    def __init__(self, capacity: int, statistics: SocketStatistics, closed: str) -> None:
        self._capacity = capacity
        self._statistics = statistics
        self._closed_because = closed
        self._batches: deque[Batch] = deque()
        self._size = 0
        self._errors: deque[IcmpError] = deque(maxlen=_MAX_ERRORS)
        self._errors_are_new = False
        self._readers = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self.closed = False

    async def receive(self) -> list[Batch]:
        """Wait for datagrams or errors; return all at hand, oldest first.

        Raises:
            trio.ClosedResourceError: the queue was closed.
        """
        await trio.lowlevel.checkpoint()
        while not (self._batches or self._errors_are_new):
            self.check_open()
            await self._readers.park()
        self.check_open()
        self._errors_are_new = False
        batches = list(self._batches)
        self._batches.clear()
        self._size = 0
        self._statistics.receive_calls += 1
        self._room.unpark_all()
        return batches

    def take_errors(self) -> list[IcmpError]:
        """Return and forget the errors, oldest first."""
        errors = list(self._errors)
        self._errors.clear()
        return errors

    def fits(self, batch: Batch) -> bool:
        """Return whether there is room for a batch."""
        return self._size + len(batch.data) + _BATCH_COST <= self._capacity

    def put(self, batch: Batch) -> bool:
        """Take a batch; return False where nothing more should be read until `wait_room` has returned."""
        if self.closed:
            return True
        self._batches.append(batch)
        self._size += len(batch.data) + _BATCH_COST
        self._statistics.datagrams_received += len(batch)
        self._statistics.bytes_received += len(batch.data)
        self._readers.unpark_all()
        return self._size <= self._capacity

    async def wait_room(self) -> None:
        """Wait until the reader has caught up, or the queue is closed."""
        while self._size > self._capacity and not self.closed:
            await self._room.park()

    def put_error(self, error: IcmpError) -> None:
        """Take an error about one peer; one that waits already is taken once."""
        if error not in self._errors:
            self._errors.append(error)
            self._statistics.icmp_errors += 1
        self._errors_are_new = True
        self._readers.unpark_all()

    def close(self) -> None:
        """Forget what waits; readers get `trio.ClosedResourceError`. Idempotent, and possible outside of Trio."""
        self.closed = True
        self._batches.clear()
        if trio.lowlevel.in_trio_run():
            self._readers.unpark_all()
            self._room.unpark_all()

    def check_open(self) -> None:
        """Raise `trio.ClosedResourceError` after `close`."""
        if self.closed:
            raise trio.ClosedResourceError(self._closed_because)


class SendQueue:
    """Messages on their way to a connection's writer.

    Args:
        capacity: how much may wait, in the unit of `cost`; a message always fits into an empty queue.
        cost: what one message takes of it: `len` for bytes, or 1 each.
        closed: what the error says that senders get after `close`.
    """

    def __init__(self, capacity: int, cost: Callable[[bytes], int], closed: str) -> None:
        self._capacity = capacity
        self._cost = cost
        self._closed_because = closed
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._writer = trio.lowlevel.ParkingLot()
        self._senders = trio.lowlevel.ParkingLot()
        self._order = trio.StrictFIFOLock()
        self._queued = self._written = 0  # in all
        self.closed = False

    def send_nowait(self, messages: Sequence[bytes]) -> int:
        """Queue what there is room for; return how many.

        Raises:
            trio.ClosedResourceError: the queue is closed.
        """
        self.check_open()
        taken = 0
        for message in messages:
            cost = self._cost(message)
            if self._size and self._size + cost > self._capacity:
                break
            self._waiting.append(message)
            self._size += cost
            taken += 1
        self._queued += taken
        if taken:
            self._writer.unpark_all()
        return taken

    async def send(self, messages: Sequence[bytes]) -> None:
        """Queue all, waiting for room; senders take their turns in order. Raises as `send_nowait` does."""
        await trio.lowlevel.checkpoint()
        async with self._order:
            taken = self.send_nowait(messages)
            while taken < len(messages):
                await self._senders.park()
                taken += self.send_nowait(messages[taken:])

    async def take(self) -> list[bytes]:
        """Wait until something is queued; return all of it. What is taken keeps its room until `written`."""
        while not self._waiting:
            await self._writer.park()
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def written(self, messages: Sequence[bytes]) -> None:
        """Give back the room of messages that `take` returned."""
        self._size -= sum(map(self._cost, messages))
        self._written += len(messages)
        self._senders.unpark_all()

    async def flush(self) -> None:
        """Wait until what is queued now has been written, or the queue was closed."""
        until = self._queued
        while self._written < until and not self.closed:
            await self._senders.park()

    def close(self) -> None:
        """Let no more in; who waits to send gets the error. Idempotent."""
        self.closed = True
        self._senders.unpark_all()

    def check_open(self) -> None:
        """Raise `trio.ClosedResourceError` after `close`."""
        if self.closed:
            raise trio.ClosedResourceError(self._closed_because)
