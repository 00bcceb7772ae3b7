"""What leaves the ICE core: datagrams, events, counts; and data that waits for its path's validation. All bounded."""

from __future__ import annotations

from collections import Counter, deque

from iceagent.core import constants
from iceagent.core.address import TransportAddress
from iceagent.core.ice.events import DropReason, IceEvent
from iceagent.core.ice.model.pair import PathAddresses
from iceagent.core.transmit import Transmit


class Outbox:
    """Queues between the core and its shell, drained by the two polls after each mutation."""

    def __init__(self) -> None:
        self.transmits: deque[Transmit] = deque()
        self.events: deque[IceEvent] = deque()
        self.counters: Counter[DropReason] = Counter()

    def send(self, base: TransportAddress, remote: TransportAddress, data: bytes) -> None:
        """Queue a datagram; the oldest one gives way when nobody drains."""
        if len(self.transmits) >= constants.MAX_QUEUED_TRANSMITS:
            self.transmits.popleft()
            self.drop(DropReason.TRANSMIT_OVERFLOW)
        self.transmits.append(Transmit(base, remote, data))

    def emit(self, event: IceEvent) -> None:
        """Queue an event; the oldest one gives way when nobody drains."""
        if len(self.events) >= constants.MAX_QUEUED_EVENTS:
            self.events.popleft()
            self.drop(DropReason.EVENT_OVERFLOW)
        self.events.append(event)

    def drop(self, reason: DropReason) -> None:
        """Count something that was not done."""
        self.counters[reason] += 1


class HeldData:
    """Data that overtakes validation: datagrams by path, in order of arrival; the newest are refused when full.

    The peer may send as soon as its own check is answered; our answer to its first data and the answer to our triggered
    check then race. Such data comes from where an authenticated check came from, but the path is not validated yet, so
    it may not reach the user. It is kept, and released when our check of that path succeeds.
    """

    def __init__(self) -> None:
        self._datagrams: dict[PathAddresses, list[bytes]] = {}
        self._count = 0
        self._bytes = 0

    def hold(self, path: PathAddresses, datagram: bytes) -> bool:
        """Keep a datagram; return False if there is no room."""
        if self._count >= constants.MAX_HELD_DATAGRAMS or self._bytes + len(datagram) > constants.MAX_HELD_BYTES:
            return False
        self._datagrams.setdefault(path, []).append(datagram)
        self._count += 1
        self._bytes += len(datagram)
        return True

    def release(self, path: PathAddresses) -> tuple[bytes, ...]:
        """Return and forget what was kept for a path."""
        datagrams = tuple(self._datagrams.pop(path, ()))
        self._count -= len(datagrams)
        self._bytes -= sum(map(len, datagrams))
        return datagrams

    def clear(self) -> None:
        """Forget everything."""
        self._datagrams.clear()
        self._count = self._bytes = 0
