"""Links: what the cable between a node and its router does to packets; it can be changed while the network runs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from iceagent.errors import LocalError
from iceagent.vnet.packet import Packet

QUEUE_BYTES = 256 * 1024  # what waits for a slow line, before it drops; some 2 s of 1 Mbit/s, as bloated as real ones
LEAST_MTU = 576  # RFC 791: what every host must take


@dataclass(frozen=True, slots=True)
class Burst:
    """Loss in bursts, the model of Gilbert and Elliott: a good state that loses nothing and a bad one that loses much.

    Args:
        enter: probability per packet of going from good to bad.
        leave: probability per packet of going from bad to good; a burst is 1 / leave packets long on the average.
        loss: probability of losing a packet in the bad state.
    Raises:
        LocalError: a value is no probability.
    """

    enter: float = 0.01
    leave: float = 0.2
    loss: float = 1.0

    def __post_init__(self) -> None:
        for value in (self.enter, self.leave, self.loss):
            _check_probability("Burst", value)


class Passage(NamedTuple):
    """What becomes of one packet on a link: when it comes out and as what, or why it does not."""

    at: float
    packet: Packet
    reason: str = ""
    """Why it is lost, or empty."""


@dataclass(slots=True)
class Direction:
    """One direction of a link. All values may be changed at any time; packets under way are not touched."""

    delay_s: float = 0.0
    """Seconds from one end to the other."""
    jitter_s: float = 0.0
    """Up to so many seconds more, evenly distributed; order is kept."""
    loss: float = 0.0
    """Probability that a packet is lost, 0 to 1."""
    burst: Burst | None = None
    """Loss in bursts, besides."""
    duplicate: float = 0.0
    """Probability that a packet arrives twice."""
    reorder: float = 0.0
    """Probability that a packet is held back for `reorder_s`, so that later ones overtake it."""
    reorder_s: float = 0.05
    """Seconds that a packet to be reordered is held back."""
    corrupt: float = 0.0
    """Probability that one bit of a datagram's content is flipped; of a TCP segment: that its checksum discards it."""
    rate_bps: float | None = None
    """Bits per second, headers included; None: as many as one likes."""
    queue_bytes: int = QUEUE_BYTES
    """Bytes that may wait for their turn where there is a rate; what comes then is dropped."""
    mtu: int | None = None
    """Bytes of the largest IP packet; None: any size. Nothing is fragmented: all packets are sent as if with DF set."""
    tells_mtu: bool = True
    """Whether a packet that is too big is answered with ICMP, or lost without a word: a black hole."""
    _last_arrival_at: float = field(default=0.0, repr=False)
    _busy_until: float = field(default=0.0, repr=False)
    _is_bad: bool = field(default=False, repr=False)

    def transit(self, now: float, packet: Packet, rng: random.Random) -> Passage:
        """Return what becomes of a packet sent at `now`; `doubles` says whether it comes out twice."""
        lost = self.loss > 0 and rng.random() < self.loss
        arrives_at = now + self.delay_s
        if self.jitter_s > 0:
            arrives_at += rng.random() * self.jitter_s
        reason = "lost" if lost else ""
        if self.burst is not None and self._is_in_burst(self.burst, rng):
            reason = "lost"
        if self.rate_bps is not None:
            waits_s = self._enqueue(now, packet.wire_size, self.rate_bps)
            if waits_s is None:
                return Passage(now, packet, "queue full")
            arrives_at += waits_s
        if self.corrupt > 0 and rng.random() < self.corrupt:
            packet, reason = _corrupted(packet, rng, reason)
        if self.reorder > 0 and rng.random() < self.reorder:
            return Passage(arrives_at + self.reorder_s, packet, reason)
        # A wire is a queue: jitter and a shortened delay hold packets up, they do not let one overtake another.
        if arrives_at < self._last_arrival_at:
            arrives_at = self._last_arrival_at
        self._last_arrival_at = arrives_at
        return Passage(arrives_at, packet, reason)

    def doubles(self, rng: random.Random) -> bool:
        """Return whether the packet just sent is to arrive twice."""
        return self.duplicate > 0 and rng.random() < self.duplicate

    def _is_in_burst(self, burst: Burst, rng: random.Random) -> bool:
        if rng.random() < (burst.leave if self._is_bad else burst.enter):
            self._is_bad = not self._is_bad
        return self._is_bad and rng.random() < burst.loss

    def _enqueue(self, now: float, size: int, rate_bps: float) -> float | None:
        """Return the seconds until the line has sent a packet of `size` bytes; None: its queue is full."""
        backlog_s = max(0.0, self._busy_until - now)
        if backlog_s * rate_bps / 8 > self.queue_bytes:
            return None
        self._busy_until = now + backlog_s + size * 8 / rate_bps
        return self._busy_until - now


