"""User names, passwords, keys and the nonce cookie. RFC 8489 sections 9 and 14.4; OpaqueString of RFC 8265."""

from __future__ import annotations

import base64
import binascii
import hashlib
import stringprep
import unicodedata
from enum import IntFlag
from typing import Final

from iceagent.core.stun.auth_attributes import ALGORITHM_MD5, ALGORITHM_SHA256, MD5, Algorithm


def opaque_string(text: str) -> str:
    """Return `text` as OpaqueString prepares and enforces it: other spaces become U+0020, then NFC.

    Raises:
        ValueError: the text is empty or holds a code point that PRECIS' FreeformClass disallows, such as a control
            character or a soft hyphen.

    Source: RFC 8265 section 4.2.2.
    """
    if text.isascii() and text.isprintable() and text:
        return text  # nearly always, and without the tables that the library loads
    if not text:
        raise ValueError("an empty string is no user name, realm or password")
    import precis_i18n

    try:
        return precis_i18n.get_profile("OpaqueString").enforce(text)
    except UnicodeEncodeError as error:  # it holds the text, which may be a password: it goes no further
        code_point = ord(error.object[error.start])
    raise ValueError(f"code point U+{code_point:04X} is not allowed in a user name, realm or password")


def saslprep(text: str) -> str:
    """Return `text` as SASLprep prepares a query string, for servers of RFC 5389's time.

    Raises:
        ValueError: it holds a prohibited code point, or mixes directions.

    Source: RFC 4013 section 2.
    """
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char)
    )
    prepared = unicodedata.normalize("NFKC", mapped)
    for char in prepared:
        if any(prohibited(char) for prohibited in _SASL_PROHIBITED):
            raise ValueError(f"code point U+{ord(char):04X} is prohibited by SASLprep")
    right_to_left = [char for char in prepared if stringprep.in_table_d1(char)]
    if right_to_left and (
        any(map(stringprep.in_table_d2, prepared))
        or not (stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1]))
    ):
        raise ValueError("the text mixes directions in a way that SASLprep prohibits")
    return prepared


_SASL_PROHIBITED: Final = (
    *(stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4),
    *(stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8),
    stringprep.in_table_c9,
)


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
