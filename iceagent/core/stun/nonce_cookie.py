"""The nonce cookie: security features a server announces where nobody can take them back. RFC 8489 section 9.2."""

from __future__ import annotations

import base64
import binascii
from enum import IntFlag
from typing import Final

NONCE_COOKIE: Final = "obMatJos2"
_FEATURES_END: Final = len(NONCE_COOKIE) + 4


class SecurityFeature(IntFlag):
    """The STUN Security Feature bits; bit 0 is the leftmost of 24. RFC 8489 section 18.1."""

    PASSWORD_ALGORITHMS = 1 << 23
    USERNAME_ANONYMITY = 1 << 22


def make_nonce(features: SecurityFeature, rest: str) -> str:
    """Return a nonce that announces `features`; `rest` is the server's own part.

    Raises:
        ValueError: `rest` makes the nonce longer than 127 characters.
    """
    nonce = NONCE_COOKIE + base64.b64encode(int(features).to_bytes(3, "big")).decode() + rest
    if len(nonce) > 127:
        raise ValueError(f"a nonce has at most 127 characters, not {len(nonce)}")
    return nonce


def security_features(nonce: str) -> SecurityFeature | None:
    """Return the features a nonce announces; None where it has no cookie. Unknown bits are kept.

    A cookie with something else than four base64 characters after it announces nothing.
    """
    if not nonce.startswith(NONCE_COOKIE):
        return None
    try:
        bits = base64.b64decode(nonce[len(NONCE_COOKIE) : _FEATURES_END].encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    return SecurityFeature(int.from_bytes(bits, "big")) if len(bits) == 3 else None
