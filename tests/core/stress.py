"""Two cores under loss, restarts from both sides and dying paths; do they end on the same pair? A seed is a story."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import count, product

from ice_harness import Link, World

from iceagent.core import ice
from iceagent.core.address import TransportAddress, make_address

OPTIONS = ("ice2", "trickle", "renomination")
CALM_S = 20.0  # what the agents are given to agree in, once the network is well: two consent checks and more


class Story:
    """One seed: addresses, a bad line, faults, restarts, and signaling that is reliable, in order and slow."""

    def __init__(self, seed: int) -> None:
        self.random = draw = random.Random(seed)
        self.seed = seed
        self.loss = draw.choice([0.0, 0.1, 0.2, 0.3, 0.45])
        self.world = World(
            seed,
            Link(
                delay_s=draw.choice([0.001, 0.02, 0.1]),
                jitter_s=draw.choice([0.0, 0.02, 0.1]),
                loss=self.loss,
                duplication=draw.choice([0.0, 0.1]),
            ),
        )
        self.a, self.b = self.world.pair(ta_s=draw.choice([0.01, 0.05]))
        self.options = OPTIONS if draw.random() < 0.7 else ()
        self.hosts = {
            id(one): [make_address(f"{net}.{index}", 1000 + index) for index in range(1, draw.randint(2, 4))]
            for one, net in ((self.a, "192.0.2"), (self.b, "198.51.100"))
        }
        self.relays = {
            id(one): make_address(f"{net}.1", 9000) if draw.random() < 0.5 else None
            for one, net in ((self.a, "203.0.113"), (self.b, "203.0.114"))
        }
        self.dead: set[frozenset[TransportAddress]] = set()
        self.world.link.blocked = lambda source, destination: frozenset((source, destination)) in self.dead
        self._plan: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._seen = {id(self.a): 0, id(self.b): 0}
        self._arrives = {id(self.a): 0.0, id(self.b): 0.0}

    def tell(self) -> str:
        """Play the story; return what went wrong, or nothing."""
        draw = self.random
        for one in (self.a, self.b):
            self._gather(one)
            self._describe(one)
        for _ in range(draw.randint(1, 4)):
            self._at(draw.uniform(0, 20), lambda: self._restart(draw.choice((self.a, self.b))))
            if draw.random() < 0.3:
                at = draw.uniform(0, 20)
                self._at(at, lambda: self._restart(self.a))
                self._at(at + draw.uniform(0, 0.3), lambda: self._restart(self.b))
        for _ in range(draw.randint(0, 3)):
            self._at(draw.uniform(0, 20), self._break)
        self._at(24, self._heal)
        self._run(24 + CALM_S / 2)
        for _ in range(int(CALM_S)):
            self._run(self.world.now + 0.5)
            words = self._verdict()
            if words:  # a switch takes a round trip, and one agent knows of it before the other
                self._run(self.world.now + 1.0)
                words = self._verdict()
            if words:
                return f"{self.world.now:.1f} s: {words}"
        return ""

    def _verdict(self) -> str:
        a, b = self.a, self.b
        ours, theirs = a.data_pair(), b.data_pair()
        if a.state is ice.AgentState.FAILED or b.state is ice.AgentState.FAILED:
            return "" if a.state is b.state else f"one failed: {a.state}, {b.state}"
        if ours is None or theirs is None or ours != (theirs[1], theirs[0]):
            return f"different pairs: {ours} and {theirs}"
        if a.selected_pair is None or b.selected_pair is None:
            return f"not nominated: {a.state}, {b.state}"
        if a.restarting or b.restarting:
            return f"still restarting: {a.restarting}, {b.restarting}"
        return ""

    def _at(self, at: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._plan, (at, next(self._number), act))

    def _run(self, until: float) -> None:
        while self.world.now < until:
            self._look()
            at = min(self._plan[0][0] if self._plan else until, until)
            if self.world.now < at and self.world.step(at):
                continue
            while self._plan and self._plan[0][0] <= self.world.now:
                heapq.heappop(self._plan)[2]()
                self._look()

    def _look(self) -> None:
        """Carry what the agents want carried: each restart's new description."""
        for one in (self.a, self.b):
            events = self.world.events[id(one)]
            for event in events[self._seen[id(one)] :]:
                if isinstance(event, ice.Restarted):
                    self._gather(one)
                    self._describe(one)
            self._seen[id(one)] = len(events)

    def _gather(self, one: ice.IceAgent) -> None:
        self.world.host(one, *self.hosts[id(one)])
        relay = self.relays[id(one)]
        if relay is not None:
            self.world.owner[relay] = one
            one.add_local_candidate(self.world.now, ice.relay_candidate(relay, "203.0.113.99"))
        one.end_of_local_candidates(self.world.now)
        self.world.drain(one)

    def _describe(self, one: ice.IceAgent) -> None:
        other = self.b if one is self.a else self.a
        credentials, candidates = one.credentials, one.local_candidates
        kinds = (ice.CandidateType.HOST, ice.CandidateType.RELAY)

        def arrive() -> None:
            if other.state is ice.AgentState.FAILED:
                return
            other.set_remote_credentials(self.world.now, credentials, options=self.options)
            self.world.drain(other)
            for candidate in candidates:
                if candidate.type in kinds:
                    self.world.signal(other, candidate)
            other.add_remote_candidate(self.world.now, None)
            self.world.drain(other)

        at = max(self.world.now + self.random.uniform(0.005, 0.4), self._arrives[id(other)])
        self._arrives[id(other)] = at
        self._at(at, arrive)

    def _restart(self, one: ice.IceAgent) -> None:
        if one.state is not ice.AgentState.FAILED:
            one.restart(self.world.now)
            self.world.drain(one)

    def _break(self) -> None:
        """Kill some paths for a while, in both directions or in one."""
        ends = [[*self.hosts[id(one)], self.relays[id(one)]] for one in (self.a, self.b)]
        paths = [frozenset((x, y)) for x, y in product(*ends) if x is not None and y is not None]
        hit = self.random.sample(paths, self.random.randint(1, len(paths)))
        self.dead.update(hit)
        self._at(self.world.now + self.random.uniform(0.2, 8), lambda: self.dead.difference_update(hit))

    def _heal(self) -> None:
        self.dead.clear()
        self.world.link.loss = 0.0


def tell(seed: int) -> str:
    return Story(seed).tell()


if __name__ == "__main__":
    import sys

    first, number = int(sys.argv[1]), int(sys.argv[2])
    bad = [(seed, words) for seed in range(first, first + number) if (words := tell(seed))]
    for seed, words in bad:
        print(seed, words)
    print(f"{len(bad)} of {number}")
