"""What was written before a link was closed arrives, its end included, however tasks take turns and packets fare."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from iceagent.link import LinkConfig


@pytest.mark.parametrize("loss", [0.0, 0.2])
async def test_the_end_of_a_stream_arrives_before_the_end_of_the_link(ends: Any, loss: float) -> None:
    """A bare end is no byte: neither one that is still to be sent, nor one that was lost, may be forgotten."""
    for seed in range(4):
        async with ends(loss=loss, delay_s=0.01, seed=seed).links() as (client, server):
            heard: list[bytes] = []

            async def hear(server: Any = server, heard: list[bytes] = heard) -> None:
                stream = await server.accept_stream()
                async for data in stream:
                    heard.append(data)
                heard.append(b"")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(hear)
                stream = await client.open_stream("greeting")
                await stream.send_all(b"hello")
                while not heard:
                    await trio.sleep(0.01)
                protocol = client._protocol
                while protocol.undelivered():
                    await client._parked.park()
                protocol.end_sending(stream._state)
                assert protocol.undelivered(), "nobody has sent the end yet"
                while protocol.undelivered():
                    assert client.close_reason is None
                    await client._parked.park()
                await trio.sleep(0.02)
                assert heard == [b"hello", b""], seed


async def test_what_a_slow_path_takes_long_for_arrives_before_the_end_of_the_link(
    ends: Any, autojump_clock: Any
) -> None:
    """Closing waits while the peer goes on taking something: how long that is depends on the path."""
    pair = ends(delay_s=0.4)
    took: list[bytes] = []

    async def read() -> None:
        async with pair.server() as server, await server.accept_stream() as stream:
            took.extend([data async for data in stream])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        async with pair.client() as client, await client.open_stream("parting") as stream:
            await stream.send_all(bytes(400_000))
    assert sum(map(len, took)) == 400_000


async def test_a_peer_that_takes_nothing_more_is_not_waited_for_longer_than_said(
    ends: Any, autojump_clock: Any
) -> None:
    """It was killed, or its path has died: nobody can tell which, and the end of the block must come."""
    pair = ends(config=LinkConfig(close_timeout_s=2.0))
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            async with pair.server():
                await trio.sleep_forever()

        nursery.start_soon(serve)
        async with pair.client() as client:
            stream = await client.open_stream("parting")
            pair.client_transport.cut = True
            await stream.send_all(bytes(20_000))
            left_at = trio.current_time()
        assert 1.9 < trio.current_time() - left_at < 4.1
        nursery.cancel_scope.cancel()
