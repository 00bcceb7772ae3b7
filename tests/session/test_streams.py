"""How a session sorts the streams that the other side opens."""

from __future__ import annotations

import trio.testing
from fake_link import link_of, linked_sessions

from iceagent.link.config import MAX_STREAMS
from iceagent.session.streams import TUNNEL_SERVICE


async def test_a_burst_of_streams_is_not_reset():
    """A browser, or a load of connections that begin at once, opens more than anybody can accept meanwhile."""
    async with linked_sessions() as (here, there):
        opened = [await here.streams.open_service(TUNNEL_SERVICE) for _ in range(MAX_STREAMS)]
        await trio.testing.wait_all_tasks_blocked()
        for stream in link_of(here).opened:
            assert stream.peer is not None
            assert not stream.peer.was_reset
        for _ in opened:
            await there.streams.accept(TUNNEL_SERVICE)
