"""Two ICE cores, a bad link between them, and a time variable."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from iceagent.core import ice, stun
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.transmit import Transmit

A4 = make_address("192.0.2.1", 1000)
B4 = make_address("198.51.100.1", 2000)


class Machine(Protocol):
    """What is driven alike: an agent of one component, a set of streams."""

    def handle_datagram(
        self, now: float, local: TransportAddress, remote: TransportAddress, data: bytes, /
    ) -> ice.Received: ...
    def handle_timeout(self, now: float) -> None: ...
    def next_timeout(self) -> float | None: ...
    def poll_transmit(self) -> Transmit | None: ...


M = TypeVar("M", bound=Machine)
E = TypeVar("E")


def randbytes_of(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def agent(role: ice.Role, seed: int = 1, **config: Any) -> ice.IceAgent:
    return ice.IceAgent(role=role, randbytes=randbytes_of(seed), config=ice.IceConfig(**config))


def events_of(one: ice.IceAgent) -> list[ice.IceEvent]:
    found: list[ice.IceEvent] = []
    while (event := one.poll_event()) is not None:
        found.append(event)
    return found


def transmits_of(one: Machine) -> list[Transmit]:
    found: list[Transmit] = []
    while (transmit := one.poll_transmit()) is not None:
        found.append(transmit)
    return found


@dataclass
class Link:
    """What happens to a datagram on its way. `blocked` says which paths are dead: (sender's base, destination)."""

    delay_s: float = 0.010
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    blocked: Callable[[TransportAddress, TransportAddress], bool] = lambda source, destination: False
    translate: Callable[[TransportAddress, TransportAddress], TransportAddress] | None = None  # source NAT
    mutate: Callable[[bytes], bytes] | None = None


@dataclass(order=True)
class Flight(Generic[M]):
    at: float
    number: int
    target: M = field(compare=False)
    source: TransportAddress = field(compare=False)
    destination: TransportAddress = field(compare=False)
    data: bytes = field(compare=False)


class Air(Generic[M]):
    """Machines with explicit time. An address belongs to the one that has it as base; NAT mappings are two-way."""

    def __init__(self, seed: int = 0, link: Link | None = None) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.link = link or Link()
        self.agents: list[M] = []
        self.events: dict[int, list[Any]] = {}
        self.owner: dict[TransportAddress, M] = {}
        self.mapped: dict[TransportAddress, TransportAddress] = {}  # public to private
        self.flights: list[Flight[M]] = []
        self.sent: list[tuple[float, M, Transmit]] = []
        self.sent_on_data_path: list[bool] = []  # one for each of `sent`
        self.received: dict[int, list[bytes]] = {}
        self.trace: list[tuple[float, str]] = []
        self.filter: Callable[[Transmit], bool] = lambda transmit: True
        self.stopped: M | None = None  # as by SIGSTOP: what comes waits in its socket
        self.waiting: list[Flight[M]] = []
        self.timers_first = False  # what an agent does first that was stopped
        self._number = 0

    def add(self, one: M) -> M:
        self.agents.append(one)
        self.events[id(one)] = []
        self.received[id(one)] = []
        return one

    def drain(self, one: M) -> None:
        """Take all that a machine has to send and to tell."""
        raise NotImplementedError

    def fly(self, transmit: Transmit) -> None:
        link = self.link
        source, destination = transmit.local, transmit.remote
        if link.translate is not None:
            public = link.translate(source, destination)
            self.mapped[public] = source
            source = public
        copies = 1 + (self.random.random() < link.duplication)
        for _ in range(copies):
            lost = self.random.random() < link.loss or link.blocked(transmit.local, destination)
            if lost or not self.filter(transmit):
                continue
            inside = self.mapped.get(destination, destination)
            target = self.owner.get(inside)
            if target is None:
                continue
            self._number += 1
            at = self.now + link.delay_s + self.random.random() * link.jitter_s
            data = transmit.data if link.mutate is None else link.mutate(transmit.data)
            heapq.heappush(self.flights, Flight(at, self._number, target, source, inside, data))

    def step(self, until: float) -> bool:
        """Go to the next thing that happens, not beyond `until`; False if there is nothing before."""
        times = [self.flights[0].at] if self.flights else []
        for one in self.running():
            at = one.next_timeout()
            if at is not None:
                times.append(at)
        if not times or min(times) > until:
            self.now = until
            return False
        self.now = max(self.now, min(times))
        if self.timers_first:
            self.ring()
        self.deliver()
        self.ring()
        return True

    def running(self) -> list[M]:
        return [one for one in self.agents if one is not self.stopped]

    def go_on(self) -> None:
        """Let the agent run that was stopped; it finds all that came meanwhile."""
        self.stopped = None
        for flight in self.waiting:
            heapq.heappush(self.flights, flight)
        self.waiting.clear()

    def deliver(self) -> None:
        while self.flights and self.flights[0].at <= self.now:
            flight = heapq.heappop(self.flights)
            if flight.target is self.stopped:
                self.waiting.append(flight)
                continue
            verdict = flight.target.handle_datagram(self.now, flight.destination, flight.source, flight.data)
            if verdict is ice.Received.APPLICATION_DATA:
                self.received[id(flight.target)].append(flight.data)
            self.drain(flight.target)

    def ring(self) -> None:
        for one in self.running():
            at = one.next_timeout()
            if at is not None and at <= self.now:
                one.handle_timeout(self.now)
                self.drain(one)
                again = one.next_timeout()
                assert again is None or again > self.now, f"{again} is not after {self.now}"

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.step(until):
            pass

    def run_until(self, condition: Callable[[], bool], limit_s: float = 120.0) -> float:
        """Run until the condition holds; return how long it took."""
        start = self.now
        while not condition():
            assert self.step(start + limit_s), f"nothing more happened within {limit_s} s"
        return self.now - start

    def states(self, one: M) -> list[ice.AgentState]:
        return [event.new for event in self.events[id(one)] if isinstance(event, ice.StateChanged)]

    def of_kind(self, one: M, kind: type[E]) -> list[E]:
        return [event for event in self.events[id(one)] if isinstance(event, kind)]


class World(Air[ice.IceAgent]):
    """Agents of one component each."""

    def pair(self, **config: Any) -> tuple[ice.IceAgent, ice.IceAgent]:
        seed = self.random.randrange(2**32)
        return (
            self.add(agent(ice.Role.CONTROLLING, seed, **config)),
            self.add(agent(ice.Role.CONTROLLED, seed + 1, **config)),
        )

    def host(self, one: ice.IceAgent, *addresses: TransportAddress) -> None:
        for index, address in enumerate(addresses):
            self.owner[address] = one
            one.add_local_candidate(self.now, ice.host_candidate(address, 65535 - index))
            self.drain(one)

    def introduce(self, a: ice.IceAgent, b: ice.IceAgent, *, ended: bool = True) -> None:
        """Exchange both descriptions at once."""
        for one, other in ((a, b), (b, a)):
            one.set_remote_credentials(self.now, other.credentials)
            self.drain(one)
            for candidate in other.local_candidates:
                self.signal(one, candidate)
            if ended:
                one.end_of_local_candidates(self.now)
                self.drain(one)
                one.add_remote_candidate(self.now, None)
                self.drain(one)

    def signal(self, to: ice.IceAgent, candidate: ice.Candidate) -> None:
        to.add_remote_candidate(self.now, ice.Candidate.from_sdp(candidate.to_sdp()))
        self.drain(to)

    def drain(self, one: ice.IceAgent) -> None:
        for transmit in transmits_of(one):
            self.sent.append((self.now, one, transmit))
            self.sent_on_data_path.append((transmit.local, transmit.remote) == one.data_pair())
            self.trace.append((self.now, f"{transmit.local}>{transmit.remote} {transmit.data.hex()}"))
            self.fly(transmit)
        events = events_of(one)
        for event in events:
            if isinstance(event, ice.HeldDataReleased):
                self.received[id(one)].extend(event.datagrams)
        self.events[id(one)].extend(events)

    def send_data(self, one: ice.IceAgent, data: bytes) -> bool:
        path = one.data_pair()
        if path is None:
            return False
        self.fly(Transmit(path[0], path[1], data))
        return True


# Messages made by hand, as a peer, a stranger or an attacker would send them.


def request(
    to: ice.IceAgent,
    *,
    peer: ice.Credentials | None = None,
    pwd: str | None = None,
    username: str | None = None,
    role: stun.Attribute | None = None,
    priority: int | None = 1_845_501_695,
    nominate: bool = False,
    transaction_id: bytes = b"handmade-txn",
    extra: tuple[stun.Attribute, ...] = (),
    fingerprint: bool = True,
) -> bytes:
    """A check to an agent; by default an authentic one from a controlling peer if it is controlled, or the reverse."""
    ours = to.credentials
    theirs = "peer" if peer is None else peer.ufrag
    attributes: list[stun.Attribute] = [stun.Username(username or f"{ours.ufrag}:{theirs}")]
    if priority is not None:
        attributes.append(stun.Priority(priority))
    if role is None:
        role = stun.IceControlled(1) if to.role is ice.Role.CONTROLLING else stun.IceControlling(1)
    attributes.append(role)
    if nominate:
        attributes.append(stun.UseCandidate())
    message = stun.binding_request(transaction_id, *attributes, *extra)
    return stun.encode(message, key=stun.short_term_key(pwd or ours.pwd), fingerprint=fingerprint)


def answer(
    transmit: Transmit,
    key_of: ice.Credentials,
    *,
    mapped: TransportAddress | None = None,
    code: int | None = None,
    signed: bool = True,
) -> bytes:
    """The response to a request we saw leave, keyed with the answering side's password."""
    message = stun.decode(transmit.data)
    if code is None:
        response = stun.success(message, stun.XorMappedAddress(mapped or transmit.local))
    else:
        response = stun.error(message, code)
    return stun.encode(response, key=stun.short_term_key(key_of.pwd) if signed else None)


def requests_in(transmits: list[Transmit]) -> list[Transmit]:
    return [t for t in transmits if stun.decode(t.data).message_class is stun.MessageClass.REQUEST]


def responses_in(transmits: list[Transmit]) -> list[stun.Message]:
    messages = [stun.decode(t.data) for t in transmits]
    return [m for m in messages if m.message_class in (stun.MessageClass.SUCCESS, stun.MessageClass.ERROR)]


def connected_pair(seed: int = 1, **config: Any) -> tuple[World, ice.IceAgent, ice.IceAgent]:
    """A world in which both agents have completed over A4 and B4."""
    world = World(seed)
    a, b = world.pair(**config)
    world.host(a, A4)
    world.host(b, B4)
    world.introduce(a, b)
    world.run_until(lambda: both(a, b, ice.AgentState.COMPLETED))
    return world, a, b


def both(a: ice.IceAgent, b: ice.IceAgent, state: ice.AgentState) -> bool:
    return a.state is state and b.state is state


PEER = ice.Credentials("peer", "p" * 24)


def lone(role: ice.Role = ice.Role.CONTROLLING, seed: int = 1, **config: Any) -> ice.IceAgent:
    """An agent at A4 that knows a hand-played peer's credentials and its candidate at B4; its first check is out."""
    one = agent(role, seed, **config)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.set_remote_credentials(0.0, PEER)
    one.add_remote_candidate(0.0, ice.host_candidate(B4))
    return one


def run_timers(one: ice.IceAgent, now: float, until: float) -> list[tuple[float, Transmit]]:
    """Let only time pass; return what was sent, and when."""
    sent: list[tuple[float, Transmit]] = []
    while (at := one.next_timeout()) is not None and at <= until:
        now = max(now, at)
        one.handle_timeout(now)
        sent += [(now, transmit) for transmit in transmits_of(one)]
    return sent


def sent_by_timers(one: ice.IceAgent, now: float, until: float) -> list[Transmit]:
    """Let only time pass; return what was sent."""
    return [transmit for _, transmit in run_timers(one, now, until)]
