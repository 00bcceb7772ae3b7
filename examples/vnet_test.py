"""Your own peer-to-peer application, tested on a virtual network. Run it: `pytest examples/vnet_test.py`.

The application asks and answers questions over an `iceagent.Agent`. That carries datagrams, and datagrams get lost, so
a question is repeated until its answer comes. The tests put the two ends behind NATs and on bad lines: no machine, no
second and no luck is needed, and what has failed once fails again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from iceagent import Agent, AgentConfig, IceServer, Role, open_agent
from iceagent.servers.stun import open_stun_server
from iceagent.vnet import FULL_CONE, NONE, PORT_RESTRICTED, SYMMETRIC, Host, Nat, NetworkFactory

# The application ------------------------------------------------------------------------------------------------------


async def ask(agent: Agent, question: bytes, *, patience_s: float = 0.5) -> bytes:
    """Ask, again after every `patience_s` seconds of silence, and return the answer."""
    while True:
        await agent.send(question)
        with trio.move_on_after(patience_s):
            async for reply in agent:
                asked, _, answer = reply.partition(b"\n")
                if asked == question:
                    return answer


async def answer_everything(agent: Agent, answer: Callable[[bytes], bytes]) -> None:
    """Answer each question that comes, for ever; one that comes twice is answered twice."""
    async for question in agent:
        await agent.send(question + b"\n" + answer(question))


# Its tests ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def introduced(alice: Host, bob: Host) -> AsyncIterator[tuple[Agent, Agent]]:
    """Open an agent on each host and carry their descriptions over, as your signaling would."""
    server = IceServer("stun:stun.example:3478")
    alices = AgentConfig(network=alice, servers=[server], randbytes=alice.randbytes)
    bobs = AgentConfig(network=bob, servers=[server], randbytes=bob.randbytes)
    async with (
        open_agent(alices, role=Role.CONTROLLING) as one,
        open_agent(bobs, role=Role.CONTROLLED) as other,
        trio.open_nursery() as nursery,
    ):
        for here, there in ((one, other), (other, one)):
            nursery.start_soon(tell, here, there)
        yield one, other
        nursery.cancel_scope.cancel()


async def tell(here: Agent, there: Agent) -> None:
    """Carry what one has to say to the other; yours would send `part.to_json()`."""
    async for part in here.descriptions():
        there.accept(part)


@asynccontextmanager
async def conversation(vnet: NetworkFactory, *nats: Nat | None, loss: float = 0.0) -> AsyncIterator[Agent]:
    """Two machines behind these NATs; bob shouts back whatever alice asks. Give alice's agent."""
    net = vnet()
    stun = net.host(net.internet, name="stun.example")
    alice, bob = (net.host(net.router(net.internet, nat=nat, delay_s=0.020, loss=loss)) for nat in nats)
    async with net, open_stun_server("0.0.0.0", network=stun), introduced(alice, bob) as (one, other):
        await one.wait_connected()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_everything, other, bytes.upper)
            yield one
            nursery.cancel_scope.cancel()
    assert net.statistics().sockets_left_open == 0


NATS = {"no NAT": NONE, "full cone": FULL_CONE, "port-restricted": PORT_RESTRICTED}


@pytest.mark.parametrize("theirs", NATS)
@pytest.mark.parametrize("ours", NATS)
async def test_answer_comes_through_two_nats(vnet: NetworkFactory, ours: str, theirs: str) -> None:
    async with conversation(vnet, NATS[ours], NATS[theirs]) as agent:
        started_at = trio.current_time()
        assert await ask(agent, b"anybody home?") == b"ANYBODY HOME?"
        assert trio.current_time() - started_at < 0.1  # one round trip: to the microsecond, were you to insist


async def test_every_answer_comes_over_a_bad_line(vnet: NetworkFactory) -> None:
    async with conversation(vnet, PORT_RESTRICTED, FULL_CONE, loss=0.2) as agent:
        for word in (b"one", b"two", b"three"):
            assert await ask(agent, word) == word.upper()


async def test_an_hour_of_silence_costs_a_moment(vnet: NetworkFactory) -> None:
    async with conversation(vnet, SYMMETRIC, FULL_CONE) as agent:
        await trio.sleep(3600)  # the agents keep the NATs' mappings open meanwhile
        assert await ask(agent, b"still there?") == b"STILL THERE?"
