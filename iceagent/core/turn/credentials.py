"""Credentials of TURN users, also the short-lived ones made from a secret that relay and server share."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field

from iceagent.core import stun


@dataclass(frozen=True, slots=True)
class TurnCredentials:
    """A user name and its password.

    Attributes:
        username: as the server knows it.
        password: kept out of `repr` and logs.
        expires_at: Unix time, seconds, after which the server may refuse them; None: never.
    """

    username: str
    password: str = field(repr=False)
    expires_at: float | None = None

    def check(self) -> None:
        """Refuse what cannot be sent to a server.

        Raises:
            ValueError: the user name is too long, or either is empty, no text, or holds a character that OpaqueString
                does not allow; the message does not repeat it.
        """
        for what, text in (("user name", self.username), ("password", self.password)):
            if not isinstance(text, str) or not text:
                raise ValueError(f"its {what} is no text, or empty")
            try:
                prepared = stun.opaque_string(text)
            except ValueError:
                raise ValueError(
                    f"its {what} holds a character that TURN does not allow, such as a line break, a tab or a soft "
                    "hyphen; was more copied than the secret?"
                ) from None
            if what == "user name" and len(prepared.encode()) > stun.Username.MAX_BYTES:
                raise ValueError(f"its user name is longer than {stun.Username.MAX_BYTES} bytes (RFC 8489)")


@dataclass(frozen=True, slots=True)
class LongTermKeys:
    """The two keys of a user in one realm: 16 bytes for MD5, 32 for SHA-256. RFC 8489 section 9.2.2."""

    md5: bytes = field(repr=False)
    sha256: bytes = field(repr=False)

    def of(self, algorithm: stun.Algorithm | None) -> bytes:
        """Return the key for a password algorithm; None is what RFC 5389 knew, MD5.

        Raises:
            ValueError: the algorithm is neither MD5 nor SHA-256.
        """
        if algorithm is None or algorithm.number == stun.MD5.number:
            return self.md5
        if algorithm.number == stun.SHA256.number:
            return self.sha256
        raise ValueError(f"password algorithm {algorithm.number} is neither MD5 (1) nor SHA-256 (2)")


def long_term_keys(username: str, realm: str, password: str) -> LongTermKeys:
    """Return both keys of a user.

    Raises:
        ValueError: a text is empty or holds a code point that is not allowed.
    """
    return LongTermKeys(
        stun.long_term_key(username, realm, password, stun.MD5),
        stun.long_term_key(username, realm, password, stun.SHA256),
    )


def shared_secret_password(secret: bytes, username: str) -> str:
    """Return the password of a short-lived user name: base64 of HMAC-SHA1 over it.

    Source: draft-uberti-behave-turn-rest section 2.2; coturn calls it `use-auth-secret`.
    """
    return base64.b64encode(hmac.digest(secret, username.encode(), hashlib.sha1)).decode()


def shared_secret_credentials(secret: bytes, identity: str, expires_at: int) -> TurnCredentials:
    """Return credentials that whoever holds `secret` accepts until `expires_at`.

    Args:
        secret: what the TURN server shares with the one who hands out credentials.
        identity: names the user in logs and quotas; may be empty.
        expires_at: Unix time, seconds.
    """
    username = f"{expires_at}:{identity}" if identity else str(expires_at)
    return TurnCredentials(username, shared_secret_password(secret, username), float(expires_at))


def shared_secret_expiry(username: str) -> int | None:
    """Return the Unix time until which a short-lived user name (`expiry` or `expiry:id`) is good; None: it is none."""
    text = username.partition(":")[0]
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 16 else None
