"""Nameplates: short random numbers, none of which is used again at once. Sans-IO.

Source: docs/relay-protocol.md section 5.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

MAX_DIGITS = 9
FEW_GUESSES = 8.0  # ours: people mistype, too
NUMBERS_PER_CODE = 4_500  # ours: with work for each guess a code that is burnt costs 20 minutes of a processor
MOST_GUESSES = 1e9  # ours: more make no number longer
GUESS_HALF_LIFE_S = 300.0  # ours: an attack of long ago must not make everybody's codes longer


def sparse_digits(waiting: int) -> int:
    """Return how many digits numbers have of which so many wait to be claimed: one guess of 4,500 finds one."""
    return next((n for n in range(1, MAX_DIGITS) if NUMBERS_PER_CODE * waiting <= 9 * 10 ** (n - 1)), MAX_DIGITS)


class Guesses:
    """How much guessing there is at the relay: guesses of late, those of five minutes ago counted half."""

    def __init__(self) -> None:
        self._amount = 0.0
        self._at = -math.inf

    def note(self, now: float) -> None:
        """Count one."""
        self._amount = min(self.amount(now) + 1.0, MOST_GUESSES)
        self._at = now

    def set(self, now: float, amount: float) -> None:
        """Take an amount that was counted elsewhere, too."""
        self._amount, self._at = min(amount, MOST_GUESSES) if amount > 0.0 else 0.0, now  # nor NaN

    def digits(self, now: float) -> int:
        """Return by how many digits new numbers are to be longer.

        One at 8 guesses, one more for each four times as many: ten times the numbers against four times the guesses.
        """
        amount = self.amount(now)
        return 0 if amount < FEW_GUESSES else 1 + int(math.log(amount / FEW_GUESSES, 4))

    def amount(self, now: float) -> float:
        """Return how many there have been of late."""
        return self._amount * math.exp2(min(0.0, self._at - now) / GUESS_HALF_LIFE_S)  # clocks are set back, too


class NameplateBook(Protocol):
    """What hands out numbers, and knows which were in use not long ago."""

    def take(self, now: float) -> str:
        """Return a number that nobody has."""
        ...

    def note_guess(self, now: float) -> None:
        """Note that somebody named a number that leads nowhere, or took a place without proving himself."""
        ...

    def guesses_of_late(self, now: float) -> float:
        """Return how many there have been of late."""
        ...

    def claim(self, number: str) -> None:
        """Note that somebody has come under a number: it can be guessed no more."""
        ...

    def rest(self, now: float, number: str) -> None:
        """Take a number back; it rests from now on."""
        ...

    def is_resting(self, number: str) -> bool:
        """Return whether the number was in use not long ago."""
        ...

    def forget(self, now: float) -> None:
        """Let go of the numbers that have rested."""
        ...

    def next_timeout(self) -> float | None:
        """Return when the next number has rested."""
        ...


class Nameplates:
    """Hands out numbers, the shortest that are not too scarce."""

    def __init__(self, randbytes: Callable[[int], bytes], rest_s: float, max_resting: int, min_digits: int = 1) -> None:
        """Make a set with nothing taken.

        Args:
            randbytes: a cryptographic source.
            rest_s: how long a number rests, seconds.
            max_resting: above this the longest-resting number is let go early.
            min_digits: of every number.
        """
        self._min_digits = min_digits
        self._randbytes = randbytes
        self._rest_s = rest_s
        self._max_resting = max_resting
        self._taken: set[str] = set()
        self._claimed: set[str] = set()  # of those
        self._resting: OrderedDict[str, float] = OrderedDict()  # number -> when it may come again, oldest first
        self._unavailable = [0] * (MAX_DIGITS + 1)  # by number of digits
        self._guesses = Guesses()

    def take(self, now: float = 0.0) -> str:
        """Return a number that nobody has, of the fewest digits that are sparse enough, or more.

        Args:
            now: the time, by which old guesses count less.
        """
        sparse = sparse_digits(len(self._taken) - len(self._claimed) + 1)
        shortest = self._roomy(max(self._min_digits, sparse))
        digits = self._roomy(min(MAX_DIGITS, shortest + self._guesses.digits(now)))
        lowest = 10 ** (digits - 1)
        while True:  # more than half is free, so two tries on average
            number = str(lowest + int.from_bytes(self._randbytes(8), "big") % (9 * lowest))
            if number not in self._taken and number not in self._resting:
                self._taken.add(number)
                self._unavailable[digits] += 1
                return number

    def note_guess(self, now: float) -> None:
        """Note that somebody named a number that leads nowhere, or took a place without proving himself."""
        self._guesses.note(now)

    def guesses_of_late(self, now: float) -> float:
        """Return how many there have been of late."""
        return self._guesses.amount(now)

    def claim(self, number: str) -> None:
        """Note that somebody has come under a number: it can be guessed no more."""
        if number in self._taken:
            self._claimed.add(number)

    def _roomy(self, digits: int) -> int:
        """Return the fewest digits, at least so many, whose numbers are less than half used."""
        return next((n for n in range(digits, MAX_DIGITS) if 2 * self._unavailable[n] < 9 * 10 ** (n - 1)), MAX_DIGITS)

    def rest(self, now: float, number: str) -> None:
        """Take a number back; it rests from now on."""
        self._taken.discard(number)
        self._claimed.discard(number)
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
