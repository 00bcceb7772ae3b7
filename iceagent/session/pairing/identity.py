"""Who this user is to paired peers: an ed25519 key that signs, and an X25519 key for meeting, both of one seed.

The X25519 key is derived from the seed by HKDF, and not the same number on the other curve: no key then serves two
purposes, nothing of curves is computed here, and peers pin both public keys together. Source: RFC 8032, RFC 7748.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from iceagent.core.checked import checked
from iceagent.session.errors import IdentityError
from iceagent.session.pairing.files import data_folder, make_folder, read_private, write_private

ENVIRONMENT: Final = "ICEAGENT_IDENTITY"
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_HEAD: Final = b"iceagent identity 1 "


@dataclass(frozen=True, slots=True)
class PublicIdentity:
    """What others may know of an identity: its ed25519 key, and its X25519 key."""

    key: bytes
    exchange: bytes

    @property
    def fingerprint(self) -> str:
        """A short name of both keys for people, as `k7ab-9xcd-…`: 80 bits of a hash."""
        text = base64.b32encode(hashlib.sha256(self.packed).digest()[:10]).decode().lower()
        return "-".join(text[at : at + 4] for at in range(0, len(text), 4))

    @property
    def packed(self) -> bytes:
        """Both keys, as they are signed and hashed."""
        return self.key + self.exchange

    def has_signed(self, signature: bytes, message: bytes) -> bool:
        """Return whether this identity has signed a message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


class Identity:
    """An identity with its secret half. `load()` gives this user's own, and makes it at first use."""

    @checked
    def __init__(self, seed: bytes, path: Path | None = None) -> None:
        """Make an identity of 32 random bytes; `path` is the file that holds them."""
        if len(seed) != KEY_BYTES:
            raise IdentityError(f"an identity is made of a seed of {KEY_BYTES} bytes")
        self.path = path
        self._seed = seed
        self._signer = Ed25519PrivateKey.from_private_bytes(seed)
        derived = HKDF(SHA256(), KEY_BYTES, None, b"iceagent/1 identity x25519").derive(seed)
        self._exchanger = X25519PrivateKey.from_private_bytes(derived)
        self.public = PublicIdentity(
            self._signer.public_key().public_bytes_raw(), self._exchanger.public_key().public_bytes_raw()
        )

    def __repr__(self) -> str:
        return f"Identity({self.public.fingerprint})"

    @classmethod
    def generate(cls) -> Identity:
        """Return a new identity, in no file."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def load(cls, path: str | Path | None = None) -> Identity:
        """Return the identity in a file, which is made if it is not there.

        Args:
            path: None for `ICEAGENT_IDENTITY`, else `identity` in this user's data folder.
        Raises:
            IdentityError: the file is not an identity, or not this user's alone, or cannot be made.
        """
        place = Path(path) if path is not None else identity_path()
        content = read_private(place)
        if content is None:
            made = cls(secrets.token_bytes(KEY_BYTES), place)
            make_folder(place.parent)
            if write_private(place, _HEAD + base64.b64encode(made._seed) + b"\n", replaces=False):
                return made
            content = read_private(place)  # another process was quicker
        return cls(_seed_in(content or b"", place), place)

    def sign(self, message: bytes) -> bytes:
        """Return a signature of 64 bytes; the message begins with what it is for."""
        return self._signer.sign(message)

    def shared_with(self, peer: PublicIdentity) -> bytes:
        """Return the 32 bytes that only the two identities can compute.

        Raises:
            IdentityError: the peer's key is none that has a secret half.
        """
        try:
            return self._exchanger.exchange(X25519PublicKey.from_public_bytes(peer.exchange))
        except ValueError:
            raise IdentityError("the key of this peer is none; pair again") from None


def identity_path() -> Path:
    """Return the file of this user's identity."""
    named = os.environ.get(ENVIRONMENT, "")
    return Path(named) if named else data_folder() / "identity"


def _seed_in(content: bytes, path: Path) -> bytes:
    try:
        if not content.startswith(_HEAD):
            raise ValueError
        seed = base64.b64decode(content.removeprefix(_HEAD).strip(), validate=True)
        if len(seed) != KEY_BYTES:
            raise ValueError
    except (ValueError, binascii.Error):
        raise IdentityError(
            f"{path} holds no identity of iceagent, or a damaged one; restore it from a copy, or move it away and pair "
            "again"
        ) from None
    return seed
