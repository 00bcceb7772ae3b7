"""A relayed session outlives its TURN server: killed in mid-transfer and started again, it costs time and no byte."""

from __future__ import annotations

import hashlib
import random

import pytest
import trio
from coturn import PASSWORD, USER, running_coturn

import iceagent
from iceagent.agent import AgentConfig, IceServer

pytestmark = pytest.mark.processes

SIZE = 8_000_000
CHUNK = 100_000


async def test_no_byte_is_lost_when_the_turn_server_is_killed_and_restarted() -> None:
    """Every allocation is gone and every relayed address is another; the link's streams must not notice."""
    data = random.Random(1).randbytes(SIZE)
    digest, received = hashlib.sha256(), 0
    half_way = trio.Event()
    with running_coturn() as server, trio.fail_after(60):
        turn = IceServer(f"turn:{server.host}:{server.port}", username=USER, credential=PASSWORD)
        config = AgentConfig(servers=[turn], transport_policy="relay", families=(4,), proxy="")

        async def read(invitation: iceagent.Invitation) -> None:
            nonlocal received
            async with invitation.accept() as link, await link.accept_stream() as stream:
                async for chunk in stream:
                    digest.update(chunk)
                    received += len(chunk)
                    if received > SIZE // 4:
                        half_way.set()
                await stream.send_all(b"done")
                await stream.send_eof()

        async def kill_and_restart() -> None:
            await half_way.wait()
            server.kill()
            await trio.sleep(0.5)
            await trio.to_thread.run_sync(server.start)

        async with iceagent.invite(config=config) as invitation, trio.open_nursery() as nursery:
            nursery.start_soon(read, invitation)
            nursery.start_soon(kill_and_restart)
            async with iceagent.join(invitation.code, config=config) as link, await link.open_stream("bulk") as stream:
                for at in range(0, SIZE, CHUNK):
                    await stream.send_all(data[at : at + CHUNK])
                    await trio.sleep(0.02)  # about 40 Mbit/s, so that the kill falls into the transfer
                await stream.send_eof()
                assert await stream.receive_some() == b"done"
    assert (received, digest.hexdigest()) == (SIZE, hashlib.sha256(data).hexdigest())
