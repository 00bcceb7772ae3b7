"""Time to first data and to nomination over realistic candidate sets: orders of checks against paces (docs/timing.md).

Each seed is a pair of machines as people have them: container bridges, VPNs, several IPv6 addresses, broken IPv6, NATs,
20 to 200 ms apart, 0 to 30 % loss each way. Both have gathered; at t = 0 each learns the other's whole description.
Virtual time: the figures are exact, and repeat. `--smoke` runs a fraction.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import trio

from iceagent import vnet
from iceagent.agent import Agent, AgentConfig, IceServer, open_agent
from iceagent.core import ice
from iceagent.core.address import TransportAddress
from iceagent.core.ice import PairFacts
from iceagent.core.ice.checks.scheduler import Scheduler
from iceagent.core.ice.model.likelihood import Likelihood, by_likelihood, of_pair
from iceagent.core.ice.model.priority import TYPE_PREFERENCE
from iceagent.net.api import InterfaceAddress
from iceagent.servers.stun import open_stun_server
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions

ALLOWED_PEERS = ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24", "198.18.0.0/15", "2001:db8::/32")
PACES_S = ((0.005, 0), (0.010, 0), (0.020, 0), (0.020, 8), (0.050, 0), (0.050, 8))  # Ta; checks 5 ms apart at first
GIVE_UP_S = 60.0
Key = Callable[[PairFacts], tuple[int, ...]]


def _kind(pair: PairFacts) -> int:
    return min(TYPE_PREFERENCE[end.type] for end in (pair.local, pair.remote))


KEYS: dict[str, Key] = {
    "8445: IPv6 first": lambda pair: (-_kind(pair), -pair.path[0].family, -pair.priority),
    "8421: priority": lambda pair: (-pair.priority,),
    "same subnet first": lambda pair: (of_pair(pair) is not Likelihood.NEAR, -pair.priority),
    "likely first": lambda pair: (-of_pair(pair), -pair.priority),
}
ORDERS = (*KEYS, "likely, families in turn")


@dataclass(frozen=True, slots=True)
class Ordered(ice.DefaultController):
    """The default, but for the order of ordinary checks."""

    order: str = ""
    turns: list[int] = field(default_factory=lambda: [0])  # of the families; a real controller has no state

    def choose_check(self, question: ice.CheckQuestion) -> PairFacts | None:
        """Return the first triggered pair, else the first of the order."""
        if question.triggered:
            return question.triggered[0]
        if self.order in KEYS:
            return min(question.waiting, key=KEYS[self.order], default=None)
        return self._families_in_turn(question.waiting)

    def _families_in_turn(self, waiting: tuple[PairFacts, ...]) -> PairFacts | None:
        """Two of IPv6, then one of IPv4 (RFC 8421), within what is equally likely."""
        ranked = by_likelihood(waiting)
        turn = 4 if self.turns[0] % 3 == 2 else 6
        best = [pair for pair in ranked if of_pair(pair) is of_pair(ranked[0])]
        self.turns[0] += 1
        return next((pair for pair in best if pair.path[0].family == turn), next(iter(ranked), None))


@dataclass(frozen=True, slots=True)
class Result:
    """Of one run: seconds until either side, and both, may send; until both are nominated; or None."""

    first_s: float | None
    data_s: float | None
    nominated_s: float | None
    checks: int
    is_relayed: bool
    pairs: int
    loss: float
    round_trip_s: float


class World:
    """What a seed draws."""

    def __init__(self, seed: int) -> None:
        self.random = draw = random.Random(seed)
        self.net = net = vnet.Network(seed, families=(4, 6), trace_limit=0)
        self.round_trip_s = draw.choice([0.02, 0.05, 0.1, 0.2])
        self.loss = draw.choice([0.0, 0.0, 0.0, 0.01, 0.05, 0.1, 0.2, 0.3])
        self.stun = net.host(net.internet, name="stun.example")
        self.turn = net.host(net.internet, name="turn.example") if draw.random() < 0.5 else None
        nowhere = net.router(net.internet, nat=vnet.PORT_RESTRICTED, families=(4, 6), name="nowhere")
        nowhere.link.cut()
        self.nowhere = nowhere
        symmetric = draw.random() < 0.15
        self.is_one_house = draw.random() < 0.15
        self.homes = [self._home(symmetric) for _ in range(1 if self.is_one_house else 2)] * 2
        works = draw.random() < 0.45  # IPv6 of both; else at most one of them has it
        self.hosts = [self._machine(index, has_ipv6=works or draw.random() < 0.4) for index in range(2)]
        self.dead_stun = draw.random() < 0.3

    def _home(self, symmetric: bool) -> vnet.Router:
        nat = vnet.SYMMETRIC if symmetric else self.random.choice([vnet.PORT_RESTRICTED, vnet.ADDRESS_RESTRICTED])
        loss = 1 - (1 - self.loss) ** 0.5
        return self.net.router(self.net.internet, nat=nat, delay_s=self.round_trip_s / 4, loss=loss)

    def _machine(self, index: int, *, has_ipv6: bool) -> vnet.Host:
        draw, number = self.random, self.random.randrange(2, 250)
        host = self.net.host(self.homes[index], name=f"machine{index}", delay_s=0.0005)
        (wire,) = host.attachments()
        four = tuple(entry for entry in wire.addresses if ":" not in entry.host)
        six = tuple(entry for entry in wire.addresses if ":" in entry.host)
        home = self.homes[index]
        extra = [InterfaceAddress("eth0", *home.next_host(6), is_temporary=True) for _ in range(draw.randrange(1, 3))]
        stays = (*four, *(six + tuple(extra) if has_ipv6 else ()))
        home.remove_routes(wire, forget=False)
        wire.addresses = stays
        home.add_route(wire)
        dead = [
            (f"br-{bridge}" if bridge else "docker0", f"172.{17 + bridge}.0.1", 16)
            for bridge in range(draw.choice([0, 0, 1, 2, 4]))
        ]
        if draw.random() < 0.2:
            dead.append(("virbr0", "192.168.122.1", 24))
        if draw.random() < 0.4:
            dead.append(("tun0", f"10.{8 + index}.0.{number}", 24))
        if draw.random() < 0.3:
            dead.append(("tailscale0", f"100.64.{number}.{index + 1}", 32))
        if draw.random() < 0.25:
            dead.append(("eth0:ula", f"fd{number:02x}:1::{index + 1}", 64))
        if draw.random() < 0.25:  # IPv6 that is there and does not work
            dead += [("wlan0", f"2001:db8:ffff:{number:x}::{at}", 64) for at in range(1, draw.choice([2, 3]))]
        for name, address, length in dead:
            self._plug(host, InterfaceAddress(name, address, length))
        return host

    def _plug(self, host: vnet.Host, entry: InterfaceAddress) -> None:
        interface = host.attach(self.nowhere)
        self.nowhere.remove_routes(interface, forget=False)
        interface.addresses = (entry,)

    def config(self, host: vnet.Host, order: str, ta_s: float) -> AgentConfig:
        servers = [IceServer("stun:stun.example:3478")]
        if self.turn is not None:
            servers.append(IceServer("turn:turn.example:3478?transport=udp", username="u", credential="p"))
        if self.dead_stun:
            servers.append(IceServer("stun:192.0.2.250:3478"))
        controller = Ordered(order=order)
        return AgentConfig(
            servers=servers,
            network=host,
            randbytes=host.randbytes,
            ta_s=ta_s,
            controller=controller,
            port_mapping=False,
        )


@asynccontextmanager
async def _running(world: World, order: str, ta_s: float) -> AsyncIterator[tuple[Agent, Agent]]:
    turn = world.turn or world.stun
    options = TurnOptions([ice_address(host) for host in turn.addresses()], users={"u": "p"}, allow_peers=ALLOWED_PEERS)
    configs = [world.config(host, order, ta_s) for host in world.hosts]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(world.net)
        for wildcard in ("0.0.0.0", "::"):
            await stack.enter_async_context(open_stun_server(wildcard, network=world.stun))
        if world.turn is not None:
            await stack.enter_async_context(open_turn_server(options, network=turn, randbytes=turn.randbytes))
        yield await stack.enter_async_context(_agents(configs))


def ice_address(host: str) -> TransportAddress:
    return TransportAddress(host, 3478)


@asynccontextmanager
async def _agents(configs: list[AgentConfig]) -> AsyncIterator[tuple[Agent, Agent]]:
    async with (
        open_agent(configs[0], role=ice.Role.CONTROLLING) as alice,
        open_agent(configs[1], role=ice.Role.CONTROLLED) as bob,
    ):
        yield alice, bob


async def _run(seed: int, order: str, ta_s: float) -> Result:
    world = World(seed)
    async with _running(world, order, ta_s) as agents:
        found: list[list[ice.Candidate]] = [[], []]
        for agent, list_ in zip(agents, found, strict=True):
            with trio.move_on_after(6):
                async for candidate in agent.local_candidates():
                    list_.append(candidate)
        start = trio.current_time()
        for one, other, theirs in ((agents[0], agents[1], found[1]), (agents[1], agents[0], found[0])):
            one.set_remote_credentials(other.credentials, options=other.options)
            for candidate in theirs:
                one.add_remote_candidate(candidate)
            one.add_remote_candidate(None)
        reached: dict[tuple[int, str], float] = {}
        with trio.move_on_after(GIVE_UP_S):
            async with trio.open_nursery() as nursery:
                for index, agent in enumerate(agents):
                    nursery.start_soon(_watch, agent, index, start, reached)
        data = [reached.get((index, "data")) for index in range(2)]
        done = [reached.get((index, "nominated")) for index in range(2)]
        first = min((at for at in data if at is not None), default=None)
        pair = agents[0].selected_pair
        return Result(
            first,
            None if None in data else max(data),  # type: ignore[type-var]
            None if None in done else max(done),  # type: ignore[type-var]
            sum(agent._driver.ice.checks_sent for agent in agents),  # noqa: SLF001
            pair is not None and "relay" in (pair.local.type.value, pair.remote.type.value),
            len(agents[0]._driver.ice.pairs),  # noqa: SLF001
            world.loss,
            world.round_trip_s,
        )


async def _watch(agent: Agent, index: int, start: float, reached: dict[tuple[int, str], float]) -> None:
    async for event in agent.events():
        if isinstance(event, ice.StateChanged):
            now = trio.current_time() - start
            if event.new in (ice.AgentState.CONNECTED, ice.AgentState.COMPLETED):
                reached.setdefault((index, "data"), now)
            if event.new is ice.AgentState.COMPLETED:
                reached.setdefault((index, "nominated"), now)
                return
            if event.new is ice.AgentState.FAILED:
                return


@contextmanager
def _burst(checks: int) -> Iterator[None]:
    """Let each agent's first checks go 5 ms apart, whatever Ta."""
    original, sent = Scheduler.send_next, Counter[int]()

    def send_next(self: Scheduler, now: float) -> None:
        original(self, now)
        sent[id(self)] += 1
        if sent[id(self)] < checks:
            self._facts.slots.postpone(now + 0.005)

    Scheduler.send_next = send_next  # type: ignore[method-assign]
    try:
        yield
    finally:
        Scheduler.send_next = original  # type: ignore[method-assign]


