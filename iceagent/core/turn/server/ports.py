"""The ports that relayed addresses are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from iceagent.core.turn.server.limits import FIRST_PORT, LAST_PORT, PORT_REST_S

_RANDOM_TRIES: Final = 32


class PortPool:
    """The ports of one IP address. Each is free, in use or at rest, and always exactly one of these.

    A port is chosen at random, so that nobody can guess where the next relay will be (RFC 8656 section 7.2), and rests
    after its release. Resting ports are used when no others are left, longest rested first.

    Args:
        first: lowest port.
        last: highest port.
        randbytes: from a secure source.

    Raises:
        ValueError: the range is empty or reaches beyond 1 to 65535.
    """

    def __init__(self, randbytes: Callable[[int], bytes], first: int = FIRST_PORT, last: int = LAST_PORT) -> None:
        if not 1 <= first <= last <= 65535:
            raise ValueError(f"{first}-{last} is no range of ports")
        self._randbytes = randbytes
        self._first = first
        self._count = last - first + 1
        self._used: set[int] = set()
        self._resting: dict[int, float] = {}  # port: until when; longest rested first

    def __len__(self) -> int:
        """Return how many ports the pool has in all."""
        return self._count

    @property
    def used(self) -> int:
        """How many are in use or reserved."""
        return len(self._used)

    @property
    def resting(self) -> int:
        """How many rest."""
        return len(self._resting)

    @property
    def free(self) -> int:
        """How many have not been used of late."""
        return self._count - len(self._used) - len(self._resting)

    def take(self, now: float, *, even: bool = False, pair: bool = False) -> int | None:
        """Return a port and mark it used; None when there is none.

        Args:
            now: seconds.
            even: only an even one.
            pair: mark the next one used, too; implies `even`.
        """
        self._wake(now)
        good = self._is_good_pair if pair else self._is_good_even if even else self._is_good
        port = self._random(good)
        if port is None:
            port = next((one for one in range(self._first, self._first + self._count) if good(one)), None)
        if port is None and self._resting:
            self._wake(now, all_of_them=True)
            return self.take(now, even=even, pair=pair)
        if port is not None:
            self._used.add(port)
            if pair:
                self._used.add(port + 1)
        return port

    def release(self, now: float, port: int) -> None:
        """Let a used port rest.

        Raises:
            KeyError: it is not in use.
        """
        self._used.remove(port)
        self._resting[port] = now + PORT_REST_S

    def _wake(self, now: float, *, all_of_them: bool = False) -> None:
        for port in list(self._resting):
            if self._resting[port] > now and not all_of_them:
                return
            del self._resting[port]

    def _random(self, good: Callable[[int], bool]) -> int | None:
        if not self.free:
            return None
        for _ in range(_RANDOM_TRIES):
            # 32 bits over at most 16: no port is favoured by more than one in 65,536.
            port = self._first + int.from_bytes(self._randbytes(4), "big") % self._count
            if good(port):
                return port
        return None

    def _is_good(self, port: int) -> bool:
        return port not in self._used and port not in self._resting

    def _is_good_even(self, port: int) -> bool:
        return port % 2 == 0 and self._is_good(port)

    def _is_good_pair(self, port: int) -> bool:
        return self._is_good_even(port) and port + 1 < self._first + self._count and self._is_good(port + 1)
