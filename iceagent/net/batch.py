"""Many datagrams as one buffer: which of them one GSO call can carry, and which arrivals make one batch.

Linux sends a list of datagrams in one system call if all have one length and only the last may be shorter
(UDP_SEGMENT), and delivers datagrams that arrived together in the same form (UDP_GRO). Source: Linux
`Documentation/networking/segmentation-offloads.rst`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from iceagent.core.address import TransportAddress

SOL_UDP = 17
UDP_SEGMENT = 103  # linux/udp.h
UDP_GRO = 104  # linux/udp.h
MAX_SEGMENTS = 64  # UDP_MAX_SEGMENTS of linux/udp.h; newer kernels take 128, older ones 64
MAX_PAYLOAD = 65507  # 65535 less the IPv4 and UDP headers: the longest datagram, and the longest GSO call
MAX_BATCH = 65535  # bytes; the longest buffer the kernel merges, kept as the bound for ours

Arrival = tuple[TransportAddress, int, int, int, str | None]
"""One receive call: remote, segment size, where it lies in the scratch buffer (start, end), and the local address."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Datagrams of one remote address that arrived together, as one buffer.

    `data` holds them back to back: each is `segment_size` bytes long, the last one may be shorter. That is what the
    kernel delivers with UDP_GRO, and it is kept whole so that a bulk flow costs one Python object per 50 packets.

    `local` is the address of ours that they came to, where the socket is bound to a wildcard and the system says; with
    its zone if link-local. An answer leaves from there: `send_nowait(..., source=batch.local)`.
    """

    remote: TransportAddress
    data: bytes
    segment_size: int
    local: str | None = None

    def __len__(self) -> int:
        """Return the number of datagrams; 1 for an empty datagram."""
        return max(1, -(-len(self.data) // self.segment_size))

    def datagrams(self) -> list[bytes]:
        """Return the datagrams one by one, in order."""
        size = self.segment_size
        if len(self.data) <= size:
            return [self.data]
        return [self.data[at : at + size] for at in range(0, len(self.data), size)]


def run_end(datagrams: Sequence[bytes], start: int) -> int:
    """Return the end (exclusive) of the run from `start` that one GSO call can carry: at least one datagram."""
    size = len(datagrams[start])
    end = start + 1
    if not size:
        return end
    limit = min(len(datagrams), start + min(MAX_SEGMENTS, MAX_PAYLOAD // size))
    lengths = list(map(len, datagrams[start:limit]))
    if lengths.count(size) == limit - start > 0:
        return limit  # a bulk flow: no loop of ours
    while end < limit:
        length = lengths[end - start]
        if length != size:
            # An empty one cannot end a run: it would add nothing to the buffer and vanish.
            return end + 1 if 0 < length < size else end
        end += 1
    return end


@lru_cache(maxsize=256)
def segment_cmsg(size: int) -> list[tuple[int, int, bytes]]:
    """Return the ancillary data that asks the kernel to cut a buffer into datagrams of `size` bytes."""
    return [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))]


def join_arrivals(scratch: memoryview, arrivals: Sequence[Arrival]) -> list[Batch]:
    """Copy arrivals out of the scratch buffer, neighbours of one remote, one size and one address of ours as one batch.

    Arrivals lie back to back, so a plain socket that was read 50 times yields the same batch as one GRO buffer.
    """
    batches: list[Batch] = []
    remote, size, start, end, local = arrivals[0]
    for next_remote, next_size, next_start, next_end, next_local in arrivals[1:]:
        length = next_end - next_start
        if (
            next_remote == remote
            and next_local == local
            and end > start
            and (end - start) % size == 0
            and next_end - start <= MAX_BATCH
            and ((next_size == size and length) or 0 < length == next_size < size)
        ):
            end = next_end
            continue
        batches.append(Batch(remote, scratch[start:end].tobytes(), size, local))
        remote, size, start, end, local = next_remote, next_size, next_start, next_end, next_local
    batches.append(Batch(remote, scratch[start:end].tobytes(), size, local))
    return batches
