"""Five words that two people compare: the same on both sides, and other ones if anybody sits between. Sans-IO.

    {"type": "verify", "commitment": SHA-256("iceagent/1 words" nonce)}     from each side that asks
    {"type": "verify-nonce", "nonce": 32 bytes}                             from both

The words are made of the session's key and of a nonce of each side. Whoever asks has committed himself to his nonce
before he hears the other's: somebody in the middle, who has a key with each of the two and would try millions of values
until the words of both are alike, has one try, of 2^45. Without nonces he could try, since he sees both keys first.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import icesignal
import trio
from icesignal.code import WORDS

from iceagent.errors import RemoteError

WORD_COUNT: Final = 5
NONCE_BYTES: Final = 32
KEY_PURPOSE: Final = "words 1"  # of the session's key
MAX_OTHERS: Final = 128  # ours: its description, and candidates in several messages
ANSWER_S: Final = 30.0  # ours: for the other side's program, which answers at once
_COMMITTED: Final = b"iceagent/1 words"
_BITS: Final = 9  # 512 words

Words = tuple[str, ...]
Verify = Callable[[Words], Awaitable[None]]
"""Has a person compare the words; raises `WordsRefused` if they differ."""


class WordsExchange:
    """One side of the exchange; `words` are there once both nonces are."""

    def __init__(
        self, role: str, key: bytes, *, asks: bool, randbytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        """Make one side.

        Args:
            role: `inviter` or `joiner`.
            key: of the session, 32 bytes, for this purpose.
            asks: whether this side wants the words compared, and does nothing else before.
            randbytes: a cryptographic source.
        """
        self.words: Words | None = None
        self._role = role
        self._key = key
        self._asks = asks
        self._nonce = randbytes(NONCE_BYTES)
        self._commitment: bytes | None = None
        self._has_told = False

    def begin(self) -> list[dict[str, Any]]:
        """Return what to say first."""
        return [{"type": "verify", "commitment": _commitment(self._nonce)}] if self._asks else []

    def handle_untrusted(self, message: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Take a message of the other side; return what to answer, None if it is not about words.

        Raises:
            RemoteError: the other side does not keep to this.
        """
        match message:
            case {"type": "verify", "commitment": bytes(commitment)}:
                if self._commitment is not None or self.words is not None:
                    raise RemoteError(_BROKEN)
                self._commitment = commitment
                return self._tell()
            case {"type": "verify-nonce", "nonce": bytes(nonce)}:
                return self._take(nonce)
            case {"type": "verify" | "verify-nonce"}:
                raise RemoteError(_BROKEN)
            case _:
                return None

    def _tell(self) -> list[dict[str, Any]]:
        if self._has_told:
            return []
        self._has_told = True
        return [{"type": "verify-nonce", "nonce": self._nonce}]

    def _take(self, nonce: bytes) -> list[dict[str, Any]]:
        is_committed = self._commitment is not None and hmac.compare_digest(self._commitment, _commitment(nonce))
        # Who asks is bound by his own commitment; who only answers must have had the other's.
        if self.words is not None or len(nonce) != NONCE_BYTES or not (is_committed or self._is_only_asker()):
            raise RemoteError(_BROKEN)
        inviters, joiners = (self._nonce, nonce) if self._role == "inviter" else (nonce, self._nonce)
        number = int.from_bytes(hmac.digest(self._key, _COMMITTED + inviters + joiners, "sha256"), "big")
        self.words = tuple(WORDS[number >> _BITS * place & (1 << _BITS) - 1] for place in range(WORD_COUNT))
        return self._tell()

    def _is_only_asker(self) -> bool:
        return self._asks and self._commitment is None


_BROKEN: Final = "the other side does not keep to how the words are agreed upon; the words cannot be compared"


def _commitment(nonce: bytes) -> bytes:
    return hashlib.sha256(_COMMITTED + nonce).digest()


async def agree_on_words(channel: icesignal.SealedChannel) -> Words:
    """Ask the other side for the words, and return them; what it says of other things meanwhile is kept for later.

    Raises:
        RemoteError: the other side does not keep to this.
        SignalError: the relay or the other side is gone.
    """
    exchange = WordsExchange(channel.role, channel.key(KEY_PURPOSE), asks=True)
    for message in exchange.begin():
        await channel.send(message)
    others = []
    while exchange.words is None:
        message = await channel.receive()
        answers = exchange.handle_untrusted(message)
        if answers is None:
            others.append(message)
            if len(others) > MAX_OTHERS:
                raise RemoteError(_BROKEN)
        for answer in answers or ():
            await channel.send(answer)
    channel.unread(others)
    return exchange.words


async def verify_words(channel: icesignal.SealedChannel, verify: Verify) -> None:
    """Have a person compare the words; whatever goes wrong ends the conversation.

    Raises:
        WordsRefused: they differ.
        RemoteError: the other side does not answer.
        SignalError: the relay or the other side is gone.
    """
    try:
        words: Words | None = None
        with trio.move_on_after(ANSWER_S):
            words = await agree_on_words(channel)
        if words is None:
            raise RemoteError(
                f"the other side has not answered for {ANSWER_S:g} s how the words are agreed upon; install the same "
                "version of iceagent on both machines"
            )
        await verify(words)
    except BaseException:
        channel.close()
        raise
