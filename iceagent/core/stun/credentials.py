"""From passwords to keys. RFC 8489 sections 9.1.1, 9.2.2 and 14.4."""

from __future__ import annotations

import hashlib

from iceagent.core.stun.auth_attributes import ALGORITHM_MD5, ALGORITHM_SHA256, MD5, Algorithm
from iceagent.core.stun.preparation import opaque_string


def short_term_key(password: str) -> bytes:
    """Return the key of the short-term mechanism, which ICE uses: the password itself.

    Raises:
        ValueError: the password is empty or holds a code point that is not allowed.

    Source: RFC 8489 section 9.1.1.
    """
    return opaque_string(password).encode()


def long_term_key(username: str, realm: str, password: str, algorithm: Algorithm | int = MD5) -> bytes:
    """Return the key of the long-term mechanism, which TURN uses.

    Args:
        username: the user's name.
        realm: as the server sent it.
        password: the user's password.
        algorithm: `stun.MD5` (16 bytes of key) or `stun.SHA256` (32 bytes), or the bare number.

    Raises:
        ValueError: the algorithm is another one, or a text is empty or holds a code point that is not allowed.

    Source: RFC 8489 sections 9.2.2, 18.5.1.1 and 18.5.1.2.
    """
    number = algorithm if isinstance(algorithm, int) else algorithm.number
    secret = ":".join(map(opaque_string, (username, realm, password))).encode()
    if number == ALGORITHM_MD5:
        # The protocol's choice; what it protects is not the collision resistance that MD5 lacks.
        return hashlib.md5(secret, usedforsecurity=False).digest()
    if number == ALGORITHM_SHA256:
        return hashlib.sha256(secret).digest()
    raise ValueError(f"password algorithm {number} is neither MD5 (1) nor SHA-256 (2)")


def userhash(username: str, realm: str) -> bytes:
    """Return the 32 bytes of USERHASH.

    Raises:
        ValueError: a text is empty or holds a code point that is not allowed.

    Source: RFC 8489 section 14.4.
    """
    return hashlib.sha256(f"{opaque_string(username)}:{opaque_string(realm)}".encode()).digest()
