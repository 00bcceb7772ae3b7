"""Candidates over TCP with the system's own sockets: what the virtual network cannot prove."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import trio

from iceagent.agent import Agent, AgentConfig, Role, open_agent
from iceagent.core.address import TransportAddress
from iceagent.net.tcp import connect_tcp, listen_tcp


async def carry(sender: Agent, receiver: Agent, tcp_types: tuple[str, ...]) -> None:
    """Carry only candidates of certain types, as if nothing else could work."""
    receiver.set_remote_credentials(sender.credentials)
    async for candidate in sender.local_candidates():
        if candidate.tcp_type in tcp_types:
            receiver.add_remote_candidate(candidate.to_sdp())
    receiver.add_remote_candidate(None)


@pytest.mark.parametrize("families", [(4,), (6,)], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(("active",), ("passive",)), (("passive",), ("active",)), (("so",), ("so",))], ids=str
)
async def test_agents_connect_over_real_tcp(
    config: Callable[..., AgentConfig], ours: tuple[str, ...], theirs: tuple[str, ...], families: tuple[int, ...]
) -> None:
    """One port listens and connects (SO_REUSEPORT); whoever comes first, there is one connection, and none is left."""
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    settings = config(tcp_candidates=True, families=families)
    with trio.fail_after(60):
        async with open_agent(settings, role=Role.CONTROLLING) as a, open_agent(settings, role=Role.CONTROLLED) as b:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carry, a, b, ours)
                nursery.start_soon(carry, b, a, theirs)
                pair = await a.wait_connected()
                await b.wait_connected()
            assert pair.local.transport == "tcp"
            assert {pair.local.tcp_type, pair.remote.tcp_type} == {*ours, *theirs}
            await a.send_many([bytes([number]) * 1200 for number in range(50)])
            got: list[bytes] = []
            while len(got) < 50:
                got += await b.receive_many()
            assert got == [bytes([number]) * 1200 for number in range(50)]
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before


async def test_an_agent_closed_over_tcp_loses_none_of_its_final_messages(config: Callable[..., AgentConfig]) -> None:
    """A link says goodbye and closes; `send` returns once the system has the bytes, which then delivers them."""
    settings = config(tcp_candidates=True)
    with trio.fail_after(60):
        async with open_agent(settings, role=Role.CONTROLLED) as b:
            async with open_agent(settings, role=Role.CONTROLLING) as a:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(carry, a, b, ("active",))
                    nursery.start_soon(carry, b, a, ("passive",))
                    await a.wait_connected()
                    await b.wait_connected()
                await a.send_many([b"goodbye"] * 3)
            got: list[bytes] = []
            while len(got) < 3:
                got += await b.receive_many()
            assert got == [b"goodbye"] * 3


async def test_a_port_that_listens_connects_to_several() -> None:
    """What simultaneous open needs of the system: the port of a listener as the source of connections."""
    listener = await listen_tcp("127.0.0.1", share_port=True)
    port = listener.socket.getsockname()[1]
    others = [await listen_tcp("127.0.0.1") for _ in range(2)]
    for other in others:
        remote = TransportAddress("127.0.0.1", other.socket.getsockname()[1])
        stream = await connect_tcp(remote, local_host="127.0.0.1", local_port=port)
        accepted = await other.accept()
        assert accepted.socket.getpeername()[1] == port
        await stream.aclose()
        await accepted.aclose()
    for one in (listener, *others):
        await one.aclose()
