"""Data that overtakes validation.

The peer may send as soon as its own check is answered; our answer to its first data and the answer to our triggered
check then race. Such data comes from where an authenticated check came from, but the path is not validated yet, so it
may not reach the user (trap 3). It is kept, bounded, and released when our check of that path succeeds.
"""

from __future__ import annotations

from iceagent.core import constants
from iceagent.core.ice.model.pair import Path


class HeldData:
    """Datagrams by path, in order of arrival; the newest are refused when full."""

    def __init__(self) -> None:
        self._datagrams: dict[Path, list[bytes]] = {}
        self._count = 0
        self._bytes = 0

    def hold(self, path: Path, datagram: bytes) -> bool:
        """Keep a datagram; return False if there is no room."""
        if self._count >= constants.MAX_HELD_DATAGRAMS or self._bytes + len(datagram) > constants.MAX_HELD_BYTES:
            return False
        self._datagrams.setdefault(path, []).append(datagram)
        self._count += 1
        self._bytes += len(datagram)
        return True

    def release(self, path: Path) -> tuple[bytes, ...]:
        """Return and forget what was kept for a path."""
        datagrams = tuple(self._datagrams.pop(path, ()))
        self._count -= len(datagrams)
        self._bytes -= sum(map(len, datagrams))
        return datagrams

    def clear(self) -> None:
        """Forget everything."""
        self._datagrams.clear()
        self._count = self._bytes = 0
