"""The UDP sockets of virtual hosts: `iceagent.net.api.UdpSocket` without a kernel."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from iceagent.core.address import TransportAddress
from iceagent.net.api import IcmpError, SocketStatistics
from iceagent.net.batch import Batch
from iceagent.vnet.packet import is_multicast

if TYPE_CHECKING:
    from iceagent.vnet.host import Host

SEND_BUFFER = 1 << 20  # bytes that may be on the host's own link before `send` waits
RECEIVE_BUFFER = 4 << 20  # bytes kept for a slow reader, then datagrams are dropped
RECEIVE_LIMIT = 256  # datagrams returned by one `receive`
BATCH_LIMIT = 65507  # bytes in one batch, like one GRO buffer
MAX_ERRORS = 64
DATAGRAM_COST = 64  # bytes that a datagram costs besides its content, so that empty ones are bounded too


class VirtualUdpSocket:
    """A bound socket of a `Host`; made by `Host.open_udp`."""

    def __init__(self, host: Host, local_address: TransportAddress) -> None:
        self._host = host
        self._local_address = local_address
        self._statistics = SocketStatistics()
        self._received: deque[tuple[TransportAddress, bytes, str | None]] = deque()
        self._is_wildcard = local_address.ip.is_unspecified
        self._received_bytes = 0
        self._errors: deque[IcmpError] = deque(maxlen=MAX_ERRORS)
        self._has_news = False
        self._sending_bytes = 0
        self._readable = trio.Event()
        self._writable = trio.Event()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<VirtualUdpSocket {self._host.name} {self._local_address}>"

    @property
    def local_address(self) -> TransportAddress:
        """The bound address."""
        return self._local_address

    async def receive(self) -> list[Batch]:
        """Wait until something arrived and return it; see `iceagent.net.api.UdpSocket.receive`."""
        self._check_open()
        await trio.lowlevel.checkpoint()
        while not self._has_news:
            self._check_open()
            self._readable = trio.Event()
            await self._readable.wait()
        self._check_open()
        self._statistics.receive_calls += 1
        return self._take_batches()

    def take_errors(self) -> list[IcmpError]:
        """Return and forget the ICMP errors that arrived."""
        errors = list(self._errors)
        self._errors.clear()
        return errors

    def send_nowait(self, datagrams: Sequence[bytes], remote: TransportAddress, *, source: str | None = None) -> int:
        """Send what the buffer takes; return how many datagrams that were."""
        self._check_open()
        self._statistics.send_calls += 1
        for index, datagram in enumerate(datagrams):
            if self._sending_bytes >= SEND_BUFFER:
                return index
            if self._host.send_datagram(self, bytes(datagram), remote, source=source if self._is_wildcard else None):
                self._statistics.datagrams_sent += 1
                self._statistics.bytes_sent += len(datagram)
            else:
                self._statistics.send_errors += 1
        return len(datagrams)

    def send_limited(self, datagram: bytes, remote: TransportAddress, ttl: int) -> bool:
        """Send one datagram that passes at most `ttl - 1` routers; return whether the buffer took it."""
        self._check_open()
        self._statistics.send_calls += 1
        if self._sending_bytes >= SEND_BUFFER:
            return False
        if self._host.send_datagram(self, bytes(datagram), remote, ttl):
            self._statistics.datagrams_sent += 1
            self._statistics.bytes_sent += len(datagram)
        else:
            self._statistics.send_errors += 1
        return True

    async def send(self, datagrams: Sequence[bytes], remote: TransportAddress, *, source: str | None = None) -> None:
        """Send all, waiting while the buffer is full."""
        self._check_open()
        await trio.lowlevel.checkpoint()
        sent = self.send_nowait(datagrams, remote, source=source)
        while sent < len(datagrams):
            await self._writable.wait()
            sent += self.send_nowait(datagrams[sent:], remote, source=source)

    def statistics(self) -> SocketStatistics:
        """Return the counters."""
        return self._statistics

    def close(self) -> None:
        """Close at once; whoever waits here gets `trio.ClosedResourceError`."""
        if not self._is_closed:
            self._is_closed = True
            self._host.forget_socket(self)
            self._received.clear()
            self._errors.clear()
            self._readable.set()
            self._writable.set()

    def charge(self, size: int) -> None:
        """Count a datagram of `size` bytes that is now on the host's link."""
        self._sending_bytes += size + DATAGRAM_COST
        if self._sending_bytes >= SEND_BUFFER and self._writable.is_set():
            self._writable = trio.Event()

    def release(self, size: int) -> None:
        """Count off a datagram that has left the host's link."""
        self._sending_bytes -= size + DATAGRAM_COST
        if self._sending_bytes < SEND_BUFFER:
            self._writable.set()

    def handle_datagram(self, remote: TransportAddress, data: bytes, asked: str) -> bool:
        """Queue a datagram that came to the address `asked` for the reader; return False when the buffer is full."""
        if self._received_bytes >= RECEIVE_BUFFER:
            return False
        self._received.append((remote, data, asked if self._is_wildcard and not is_multicast(asked) else None))
        self._received_bytes += len(data) + DATAGRAM_COST
        self._statistics.datagrams_received += 1
        self._statistics.bytes_received += len(data)
        self._wake_reader()
        return True

    def handle_error(self, error: IcmpError) -> None:
        """Queue an ICMP error for the reader."""
        self._errors.append(error)
        self._statistics.icmp_errors += 1
        self._wake_reader()

    def _wake_reader(self) -> None:
        self._has_news = True
        self._readable.set()

    def _check_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError(f"the socket on {self._local_address} was closed")

    def _take_batches(self) -> list[Batch]:
        batches: list[Batch] = []
        left = RECEIVE_LIMIT
        while self._received and left > 0:
            batch = self._take_batch(left)
            batches.append(batch)
            left -= len(batch)
        self._has_news = bool(self._received)
        return batches

    def _take_batch(self, limit: int) -> Batch:
        """Join datagrams of one remote as the kernel's GRO does: all of one size, only the last may be shorter."""
        remote, first, local = self._take_datagram()
        parts = [first]
        size = total = len(first)
        while self._received and size and len(parts) < limit:
            next_remote, data, next_local = self._received[0]
            if (
                (next_remote, next_local) != (remote, local)
                or not 0 < len(data) <= size
                or total + len(data) > BATCH_LIMIT
            ):
                break
            self._take_datagram()
            parts.append(data)
            total += len(data)
            if len(data) < size:
                break
        return Batch(remote, b"".join(parts), max(1, size), local)

    def _take_datagram(self) -> tuple[TransportAddress, bytes, str | None]:
        remote, data, local = self._received.popleft()
        self._received_bytes -= len(data) + DATAGRAM_COST
        return remote, data, local
