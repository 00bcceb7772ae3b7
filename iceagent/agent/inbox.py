"""The bounded queue between the receive loops and the user."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from iceagent.net.batch import Batch

_BATCH_OVERHEAD = 128
"""Bytes charged per batch beside its data, so that a flood of empty datagrams is bounded, too."""


class Inbox:
    """Batches that wait to be received, bounded in bytes.

    When it is full, what arrives is dropped and counted, as a socket's own buffer does: what waits is in order and
    whole, and the sender's congestion control learns of the loss.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._queue: deque[Batch] = deque()
        self._opened: Batch | None = None  # the batch that `datagram` is taking apart
        self._offset = 0
        self._lot = trio.lowlevel.ParkingLot()
        self._error: Callable[[], Exception] | None = None
        self.datagrams_dropped = 0

    def put(self, batch: Batch) -> None:
        """Queue a batch, or drop and count it."""
        cost = len(batch.data) + _BATCH_OVERHEAD
        if self._error is not None or self._size + cost > self._limit:
            self.datagrams_dropped += len(batch)
            return
        self._size += cost
        self._queue.append(batch)
        if self._lot:
            self._lot.unpark()

    def end(self, error: Callable[[], Exception], *, discard: bool) -> None:
        """Let every later receive raise `error()`; what is queued is received first, unless `discard`."""
        self._error = error
        if discard:
            self._queue.clear()
            self._opened = None
            self._size = 0
        self._lot.unpark_all()

    async def batches(self) -> list[Batch]:
        """Wait, then return all that waits, oldest first."""
        await self._wait()
        taken = list(self._queue)
        if self._opened is not None:
            opened = self._opened
            taken.insert(0, Batch(opened.remote, opened.data[self._offset :], opened.segment_size))
        self._queue.clear()
        self._opened = None
        self._size = 0
        return taken

    async def datagrams(self) -> list[bytes]:
        """Wait, then return all datagrams that wait, oldest first."""
        return [datagram for batch in await self.batches() for datagram in batch.datagrams()]

    async def datagram(self) -> bytes:
        """Wait, then return the oldest datagram."""
        await self._wait()
        if self._opened is None:
            self._opened = self._queue.popleft()
            self._offset = 0
        batch = self._opened
        datagram = batch.data[self._offset : self._offset + batch.segment_size]
        self._offset += batch.segment_size
        if self._offset >= len(batch.data):
            self._size -= len(batch.data) + _BATCH_OVERHEAD
            self._opened = None
        if self._has_any() and self._lot:
            self._lot.unpark()  # one arrival woke one receiver, and there is more than one can take
        return datagram

    def _has_any(self) -> bool:
        return bool(self._queue) or self._opened is not None

    async def _wait(self) -> None:
        """Return once something waits; a checkpoint in any case."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._has_any():
            await trio.lowlevel.cancel_shielded_checkpoint()
        while not self._has_any():
            if self._error is not None:
                raise self._error()
            await self._lot.park()
