"""What two members of a room of many seal for each other. Sans-IO.

Source: docs/relay-protocol.md section 14.2.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from icesignal.secretbox import COUNTER_BYTES, Opener, Sealer
from icesignal.tickets import KEY_BYTES

KEEP_MESSAGES: Final = 64  # of a pair, to be repeated; 63 pairs of a full room are 16 MiB at most
KEEP_BYTES: Final = 256 << 10
REPEATS_AT_ONCE: Final = 8  # of a pair, for one peer that asks: 2 MiB at most, and then
REPEAT_AGAIN_S: Final = 10.0  # once in so long, so that asking brings nobody more than 26 KB/s
ASK_AGAIN_AFTER: Final = 16  # more that came too early: what is asked of us for each of them is bounded by that

# The kinds of plaintext.
APPLICATION: Final = b"\x00"
REPEAT: Final = b"\x01"
HELLO: Final = b"\x02"
REMOVALS: Final = b"\x03"
CHAIN: Final = b"\x04"
CHAIN_PLEASE: Final = b"\x05"
GO_ON: Final = b"\x06"


def lp(data: bytes) -> bytes:
    """Return bytes behind their length: what is put one after the other so can be read in one way only."""
    return len(data).to_bytes(4, "big") + data


class Patience:
    """Says when to ask for something again: once for each place, and after so many more that wait for it."""

    def __init__(self) -> None:
        self._place: object = None
        self._waited = 0

    def is_over(self, place: object) -> bool:
        """Note one more that cannot be taken because of what is missing at this place; return whether to ask now."""
        if place != self._place:
            self._place, self._waited = place, 0
            return True
        self._waited += 1
        return self._waited % ASK_AGAIN_AFTER == 0


class Allowance:
    """How often we repeat for a peer that asks: some times at once, and then as time goes by."""

    def __init__(self, now: float) -> None:
        self._left, self._at = float(REPEATS_AT_ONCE), now

    def take(self, now: float) -> bool:
        """Return whether to repeat once more, at a time in seconds by any clock."""
        earned = max(now - self._at, 0.0) / REPEAT_AGAIN_S
        self._left, self._at = min(self._left + earned, REPEATS_AT_ONCE), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Pair:
    """The sealed way between us and one session of a peer.

    Attributes:
        lost: how many payloads of the peer will never come; whoever reads it sets it back.
    """

    def __init__(
        self, room: bytes, private: X25519PrivateKey, own: tuple[bytes, bytes], peer: tuple[bytes, bytes]
    ) -> None:
        """Make the way between two openings, each given with its member's id.

        Raises:
            ValueError: the peer's opening holds no key.
        """
        low, high = sorted((own, peer))
        parts = (b"icesignal/1 pair", room, *low, *high)
        transcript = hashlib.sha256(b"".join(map(lp, parts))).digest()
        shared = private.exchange(X25519PublicKey.from_public_bytes(peer[1][:KEY_BYTES]))
        prk = hmac.digest(transcript, shared, "sha256")
        self._sealer = Sealer(_key_of(prk, own[0]), transcript, keep_messages=KEEP_MESSAGES, keep_bytes=KEEP_BYTES)
        self._opener = Opener(_key_of(prk, peer[0]), transcript)
        self._patience = Patience()
        self.lost = 0

    def seal(self, plaintext: bytes) -> bytes:
        """Return the next payload for the peer."""
        return self._sealer.seal(plaintext)

    def open(self, payload_untrusted: bytes) -> bytes | None:
        """Return the plaintext of the next payload of the peer; None for one that comes again, or too early.

        Raises:
            OpenError: the peer has not sealed it.
        """
        plaintext = self._opener.open(payload_untrusted)
        if plaintext is not None:
            return plaintext
        counter = self._opener.counter_of(payload_untrusted)
        if counter > self._opener.expected and self._opener.peek(payload_untrusted) == GO_ON:
            self.lost += counter - self._opener.expected
            self._opener.expected = counter + 1
            return GO_ON
        return None

    def is_missing_something(self, payload_untrusted: bytes) -> bool:
        """Return whether to ask for a repetition, after a payload of which `open` made nothing."""
        expected = self._opener.expected
        return self._opener.counter_of(payload_untrusted) > expected and self._patience.is_over(expected)

    def repeat_please(self) -> bytes:
        """Return the plaintext that asks the peer to repeat what is missing."""
        return REPEAT + self._opener.expected.to_bytes(COUNTER_BYTES, "big")

    def since(self, counter: bytes) -> list[bytes] | None:
        """Return what the peer asks to have repeated; None if some of it is no longer kept."""
        wanted = int.from_bytes(counter, "big")
        return [] if wanted >= self._sealer.counter else self._sealer.since(wanted)


def _key_of(prk: bytes, sender: bytes) -> bytes:
    return HKDFExpand(SHA256(), 32, b"icesignal/1 member " + sender).derive(prk)
