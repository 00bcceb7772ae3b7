"""Two homes on the virtual network, the relay outside, and what to say over a link between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import icesignal

import iceagent
from iceagent.servers.stun import open_stun_server
from iceagent.vnet import PORT_RESTRICTED, Host, Network

RELAY = "ws://relay.example:8080"


@asynccontextmanager
async def homes(net: Network) -> AsyncIterator[tuple[Host, Host]]:
    """Two homes with NATs, and a relay with STUN outside."""
    relay = net.host(net.internet, name="relay.example")
    here, there = (net.host(net.router(net.internet, nat=PORT_RESTRICTED)) for _ in range(2))
    async with (
        net,
        open_stun_server("0.0.0.0", network=relay),
        icesignal.serve(
            listeners=[await relay.listen_tcp("0.0.0.0", 8080)], ice_servers=[{"urls": ["stun:relay.example:3478"]}]
        ),
    ):
        yield here, there


async def echo(link: iceagent.Link) -> None:
    """Send one stream back."""
    async with await link.accept_stream() as stream:
        async for data in stream:
            await stream.send_all(data)
