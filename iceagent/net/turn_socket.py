"""A relayed address as a UDP socket: what the agent sends and receives there goes through the TURN server."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from iceagent.core import turn
from iceagent.core.address import TransportAddress
from iceagent.net.api import Batch, IcmpError, SocketStatistics

if TYPE_CHECKING:
    from iceagent.net.turn import TurnAllocation

RECEIVE_BUFFER: Final = 4 * 1024 * 1024
"""Bytes kept for a slow reader; then UDP loses datagrams, and a stream is no longer read."""
_MAX_ERRORS: Final = 64
_MAX_WAITING: Final = 256  # peers whose permission is pending
_BATCH_COST: Final = 128  # bytes charged per batch besides its content


class TurnSocket:
    """One relayed address of an allocation; an `iceagent.net.api.UdpSocket`. Made by `open_turn_socket`."""

    def __init__(self, allocation: TurnAllocation, address: TransportAddress, is_stream: bool) -> None:
        self._allocation = allocation
        self._address = address
        self._is_stream = is_stream
        self._statistics = SocketStatistics()
        self._received: deque[Batch] = deque()
        self._size = 0
        self._errors: deque[IcmpError] = deque(maxlen=_MAX_ERRORS)
        self._errors_are_new = False
        self._readers = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._changes = trio.lowlevel.ParkingLot()
        self._order = trio.StrictFIFOLock()
        self._waiting: set[TransportAddress] = set()
        self._closed = False

    @property
    def local_address(self) -> TransportAddress:
        """The relayed address, at which the server receives for us."""
        return self._address

    @property
    def allocation(self) -> TurnAllocation:
        """What the address is part of."""
        return self._allocation

    def statistics(self) -> SocketStatistics:
        """Return the live counters; they count payloads."""
        return self._statistics

    # Receiving

    async def receive(self) -> list[Batch]:
        """Wait for datagrams or errors; return all at hand, oldest first.

        Raises:
            trio.ClosedResourceError: the socket was closed, or the allocation has ended.
        """
        await trio.lowlevel.checkpoint()
        while not (self._received or self._errors_are_new):
            self._check_open()
            await self._readers.park()
        self._check_open()
        self._errors_are_new = False
        batches = list(self._received)
        self._received.clear()
        self._size = 0
        self._statistics.receive_calls += 1
        self._room.unpark_all()
        return batches

    def take_errors(self) -> list[IcmpError]:
        """Return and forget what the server told of peers it cannot reach or may not."""
        errors = list(self._errors)
        self._errors.clear()
        return errors

    def put(self, batch: Batch) -> bool:
        """Take a batch of the receive loop; return False where a stream should not be read further for now."""
        if self._closed:
            return True
        cost = len(batch.data) + _BATCH_COST
        if not self._is_stream and self._size + cost > RECEIVE_BUFFER:
            return True
        self._received.append(batch)
        self._size += cost
        self._statistics.datagrams_received += len(batch)
        self._statistics.bytes_received += len(batch.data)
        self._readers.unpark_all()
        return self._size <= RECEIVE_BUFFER

    async def wait_room(self) -> None:
        """Wait until the reader has caught up, or the socket is closed."""
        while self._size > RECEIVE_BUFFER and not self._closed:
            await self._room.park()

    def put_error(self, error: IcmpError) -> None:
        """Take an error about one peer."""
        self._errors.append(error)
        self._errors_are_new = True
        self._statistics.icmp_errors += 1
        self._readers.unpark_all()

    # Sending

    def send_nowait(self, datagrams: Sequence[bytes], remote: TransportAddress) -> int:
        """Send what can go at once; return how many. What the server forbids counts as sent, and as an error.

        Datagrams to an address whose permission is being asked for are kept, as far as there is room.
        """
        self._check_open()
        allocation = self._allocation
        messages = allocation.client.wrap(trio.current_time(), remote, datagrams)
        self._statistics.send_calls += 1
        if messages is not None:
            if allocation.client.has_news:
                allocation.settle()
            taken = allocation.transport.send_nowait(messages)
        elif allocation.client.permission(remote.host) is turn.PeerState.PENDING:
            allocation.settle()
            taken = allocation.client.hold(remote, datagrams)
            if len(self._waiting) < _MAX_WAITING:
                self._waiting.add(remote)
        else:
            self._refuse(remote, len(datagrams))
            return len(datagrams)
        self._statistics.datagrams_sent += taken
        self._statistics.bytes_sent += sum(map(len, datagrams[:taken]))
        return taken

    async def send(self, datagrams: Sequence[bytes], remote: TransportAddress) -> None:
        """Send all, in order: waits for the permission, and while the transport is full. A checkpoint in any case.

        A permission that fails wakes whoever waits for it (trap 30).

        Raises:
            trio.ClosedResourceError: the socket was closed, or the allocation has ended.
        """
        await trio.lowlevel.checkpoint()
        async with self._order:
            done = self.send_nowait(datagrams, remote)
            while done < len(datagrams):
                allocation = self._allocation
                self._check_open()
                rest = datagrams[done:]
                if allocation.client.permission(remote.host) is turn.PeerState.PENDING:
                    await self._changes.park()
                    done += self.send_nowait(rest, remote)
                    continue
                messages = allocation.client.wrap(trio.current_time(), remote, rest)
                if messages is None:
                    self._refuse(remote, len(rest))
                    return
                allocation.settle()
                await allocation.transport.send(messages)
                self._statistics.datagrams_sent += len(rest)
                self._statistics.bytes_sent += sum(map(len, rest))
                return

    def permission_changed(self, host: str, *, code: int | None = None, failed: bool = False) -> None:
        """Let senders look again: a permission stands, or failed, which concerns its peers alone (trap 31)."""
        for peer in [peer for peer in self._waiting if peer.host == host]:
            self._waiting.remove(peer)
            if failed:
                self.put_error(IcmpError(peer, errno.EACCES if code == 403 else errno.EHOSTUNREACH))
        self._changes.unpark_all()

    def close(self) -> None:
        """Close this address; whoever waits gets `trio.ClosedResourceError`. The allocation lives on. Idempotent."""
        if not self._closed:
            self._closed = True
            self._received.clear()
            for lot in (self._readers, self._room, self._changes):
                _unpark(lot)

    def _refuse(self, remote: TransportAddress, count: int) -> None:
        self._statistics.send_errors += count
        error = IcmpError(remote, errno.EACCES)
        if error not in self._errors:
            self.put_error(error)

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this relayed address is closed")


def _unpark(lot: trio.lowlevel.ParkingLot) -> None:
    if trio.lowlevel.in_trio_run():
        lot.unpark_all()
