"""What sessions tell each other: descriptions as messages, of which earlier versions understand every one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import icesignal
import pytest
import trio

from iceagent.agent import Description, StreamDescription
from iceagent.core.address import TransportAddress
from iceagent.core.ice import Credentials, host_candidate
from iceagent.session.description import (
    MAX_CANDIDATES,
    PeersDescription,
    messages_of,
    parse_untrusted,
    send_descriptions,
)
from iceagent.session.errors import VersionMismatch
from iceagent.session.netcheck.peer import parse_untrusted as parse_netcheck

FIRST, SECOND = Credentials("abcd", "0" * 22), Credentials("efgh", "1" * 22)
PRINT = b"f" * 32
HOSTS = tuple(host_candidate(TransportAddress("192.0.2.1", 1 + number)) for number in range(150))


class LeavingPeer:
    """A channel whose other end leaves once it has some messages."""

    def __init__(self, messages: int = 1) -> None:
        self.sent: list[dict[str, Any]] = []
        self.messages = messages

    async def send(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if len(self.sent) == self.messages:
            raise icesignal.PeerLeft("the other side left")
        self.sent.append(message)


def part(credentials: Credentials, candidates: Any = (), *, end: bool = False) -> Description:
    return Description((StreamDescription(credentials, tuple(candidates), end),), ("trickle",), 0.02)


class Parts:
    """An agent that tells so many parts, and closes."""

    def __init__(self, *parts: Description) -> None:
        self.parts = list(parts)

    def descriptions(self) -> Parts:
        return self

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> Description:
        await trio.lowlevel.checkpoint()
        if not self.parts:
            raise StopAsyncIteration
        return self.parts.pop(0)


def agent_that_tells(*parts: Description) -> Any:
    return Parts(*parts)


async def test_a_peer_that_leaves_while_we_still_gather_raises_an_unwrapped_error() -> None:
    """Whoever is done leaves, however slow our gathering; a group around the error would look like a bug of ours."""
    channel: Any = LeavingPeer()
    with pytest.raises(icesignal.PeerLeft):
        await send_descriptions(channel, agent_that_tells(part(FIRST), part(FIRST, HOSTS)), PRINT, lambda: None)
    assert [message["type"] for message in channel.sent] == ["description"]


async def test_each_session_is_described_once_and_each_candidate_follows_its_description() -> None:
    """Peers of the first version take a description for a restart, and candidates for those of the last one."""
    told = []
    channel: Any = LeavingPeer(messages=100)
    agent = agent_that_tells(
        part(FIRST, HOSTS[:1]), part(FIRST, HOSTS[1:2], end=True), part(FIRST, HOSTS[2:3], end=True), part(SECOND)
    )
    await send_descriptions(channel, agent, PRINT, lambda: told.append(len(channel.sent)))
    assert channel.sent == [
        {
            "type": "description",
            "version": 2,
            "ufrag": "abcd",
            "pwd": FIRST.pwd,
            "fingerprint": PRINT,
            "options": ["trickle"],
            "pacing": 20,
            "lite": False,
        },
        {"type": "candidates", "candidates": [HOSTS[0].to_sdp()], "end": False},
        {"type": "candidates", "candidates": [HOSTS[1].to_sdp()], "end": True},
        {"type": "candidates", "candidates": [HOSTS[2].to_sdp()], "end": True},
        channel.sent[4],
    ]
    assert (channel.sent[4]["type"], channel.sent[4]["ufrag"]) == ("description", "efgh")
    assert told == [3, 4]


async def test_what_is_sent_is_what_is_read() -> None:
    """Part by part; and of more candidates than one message has, the end is told with the last."""
    parts = [part(FIRST), replace(part(FIRST, HOSTS, end=True), lite=True), part(SECOND, HOSTS[:1], end=True)]
    queue, messages = trio.open_memory_channel[dict[str, Any]](10)
    for one, told in zip(parts, (None, None, FIRST), strict=True):
        for message in messages_of(one, PRINT, told):
            assert len(message.get("candidates", ())) <= MAX_CANDIDATES
            await queue.send(message)
    peer = PeersDescription(messages)  # type: ignore[arg-type]
    found = [await peer.receive() for _ in range(7)]
    assert [len(one.streams[0].candidates) for one in found] == [0, 0, 64, 64, 22, 0, 1]
    assert [one.streams[0].end for one in found] == [False, False, False, False, True, False, True]
    assert {one.streams[0].credentials for one in found[:5]} == {FIRST}
    assert found[-1].streams[0].candidates[0].address == HOSTS[0].address
    assert [one.lite for one in found] == [False, True, True, True, True, False, False]
    assert (found[0].options, found[0].pacing_s, peer.fingerprint) == (("trickle",), 0.02, PRINT)


async def test_a_description_with_another_fingerprint_is_left_out() -> None:
    """And candidates before any description; each that cannot be read costs only itself."""
    queue, messages = trio.open_memory_channel[dict[str, Any]](10)
    (description,) = messages_of(part(FIRST), PRINT, None)
    (other,) = messages_of(part(SECOND), b"g" * 32, None)
    del description["lite"]  # as the first peers of this version sent it
    candidates = {"type": "candidates", "candidates": ["nonsense", HOSTS[0].to_sdp()], "end": False}
    for message in (candidates, description, other, candidates):
        await queue.send(message)
    peer = PeersDescription(messages)  # type: ignore[arg-type]
    first, second = await peer.receive(), await peer.receive()
    assert (first.streams[0].candidates, first.lite) == ((), False)
    assert second.streams[0].credentials == FIRST
    assert (len(second.streams[0].candidates), second.streams[0].ignored) == (1, 1)
    assert peer.fingerprint == PRINT


@pytest.mark.parametrize("read", [parse_untrusted, parse_netcheck])
def test_a_version_that_fills_the_message_does_not_fill_the_terminal(read: Any) -> None:
    """It is the other side's word, and ends up in a sentence."""
    kind = "description" if read is parse_untrusted else "netcheck"
    with pytest.raises(VersionMismatch) as caught:
        read({"type": kind, "version": "\x1b]0;" + "9" * 60_000})
    assert len(str(caught.value)) < 200
    assert "\x1b" not in str(caught.value)
    with pytest.raises(VersionMismatch, match="speaks version 99 of"):
        read({"type": kind, "version": 99})
