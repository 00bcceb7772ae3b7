"""How long an idle mapping lives: several idle sockets, each tested after a different time. RFC 5780 section 4.6.

A binary search, as in the RFC, would take the sum of all times tried; this takes only the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

from iceagent.core.discovery.behaviour import MappingLifetime


class LifetimeTest:
    """Remembers when which idle socket is to be tested, and the results.

    Args:
        lifetimes_s: idle times, one per socket.
    """

    def __init__(self, lifetimes_s: Sequence[float]) -> None:
        self._lifetimes_s = lifetimes_s
        self._due: dict[int, tuple[float, int]] = {}
        self._alive: dict[float, bool] = {}

    def opened(self, now: float, index: int, port: int) -> None:
        """Take note that a socket got its mapping, with this external port, and is idle from now on."""
        self._due[index] = (now + self._lifetimes_s[index], port)

    def due(self, now: float) -> list[tuple[int, int]]:
        """Return and forget the sockets, with their external ports, that are to be asked for now."""
        found = [(index, port) for index, (at, port) in self._due.items() if at <= now]
        for index, _ in found:
            del self._due[index]
        return found

    def next_timeout(self) -> float | None:
        """Return when the next one is due, or None."""
        return min((at for at, _ in self._due.values()), default=None)

    def concluded(self, index: int, *, alive: bool) -> None:
        """Take note whether the mapping still led to its socket."""
        self._alive[self._lifetimes_s[index]] = alive

    def result(self) -> MappingLifetime | None:
        """Return what is known: dead at one age is dead at all later ones, whatever a lost packet made of those."""
        if not self._alive:
            return None
        below_s = min((age for age, alive in self._alive.items() if not alive), default=None)
        living = [age for age, alive in self._alive.items() if alive and (below_s is None or age < below_s)]
        return MappingLifetime(max(living, default=0.0), below_s)
