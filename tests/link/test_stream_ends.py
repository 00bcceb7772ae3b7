"""The end of a stream arrives, whatever is lost around it, and a stream that has ended makes room for another."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from iceagent.link import quic_aioquic, quic_qh3

GAP_S = 0.02  # between the last byte and the end, so that they travel apart
PATIENCE_S = 60.0
FEW_STREAMS = 64


@pytest.mark.parametrize("size", [1, 10, 5000])
async def test_an_end_that_is_lost_with_the_bytes_before_it_arrives(ends: Any, autojump_clock: Any, size: int) -> None:
    for lost in range(9):
        pair = ends()
        async with pair.links() as (client, server), trio.open_nursery() as nursery:
            stream = await client.open_stream("asked")
            far = await server.accept_stream()

            async def answer(pair: Any = pair, far: Any = far, lost: int = lost) -> None:
                pair.server_transport.lose_next = lost
                await far.send_all(bytes(size))
                await trio.sleep(GAP_S)
                await far.send_eof()

            nursery.start_soon(answer)
            received = b""
            with trio.move_on_after(PATIENCE_S) as patience:
                received = b"".join([data async for data in stream])
            assert not patience.cancelled_caught, f"no end with {lost} packets lost"
            assert received == bytes(size)


async def test_streams_whose_end_overtakes_their_bytes_make_room_for_others(
    ends: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quic_aioquic, "MAX_STREAMS", FEW_STREAMS)
    monkeypatch.setattr(quic_qh3, "_LIMITS", (FEW_STREAMS, 0))
    pair = ends()
    async with pair.links() as (client, server):
        for _ in range(3 * FEW_STREAMS):
            with trio.fail_after(PATIENCE_S):
                stream = await client.open_stream("asked")
                far = await server.accept_stream()
                await stream.send_eof()
                await trio.sleep(GAP_S)  # acknowledgements and credit are on their way: the next packet has the bytes
                pair.server_transport.lose_next = 1
                await far.send_all(b"answer")
                await trio.sleep(GAP_S)
                await far.send_eof()
                assert [data async for data in stream] == [b"answer"]
                assert await far.receive_some(1) == b""
