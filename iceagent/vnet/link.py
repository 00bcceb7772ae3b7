"""Links: what the wire between a node and its router does to packets, changeable while the network runs."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from iceagent.errors import LocalError


@dataclass(slots=True)
class Direction:
    """One direction of a link. All values may be changed at any time; packets under way are not touched."""

    delay_s: float = 0.0
    """Seconds from one end to the other."""
    jitter_s: float = 0.0
    """Up to so many seconds more, evenly distributed; order is kept."""
    loss: float = 0.0
    """Probability that a packet is lost, 0 to 1."""
    _last_arrival_at: float = field(default=0.0, repr=False)

    def transit(self, now: float, rng: random.Random) -> tuple[float, bool]:
        """Return when a packet sent at `now` reaches the far end, and whether it is lost on the way."""
        lost = self.loss > 0 and rng.random() < self.loss
        arrives_at = now + self.delay_s
        if self.jitter_s > 0:
            arrives_at += rng.random() * self.jitter_s
        # A wire is a queue: jitter and a shortened delay hold packets up, they do not let one overtake another.
        self._last_arrival_at = arrives_at = max(arrives_at, self._last_arrival_at)
        return arrives_at, lost


class Link:
    """The two directions between a node and the router it hangs on: `up` to the router, `down` from it.

    Args:
        delay_s, jitter_s: seconds, for each direction.
        loss: probability of losing a packet, for each direction.
    Raises:
        LocalError: a value is out of range.
    """

    def __init__(self, *, delay_s: float = 0.001, jitter_s: float = 0.0, loss: float = 0.0) -> None:
        self.up = Direction()
        self.down = Direction()
        self.is_cut = False
        self.change(delay_s=delay_s, jitter_s=jitter_s, loss=loss)

    def __repr__(self) -> str:
        return f"Link(up={self.up}, down={self.down}, is_cut={self.is_cut})"

    def change(self, *, delay_s: float | None = None, jitter_s: float | None = None, loss: float | None = None) -> None:
        """Change both directions from now on; what is None stays as it is."""
        if loss is not None and not 0 <= loss <= 1:
            raise LocalError(f"loss {loss} is not a probability: 0 (nothing lost) to 1 (everything)")
        for seconds in (delay_s, jitter_s):
            if seconds is not None and seconds < 0:
                raise LocalError(f"delay_s and jitter_s are seconds, not {seconds}")
        for direction in (self.up, self.down):
            direction.delay_s = direction.delay_s if delay_s is None else delay_s
            direction.jitter_s = direction.jitter_s if jitter_s is None else jitter_s
            direction.loss = direction.loss if loss is None else loss

    def cut(self) -> None:
        """Lose everything, packets under way included, until `restore`."""
        self.is_cut = True

    def restore(self) -> None:
        """Undo `cut`."""
        self.is_cut = False
