"""Who guesses nameplates, as cleverly as can be: with which number, from where, and when it can be paid for.

Work is not done but credited: a guesser has so many rounds a second, and waits until what a puzzle takes in the mean
has been earned. A relay of the tests takes `CREDIT` for a solution (`credited`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from icesignal.nameplates import MAX_DIGITS
from icesignal.work import NONCE_BYTES, PARTS, Work

CREDIT = b"credited" * PARTS
CORES = 8
ROUNDS_PER_S = 10e6
"""Of one core: OpenSSL's PBKDF2-HMAC-SHA-256 does 4 to 5 million with SHA extensions; a better program may do twice."""
SOURCES = [f"11.{number // 256}.{number % 256}.1" for number in range(500)]
"""Each in a /24 of its own, so that no network bounds several of them."""


def credited(is_solved: Callable[[Work, bytes, bytes], bool]) -> Callable[[Work, bytes, bytes], bool]:
    """Return what takes credit for a solution, and costs what looking at a right one costs."""

    def check(work: Work, subject: bytes, solution: bytes) -> bool:
        if solution != CREDIT:
            return is_solved(work, subject, solution)
        easy = Work(challenge=work.challenge, rounds=work.rounds, bits=0, parts=work.parts)
        return is_solved(easy, subject, bytes(NONCE_BYTES * work.parts))

    return check


@dataclass
class Guesser:
    """What a guesser knows, and has.

    Attributes:
        random: draws the numbers.
        length: how many digits a code has that he has made himself before he began.
        rounds_per_s: that he can do, on all his processors.
    """

    random: Random
    length: int
    rounds_per_s: float = CORES * ROUNDS_PER_S
    guesses: int = 0
    hits: int = 0
    free: int = 0
    rounds_spent: float = 0.0
    _tried: dict[int, set[int]] = field(default_factory=dict)
    by_length: Counter[int] = field(default_factory=Counter)
    hits_by_length: Counter[int] = field(default_factory=Counter)

    def see(self, length: int) -> None:
        """Note how long codes are now."""
        self._longest = max(self.length, length)

    _longest: int = 0

    def number(self) -> str:
        """Return the number that is most worth a guess: of a length that had most hits, and not tried before.

        Lengths are weighed by what is known of them (Thompson sampling): one hit in 4,500 to begin with, for those that
        codes had when he came; ten times fewer for each digit more.
        """
        best, digits = -1.0, self.length
        for one in range(max(1, self.length - 1), max(self.length, self._longest) + 1):
            prior = 4_500.0 * 10 ** max(0, one - self.length)
            missed = self.by_length[one] - self.hits_by_length[one]
            drawn = self.random.betavariate(1 + self.hits_by_length[one], prior + missed)
            if drawn > best and len(self._tried.setdefault(one, set())) < 9 * 10 ** (one - 1):
                best, digits = drawn, one
        tried = self._tried.setdefault(min(digits, MAX_DIGITS), set())
        while True:
            number = self.random.randrange(10 ** (digits - 1), 10**digits)
            if number not in tried or len(tried) > 8 * 10 ** (digits - 1):
                tried.add(number)
                return str(number)

    def pays_at(self, work: Work, began: float) -> float:
        """Take a puzzle on; return when it is solved."""
        self.rounds_spent += work.tries * work.rounds
        return began + self.rounds_spent / self.rounds_per_s

    def note(self, number: str, *, is_hit: bool, was_free: bool) -> None:
        """Note what became of a guess."""
        self.guesses += 1
        self.hits += is_hit
        self.free += was_free
        self.by_length[len(number)] += 1
        self.hits_by_length[len(number)] += is_hit
