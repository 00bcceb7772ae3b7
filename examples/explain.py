"""Why is it slow, why does it fail: what an agent says of itself, on a virtual network that can be made to fail.

    python examples/explain.py                two homes, a relay between them: relayed, and why
    python examples/explain.py no-relay       the same without the relay: no path, why, and what helps
    python examples/explain.py open           with a NAT that keeps its ports on one side: direct

Your own program asks the same three: `agent.explain()` for a verdict, `agent.statistics()` for numbers, and
`agent.timeline_json()` for the whole story. docs/explain.md has every kind of verdict, and what each key means.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from iceagent import Agent, AgentConfig, IceServer, NetworkError, Role, open_agent
from iceagent.core.address import TransportAddress
from iceagent.servers.stun import open_stun_server
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.vnet import FULL_CONE, SYMMETRIC, Host, Nat, Network, run

STUN = (IceServer("stun:one.example:3478"), IceServer("stun:two.example:3478"))
ANYBODY = ("0.0.0.0/0",)  # the addresses of the virtual internet are reserved for documentation, which TURN denies
TURN = IceServer("turn:turn.example?transport=udp", username="george", credential="secret")


@asynccontextmanager
async def two_homes(nat: Nat, *, relay: bool) -> AsyncIterator[tuple[Host, Host]]:
    """A home behind `nat`, another behind a symmetric NAT, two STUN servers, and perhaps a TURN server."""
    net = Network(seed=1)
    servers = [net.host(net.internet, name=f"{name}.example") for name in ("one", "two", "turn")]
    homes = [net.router(net.internet, nat=one, delay_s=0.015) for one in (nat, SYMMETRIC)]
    alice, bob = (net.host(home, name=name) for home, name in zip(homes, ("alice", "bob"), strict=True))
    async with net, AsyncExitStack() as stack:
        for server in servers[:2]:
            await stack.enter_async_context(open_stun_server("0.0.0.0", 3478, network=server))
        if relay:
            here = TransportAddress(servers[2].interfaces()[-1].host, 3478)
            options = TurnOptions(listen=(here,), users={"george": "secret"}, tcp_listen=(), allow_peers=ANYBODY)
            await stack.enter_async_context(
                open_turn_server(options, network=servers[2], randbytes=servers[2].randbytes)
            )
        yield alice, bob


async def tell(here: Agent, there: Agent) -> None:
    """Carry everything one agent has to say to the other: the application's signaling."""
    async for part in here.descriptions():
        there.accept(part)


async def talk(one: Agent, other: Agent) -> None:
    """Connect, and send ten datagrams."""
    await one.wait_connected()
    for number in range(10):
        await one.send(b"%d" % number)
        await other.receive()


def report(agent: Agent) -> None:
    """Print the three."""
    print(agent.explain(), end="\n\n")

    statistics = agent.statistics()
    for pair in statistics.pairs:
        if pair.selected:
            rtt = pair.current_round_trip_time_s or 0
            print(f"{pair.packets_sent} datagrams sent over the selected pair, round trip {rtt * 1000:.0f} ms")
    print(f"{len(statistics.pairs)} pairs, {sum(pair.checks_sent for pair in statistics.pairs)} checks\n")

    for event in json.loads(agent.timeline_json())["events"]:
        if event["kind"] != "pair-state-changed":  # there are many
            print(f"{event['t']:7.3f} s  {event['kind']}")


async def main(case: str) -> None:
    nat = FULL_CONE if case == "open" else SYMMETRIC
    async with two_homes(nat, relay=case != "no-relay") as (alice, bob):
        servers = STUN if case == "no-relay" else (*STUN, TURN)
        ours = AgentConfig(servers=servers, network=alice, randbytes=alice.randbytes)
        theirs = AgentConfig(servers=servers, network=bob, randbytes=bob.randbytes)
        async with (
            open_agent(ours, role=Role.CONTROLLING) as one,
            open_agent(theirs, role=Role.CONTROLLED) as other,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(tell, one, other)
            nursery.start_soon(tell, other, one)
            try:
                await talk(one, other)
            except NetworkError as error:
                print("failed:", error, end="\n\n")
            report(one)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    run(lambda: main(" ".join(sys.argv[1:])), seed=1)
