"""What leaves the ICE core: datagrams, events, counts. Bounded, first in first out."""

from __future__ import annotations

from collections import Counter, deque

from iceagent.core import constants
from iceagent.core.address import TransportAddress
from iceagent.core.ice.events import DropReason, IceEvent
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
