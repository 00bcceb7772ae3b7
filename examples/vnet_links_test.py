"""Your own application over links, tested on a virtual network. Run it: `pytest examples/vnet_links_test.py`.

The application is a shop of one question: what does it cost? Its two functions know nothing of tests; only `network=`
puts them on a host of the virtual network. Codes, relay, TURN and links are the real ones, and no real socket is
opened: were the relay real, virtual time would not wait for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import icesignal
import pytest
import trio

import iceagent
from iceagent.net import Network
from iceagent.servers.stun import open_stun_server
from iceagent.vnet import FULL_CONE, NONE, PORT_RESTRICTED, Host, Nat, NetworkFactory

# The application ------------------------------------------------------------------------------------------------------

PRICES = {b"tea": b"3", b"cake": b"5"}


async def keep_shop(hand_out: trio.MemorySendChannel[str], relay: str, network: Network | None = None) -> None:
    """Answer the questions of one customer."""
    async with iceagent.invite(relay=relay, network=network) as invitation:
        await hand_out.send(invitation.code)
        async with invitation.accept() as link, await link.accept_stream() as stream:
            async for question in stream:
                await stream.send_all(PRICES.get(bytes(question), b"sold out"))


async def ask_price(code: str, relay: str, what: bytes, network: Network | None = None) -> bytes:
    """Ask for one price."""
    async with (
        iceagent.join(code, relay=relay, network=network) as link,
        await link.open_stream("price") as stream,
    ):
        await stream.send_all(what)
        return await stream.receive_some()


# Its tests ------------------------------------------------------------------------------------------------------------

RELAY = "ws://relay.example:8080"


@asynccontextmanager
async def street(vnet: NetworkFactory, *nats: Nat | None, loss: float = 0.0) -> AsyncIterator[tuple[Host, Host]]:
    """Two machines behind these NATs, and on the internet a relay and a STUN server, as `iceagent serve` runs both."""
    net = vnet()
    relay = net.host(net.internet, name="relay.example")
    here, there = (net.host(net.router(net.internet, nat=nat, delay_s=0.020, loss=loss)) for nat in nats)
    async with (
        net,
        open_stun_server("0.0.0.0", network=relay),
        icesignal.serve(
            listeners=[await relay.listen_tcp("0.0.0.0", 8080)], ice_servers=[{"urls": ["stun:relay.example:3478"]}]
        ),
    ):
        yield here, there


@asynccontextmanager
async def shop(host: Host) -> AsyncIterator[str]:
    """Open the shop on a machine; give its code."""
    codes, waiting = trio.open_memory_channel[str](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_shop, codes, RELAY, host)
        yield await waiting.receive()


NATS = {"no NAT": NONE, "full cone": FULL_CONE, "port-restricted": PORT_RESTRICTED}


@pytest.mark.parametrize("theirs", NATS)
@pytest.mark.parametrize("ours", NATS)
async def test_a_price_comes_through_two_nats(vnet: NetworkFactory, ours: str, theirs: str) -> None:
    async with street(vnet, NATS[ours], NATS[theirs]) as (here, there), shop(here) as code:
        assert await ask_price(code, RELAY, b"tea", there) == b"3"


async def test_a_price_comes_over_a_bad_line(vnet: NetworkFactory) -> None:
    async with street(vnet, PORT_RESTRICTED, PORT_RESTRICTED, loss=0.1) as (here, there), shop(here) as code:
        assert await ask_price(code, RELAY, b"cake", there) == b"5"


async def test_what_there_is_not_is_said(vnet: NetworkFactory) -> None:
    async with street(vnet, PORT_RESTRICTED, NONE) as (here, there), shop(here) as code:
        assert await ask_price(code, RELAY, b"coffee", there) == b"sold out"
