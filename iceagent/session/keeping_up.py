"""Reconnects signaling when the network changes: after a change of address it is needed at once for a restart.

TCP does not report that the address of a connection is gone, or that a router has lost its state. The relay's pings
need most of a minute to notice. During that time a restart cannot reach the peer, and data stays on a TURN relay.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from iceagent.net import Network, SystemNetwork
from iceagent.net.background import open_background
from iceagent.net.monitor import open_monitor

if TYPE_CHECKING:
    from iceagent.agent import Agent

LookAgain = Callable[[Collection[str] | None], None]


@asynccontextmanager
async def keeping_up(look_again: LookAgain, network: Network | None = None) -> AsyncIterator[None]:
    """While the body runs, have signaling look at its connection after each change of the network.

    Args:
        look_again: called with the addresses that this machine has now.
        network: this machine's, unless another one is given.
    """
    watched = network or SystemNetwork()

    async def follow() -> None:
        async with open_monitor(watched) as monitor:
            while True:
                await monitor.wait()
                look_again({entry.host.partition("%")[0] for entry in watched.interfaces()})

    async with open_background() as nursery:
        nursery.start_soon(follow)
        yield


async def hurry_restarts(agent: Agent, look_again: LookAgain) -> None:
    """Have signaling look at its connection whenever the agent has something to say that cannot wait."""
    from iceagent.core.ice import Restarted  # here: an inviter keeps up long before it has an agent

    async for event in agent.events():
        if isinstance(event, Restarted):
            look_again(None)
