"""The client's half of the long-term credential mechanism. RFC 8489 section 9.2, falling back to RFC 5389."""

from __future__ import annotations

from enum import Enum
from typing import Final

from iceagent.core import stun
from iceagent.core.turn.credentials import TurnCredentials

_MAX_TEXT: Final = 127  # RFC 8489 sections 14.9 and 14.10: characters of REALM and NONCE


class Challenge(Enum):
    """What a 401 or 438 means for the request it answers."""

    RETRY = "retry"  # with what the server has just sent
    NO_CREDENTIALS = "no credentials"
    REFUSED = "refused"
    BID_DOWN = "bid down"


class ClientAuthenticator:
    """What the server has sent (realm, nonce, algorithms), and the keys derived from it and the credentials.

    Args:
        credentials: None where the server is expected to ask for none.
    """

    def __init__(self, credentials: TurnCredentials | None) -> None:
        self.credentials = credentials
        self._realm: str | None = None
        self._nonce = ""
        self._offered: tuple[stun.Algorithm, ...] = ()
        self._algorithm: stun.Algorithm | None = None
        self._anonymous = False
        self._keys: dict[tuple[TurnCredentials, str, int], bytes] = {}

    @property
    def nonce(self) -> str:
        """The newest nonce; empty before the first challenge."""
        return self._nonce

    @property
    def integrity(self) -> stun.Integrity:
        """What protects requests: SHA-256 alone once the server has offered algorithms (RFC 8489 section 9.2.5)."""
        return stun.Integrity.SHA256 if self._offered else stun.Integrity.SHA1

    def key(self, credentials: TurnCredentials | None = None) -> bytes | None:
        """Return the key of requests, or None before the first challenge."""
        chosen = credentials or self.credentials
        if chosen is None or self._realm is None:
            return None
        number = stun.MD5.number if self._algorithm is None else self._algorithm.number
        slot = (chosen, self._realm, number)
        if slot not in self._keys:
            if len(self._keys) >= 4:
                self._keys.clear()
            self._keys[slot] = stun.long_term_key(chosen.username, self._realm, chosen.password, number)
        return self._keys[slot]

    def attributes(self, credentials: TurnCredentials | None = None) -> list[stun.Attribute]:
        """Return what an authenticated request carries besides its own; nothing before the first challenge.

        Source: RFC 8489 section 9.2.3.2.
        """
        chosen = credentials or self.credentials
        if chosen is None or self._realm is None:
            return []
        found: list[stun.Attribute] = []
        if self._anonymous:
            found.append(stun.Userhash(stun.userhash(chosen.username, self._realm)))
        else:
            found.append(stun.Username(stun.opaque_string(chosen.username)))
        found += [stun.Realm(self._realm), stun.Nonce(self._nonce)]
        if self._offered and self._algorithm is not None:
            found += [stun.PasswordAlgorithms(self._offered), stun.PasswordAlgorithm(self._algorithm)]
        return found

    def handle_challenge(self, response: stun.Message, sent_nonce: str) -> Challenge:
        """Learn from a 401 or 438 that answers a request sent with `sent_nonce` ("" without credentials).

        A 401 with the nonce we used, or without a new one, means that the credentials are wrong. A 438, or a 401 with
        another nonce (a server that was restarted), means to try again.

        Source: RFC 8489 section 9.2.5.
        """
        if self.credentials is None:
            return Challenge.NO_CREDENTIALS
        nonce, realm = response.get(stun.Nonce), response.get(stun.Realm)
        if nonce is None or (realm is None and self._realm is None):
            return Challenge.REFUSED
        if (sent_nonce and nonce.value == sent_nonce) or not _fits(nonce.value):
            return Challenge.REFUSED
        features = stun.security_features(nonce.value)
        offered = response.get(stun.PasswordAlgorithms)
        if features is not None and stun.SecurityFeature.PASSWORD_ALGORITHMS in features and offered is None:
            return Challenge.BID_DOWN  # the cookie, which nobody can take back, promises what is missing
        if not self._choose(features, offered):
            return Challenge.REFUSED
        if realm is not None:
            if not _fits(realm.value) or not self._makes_keys(realm.value):
                return Challenge.REFUSED
            self._realm = realm.value
        self._nonce = nonce.value
        self._anonymous = features is not None and stun.SecurityFeature.USERNAME_ANONYMITY in features
        return Challenge.RETRY

    def handle_success(self, response: stun.Message) -> None:
        """Take a nonce that comes with a success: the next one to use."""
        nonce = response.get(stun.Nonce)
        if nonce is not None and self._nonce and _fits(nonce.value):
            self._nonce = nonce.value

    def _makes_keys(self, realm: str) -> bool:
        """Return whether keys can be made: OpaqueString forbids much, in a realm as in a password."""
        try:
            stun.opaque_string(realm)
            if self.credentials is not None:
                self.credentials.check()
        except ValueError:
            return False
        return True

    def _choose(self, features: stun.SecurityFeature | None, offered: stun.PasswordAlgorithms | None) -> bool:
        """Take the server's first algorithm that we know; without any offered it is the MD5 of RFC 5389."""
        if features is None or stun.SecurityFeature.PASSWORD_ALGORITHMS not in features or offered is None:
            self._offered, self._algorithm = (), None
            return True
        known = (stun.MD5.number, stun.SHA256.number)
        chosen = next((algorithm for algorithm in offered.algorithms if algorithm.number in known), None)
        if chosen is None:
            return False
        strongest = next((one for one in offered.algorithms if one.number == stun.SHA256.number), chosen)
        self._offered, self._algorithm = offered.algorithms, strongest
        return True


def _fits(text: str) -> bool:
    return 0 < len(text) <= _MAX_TEXT