def _corrupted(packet: Packet, rng: random.Random, reason: str) -> tuple[Packet, str]:
    if packet.quote is not None or packet.segment is not None:
        return packet, reason or "corrupt"
    if not packet.data:
        return packet, reason
    bit = rng.randrange(len(packet.data) * 8)
    data = bytearray(packet.data)
    data[bit >> 3] ^= 1 << (bit & 7)
    return packet._replace(data=bytes(data)), reason


class Link:
    """The two directions between a node and the router it hangs on: `up` to the router, `down` from it.

    Args:
        delay_s, jitter_s: seconds, for each direction.
        loss: probability of losing a packet, for each direction.
        faults: other values of `Direction`, for both.
    Raises:
        LocalError: a value is out of range.
    """

    def __init__(self, *, delay_s: float = 0.001, jitter_s: float = 0.0, loss: float = 0.0, **faults: Any) -> None:
        self.up = Direction()
        self.down = Direction()
        self.is_cut = False
        self.change(delay_s=delay_s, jitter_s=jitter_s, loss=loss, **faults)

    def __repr__(self) -> str:
        return f"Link(up={self.up}, down={self.down}, is_cut={self.is_cut})"

    def change(
        self,
        *,
        delay_s: float | None = None,
        jitter_s: float | None = None,
        loss: float | None = None,
        **faults: Any,
    ) -> None:
        """Change both directions from now on; what is None stays as it is.

        Args:
            delay_s, jitter_s, loss: as in `Direction`.
            faults: other values of `Direction`; None takes a burst, rate or MTU away.
        Raises:
            LocalError: a value is out of range, or there is no such fault.
        """
        basic = {"delay_s": delay_s, "jitter_s": jitter_s, "loss": loss}
        changes = {name: value for name, value in basic.items() if value is not None} | faults
        _check(changes)
        for direction in (self.up, self.down):
            for name, value in changes.items():
                setattr(direction, name, value)

    def cut(self) -> None:
        """Lose everything, packets under way included, until `restore`."""
        self.is_cut = True

    def restore(self) -> None:
        """Undo `cut`."""
        self.is_cut = False


_PROBABILITIES = ("loss", "duplicate", "reorder", "corrupt")
_SECONDS = ("delay_s", "jitter_s", "reorder_s")
_OTHERS = ("burst", "rate_bps", "queue_bytes", "mtu", "tells_mtu")


def _check(changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if name in _PROBABILITIES:
            _check_probability(name, value)
        elif name in _SECONDS:
            if value < 0:
                raise LocalError(f"{name} is a number of seconds, not {value}")
        elif name not in _OTHERS:
            offered = ", ".join((*_SECONDS, *_PROBABILITIES, *_OTHERS))
            raise LocalError(f"a link has no {name!r}: choose among {offered}")
    rate_bps, mtu = changes.get("rate_bps"), changes.get("mtu")
    if (rate_bps is not None and rate_bps <= 0) or changes.get("queue_bytes", 0) < 0:
        raise LocalError("rate_bps must be positive, and queue_bytes not negative")
    if mtu is not None and mtu < LEAST_MTU:
        raise LocalError(f"an MTU of {mtu} is below {LEAST_MTU}, which every host must take")


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise LocalError(f"{name} {value} is not a probability: 0 (never) to 1 (always)")
