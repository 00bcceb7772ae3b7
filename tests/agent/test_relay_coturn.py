"""Agents through coturn: what a real server does, killed and started again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from coturn import PASSWORD, USER, Coturn, running_coturn
from signaling import carry_all

from iceagent.agent import Agent, AgentConfig, CandidateType, IceServer, Role, open_agent

pytestmark = pytest.mark.processes


@pytest.fixture
def coturn() -> Iterator[Coturn]:
    with running_coturn() as server:
        yield server


def relay_only(coturn: Coturn, url: str = "turn:{host}:{port}", **options: object) -> AgentConfig:
    server = IceServer(url.format(host=coturn.host, port=coturn.port), username=USER, credential=PASSWORD)
    return AgentConfig(servers=[server], transport_policy="relay", families=(4,), proxy="", **options)  # type: ignore[arg-type]


DIRECT = AgentConfig(interfaces=["lo"], families=(4,))


async def talk(sender: Agent, receiver: Agent, *, after: float) -> float:
    """Send until what was sent after the time `after` arrives; return when."""
    arrived = trio.Event()
    at = 0.0

    async def send() -> None:
        while not arrived.is_set():
            with trio.move_on_after(0.05):
                await sender.send(repr(trio.current_time()).encode())
            await trio.sleep(0.02)

    async def receive() -> None:
        nonlocal at
        while not arrived.is_set():
            if float(await receiver.receive()) >= after:
                at = trio.current_time()
                arrived.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        nursery.start_soon(receive)
    return at


@pytest.mark.parametrize("relayed", ["controlling", "controlled", "both"])
async def test_data_flows_again_after_the_server_was_killed_and_restarted(coturn, relayed):
    """All allocations are gone, and every relayed address is another one; the session must not be.

    That it takes 5 s at most is shown in virtual time (test_relay.py).
    """
    config_a = relay_only(coturn) if relayed in ("controlling", "both") else DIRECT
    config_b = relay_only(coturn) if relayed in ("controlled", "both") else DIRECT
    with trio.fail_after(60):
        async with (
            open_agent(config_a, role=Role.CONTROLLING) as a,
            open_agent(config_b, role=Role.CONTROLLED) as b,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(carry_all, a, b)
            nursery.start_soon(carry_all, b, a)
            await a.wait_connected()
            await b.wait_connected()
            await talk(a, b, after=0.0)
            await talk(b, a, after=0.0)
            await trio.sleep(4)  # as running sessions are: past the time in which nominations may still change
            coturn.kill()
            await trio.sleep(0.5)
            await trio.to_thread.run_sync(coturn.start)
            started_at = trio.current_time()
            there = await talk(a, b, after=started_at) - started_at
            back = await talk(b, a, after=started_at) - started_at
            print(f"{relayed}: {there:.2f} s there, {back:.2f} s back")
            pair = a.selected_pair or b.selected_pair
            assert pair is not None
            assert CandidateType.RELAY in (pair.local.type, pair.remote.type) or pair.remote.type is CandidateType.PRFLX
            nursery.cancel_scope.cancel()
