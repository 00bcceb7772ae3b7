"""How many rooms, and how much of the memory for logs, each source uses: a limit for each. Sans-IO.

Source: docs/relay-protocol.md section 10.
"""

from __future__ import annotations

from dataclasses import dataclass

from icesignal.sources import Levels


@dataclass(slots=True)
class SourceUsage:
    """What one source, or one network of sources, has now."""

    rooms: int = 0
    log_bytes: int = 0


class Shares:
    """The shares of all who have rooms; who has none is forgotten."""

    def __init__(self, max_rooms: int, max_log_bytes: int) -> None:
        """Make an empty table with what one source may have; a network of sources may have its scale of that."""
        self._max_rooms = max_rooms
        self._max_log_bytes = max_log_bytes
        self._by_name: dict[str, SourceUsage] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def may_open(self, levels: Levels) -> bool:
        """Return whether another room has place at every level."""
        return all(self._share(name).rooms < self._max_rooms * scale for name, scale in levels)

    def may_store(self, levels: Levels, size: int) -> bool:
        """Return whether so many more bytes have place at every level."""
        return all(self._share(name).log_bytes + size <= self._max_log_bytes * scale for name, scale in levels)

    def open(self, levels: Levels) -> None:
        """Count one more room."""
        for name, _ in levels:
            self._by_name.setdefault(name, SourceUsage()).rooms += 1

    def store(self, levels: Levels, size: int) -> None:
        """Count more bytes, or fewer if negative, in the logs of rooms that are open."""
        for name, _ in levels:
            self._by_name[name].log_bytes += size

    def close(self, levels: Levels, log_bytes: int) -> None:
        """Count one room less, and what its log held."""
        for name, _ in levels:
            share = self._by_name[name]
            share.rooms -= 1
            share.log_bytes -= log_bytes
            if share.rooms == 0:
                del self._by_name[name]

    def _share(self, name: str) -> SourceUsage:
        return self._by_name.get(name, SourceUsage())
