"""What is read of a request before it is authenticated: where its credentials are, and nothing else.

The attributes are traversed by type and length; only those that authentication needs are read, as bytes. All others are
decoded after the integrity check: a server that decodes first does work for anybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Final

from iceagent.core.constants import STUN_MAX_ATTRIBUTES
from iceagent.core.stun.errors import StunError
from iceagent.core.stun.header import attributes_of
from iceagent.core.stun.integrity import (
    FINGERPRINT,
    FINGERPRINT_LENGTH,
    MESSAGE_INTEGRITY,
    MESSAGE_INTEGRITY_SHA256,
    SHA1_LENGTH,
    SHA256_LENGTH,
    verify_fingerprint_at,
    verify_integrity_at,
)

USERNAME: Final = 0x0006
REALM: Final = 0x0014
NONCE: Final = 0x0015
PASSWORD_ALGORITHM: Final = 0x001D
USERHASH: Final = 0x001E
PASSWORD_ALGORITHMS: Final = 0x8002

_WANTED: Final = frozenset((USERNAME, REALM, NONCE, PASSWORD_ALGORITHM, USERHASH, PASSWORD_ALGORITHMS))
_TEXT_MAX: Final = 763  # RFC 8489 sections 14.9 and 14.10


@dataclass(frozen=True, slots=True)
class UnverifiedRequest:
    """A request that is not yet authenticated: whose it claims to be, and where the proof is."""

    data: bytes
    fields: dict[int, bytes]
    integrity_at: int
    sha256_at: int

    @property
    def has_integrity(self) -> bool:
        """Whether there is a signature, true or not."""
        return self.integrity_at != 0 or self.sha256_at != 0

    @property
    def uses_sha256(self) -> bool:
        """Whether the signature that decides is MESSAGE-INTEGRITY-SHA256."""
        return self.sha256_at != 0

    def verify(self, key: bytes) -> bool:
        """Return, in constant time, whether `key` made the signature; of two the stronger decides."""
        if self.sha256_at:
            return verify_integrity_at(MESSAGE_INTEGRITY_SHA256, self.data, self.sha256_at, SHA256_LENGTH, key)
        return verify_integrity_at(MESSAGE_INTEGRITY, self.data, self.integrity_at, SHA1_LENGTH, key)


def read_unverified(data: bytes) -> UnverifiedRequest | None:
    """Return what authentication needs of a message with a STUN header; None where its attributes do not add up.

    A signature of a wrong length, an attribute that reaches past the end and a wrong fingerprint make it None.
    """
    fields: dict[int, bytes] = {}
    integrity_at = sha256_at = 0
    try:
        found = list(islice(attributes_of(data), STUN_MAX_ATTRIBUTES + 1))
    except StunError:
        return None
    if len(found) > STUN_MAX_ATTRIBUTES:
        return None
    for kind, at, size in found:
        if kind == FINGERPRINT:
            if size != FINGERPRINT_LENGTH or at + 4 + size != len(data) or not verify_fingerprint_at(data, at):
                return None
        elif kind == MESSAGE_INTEGRITY_SHA256 and not sha256_at:
            if size != SHA256_LENGTH:  # RFC 8656 allows no truncation
                return None
            sha256_at = at
        elif kind == MESSAGE_INTEGRITY and not (integrity_at or sha256_at):
            if size != SHA1_LENGTH:
                return None
            integrity_at = at
        elif kind in _WANTED and not (integrity_at or sha256_at) and kind not in fields and size <= _TEXT_MAX:
            fields[kind] = data[at + 4 : at + 4 + size]
    return UnverifiedRequest(data, fields, integrity_at, sha256_at)
