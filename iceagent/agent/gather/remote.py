"""The peer's candidates on their way to the core: names are resolved, and the policy filters addresses.

Candidates with an address are passed on at once. Names are resolved in parallel and delay none of them. Only the peer's
end of candidates waits for the names, since their candidates come before the end.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from iceagent.agent.driver import Driver
from iceagent.agent.gather.gatherer import Gatherer
from iceagent.core import ice
from iceagent.core.address import make_address
from iceagent.net.host_names import is_mdns_name
from iceagent.net.tasks import contained, run_contained

MAX_WAITING: Final = 64  # ours: candidates with names that have come and are not being looked up yet


class RemoteCandidates:
    """Takes what the peer signals.

    Args:
        driver: takes the candidates that may be used; holds the policy.
        gatherer: looks up the peer's names, knows how IPv4 is reached from IPv6 alone, and who else is spoken to.
    """

    def __init__(self, driver: Driver, gatherer: Gatherer) -> None:
        self._gatherer = gatherer
        self._driver = driver
        self._names = gatherer.names
        self._nat64 = gatherer.nat64
        self._nat64.on_prefix = self._translate
        self._waiting: dict[str, list[tuple[int, ice.Candidate]]] = {}
        self._running: Counter[int] = Counter()
        self._ended_generation = -1
        self._arrived = trio.Event()

    def add(self, candidate: ice.Candidate | None) -> None:
        """Take a candidate, or with None the end of them."""
        others = self._gatherer.other_ways
        if others is not None and others.take(candidate):
            return
        generation = self._driver.ice.generation
        if candidate is None:
            self._ended_generation = generation
            self._end(generation)
        elif _has_address(candidate):
            self._accept(candidate)
        elif is_mdns_name(candidate.address.host) and self._names.resolves and self._has_room:
            self._waiting.setdefault(candidate.address.host.lower(), []).append((generation, candidate))
            self._running[generation] += 1
            self._arrived.set()
        else:
            self._driver.mutate(partial(_add, self._driver.ice, candidate))  # which counts it as unresolved

    @property
    def _has_room(self) -> bool:
        return sum(map(len, self._waiting.values())) < MAX_WAITING

    async def start(self, nursery: trio.Nursery) -> None:
        """Run in a nursery, names included; those we publish, if we do, are there when it returns."""
        nursery.start_soon(self.run)
        if self._names.publishes:
            await nursery.start(self._names.run)
        else:
            nursery.start_soon(self._names.run)

    async def run(self) -> None:
        """Look up names until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._arrived.wait()
                self._arrived = trio.Event()
                for name, candidates in self._waiting.items():
                    nursery.start_soon(run_contained, "a candidate of the peer", self._look_up, name, candidates)
                self._waiting.clear()

    async def _look_up(self, name: str, candidates: list[tuple[int, ice.Candidate]]) -> None:
        host: str | None = None
        with contained("looking up a name of the peer"):
            found = await self._names.resolve(name)
            host = None if found is None else make_address(found, 0).host
        for generation, candidate in candidates:
            self._running[generation] -= 1
            if self._driver.closed or self._driver.ice.generation != generation:
                continue  # a restart has begun meanwhile, whose candidates come by themselves
            if host is None:
                self._driver.mutate(partial(_add, self._driver.ice, candidate))
            else:
                address = make_address(host, candidate.address.port)
                self._accept(replace(candidate, address=address, name=name))
            self._end(generation)

    def _accept(self, candidate: ice.Candidate) -> None:
        if self._driver.policy.accepts(candidate):
            self._driver.mutate(partial(_add, self._driver.ice, candidate))
            translated = self._nat64.translated(candidate)
            if translated is not None:
                self._accept(translated)

    def _translate(self) -> None:
        """Add what the candidates that came before the prefix of the NAT64 look like behind it."""
        for candidate in self._driver.ice.remote_candidates:
            translated = self._nat64.translated(candidate)
            if translated is not None and candidate.type is not ice.CandidateType.PRFLX:
                self._accept(translated)

    def _end(self, generation: int) -> None:
        if self._ended_generation == generation and not self._running[generation]:
            self._driver.mutate(partial(_add, self._driver.ice, None))
            self._driver.changed.unpark_all()  # no event reports it


def _has_address(candidate: ice.Candidate) -> bool:
    try:
        return candidate.address.ip is not None
    except ValueError:
        return False


def _add(core: ice.IceAgent, candidate: ice.Candidate | None, now: float) -> None:
    core.add_remote_candidate(now, candidate)
