"""What a member of a room of many says to all: a chain of keys, one for each message, forgotten once used. Sans-IO.

Source: docs/relay-protocol.md section 14.3.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from icesignal.room_keys import MemberKey
from icesignal.secretbox import MAX_COUNTER, TAG_BYTES, OpenError
from icesignal.tickets import KEY_BYTES, SIGNATURE_BYTES, is_signed

TO_ALL: Final = b"\x03"
NUMBER_BYTES: Final = 8
HEADER_BYTES: Final = len(TO_ALL) + 2 * NUMBER_BYTES
OVERHEAD_BYTES: Final = HEADER_BYTES + TAG_BYTES + SIGNATURE_BYTES
GIFT_BYTES: Final = 2 * NUMBER_BYTES + KEY_BYTES
MAX_STEPS: Final = 1_024  # to a message ahead: 2 ms of hashing for whoever makes one up; four times what a relay keeps
_SAID_AS = b"icesignal/1 all\0"


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who says something to all, in one session: what a signature is for."""

    room: bytes
    member: bytes
    opening: bytes = field(repr=False)

    def signed(self, numbers: bytes, body: bytes) -> bytes:
        """Return what is signed of a message; `numbers` are its generation and index."""
        return _SAID_AS + self.room + self.member + hashlib.sha256(self.opening).digest() + numbers + body

    def associated(self, header: bytes) -> bytes:
        """Return the associated data of a message."""
        return header + self.room + self.member


def _number(value: int) -> bytes:
    return value.to_bytes(NUMBER_BYTES, "big")


def _message_key(chain_key: bytes) -> bytes:
    return hmac.digest(chain_key, b"\x01", "sha256")


def _next(chain_key: bytes) -> bytes:
    return hmac.digest(chain_key, b"\x02", "sha256")


class OwnChain:
    """The chain of what we say. Stale from the start, and whenever somebody who has it is to hear no more."""

    def __init__(self, speaker: Speaker, key: MemberKey, randbytes: Callable[[int], bytes]) -> None:
        self._speaker = speaker
        self._member_key = key
        self._randbytes = randbytes
        self._key = b""
        self._index = 0
        self.generation = 0
        self.is_stale = True

    def renew(self) -> None:
        """Begin a new generation, which nobody has."""
        self._key = self._randbytes(KEY_BYTES)
        self.generation += 1
        self.is_stale = False

    def gift(self) -> bytes:
        """Return what lets a peer read from here on."""
        return _number(self.generation) + _number(self._index) + self._key

    def seal(self, body: bytes) -> bytes:
        """Return the payload of our next message to all."""
        numbers = _number(self.generation) + _number(self._index)
        header = TO_ALL + numbers
        signature = self._member_key.sign(self._speaker.signed(numbers, body))
        aead = ChaCha20Poly1305(_message_key(self._key))
        nonce = bytes(4) + _number(self._index)
        self._key = _next(self._key)
        self._index += 1
        return header + aead.encrypt(nonce, signature + body, self._speaker.associated(header))


class HeardChain:
    """The chain of a peer's session.

    Attributes:
        lost: how many of its messages will never come; whoever reads it sets it back.
    """

    def __init__(self, speaker: Speaker, key: bytes) -> None:
        """Make one that can read nothing yet; `key` is the peer's public key."""
        self._speaker = speaker
        self._member_key = key
        self._key = b""
        self._expected = 0
        self.generation = 0
        self.lost = 0

    def take(self, gift: bytes) -> bool:
        """Take what a peer gave us; return whether it is of use."""
        if len(gift) != GIFT_BYTES:
            return False
        generation = int.from_bytes(gift[:NUMBER_BYTES], "big")
        index = int.from_bytes(gift[NUMBER_BYTES : 2 * NUMBER_BYTES], "big")
        if generation < max(self.generation, 1) or index < self._expected or max(generation, index) >= MAX_COUNTER:
            return False
        if self.generation:
            self.lost += index - self._expected
        self.generation, self._expected, self._key = generation, index, gift[2 * NUMBER_BYTES :]
        return True

    def open(self, payload_untrusted: bytes) -> bytes | None:
        """Return what the peer says; None for what it said before.

        Raises:
            ChainWanted: it cannot be read with what we were given.
            OpenError: it is none of the peer's.
        """
        if len(payload_untrusted) < OVERHEAD_BYTES:
            raise OpenError("not a message to all")
        header, numbers = payload_untrusted[:HEADER_BYTES], payload_untrusted[len(TO_ALL) : HEADER_BYTES]
        generation = int.from_bytes(numbers[:NUMBER_BYTES], "big")
        index = int.from_bytes(numbers[NUMBER_BYTES:], "big")
        if max(generation, index) >= MAX_COUNTER:
            raise OpenError("nobody has said so much")
        if generation < self.generation or index < self._expected:
            return None
        if not self.generation or generation > self.generation or index - self._expected > MAX_STEPS:
            raise ChainWanted
        key = self._key
        for _ in range(index - self._expected):
            key = _next(key)
        nonce = bytes(4) + numbers[NUMBER_BYTES:]
        try:
            aead = ChaCha20Poly1305(_message_key(key))
            plaintext = aead.decrypt(nonce, payload_untrusted[HEADER_BYTES:], self._speaker.associated(header))
        except InvalidTag:
            raise OpenError("the message does not open") from None
        signature, body = plaintext[:SIGNATURE_BYTES], plaintext[SIGNATURE_BYTES:]
        if not is_signed(self._member_key, signature, self._speaker.signed(numbers, body)):
            raise OpenError("another member has made it")
        self.lost += index - self._expected
        self._expected, self._key = index + 1, _next(key)
        return body


class ChainWanted(Exception):
    """A peer's message is of a generation that it has not given us, or too far ahead."""
