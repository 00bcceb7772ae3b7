"""What was written before a link was closed arrives, its end included, however tasks take turns and packets fare."""

from __future__ import annotations

from typing import Any

import pytest
import trio


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
                while not protocol.all_delivered():
                    await client._parked.park()
                protocol.end_sending(stream._state)
                assert not protocol.all_delivered(), "nobody has sent the end yet"
                while not protocol.all_delivered():
                    assert client.close_reason is None
                    await client._parked.park()
                await trio.sleep(0.02)
                assert heard == [b"hello", b""], seed
