"""Proof of work: what the claim of a nameplate costs while there is guessing at a relay. Pure.

A puzzle has several parts, so that the time it takes varies little: of 8 parts that take 0.25 s in the mean one in a
hundred takes more than 0.5 s, where a single part would take more than 1.2 s. The hash is one that every language has
as compiled code, so that an honest client is hardly slower than whoever guesses.
Source: docs/relay-protocol.md section 10.1.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable
from typing import Annotated, Final

import msgspec

ALGORITHM: Final = "pbkdf2-sha256"
ROUNDS: Final = 512
PARTS: Final = 8
NONCE_BYTES: Final = 8
CHALLENGE_BYTES: Final = 16
MAX_PARTS: Final = 32
MAX_BITS: Final = 32
MAX_ROUNDS: Final = 1 << 24
"""How many rounds a client does for one entry, in the mean: some 4 s. A relay that asks for more is not served."""

Small = Annotated[int, msgspec.Meta(ge=1, le=MAX_ROUNDS)]


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A puzzle: for each of `parts` a number is to be found whose hash of `rounds` rounds begins with `bits` zeros."""

    algorithm: Annotated[str, msgspec.Meta(max_length=40)] = ALGORITHM
    challenge: Annotated[bytes, msgspec.Meta(min_length=1, max_length=64)]
    rounds: Small = ROUNDS
    bits: Annotated[int, msgspec.Meta(ge=0, le=MAX_BITS)]
    parts: Annotated[int, msgspec.Meta(ge=1, le=MAX_PARTS)] = PARTS

    @property
    def tries(self) -> int:
        """How many hashes it takes, in the mean."""
        return self.parts << self.bits

    @property
    def is_bearable(self) -> bool:
        """Whether a client does so much."""
        return self.tries * self.rounds <= MAX_ROUNDS


Solution = Annotated[bytes, msgspec.Meta(max_length=MAX_PARTS * NONCE_BYTES)]


class WorkStopped(Exception):
    """Nobody wants the solution any more."""


def make_puzzle(tries: int, randbytes: Callable[[int], bytes]) -> Work:
    """Return a new puzzle that takes about so many hashes: a power of two, at least one for each part."""
    bits = max(0, round(math.log2(max(1, tries) / PARTS)))
    return Work(challenge=randbytes(CHALLENGE_BYTES), bits=min(bits, MAX_BITS))


def is_solved(work: Work, subject: bytes, solution: bytes) -> bool:
    """Return whether a solution is one. Costs one hash where it is wrong, and one for each part where it is right.

    Args:
        work: a puzzle of our own.
        subject: the session and the nameplate of the entry that it is for.
        solution: 8 bytes for each part.
    """
    if len(solution) != work.parts * NONCE_BYTES:
        return False
    nonces = (solution[at : at + NONCE_BYTES] for at in range(0, len(solution), NONCE_BYTES))
    return all(_fits(work, subject, part, nonce) for part, nonce in enumerate(nonces))


def solve(work: Work, subject: bytes, is_stopped: Callable[[], bool] = lambda: False) -> bytes:
    """Return a solution.

    Args:
        work: a puzzle that is bearable.
        subject: the session and the nameplate of the entry that it is for.
        is_stopped: looked at before each hash.
    Raises:
        WorkStopped: `is_stopped` said so.
    """
    found = b""
    number = int.from_bytes(secrets.token_bytes(NONCE_BYTES), "big")
    for part in range(work.parts):
        while True:
            if is_stopped():
                raise WorkStopped
            number = (number + 1) % (1 << 8 * NONCE_BYTES)
            nonce = number.to_bytes(NONCE_BYTES, "big")
            if _fits(work, subject, part, nonce):
                found += nonce
                break
    return found


def _fits(work: Work, subject: bytes, part: int, nonce: bytes) -> bool:
    salt = b"icesignal/1 work\0" + work.challenge + bytes([part]) + subject
    digest = hashlib.pbkdf2_hmac("sha256", nonce, salt, work.rounds)
    return int.from_bytes(digest, "big") >> (8 * len(digest) - work.bits) == 0
