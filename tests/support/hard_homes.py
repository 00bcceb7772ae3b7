"""Two homes behind NATs that guess each other's ports, with both sides' consent, and what became of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import trio

from iceagent.agent import Agent, AgentConfig, FreshPort, HardNat, HardNatBegun, IceServer, open_agent
from iceagent.core.ice import CandidateType, PairValidated, Role
from iceagent.servers.stun import open_stun_server
from iceagent.vnet import ADDRESS_RESTRICTED, PORT_RESTRICTED, SYMMETRIC, Host, Nat, Network, Router, TraceRecord, run

E = TypeVar("E")

SEQUENTIAL = replace(SYMMETRIC, port_allocation="sequential")
CONTIGUOUS = replace(SYMMETRIC, port_allocation="contiguous")
PRESERVING = replace(SYMMETRIC, port_allocation="preserving")
CARRIER = "a carrier's symmetric above port-restricted"
NATS: dict[str, Nat] = {
    "address-restricted": ADDRESS_RESTRICTED,
    "port-restricted": PORT_RESTRICTED,
    "symmetric": SYMMETRIC,
    "sequential": SEQUENTIAL,
    "contiguous": CONTIGUOUS,
    "preserving": PRESERVING,
    "symmetric, open to addresses": replace(SYMMETRIC, filtering="address-dependent"),
    CARRIER: PORT_RESTRICTED,
}
STUN = ("stun1.example", "stun2.example")


@dataclass
class Home:
    """One side."""

    host: Host
    outside: str
    agent: Agent

    def events(self, kind: type[E]) -> list[E]:
        return [event for _, event in self.timed(kind)]

    def timed(self, kind: type[E]) -> list[tuple[float, E]]:
        return [(at, one) for at, one in self.agent._driver.timeline.entries() if isinstance(one, kind)]


@dataclass
class Story:
    """What came of a run."""

    connected_s: float | None = None
    packets: list[int] = field(default_factory=list)
    busiest: int = 0
    late: list[str] = field(default_factory=list)
    sockets: list[int] = field(default_factory=list)
    left_open: int = 0
    begun: int = 0
    verdicts: list[str] = field(default_factory=list)


async def carry(source: Agent, target: Agent, relays_later_s: float = 0.0) -> None:
    """Carry candidates as sessions do: those that come after the end, too."""
    async for candidate in source.local_candidates():
        await trio.sleep(relays_later_s if candidate.type is CandidateType.RELAY else 0.0)
        target.add_remote_candidate(candidate.to_sdp())
    target.add_remote_candidate(None)
    async for candidate in source.late_candidates():
        target.add_remote_candidate(candidate.to_sdp())


def build(net: Network, kind: str, name: str) -> tuple[Host, str]:
    """Add a home with its host; return the host and the address that the internet sees."""
    parent: Router = net.internet
    if kind == CARRIER:
        parent = net.router(net.internet, nat=SYMMETRIC, subnet="100.64.0.0/10", name=f"carrier-{name}")
    home = net.router(parent, nat=NATS[kind], delay_s=0.020)
    outside = (home if parent is net.internet else parent).public_address
    assert outside is not None
    return net.host(home, name=name), outside


@asynccontextmanager
async def two_homes(
    net: Network,
    left: str,
    right: str,
    *,
    servers: Sequence[IceServer | str] = STUN,
    options: tuple[HardNat | bool, HardNat | bool] = (True, True),
    relays_later_s: float = 0.0,
    **config: Any,
) -> AsyncIterator[list[Home]]:
    """Run STUN servers and two agents that are told all of each other."""
    reflectors = [net.host(net.internet, name=name) for name in STUN]
    built = [build(net, kind, name) for kind, name in ((left, "alice"), (right, "bob"))]
    entries = [one if isinstance(one, IceServer) else IceServer(f"stun:{one}:3478") for one in servers]
    async with net, AsyncExitStack() as stack:
        for reflector in reflectors:
            await stack.enter_async_context(open_stun_server("0.0.0.0", network=reflector))
        homes = []
        for (host, outside), role, wish in zip(built, (Role.CONTROLLING, Role.CONTROLLED), options, strict=True):
            chosen = AgentConfig(servers=entries, network=host, randbytes=host.randbytes, hard_nat=wish, **config)
            agent = await stack.enter_async_context(open_agent(chosen, role=role))
            homes.append(Home(host, outside, agent))
        alice, bob = (home.agent for home in homes)
        alice.set_remote_credentials(bob.credentials, options=bob.options)
        bob.set_remote_credentials(alice.credentials, options=alice.options)
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(carry, alice, bob, relays_later_s)
        nursery.start_soon(carry, bob, alice, relays_later_s)
        yield homes
        nursery.cancel_scope.cancel()


def guesses(net: Network, home: Home, other: Home) -> list[TraceRecord]:
    """Return (time, record) of what a side sent to the other's outside, the peer's mapped address and checks left out.

    The few ordinary checks of addresses that were signalled are not guesses, those of fresh ports among them; nor are
    packets of the path that was found.
    """
    paths = {(pair.local.path_base, pair.remote.address) for pair in home.agent._driver.ice.pairs}
    fresh = {port.base for port in home.events(FreshPort)} | {port.mapped for port in other.events(FreshPort)}
    sends = [one for one in net.trace if one.event == "send" and one.place == home.host.name]
    to_peer = [one for one in sends if one.packet.destination.host == other.outside]
    return [one for one in to_peer if one.packet[:2] not in paths and not fresh & set(one.packet[:2])]


def busiest_second(times: Sequence[float]) -> int:
    """Return how many of these times lie within one second, at most."""
    times = sorted(times)
    first, most = 0, 0
    for last, at in enumerate(times):
        while times[first] <= at - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


async def play(
    seed: int, left: str, right: str, *, after_s: float = 3.0, patience_s: float = 30.0, **wishes: Any
) -> Story:
    """Play one row with one seed to the end, and look at what happened."""
    net, story = Network(seed), Story()
    start = trio.current_time()
    async with two_homes(net, left, right, **wishes) as homes:
        with trio.move_on_after(patience_s):
            for home in homes:
                await home.agent.wait_connected()
            story.connected_s = trio.current_time() - start
        await trio.sleep(after_s)
        for home, other in (homes, homes[::-1]):
            sent = guesses(net, home, other)
            story.packets.append(len(sent))
            story.busiest = max(story.busiest, busiest_second([one.at_s for one in sent]))
            story.sockets.append(len(home.host.sockets))
            story.begun += len(home.events(HardNatBegun))
            story.verdicts.append(str(home.agent.explain()))
            success = [at for at, _ in home.timed(PairValidated)]
            if success:
                story.late += [str(one) for one in sent if one.at_s > success[0] - start + 1e-9]
    story.left_open = net.statistics().sockets_left_open
    return story


def play_all(left: str, right: str, seeds: Iterable[int], **wishes: Any) -> list[Story]:
    return [run(partial(play, seed, left, right, **wishes), seed=seed) for seed in seeds]


ROWS = [
    ("port-restricted", "symmetric"),
    ("symmetric", "port-restricted"),
    ("port-restricted", CARRIER),
    ("sequential", "sequential"),
    ("contiguous", "contiguous"),
    ("preserving", "preserving"),
    ("sequential", "preserving"),
    ("port-restricted", "sequential"),
    ("contiguous", "port-restricted"),
    ("port-restricted", "preserving"),
]


def is_direct(agent: Agent) -> bool:
    """Return whether it is connected, and without a relay."""
    pair = agent.selected_pair
    return pair is not None and CandidateType.RELAY not in (pair.local.type, pair.remote.type)
