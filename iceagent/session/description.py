"""What the two sides tell each other inside the sealed channel: a description first, then candidates as they are found.

    {"type": "description", "version": 1, "ufrag": str, "pwd": str, "fingerprint": 32 bytes,
     "options": ["renomination", ...], "pacing": 20}
    {"type": "candidates", "candidates": ["candidate:...", ...], "end": bool}

A description with other credentials, later, is an ICE restart: it is answered with one of our own and new candidates,
unless it answers one. The fingerprint must stay the same.

Unknown keys and unknown types are ignored, so that later versions may say more.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

import msgspec
import trio
from icesignal import SealedChannel

from iceagent.agent import Agent, Credentials
from iceagent.core.ice import Restarted
from iceagent.errors import RemoteError
from iceagent.session.background import open_background
from iceagent.session.errors import VersionMismatch, shown_version

VERSION = 1
FINGERPRINT_SIZE = 32  # SHA-256 of the peer's certificate
MAX_CANDIDATES = 64  # per message; more go into the next
GROUPING_S = 0.002  # host candidates are found together: one message for all of them costs less than it waits

_log = logging.getLogger(__name__)


class Description(msgspec.Struct, frozen=True, tag_field="type", tag="description"):
    """How to check paths to a peer, and which certificate it will show."""

    version: int
    ufrag: str
    pwd: str
    fingerprint: Annotated[bytes, msgspec.Meta(min_length=FINGERPRINT_SIZE, max_length=FINGERPRINT_SIZE)]
    options: Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(max_length=32)] = []
    pacing: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None  # Ta in ms (RFC 8839 section 5.9)

    def __repr__(self) -> str:
        return f"Description(version={self.version}, ufrag={self.ufrag!r})"  # the password opens our checks (trap 67)

    @property
    def pacing_s(self) -> float | None:
        """The Ta that the peer proposes, seconds, or None."""
        return None if self.pacing is None else self.pacing / 1000

    def credentials(self) -> Credentials:
        """Return the ICE credentials; raises ValueError if they cannot be."""
        return Credentials(self.ufrag, self.pwd)


class Candidates(msgspec.Struct, frozen=True, tag_field="type", tag="candidates"):
    """Candidates found since the last message; `end`: none follows."""

    candidates: Annotated[list[Annotated[str, msgspec.Meta(max_length=1024)]], msgspec.Meta(max_length=MAX_CANDIDATES)]
    end: bool = False


def parse_untrusted(message: Mapping[str, Any]) -> Description | Candidates | None:
    """Return what the peer says; None for what this version does not know, or what cannot be."""
    if message.get("type") == "description" and message.get("version") != VERSION:
        theirs = shown_version(message.get("version"))
        raise VersionMismatch(
            f"the other side speaks version {theirs} of the session protocol, this one {VERSION}; "
            "install the same version of iceagent on both machines"
        )
    try:
        found: Description | Candidates = msgspec.convert(dict(message), Description | Candidates)
        if isinstance(found, Description):
            found.credentials()
    except (msgspec.ValidationError, ValueError) as error:
        _log.debug("ignored a message of type %s: %s", shown_version(message.get("type")), type(error).__name__)
        return None
    return found


async def send_description(channel: SealedChannel, agent: Agent, fingerprint: bytes) -> None:
    """Tell the peer who we are, then every candidate as it is found (RFC 8838), those at hand in one message.

    Raises:
        SignalError: the relay or the peer is gone.
    """
    credentials = agent.credentials
    await channel.send(
        {
            "type": "description",
            "version": VERSION,
            "ufrag": credentials.ufrag,
            "pwd": credentials.pwd,
            "fingerprint": fingerprint,
            "options": list(agent.options),
            "pacing": round(agent.pacing_s * 1000),
        }
    )
    found, take = trio.open_memory_channel[str](MAX_CANDIDATES)
    async with open_background() as nursery:
        nursery.start_soon(_collect, agent, found)
        await _send_candidates(channel, take)


async def _collect(agent: Agent, found: trio.MemorySendChannel[str]) -> None:
    with found:
        async for candidate in agent.local_candidates():
            await found.send(candidate.to_sdp())


async def _send_candidates(channel: SealedChannel, take: trio.MemoryReceiveChannel[str]) -> None:
    async for first in take:
        await trio.sleep(GROUPING_S)
        candidates = [first]
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while len(candidates) < MAX_CANDIDATES:
                candidates.append(take.receive_nowait())
        await channel.send({"type": "candidates", "candidates": candidates, "end": False})
    await channel.send({"type": "candidates", "candidates": [], "end": True})


async def receive_description(channel: SealedChannel) -> Description:
    """Wait for the peer's description.

    Raises:
        VersionMismatch: the peer speaks another version.
        SignalError: the relay or the peer is gone.
    """
    while True:
        message = parse_untrusted(await channel.receive())
        if isinstance(message, Description):
            return message


async def send_late_candidates(channel: SealedChannel, agent: Agent) -> None:
    """Tell the peer of the candidates that come after the end, such as that of a TURN server that was restarted.

    RFC 8838 section 13 lets none follow the end. But without the new address two peers that are both relayed could
    not meet again; a peer of an earlier version does not listen any more.

    Raises:
        SignalError: the relay or the peer is gone.
    """
    async for candidate in agent.late_candidates():
        await channel.send({"type": "candidates", "candidates": [candidate.to_sdp()], "end": True})


async def send_restarts(channel: SealedChannel, agent: Agent, fingerprint: bytes) -> None:
    """Tell the peer of every restart of ours, and of our part in every one of its own.

    Raises:
        SignalError: the relay or the peer is gone.
    """
    async for event in agent.events():
        if isinstance(event, Restarted):
            await send_description(channel, agent, fingerprint)


async def receive_candidates(channel: SealedChannel, agent: Agent, fingerprint: bytes) -> None:
    """Hand the peer's candidates to the agent, those included that come after the end, and its restarts.

    `fingerprint` is what the peer's first description said; one that says otherwise is ignored.

    Raises:
        SignalError: the relay or the peer is gone.
    """
    while True:
        message = parse_untrusted(await channel.receive())
        if isinstance(message, Description) and message.fingerprint == fingerprint:
            agent.set_remote_credentials(message.credentials(), options=message.options, pacing_s=message.pacing_s)
        if not isinstance(message, Candidates):
            continue
        for candidate in message.candidates:
            try:
                agent.add_remote_candidate(candidate)
            except RemoteError:
                _log.debug("ignored a candidate of the other side that cannot be read")
        if message.end:
            agent.add_remote_candidate(None)
