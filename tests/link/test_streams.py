"""Streams over a link, both QUIC backends, in virtual time."""

from __future__ import annotations

import hashlib
import random

import trio


async def test_stream_carries_its_name_and_data_both_ways(ends, autojump_clock) -> None:
    """The main thing: what one side writes under a name, the other reads, and answers."""
    async with ends().links() as (client, server):
        stream = await client.open_stream("forward tcp:localhost:22")
        await stream.send_all(b"hello")
        other = await server.accept_stream()
        assert other.name == "forward tcp:localhost:22"
        assert await other.receive_some() == b"hello"
        await other.send_all(b"world")
        await other.send_eof()
        assert await stream.receive_some() == b"world"
        assert await stream.receive_some() == b""
        await stream.send_all(b"after eof of the other half")
        assert await other.receive_some() == b"after eof of the other half"


async def test_either_side_opens_streams(ends, autojump_clock) -> None:
    """A link is symmetric once it is open: the QUIC server forwards ports too."""
    async with ends().links() as (client, server):
        stream = await server.open_stream("back")
        other = await client.accept_stream()
        assert other.name == "back"
        await stream.send_all(b"x")
        assert await other.receive_some() == b"x"


async def test_bulk_arrives_intact_in_spite_of_loss(ends, autojump_clock) -> None:
    """Retransmission and reordering must not show in the stream."""
    data = random.Random(2).randbytes(3_000_000)
    async with ends(delay_s=0.01, loss=0.01).links() as (client, server):
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                async with await client.open_stream("bulk") as stream:
                    await stream.send_all(data)

            nursery.start_soon(write)
            digest = hashlib.sha256()
            async with await server.accept_stream() as other:
                async for chunk in other:
                    digest.update(chunk)
        assert digest.digest() == hashlib.sha256(data).digest()
