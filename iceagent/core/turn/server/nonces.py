"""Stateless nonces: a time and an HMAC over it and the client's address. RFC 8489 section 9.2."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from enum import Enum
from typing import Final

from iceagent.core.address import TransportAddress
from iceagent.core.stun import SecurityFeature, make_nonce
from iceagent.core.turn.server.limits import NONCE_LIFETIME_S

_TIME_BYTES: Final = 4
_MAC_BYTES: Final = 8  # a guess costs a request each, and a good nonce is worth nothing without a password
_TICK_S: Final = 1.0


class NonceState(Enum):
    """What a nonce is worth."""

    FRESH = "fresh"
    STALE = "stale"  # ours and this client's, but too old: the client has shown that it receives what we send it
    FOREIGN = "foreign"  # made up, another client's, or from before a restart


class NonceMaker:
    """Makes and checks nonces for one server.

    A nonce is bound to transport, address and port of its client, so that one seen elsewhere is worth nothing.

    Args:
        randbytes: makes the key.
        features: announced in the nonce cookie.
        lifetime_s: after which a nonce is stale.
    """

    def __init__(
        self,
        randbytes: Callable[[int], bytes],
        *,
        features: SecurityFeature = SecurityFeature.PASSWORD_ALGORITHMS,
        lifetime_s: float = NONCE_LIFETIME_S,
    ) -> None:
        self._key = randbytes(32)
        self._features = features
        self._lifetime_s = lifetime_s
        self._prefix = make_nonce(features, "")

    def make(self, now: float, transport: str, remote: TransportAddress) -> str:
        """Return a nonce for the client at `remote`."""
        stamp = (int(now / _TICK_S) & 0xFFFFFFFF).to_bytes(_TIME_BYTES, "big")
        return self._prefix + base64.urlsafe_b64encode(stamp + self._mac(stamp, transport, remote)).decode()

    def check(self, now: float, transport: str, remote: TransportAddress, nonce: bytes) -> NonceState:
        """Return what `nonce`, as it came, is worth from the client at `remote`."""
        prefix = self._prefix.encode()
        try:
            raw = base64.urlsafe_b64decode(nonce[len(prefix) :])
        except ValueError:
            return NonceState.FOREIGN
        stamp, mac = raw[:_TIME_BYTES], raw[_TIME_BYTES:]
        if not (nonce.startswith(prefix) and hmac.compare_digest(mac, self._mac(stamp, transport, remote))):
            return NonceState.FOREIGN
        age = (int(now / _TICK_S) - int.from_bytes(stamp, "big")) & 0xFFFFFFFF
        return NonceState.FRESH if age * _TICK_S <= self._lifetime_s else NonceState.STALE

    def _mac(self, stamp: bytes, transport: str, remote: TransportAddress) -> bytes:
        covered = b"%b|%b|%b|%d" % (stamp, transport.encode(), remote.host.encode(), remote.port)
        return hmac.digest(self._key, covered, "sha256")[:_MAC_BYTES]
