"""A relayed address as a UDP socket: what the agent sends and receives there goes through the TURN server."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from iceagent.core import turn
from iceagent.core.address import TransportAddress
from iceagent.net.api import IcmpError, SocketStatistics
from iceagent.net.batch import Batch
from iceagent.net.queues import ReceiveQueue
from iceagent.net.turn.transport import TurnTransport

RECEIVE_BUFFER: Final = 4 * 1024 * 1024
"""Bytes kept for a slow reader; then UDP loses datagrams, and a stream is no longer read."""
_MAX_WAITING: Final = 256  # peers whose permission is pending; hosts whose permission has failed
_FORBIDDEN: Final = 403  # RFC 8656 section 9.3: by the server's policy


class Carrier(Protocol):
    """What a relayed address needs of its allocation."""

    client: turn.TurnClient
    transport: TurnTransport

    def settle(self) -> None:
        """Send the packets and report the events that a change of the client has caused."""
        ...


class TurnSocket:
    """One relayed address of an allocation; an `iceagent.net.api.UdpSocket`. Made by `open_turn_socket`."""

    def __init__(self, allocation: Carrier, address: TransportAddress, is_stream: bool) -> None:
        self._allocation = allocation
        self._address = address
        self._is_stream = is_stream
        self._statistics = SocketStatistics()
        self._received = ReceiveQueue(RECEIVE_BUFFER, self._statistics, "this relayed address is closed")
        self._changes = trio.lowlevel.ParkingLot()
        self._order = trio.StrictFIFOLock()
        self._waiting: dict[TransportAddress, None] = {}  # those whose first datagram waits, first come first
        self._failures: dict[str, int] = {}  # what to say of hosts whose permission has failed, an errno

    @property
    def local_address(self) -> TransportAddress:
        """The relayed address, at which the server receives for us."""
        return self._address

    def statistics(self) -> SocketStatistics:
        """Return the live counters; they count payloads."""
        return self._statistics

    # Receiving

    async def receive(self) -> list[Batch]:
        """Wait for datagrams or errors; return all at hand, oldest first.

        Raises:
            trio.ClosedResourceError: the socket was closed, or the allocation has ended.
        """
        return await self._received.receive()

    def take_errors(self) -> list[IcmpError]:
        """Return and forget what the server reported of peers that it cannot or may not reach."""
        return self._received.take_errors()

    def put(self, batch: Batch) -> bool:
        """Take a batch of the receive loop; return False where a stream should not be read further for now."""
        if not self._is_stream and not self._received.fits(batch):
            return True
        return self._received.put(batch)

    async def wait_room(self) -> None:
        """Wait until the reader has caught up, or the socket is closed."""
        await self._received.wait_room()

    def put_error(self, error: IcmpError) -> None:
        """Take an error about one peer."""
        self._received.put_error(error)

    # Sending

    def send_nowait(self, datagrams: Sequence[bytes], remote: TransportAddress, *, source: str | None = None) -> int:
        """Send what can go at once; return how many. What the server forbids counts as sent, and as an error.

        Datagrams to an address whose permission is being asked for are kept, as far as there is room.
        """
        del source  # a relay has one address
        self._received.check_open()
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
                self._waiting[remote] = None
        else:
            self._refuse(remote, len(datagrams))
            return len(datagrams)
        self._statistics.datagrams_sent += taken
        self._statistics.bytes_sent += sum(map(len, datagrams[:taken]))
        return taken

    async def send(self, datagrams: Sequence[bytes], remote: TransportAddress, *, source: str | None = None) -> None:
        """Send all, in order: waits for the permission, and while the transport is full. A checkpoint in any case.

        A permission that fails wakes whoever waits for it: nobody waits for ever.

        Raises:
            trio.ClosedResourceError: the socket was closed, or the allocation has ended.
        """
        del source  # a relay has one address
        await trio.lowlevel.checkpoint()
        async with self._order:
            done = self.send_nowait(datagrams, remote)
            while done < len(datagrams):
                allocation = self._allocation
                self._received.check_open()
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
        """Let senders look again: a permission stands, or failed, which concerns its peers alone."""
        self._failures.pop(host, None)
        if failed:
            while len(self._failures) >= _MAX_WAITING:
                del self._failures[next(iter(self._failures))]
            self._failures[host] = errno.EACCES if code == _FORBIDDEN else errno.EHOSTUNREACH
        for peer in [peer for peer in self._waiting if peer.host == host]:
            del self._waiting[peer]
            if failed:
                self.put_error(IcmpError(peer, self._failures[host]))
        self._changes.unpark_all()

    def close(self) -> None:
        """Close this address; whoever waits gets `trio.ClosedResourceError`. The allocation lives on. Idempotent."""
        self._received.close()
        if trio.lowlevel.in_trio_run():
            self._changes.unpark_all()

    def _refuse(self, remote: TransportAddress, count: int) -> None:
        self._statistics.send_errors += count
        self.put_error(IcmpError(remote, self._failures.get(remote.host, errno.EHOSTUNREACH)))
