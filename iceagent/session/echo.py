"""The side that answers pings: each session does, whatever else it is for, and however many are asked.

Who asks opens a stream `iceagent.ping` and sends on it the id of a flow of datagrams (8 bytes, big-endian). The other
side answers with one byte, and from then on sends each datagram of that flow back as it is, so long as the stream
lasts. So the packets take the way of payload, and one that is lost stays lost.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio

from iceagent.core.token_bucket import TokenBucket
from iceagent.errors import IceError
from iceagent.net.tasks import contained, open_background
from iceagent.session.datagrams import DatagramRouter
from iceagent.session.raw import NamedStream
from iceagent.session.streams import PING_SERVICE, RESET_BUSY, RESET_UNKNOWN, StreamRouter

MAX_ASKERS: Final = 4  # ours: streams of a session at once
MAX_SIZE: Final = 64  # ours: bytes of a datagram that is answered
PER_S: Final = 20.0  # ours: datagrams answered a second, and as many at once
MAX_QUEUED: Final = 20  # ours: on their way back; more are dropped
ANSWER_S: Final = 20.0  # ours: for a request to come, and for its answer
ID_SIZE: Final = 8
YES: Final = b"+"
_FLOWS: Final = 1 << 62  # ids are QUIC varints


async def answer_pings(streams: StreamRouter, datagrams: DatagramRouter) -> None:
    """Answer the other side's pings until the link ends: `PER_S` a second, of all streams together."""
    bucket = TokenBucket(PER_S, PER_S, trio.current_time())
    slots = trio.Semaphore(MAX_ASKERS)

    async def run(stream: NamedStream) -> None:
        try:
            with contained("the other side's pings"):
                await _answer_one(datagrams, stream, bucket)
        finally:
            stream.reset(RESET_UNKNOWN)
            slots.release()

    async with trio.open_nursery() as nursery:
        while True:
            try:
                stream = await streams.accept(PING_SERVICE)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                break
            try:
                slots.acquire_nowait()
            except trio.WouldBlock:
                stream.reset(RESET_BUSY)
                continue
            nursery.start_soon(run, stream)


async def _answer_one(datagrams: DatagramRouter, stream: NamedStream, bucket: TokenBucket) -> None:
    queue = trio.open_memory_channel[bytes](MAX_QUEUED)

    def take(data: bytes) -> None:
        if len(data) <= MAX_SIZE and bucket.take(trio.current_time()):
            with suppress(trio.WouldBlock):
                queue[0].send_nowait(data)

    async def send_back() -> None:
        async for data in queue[1]:
            await datagrams.send(flow, data)

    try:
        flow = _FLOWS
        with trio.move_on_after(ANSWER_S):
            flow = int.from_bytes(await receive_exactly(stream, ID_SIZE), "big")
        if flow >= _FLOWS or not datagrams.open_flow(flow, take):
            return
        try:
            async with open_background() as nursery:
                nursery.start_soon(send_back)
                await stream.send_all(YES)
                while await stream.receive_some(MAX_SIZE):
                    pass  # nothing more is to be said there
        finally:
            datagrams.close_flow(flow)
    except (trio.BrokenResourceError, trio.ClosedResourceError, IceError):
        return  # the other side has what it wanted


async def receive_exactly(stream: NamedStream, size: int) -> bytes:
    """Return so many bytes.

    Raises:
        trio.BrokenResourceError: the stream ended before.
    """
    received = b""
    while len(received) < size:
        part = await stream.receive_some(size - len(received))
        if not part:
            raise trio.BrokenResourceError("the stream has ended too early")
        received += part
    return received
