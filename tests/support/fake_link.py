"""Two sessions joined by a link in memory: what the tunnel needs of a link, and nothing of QUIC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_pair

from iceagent.errors import IceError
from iceagent.session.session import Session, run_session

WINDOW = 64 * 1024  # bytes a stream holds before its sender waits


class FakeStream:
    """One end of a stream in memory."""

    def __init__(self, name: str, half: trio.StapledStream[MemorySendStream, MemoryReceiveStream]) -> None:
        self.name = name
        self._half = half
        self._room: trio.Semaphore = trio.Semaphore(1)
        self.peer: FakeStream | None = None
        self.buffered = 0
        self.most_buffered = 0
        self._drained = trio.Event()
        self.was_reset = False
        self._broken = False

    async def send_all(self, data: bytes) -> None:
        for at in range(0, len(data), WINDOW):
            part = data[at : at + WINDOW]
            peer = self.peer
            assert peer is not None
            while peer.buffered >= WINDOW and not self._broken:
                await peer._drained.wait()
            self._check()
            peer.buffered += len(part)
            peer.most_buffered = max(peer.most_buffered, peer.buffered)
            if peer.buffered >= WINDOW:
                peer._drained = trio.Event()
            await self._half.send_all(part)

    async def send_eof(self) -> None:
        self._check()
        await self._half.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await self._half.receive_some(max_bytes)
        self._check()
        self.buffered -= len(data)
        self._drained.set()
        return bytes(data)

    async def aclose(self) -> None:
        self._half.send_stream.close()
        await trio.lowlevel.checkpoint()

    def reset(self, code: int = 0) -> None:
        self.was_reset = True
        for end in (self, self.peer):
            assert end is not None
            end._broken = True
            end._drained.set()
            end._half.send_stream.close()
            end._half.receive_stream.close()

    def _check(self) -> None:
        if self._broken:
            raise trio.BrokenResourceError("the stream was reset")


class FakeLink:
    """One end of a link in memory. `lose` is a set of datagram numbers that never arrive."""

    def __init__(self) -> None:
        self.peer: FakeLink = self
        self.opened: list[FakeStream] = []
        self._streams = trio.open_memory_channel[FakeStream](1000)
        self._datagrams = trio.open_memory_channel[bytes](10_000)
        self._closed = trio.Event()
        self.max_datagram_size = 1200
        self.lost: IceError | None = None

    async def open_stream(self, name: str) -> FakeStream:
        await trio.lowlevel.checkpoint()
        if self._closed.is_set():
            raise trio.BrokenResourceError("the link has ended")
        here, there = memory_stream_pair()
        near, far = FakeStream(name, here), FakeStream(name, there)
        near.peer, far.peer = far, near
        self.opened.append(near)
        self.peer._streams[0].send_nowait(far)
        return near

    @property
    def can_open_stream(self) -> bool:
        return True

    async def accept_stream(self) -> FakeStream:
        return await self._streams[1].receive()

    async def send_datagram(self, data: bytes) -> None:
        assert len(data) <= self.max_datagram_size
        await self.peer._datagrams[0].send(data)

    async def receive_datagram(self) -> bytes:
        return await self._datagrams[1].receive()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    @property
    def close_reason(self) -> IceError | None:
        return self.lost

    def statistics(self) -> Any:
        return None

    def close(self, lost: IceError | None = None) -> None:
        for end in (self, self.peer):
            end.lost = lost
            end._closed.set()
            end._streams[0].close()
            end._datagrams[0].close()
            for stream in end.opened:
                stream.reset()


def linked() -> tuple[Any, Any]:
    here, there = FakeLink(), FakeLink()
    here.peer, there.peer = there, here
    return here, there


def link_of(session: Session) -> FakeLink:
    """Return a session's end of the link, for what only this one can do."""
    link: Any = session._link
    assert isinstance(link, FakeLink)
    return link


@asynccontextmanager
async def linked_sessions() -> AsyncIterator[tuple[Session, Session]]:
    """Yield the joiner's and the inviter's session."""
    here, there = linked()
    joiner, inviter = Session(here, inviter=False), Session(there, inviter=True)
    async with run_session(joiner), run_session(inviter):
        yield joiner, inviter
