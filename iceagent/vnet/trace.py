"""The trace: what happened to every packet, in a form in which two runs can be compared."""

from __future__ import annotations

import zlib
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from iceagent.vnet.packet import Packet

TRACE_LIMIT = 100_000


class TraceRecord(NamedTuple):
    """One thing that happened to a packet; `str()` gives its line."""

    at_s: float
    """Seconds since the network was started."""
    place: str
    """The host, router or interface where it happened."""
    event: str
    """`send`, `deliver`, `nat-out`, `nat-in`, `hairpin`, `drop`, or a fault that was set off."""
    packet: Packet
    """The packet before the event."""
    detail: str
    """The reason of a drop, the new endpoint of a translation."""

    def __str__(self) -> str:
        packet = self.packet
        line = f"{self.at_s:.6f} {self.place} {self.event} {packet.source} > {packet.destination}"
        if packet.quote is None:
            kind = "udp"
            if packet.segment is not None:
                flags, sequence, acknowledged, window = packet.segment
                kind = f"tcp {flags} {sequence} {acknowledged} {window}"
            line += f" {kind} {len(packet.data)} {zlib.crc32(packet.data):08x}"
        else:
            line += f" icmp {packet.quote.errno} [{packet.quote.source} > {packet.quote.destination}]"
        return f"{line} {self.detail}" if self.detail else line


@dataclass(slots=True)
class NetworkStatistics:
    """What a virtual network has counted since it was made."""

    packets_sent: int = 0
    packets_delivered: int = 0
    packets_dropped: Counter[str] = field(default_factory=Counter[str])
    """By reason."""
    sockets_left_open: int = 0
    """Sockets that had not been closed when the network ended; 0 if the software under test cleans up."""


class Trace:
    """Counts everything and remembers the last `limit` records."""

    def __init__(self, limit: int) -> None:
        self.records: deque[TraceRecord] = deque(maxlen=limit)
        self.statistics = NetworkStatistics()

    def add(self, at_s: float, place: str, event: str, packet: Packet, detail: str = "") -> None:
        """Count and remember one event."""
        if event == "send":
            self.statistics.packets_sent += 1
        elif event == "deliver":
            self.statistics.packets_delivered += 1
        elif event == "drop":
            self.statistics.packets_dropped[detail] += 1
        if self.records.maxlen:
            self.records.append(TraceRecord(at_s, place, event, packet, detail))
