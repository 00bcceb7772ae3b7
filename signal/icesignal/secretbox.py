"""Sealed payloads: ChaCha20-Poly1305 with one key and one counter per direction. Sans-IO.

Source: docs/relay-protocol.md section 8; RFC 8439.
"""

from __future__ import annotations

from collections import deque

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

SEALED = b"\x02"
COUNTER_BYTES = 8
TAG_BYTES = 16
OVERHEAD_BYTES = len(SEALED) + COUNTER_BYTES + TAG_BYTES
MAX_COUNTER = 1 << 53  # no number is as high: other languages count no further without an error
HISTORY_MESSAGES = 256
HISTORY_BYTES = 1 << 20


class OpenError(Exception):
    """The payload was not made by the peer's sealer, or was damaged."""


def _nonce(counter: bytes) -> bytes:
    return bytes(4) + counter


class Sealer:
    """Seals what one side sends, and keeps the newest of it so that it can be repeated byte for byte."""

    def __init__(
        self,
        key: bytes,
        context: bytes,
        *,
        keep_messages: int = HISTORY_MESSAGES,
        keep_bytes: int = HISTORY_BYTES,
    ) -> None:
        """Make a sealer.

        Args:
            key: 32 bytes, of this direction alone and never used before.
            context: bound to every payload; the transcript of the exchange.
            keep_messages, keep_bytes: how much of the newest can be repeated.
        """
        self._aead = ChaCha20Poly1305(key)
        self._context = context
        self._keep_messages = keep_messages
        self._keep_bytes = keep_bytes
        self._history: deque[bytes] = deque()
        self._history_bytes = 0
        self.counter = 0

    def seal(self, plaintext: bytes) -> bytes:
        """Return the payload of the next message."""
        counter = self.counter.to_bytes(COUNTER_BYTES, "big")
        self.counter += 1
        header = SEALED + counter
        payload = header + self._aead.encrypt(_nonce(counter), plaintext, header + self._context)
        self._remember(payload)
        return payload

    def since(self, counter: int) -> list[bytes] | None:
        """Return the payloads from `counter` on, oldest first; None when one of them is no longer kept."""
        oldest = self.counter - len(self._history)
        if not oldest <= counter <= self.counter:
            return None
        return list(self._history)[counter - oldest :]

    def _remember(self, payload: bytes) -> None:
        self._history.append(payload)
        self._history_bytes += len(payload)
        while len(self._history) > self._keep_messages or self._history_bytes > self._keep_bytes:
            self._history_bytes -= len(self._history.popleft())


class Opener:
    """Opens what the other side sealed, in its order and once each."""

    def __init__(self, key: bytes, context: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._context = context
        self.expected = 0
        self.replayed = 0
        self.refused = 0

    def counter_of(self, payload_untrusted: bytes) -> int:
        """Return the counter a payload claims.

        Raises:
            OpenError: it has not the form of a sealed payload, or nobody counts so far.
        """
        if len(payload_untrusted) < OVERHEAD_BYTES or payload_untrusted[:1] != SEALED:
            self.refused += 1
            raise OpenError("not a sealed payload")
        counter = int.from_bytes(payload_untrusted[1 : 1 + COUNTER_BYTES], "big")
        if counter >= MAX_COUNTER:
            self.refused += 1
            raise OpenError("nobody has sealed so many payloads")
        return counter

    def open(self, payload_untrusted: bytes) -> bytes | None:
        """Return the plaintext of the expected message; None for a replay and for one that comes too early.

        Raises:
            OpenError: it was not sealed by the peer.
        """
        counter = self.counter_of(payload_untrusted)
        if counter != self.expected:
            self.replayed += counter < self.expected
            return None
        plaintext = self.peek(payload_untrusted)
        self.expected += 1
        return plaintext

    def peek(self, payload_untrusted: bytes) -> bytes:
        """Return the plaintext of a payload that has the form of one, whatever its counter; nothing is noted of it.

        Raises:
            OpenError: it was not sealed by the peer.
        """
        header, ciphertext = payload_untrusted[: 1 + COUNTER_BYTES], payload_untrusted[1 + COUNTER_BYTES :]
        try:
            return self._aead.decrypt(_nonce(header[1:]), ciphertext, header + self._context)
        except InvalidTag:
            self.refused += 1
            raise OpenError("the payload does not open") from None
