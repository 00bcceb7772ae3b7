"""Two agents on the virtual network, each behind a NAT, with a STUN server on the internet between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from iceagent.agent import Agent, AgentConfig, IceServer, open_agent
from iceagent.core.ice import CandidatePair, Role
from iceagent.servers.stun import open_stun_server
from iceagent.vnet import ADDRESS_RESTRICTED, FULL_CONE, NONE, PORT_RESTRICTED, SYMMETRIC, Host, Nat, Network, Router

STUN_SERVER = "stun:stun.example:3478"
NATS: dict[str, Nat | None] = {
    "none": NONE,
    "full-cone": FULL_CONE,
    "address-restricted": ADDRESS_RESTRICTED,
    "port-restricted": PORT_RESTRICTED,
    "symmetric": SYMMETRIC,
}


@dataclass
class VirtualPair:
    """A running network with two agents in it that know nothing of each other yet."""

    net: Network
    homes: tuple[Router, Router]
    hosts: tuple[Host, Host]
    agents: tuple[Agent, Agent]

    async def introduce(self) -> None:
        """Carry credentials and candidates between the two, as a signaling service would, to the end of both."""
        alice, bob = self.agents
        alice.set_remote_credentials(bob.credentials)
        bob.set_remote_credentials(alice.credentials)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle, alice, bob)
            nursery.start_soon(trickle, bob, alice)

    async def connect(self) -> None:
        """Introduce the agents and wait until both are connected."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.introduce)
            for agent in self.agents:
                nursery.start_soon(agent.wait_connected)


async def trickle(source: Agent, target: Agent) -> None:
    """Tell `target` each candidate of `source`, and that they have ended."""
    async for candidate in source.local_candidates():
        target.add_remote_candidate(candidate)
    target.add_remote_candidate(None)


def config_of(host: Host, **options: Any) -> AgentConfig:
    """Return the configuration of an agent on a host, whose luck is the network's."""
    return AgentConfig(network=host, randbytes=host.randbytes, **options)


def selected(agent: Agent) -> CandidatePair:
    """Return the pair in use; there must be one."""
    pair = agent.selected_pair
    assert pair is not None
    return pair


@asynccontextmanager
async def two_agents(
    net: Network,
    *nats: Nat | None,
    parents: tuple[Router, Router] | None = None,
    delay_s: float = 0.020,
    loss: float = 0.0,
    **options: Any,
) -> AsyncIterator[VirtualPair]:
    """Build the network, start the STUN server and two agents, alice controlling; all of it seeded by the network.

    `loss` is that of the path between the two in one direction; each one's line to the internet has half a share in it.
    """
    loss_of_line = 1 - (1 - loss) ** 0.5
    server = net.host(net.internet, name="stun.example")
    above = parents or (net.internet, net.internet)
    homes = [net.router(a, nat=nat, delay_s=delay_s, loss=loss_of_line) for a, nat in zip(above, nats, strict=True)]
    hosts = [net.host(home, name=name) for home, name in zip(homes, ("alice", "bob"), strict=True)]
    configs = [config_of(host, servers=[IceServer(STUN_SERVER)], **options) for host in hosts]
    async with (
        net,
        open_stun_server("0.0.0.0", network=server),
        open_agent(configs[0], role=Role.CONTROLLING) as alice,
        open_agent(configs[1], role=Role.CONTROLLED) as bob,
    ):
        yield VirtualPair(net, (homes[0], homes[1]), (hosts[0], hosts[1]), (alice, bob))
