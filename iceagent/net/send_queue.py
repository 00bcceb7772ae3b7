"""What waits to be written to one connection: bounded, in order, with one writer and many senders."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import trio


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