def run_one(seed: int, order: str, ta_s: float, burst: int = 0) -> Result:
    """Return what came of one seed under an order and a pace."""
    with _burst(burst):
        return vnet.run(_run, seed, order, ta_s, seed=seed)


def _centiles(values: list[float | None]) -> str:
    known = sorted(value if value is not None else float("inf") for value in values)
    picks = [known[min(len(known) - 1, int(len(known) * part))] for part in (0.5, 0.9, 0.99)]
    return " ".join(f"{1000 * pick:7.0f}" if pick < 1e9 else "      -" for pick in picks)


def main() -> None:
    """Print a table, one line for each order and pace; milliseconds: median, 90 % and 99 %."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=1)
    options = parser.parse_args()
    seeds = range(options.first, options.first + (4 if options.smoke else options.seeds))
    paces = PACES_S[2:3] if options.smoke else PACES_S
    print(f"{len(seeds)} pairs of machines; ms: median, 90 %, 99 %")
    titles = " | ".join(f"{title:^23}" for title in ("either may send", "both may send", "nominated"))
    print(f"{'order':26} {'Ta':>4} | {titles} | packets relayed")
    for ta_s, burst in paces:
        for order in ORDERS:
            results = [found for seed in seeds if (found := run_one(seed, order, ta_s, burst)).data_s is not None]
            pace = f"{1000 * ta_s:.0f}" + (f"/{burst}" if burst else "")
            print(
                f"{order:26} {pace:>4} | {_centiles([r.first_s for r in results])} | "
                f"{_centiles([r.data_s for r in results])} | {_centiles([r.nominated_s for r in results])} | "
                f"{sum(r.checks for r in results) / max(1, len(results)):7.1f} {sum(r.is_relayed for r in results):4} "
                f"of {len(results)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
