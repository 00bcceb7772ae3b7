"""Who may see the status page: whoever has the token. Sans-IO."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from enum import IntEnum

from icesignal.sources import Limits, Rate, SourceTable

GUESSES = Rate(10, 0.1)  # ours: wrong tokens of a source; more than a person mistypes in a minute
MAX_SOURCES = 1_000


class Admission(IntEnum):
    """What a request with a token is worth, as HTTP says it."""

    RIGHT = 200
    WRONG = 401
    TOO_MANY = 429


class TokenDoor:
    """Compares tokens. Of a source with too many wrong ones none is looked at for a while, not even the right one."""

    def __init__(self, token: bytes) -> None:
        self._token = token
        self._sources = SourceTable(Limits(claims=GUESSES, max_sources=MAX_SOURCES))

    def check(self, now: float, host: str, credentials: Sequence[bytes]) -> Admission:
        """Return what the values of a request's `Authorization` are worth.

        Args:
            now: Trio's time, seconds.
            host: the address that the request came from.
            credentials: the values; `Bearer TOKEN` is what there should be, once. Source: RFC 6750 section 2.1.
        """
        if not credentials:
            return Admission.WRONG  # who has said nothing has not guessed
        party = self._sources.party(now, host)
        if not party.has("claims", now):
            return Admission.TOO_MANY
        scheme, _, token = credentials[0].partition(b" ")
        if len(credentials) == 1 and scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token):
            return Admission.RIGHT
        party.charge("claims", now, 1.0)
        return Admission.WRONG
