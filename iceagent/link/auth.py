"""Both ends prove that they hold the session key, before any other byte is accepted.

After the TLS handshake the client knows the server's certificate; the server knows nothing of the client. On stream 0:

    client                                        server
    HELLO(client nonce)             ------------>
                                    <------------ HELLO(server nonce), PROOF(server)
    PROOF(client), WELCOME          ------------>
                                    <------------ WELCOME

PROOF(role) is HMAC-SHA256(session key, label, role, server's and client's certificate hash, both nonces). The server's
hash is the one TLS verified, so a man in the middle with a certificate of his own has no valid proof to relay.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from enum import Enum, auto

from iceagent.link.config import LinkRole
from iceagent.link.control import NONCE_SIZE, FrameType, encode_frame

_LABEL = b"iceagent link 1 peer authentication\x00"


class AuthState(Enum):
    """Where the exchange stands, seen from one end."""

    EXPECT_HELLO = auto()
    EXPECT_PROOF = auto()
    DONE = auto()
    FAILED = auto()


_TRANSITIONS: dict[tuple[AuthState, FrameType], AuthState] = {
    (AuthState.EXPECT_HELLO, FrameType.HELLO): AuthState.EXPECT_PROOF,
    (AuthState.EXPECT_PROOF, FrameType.PROOF): AuthState.DONE,
}


def proof(
    session_key: bytes,
    role: LinkRole,
    server_fingerprint: bytes,
    client_fingerprint: bytes,
    nonces: tuple[bytes, bytes],
) -> bytes:
    """Return the HMAC with which `role` proves that it holds the session key.

    Args:
        session_key: the secret both ends derived during signaling.
        role: whose proof it is, so that neither end can reflect the other's.
        server_fingerprint, client_fingerprint: SHA-256 of the certificates, 32 bytes each.
        nonces: the client's and the server's, 32 bytes each.
    """
    message = b"".join((_LABEL, role.value.encode(), b"\x00", server_fingerprint, client_fingerprint, *nonces))
    return hmac.digest(session_key, message, "sha256")


class LinkAuthenticator:
    """The exchange of one end: frames in, frames out; `state` is the outcome."""

    def __init__(
        self,
        role: LinkRole,
        session_key: bytes,
        *,
        own_fingerprint: bytes,
        peer_fingerprint: bytes,
        randbytes: Callable[[int], bytes],
    ) -> None:
        self.role = role
        self.state = AuthState.EXPECT_HELLO
        self._key = session_key
        self._own_fingerprint = own_fingerprint
        self._peer_fingerprint = peer_fingerprint
        self._nonce = randbytes(NONCE_SIZE)
        self._peer_nonce = b""

    def start(self) -> bytes:
        """Return what the client sends first; empty for the server."""
        return encode_frame(FrameType.HELLO, self._nonce) if self.role is LinkRole.CLIENT else b""

    def handle_frame_untrusted(self, kind: FrameType, body: bytes) -> bytes:
        """Take one frame of the peer; return what to answer.

        `state` is FAILED afterwards if the frame was out of order or the proof wrong.
        """
        self.state = _TRANSITIONS.get((self.state, kind), AuthState.FAILED)
        if self.state is AuthState.EXPECT_PROOF:
            self._peer_nonce = body
            if self.role is LinkRole.SERVER:
                return encode_frame(FrameType.HELLO, self._nonce) + self._proof_frame()
        elif self.state is AuthState.DONE:
            if not hmac.compare_digest(body, self._proof(self.role.other)):
                self.state = AuthState.FAILED
            elif self.role is LinkRole.CLIENT:
                return self._proof_frame()
        return b""

    def _proof_frame(self) -> bytes:
        return encode_frame(FrameType.PROOF, self._proof(self.role))

    def _proof(self, role: LinkRole) -> bytes:
        if self.role is LinkRole.SERVER:
            fingerprints = (self._own_fingerprint, self._peer_fingerprint)
            nonces = (self._peer_nonce, self._nonce)
        else:
            fingerprints = (self._peer_fingerprint, self._own_fingerprint)
            nonces = (self._nonce, self._peer_nonce)
        return proof(self._key, role, *fingerprints, nonces)
