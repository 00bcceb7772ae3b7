"""Nameplates: short random numbers, each resting a while before it comes again. Sans-IO.

Source: docs/relay-protocol.md section 5.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

MAX_DIGITS = 9


class Nameplates:
    """Hands out numbers, the shortest that are not too scarce."""

    def __init__(self, randbytes: Callable[[int], bytes], rest_s: float, max_resting: int) -> None:
        """Make a set with nothing taken.

        Args:
            randbytes: a cryptographic source.
            rest_s: how long a number rests, seconds.
            max_resting: above this the longest-resting number is let go early.
        """
        self._randbytes = randbytes
        self._rest_s = rest_s
        self._max_resting = max_resting
        self._taken: set[str] = set()
        self._resting: OrderedDict[str, float] = OrderedDict()  # number -> when it may come again, oldest first
        self._unavailable = [0] * (MAX_DIGITS + 1)  # by number of digits

    def take(self) -> str:
        """Return a number that nobody has, of the fewest digits that are less than half used."""
        digits = next(
            (digits for digits in range(1, MAX_DIGITS) if 2 * self._unavailable[digits] < 9 * 10 ** (digits - 1)),
            MAX_DIGITS,
        )
        lowest = 10 ** (digits - 1)
        while True:  # more than half is free, so two tries on average
            number = str(lowest + int.from_bytes(self._randbytes(8), "big") % (9 * lowest))
            if number not in self._taken and number not in self._resting:
                self._taken.add(number)
                self._unavailable[digits] += 1
                return number

    def rest(self, now: float, number: str) -> None:
        """Take a number back; it rests from now on."""
        self._taken.discard(number)
        self._resting[number] = now + self._rest_s
        if len(self._resting) > self._max_resting:
            self._wake()

    def is_resting(self, number: str) -> bool:
        """Return whether the number was in use not long ago."""
        return number in self._resting

    def forget(self, now: float) -> None:
        """Let go of the numbers that have rested."""
        while self._resting and next(iter(self._resting.values())) <= now:
            self._wake()

    def next_timeout(self) -> float | None:
        """Return when the next number has rested."""
        return next(iter(self._resting.values()), None)

    def _wake(self) -> None:
        number, _ = self._resting.popitem(last=False)
        self._unavailable[len(number)] -= 1
