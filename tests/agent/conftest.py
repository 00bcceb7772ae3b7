"""What the agent's tests share: carrying descriptions by hand, and a STUN server of ten lines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import signaling
import trio

from iceagent.agent import Agent, AgentConfig, Role, open_agent
from iceagent.core import stun
from iceagent.net import SystemNetwork, UdpSocket

Connected = Callable[..., AbstractAsyncContextManager[tuple[Agent, Agent]]]


def loopback_config(*, segmentation: bool = True, families: tuple[int, ...] = (4,), **options: object) -> AgentConfig:
    network = SystemNetwork(segmentation=segmentation)
    return AgentConfig(network=network, interfaces=["lo"], families=families, **options)  # type: ignore[arg-type]


async def exchange(a: Agent, b: Agent) -> None:
    """Trickle both ways at once and wait until both agents have selected a pair."""
    async with trio.open_nursery() as nursery:
        for task in (a.wait_connected, b.wait_connected):
            nursery.start_soon(task)
        nursery.start_soon(signaling.carry, a, b)
        nursery.start_soon(signaling.carry, b, a)


@asynccontextmanager
async def connected_agents(
    config: AgentConfig | None = None, config_b: AgentConfig | None = None
) -> AsyncIterator[tuple[Agent, Agent]]:
    config = config or loopback_config()
    async with (
        open_agent(config, role=Role.CONTROLLING) as a,
        open_agent(config_b or config, role=Role.CONTROLLED) as b,
    ):
        with trio.fail_after(60):
            await exchange(a, b)
        yield a, b


@pytest.fixture
def connected() -> Connected:
    """Two agents that are connected."""
    return connected_agents


@pytest.fixture
def config() -> Callable[..., AgentConfig]:
    """Configurations for agents on the real loopback interface alone."""
    return loopback_config


@pytest.fixture
def carry() -> Callable[[Agent, Agent], object]:
    """Signaling both ways, until both are connected."""
    return exchange


@pytest.fixture
def answer_stun() -> Callable[[UdpSocket], object]:
    """A task that answers Binding requests."""

    async def answer(sock: UdpSocket) -> None:
        while True:
            for batch in await sock.receive():
                for datagram in batch.datagrams():
                    request = stun.decode(datagram)
                    if request.message_class is stun.MessageClass.REQUEST:
                        response = stun.success(request, stun.XorMappedAddress(batch.remote))
                        sock.send_nowait([stun.encode(response)], batch.remote)

    return answer
