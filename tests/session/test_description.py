"""The description and the candidates that follow it, on a channel that ends in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import icesignal
import pytest
import trio

from iceagent.core.ice import Credentials
from iceagent.session.description import parse_untrusted, send_description
from iceagent.session.errors import VersionMismatch
from iceagent.session.netcheck.peer import parse_untrusted as parse_netcheck


class LeavingPeer:
    """A channel whose other end leaves once it has the description."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    async def send(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if self.sent:
            raise icesignal.PeerLeft("the other side left")
        self.sent.append(message)


def silent_agent() -> Any:
    """An agent that finds no candidate."""

    async def local_candidates() -> AsyncIterator[Any]:
        await trio.lowlevel.checkpoint()
        for candidate in ():
            yield candidate

    return SimpleNamespace(
        options=(), pacing_s=0.02, credentials=Credentials("abcd", "0" * 22), local_candidates=local_candidates
    )


async def test_a_peer_that_leaves_while_we_still_gather_raises_an_unwrapped_error() -> None:
    """Whoever is done leaves, however slow our gathering; a group around the error would look like a bug of ours."""
    channel: Any = LeavingPeer()
    with pytest.raises(icesignal.PeerLeft):
        await send_description(channel, silent_agent(), b"f" * 32)
    assert [message["type"] for message in channel.sent] == ["description"]


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
