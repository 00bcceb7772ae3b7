"""What the two sides signal inside the sealed channel: `agent.descriptions()`, part by part.

    {"type": "description", "version": 2, "ufrag": str, "pwd": str, "fingerprint": 32 bytes,
     "options": ["renomination", ...], "pacing": 20, "lite": false}
    {"type": "candidates", "candidates": ["candidate:...", ...], "end": bool}

The first message describes an ICE session; the messages after it add candidates to the session described last. A later
description with other credentials is an ICE restart: it is answered with our own new description and candidates, unless
it is itself such an answer. The fingerprint must stay the same. Candidates may follow the end, such as one of a TURN
server that was restarted: RFC 8838 section 13 forbids that, but otherwise two relayed peers could not reconnect.

Unknown keys and unknown types are ignored, so that later versions may say more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import msgspec
from icesignal import SealedChannel

from iceagent.agent import Agent, Credentials, Description, StreamDescription
from iceagent.agent.description import readable
from iceagent.errors import RemoteError
from iceagent.session.errors import VersionMismatch, shown_version
from iceagent.session.pairing.words import KEY_PURPOSE, Words, WordsExchange

VERSION = 2  # 1: links whose streams end without a byte of their own
FINGERPRINT_SIZE = 32  # SHA-256 of the peer's certificate
MAX_CANDIDATES = 64  # per message; more go into the next

_log = logging.getLogger(__name__)


class DescriptionMessage(msgspec.Struct, frozen=True, tag_field="type", tag="description"):
    """What holds for all candidates that follow, and which certificate the peer will show."""

    version: int
    ufrag: str
    pwd: str
    fingerprint: Annotated[bytes, msgspec.Meta(min_length=FINGERPRINT_SIZE, max_length=FINGERPRINT_SIZE)]
    options: Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(max_length=32)] = []
    pacing: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None  # Ta in ms (RFC 8839 section 5.9)
    lite: bool = False

    def __repr__(self) -> str:
        # without the password, which authenticates our checks: a `repr` may end up in a log
        return f"DescriptionMessage(version={self.version}, ufrag={self.ufrag!r})"

    def described(self, *candidates: object, end: bool = False) -> Description:
        """Return a part with some candidates, as text; raises ValueError if the credentials cannot be."""
        found, ignored = readable(candidates)
        stream = StreamDescription(Credentials(self.ufrag, self.pwd), found, end, ignored)
        pacing_s = None if self.pacing is None else self.pacing / 1000
        return Description((stream,), tuple(self.options), pacing_s, self.lite)


class CandidatesMessage(msgspec.Struct, frozen=True, tag_field="type", tag="candidates"):
    """Candidates found since the last message; `end`: none follows, as far as is known."""

    candidates: Annotated[list[Annotated[str, msgspec.Meta(max_length=1024)]], msgspec.Meta(max_length=MAX_CANDIDATES)]
    end: bool = False


def parse_untrusted(message: Mapping[str, Any]) -> DescriptionMessage | CandidatesMessage | None:
    """Return what the peer says; None for what this version does not know, or what cannot be.

    Raises:
        VersionMismatch: the peer speaks another version.
    """
    if message.get("type") == "description" and message.get("version") != VERSION:
        theirs = shown_version(message.get("version"))
        raise VersionMismatch(
            f"the other side speaks version {theirs} of the session protocol, this one {VERSION}; "
            "install the same version of iceagent on both machines"
        )
    try:
        found: DescriptionMessage | CandidatesMessage = msgspec.convert(
            dict(message), DescriptionMessage | CandidatesMessage
        )
        if isinstance(found, DescriptionMessage):
            found.described()
    except (msgspec.ValidationError, ValueError) as error:
        _log.debug("ignored a message of type %s: %s", shown_version(message.get("type")), type(error).__name__)
        return None
    return found


def messages_of(part: Description, fingerprint: bytes, known: Credentials | None) -> Iterator[dict[str, Any]]:
    """Return the messages that carry a part to a peer which has the credentials `known`."""
    (stream,) = part.streams
    if stream.credentials != known:
        yield {
            "type": "description",
            "version": VERSION,
            "ufrag": stream.credentials.ufrag,
            "pwd": stream.credentials.pwd,
            "fingerprint": fingerprint,
            "options": list(part.options),
            "pacing": None if part.pacing_s is None else round(part.pacing_s * 1000),
            "lite": part.lite,
        }
    for piece in part.chunks(MAX_CANDIDATES):
        texts = [candidate.to_sdp() for candidate in piece.streams[0].candidates]
        if texts or piece.streams[0].end:
            yield {"type": "candidates", "candidates": texts, "end": piece.streams[0].end}


async def send_descriptions(
    channel: SealedChannel, agent: Agent, fingerprint: bytes, on_end: Callable[[], None]
) -> None:
    """Signal our credentials, each candidate as it is found (RFC 8838), and each restart; until the agent closes.

    Args:
        channel: to the peer.
        agent: its first data stream is described.
        fingerprint: that of our certificate.
        on_end: called each time that all candidates known have been signalled.

    Raises:
        SignalError: the relay or the peer is gone.
    """
    known: Credentials | None = None
    async for part in agent.descriptions():
        first = replace(part, streams=part.streams[:1])
        for message in messages_of(first, fingerprint, known):
            await channel.send(message)
        known = first.streams[0].credentials
        if first.streams[0].end:
            on_end()


class PeersDescription:
    """What the peer says of itself, message by message, as parts for `Agent.accept`.

    Where the peer wants five words compared before it says anything, its questions are answered.
    """

    def __init__(
        self, channel: SealedChannel, on_words: Callable[[Words], None] = lambda words: None, fingerprint: bytes = b""
    ) -> None:
        """Take what comes out of a channel.

        Args:
            channel: to the peer.
            on_words: called with the words that the peer's user compares; it must return at once.
            fingerprint: what the peer has said in an earlier conversation; empty if this is the first.
        """
        self._expected = fingerprint
        self._channel = channel
        self._on_words = on_words
        self._words: WordsExchange | None = None
        self._last: DescriptionMessage | None = None

    @property
    def fingerprint(self) -> bytes:
        """That of the certificate it will show: what its first description says, however often it describes itself."""
        return self._expected if self._last is None else self._last.fingerprint

    async def receive(self) -> Description:
        """Wait for the next part; the first one has no candidates. What makes no sense is left out.

        Raises:
            VersionMismatch: the peer speaks another version.
            SignalError: the relay or the peer is gone.
        """
        while True:
            message = await self._channel.receive()
            if await self._answer_about_words(message):
                continue
            found = parse_untrusted(message)
            if isinstance(found, DescriptionMessage) and found.fingerprint == (self.fingerprint or found.fingerprint):
                self._last = found
                return found.described()
            if isinstance(found, CandidatesMessage) and self._last is not None:
                return self._last.described(*found.candidates, end=found.end)

    async def _answer_about_words(self, message: Mapping[str, Any]) -> bool:
        if not str(message.get("type")).startswith("verify"):
            return False
        if self._words is None:
            self._words = WordsExchange(self._channel.role, self._channel.key(KEY_PURPOSE), asks=False)
        try:
            answers = self._words.handle_untrusted(message)
        except RemoteError as error:
            _log.debug("ignored: %s", error)
            return True
        for answer in answers or ():
            await self._channel.send(answer)
        if self._words.words is not None:
            self._on_words(self._words.words)
        return True

    async def hand_over(self, agent: Agent) -> None:
        """Hand every part that comes to the agent: candidates, those included that follow the end, and restarts.

        Raises:
            SignalError: the relay or the peer is gone.
        """
        while True:
            agent.accept(await self.receive())
