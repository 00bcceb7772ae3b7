"""Credit: how many bytes of each stream may be in flight, so that a reader that stops also stops the writer.

QUIC's own windows do not do that here: both libraries raise them when data arrives, not when the application reads. So
the receiver grants credit on the control stream, and keeps account of what it has granted, per link and per process.
"""

from __future__ import annotations

from iceagent.core.checked import checked
from iceagent.link.config import MIB

# A stream's window is at most this share of what is left, so that stalled streams can never take all of it.
_SHARE = 4


class CreditExceeded(Exception):
    """The peer sent more than it was allowed to."""


class Ledger:
    """Counts the bytes promised to peers and not yet consumed, against a ceiling.

    The ceiling steers what is promised beyond the initial windows; the number of streams bounds those.
    """

    @checked
    def __init__(self, ceiling: int, parent: Ledger | None = None) -> None:
        self.ceiling = ceiling
        self.promised = 0
        self._parent = parent

    @property
    def headroom(self) -> int:
        """Bytes that may still be promised, never negative."""
        own = max(0, self.ceiling - self.promised)
        return own if self._parent is None else min(own, self._parent.headroom)

    def add(self, count: int) -> None:
        """Note that `count` more bytes are promised (fewer, if negative)."""
        self.promised += count
        if self._parent is not None:
            self._parent.add(count)

    def detach(self) -> None:
        """Take all that is still promised off the parent's books: the link is gone."""
        if self._parent is not None:
            self._parent.add(-self.promised)
            self._parent = None


PROCESS_LEDGER = Ledger(64 * MIB)  # shared by every link of the process


class SendCredit:
    """What this end may send on one stream: absolute offsets, as in QUIC."""

    __slots__ = ("limit", "sent")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.sent = 0

    @property
    def available(self) -> int:
        """Bytes that may be sent now."""
        return self.limit - self.sent

    def raise_to(self, limit: int) -> bool:
        """Take a grant of the peer; return whether it allows anything new."""
        if limit <= self.limit:
            return False
        self.limit = limit
        return True


class ReceiveCredit:
    """What the peer may send on one stream."""

    __slots__ = ("_closed", "_ledger", "_minimum", "_window", "consumed", "limit", "received")

    def __init__(self, ledger: Ledger, *, minimum: int, window: int) -> None:
        self._ledger = ledger
        self._minimum = minimum
        self._window = window
        self._closed = False
        self.limit = minimum
        self.received = 0
        self.consumed = 0
        ledger.add(minimum)

    def note_received(self, count: int) -> None:
        """Count bytes that arrived.

        Raises:
            CreditExceeded: they are more than was promised.
        """
        self.received += count
        if self.received > self.limit:
            raise CreditExceeded(f"{self.received - self.limit} bytes beyond the credit")

    def note_consumed(self, count: int) -> None:
        """Count bytes that the application took: the promise for them is kept."""
        self.consumed += count
        if not self._closed:
            self._ledger.add(-count)

    def next_grant(self) -> int | None:
        """Return a new limit to announce, or None while the step would be less than half a window."""
        if self._closed:
            return None
        outstanding = self.limit - self.consumed
        window = max(self._minimum, min(self._window, (self._ledger.headroom + outstanding) // _SHARE))
        if outstanding > window // 2:
            return None
        self._ledger.add(window - outstanding)
        self.limit = self.consumed + window
        return self.limit

    def finish(self) -> None:
        """Reduce the promise to what has arrived: nothing more will."""
        if not self._closed:
            self._ledger.add(self.received - self.limit)
            self.limit = self.received

    def close(self) -> None:
        """Take the outstanding promise off the books: nothing more will be kept."""
        if not self._closed:
            self._closed = True
            self._ledger.add(self.consumed - self.limit)
