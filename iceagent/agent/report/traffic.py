"""How much application data went over each path. Counted per batch, so that a bulk flow pays next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from iceagent.core.address import TransportAddress
from iceagent.net.batch import Batch

MAX_PATHS: Final = 64  # ours: of the paths before those only the sum is kept

PathAddresses: TypeAlias = tuple[TransportAddress, TransportAddress]  # (local base, remote address)


@dataclass(slots=True)
class PathTraffic:
    """Application data of one path; times are those of Trio's clock, None before the first packet.

    `packets_discarded`: refused by the socket, as too large or with no route; of their bytes it is known whose batch
    they were part of, so they count with its mean size.
    """

    packets_sent: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    bytes_received: int = 0
    packets_discarded: int = 0
    bytes_discarded: int = 0
    last_sent_at: float | None = None
    last_received_at: float | None = None

    def add(self, other: PathTraffic) -> None:
        """Add the counters of another path."""
        self.packets_sent += other.packets_sent
        self.bytes_sent += other.bytes_sent
        self.packets_received += other.packets_received
        self.bytes_received += other.bytes_received
        self.packets_discarded += other.packets_discarded
        self.bytes_discarded += other.bytes_discarded


class Traffic:
    """The paths of one agent that data has taken."""

    __slots__ = ("_past", "_paths")

    def __init__(self) -> None:
        self._paths: dict[PathAddresses, PathTraffic] = {}
        self._past: PathTraffic | None = None

    def sent(self, now: float, path: PathAddresses, datagrams: Sequence[bytes], discarded: int = 0) -> None:
        """Count a batch that was sent, `discarded` of it refused by the socket."""
        traffic = self._paths.get(path) or self._begin(path)
        count = len(datagrams)
        size = len(datagrams[0]) if count == 1 else sum(map(len, datagrams))
        if discarded:
            lost = size * discarded // count
            traffic.packets_discarded += discarded
            traffic.bytes_discarded += lost
            count -= discarded
            size -= lost
        traffic.packets_sent += count
        traffic.bytes_sent += size
        traffic.last_sent_at = now

    def received(self, now: float, base: TransportAddress, batch: Batch) -> None:
        """Count a batch that was handed to the user."""
        path = (base, batch.remote)
        traffic = self._paths.get(path) or self._begin(path)
        traffic.packets_received += len(batch)
        traffic.bytes_received += len(batch.data)
        traffic.last_received_at = now

    def of(self, path: PathAddresses) -> PathTraffic:
        """Return what a path has carried."""
        return self._paths.get(path) or PathTraffic()

    def total(self) -> PathTraffic:
        """Return what all paths have carried."""
        total = PathTraffic()
        if self._past is not None:
            total.add(self._past)
        for traffic in self._paths.values():
            total.add(traffic)
        return total

    def _begin(self, path: PathAddresses) -> PathTraffic:
        if len(self._paths) >= MAX_PATHS:
            if self._past is None:
                self._past = PathTraffic()
            oldest = next(iter(self._paths))
            self._past.add(self._paths.pop(oldest))
        traffic = self._paths[path] = PathTraffic()
        return traffic
