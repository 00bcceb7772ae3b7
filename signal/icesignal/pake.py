"""SPAKE2 with roles, key confirmation, and the keys that follow from it. Sans-IO.

Source: docs/relay-protocol.md section 7.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

Role = Literal["inviter", "joiner"]
APP_ID = "icesignal/1"
MESSAGE_BYTES = 33  # one side byte, one Ed25519 element
CONFIRMATION_BYTES = 32
EXCHANGE_BYTES = 32  # of an X25519 key, which is what a rendezvous opening holds
_LABEL = b"icesignal/1 "


class PakeError(Exception):
    """The peer's message cannot belong to an honest run: treat it as a wrong code."""


def other(role: Role) -> Role:
    """Return the role of the peer."""
    return "joiner" if role == "inviter" else "inviter"


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """Everything two peers derive from one successful exchange. Equal on both sides but for `role`."""

    role: Role
    transcript: bytes
    prk: bytes = field(repr=False)

    def derive(self, label: str, length: int = 32) -> bytes:
        """Return `length` bytes (1 to 8160) that belong to `label` alone."""
        return HKDFExpand(SHA256(), length, _LABEL + label.encode()).derive(self.prk)

    def confirmation(self) -> bytes:
        """Return the proof of this side, to be sent before anything else."""
        return self._confirmation_of(self.role)

    def confirms(self, received: bytes) -> bool:
        """Return whether `received` is the peer's proof; constant time."""
        return hmac.compare_digest(self._confirmation_of(other(self.role)), received)

    def _confirmation_of(self, role: Role) -> bytes:
        return hmac.digest(self.derive(f"confirm {role}"), self.transcript, "sha256")


def derive_keys(
    role: Role, shared: bytes, *, opening: bytes, peer_opening: bytes, room: str, app_id: str
) -> SessionKeys:
    """Return the keys of a shared secret, bound to who said what in which room.

    Args:
        role: of this side.
        shared: the SPAKE2 result or a rendezvous key, 32 bytes.
        opening: what this side sent; `peer_opening` what the other sent.
        room: the room's name as the relay gave it.
        app_id: both sides must use the same.
    """
    first, second = (opening, peer_opening) if role == "inviter" else (peer_opening, opening)
    parts = (app_id.encode(), b"inviter", first, b"joiner", second, room.encode())
    transcript = hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
    return SessionKeys(role, transcript, hmac.digest(transcript, shared, "sha256"))


class Pake:
    """One side of one exchange. `message` is ready at once (some 3 ms); `finish` may be called once (some 4 ms)."""

    def __init__(
        self,
        role: Role,
        password: str,
        *,
        app_id: str = APP_ID,
        randbytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Start the exchange.

        Args:
            role: of this side; the peer must have the other one.
            password: what both sides know, in its canonical spelling.
            app_id: bound into the keys.
            randbytes: a cryptographic source.
        """
        from spake2 import SPAKE2_A, SPAKE2_B  # here: a twentieth of a start, and paired peers never need it

        kind = SPAKE2_A if role == "inviter" else SPAKE2_B
        self.role: Role = role
        self._app_id = app_id
        self._spake = kind(password.encode(), idA=_LABEL + b"inviter", idB=_LABEL + b"joiner", entropy_f=randbytes)
        self.message: bytes = self._spake.start()

    def finish(self, peer_message_untrusted: bytes, *, room: str) -> SessionKeys:
        """Return the keys. They are worth nothing before `SessionKeys.confirms` said yes.

        Raises:
            PakeError: the message is no element of the group, is our own, or comes from our own role.
        """
        if len(peer_message_untrusted) != MESSAGE_BYTES:
            raise PakeError(f"a PAKE message has {MESSAGE_BYTES} bytes, not {len(peer_message_untrusted)}")
        try:
            shared: bytes = self._spake.finish(peer_message_untrusted)
        except Exception as error:  # the library raises ValueError, AssertionError and five classes of its own
            raise PakeError(f"not a PAKE message: {type(error).__name__}") from None
        return derive_keys(
            self.role,
            shared,
            opening=self.message,
            peer_opening=peer_message_untrusted,
            room=room,
            app_id=self._app_id,
        )


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """What two peers keep to meet again without a code."""

    role: Role
    name: bytes = field(repr=False)
    key: bytes = field(repr=False)


class Meeting:
    """One side of a rendezvous: keys of a key that both have, and of an X25519 exchange made for this one alone.

    So what was said at one meeting stays sealed when the key that both have becomes known later.
    """

    def __init__(
        self,
        role: Role,
        key: bytes,
        *,
        app_id: str = APP_ID,
        randbytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Make one side; `key` is the rendezvous key, the rest as for `Pake`."""
        self.role: Role = role
        self._key = key
        self._app_id = app_id
        self._secret = X25519PrivateKey.from_private_bytes(randbytes(EXCHANGE_BYTES))
        self.message: bytes = self._secret.public_key().public_bytes_raw()

    def finish(self, peer_message_untrusted: bytes, *, room: str) -> SessionKeys:
        """Return the keys. They are worth nothing before `SessionKeys.confirms` said yes.

        Raises:
            PakeError: the message is no key.
        """
        try:
            exchanged = self._secret.exchange(X25519PublicKey.from_public_bytes(peer_message_untrusted))
        except ValueError:  # of another length, or of low order
            raise PakeError("not a key of X25519") from None
        return derive_keys(
            self.role,
            hmac.digest(self._key, exchanged, "sha256"),
            opening=self.message,
            peer_opening=peer_message_untrusted,
            room=room,
            app_id=self._app_id,
        )
