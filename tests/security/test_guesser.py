"""A guesser of nameplates with 500 sources and 8 cores, in virtual time: what he spoils, and what honest people wait.

`make guesses` does the same with processes. Here the doors of a relay are asked without its websockets, from seeds.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from guesser import CREDIT, SOURCES, Guesser
from icesignal import nameplates, toll, wire
from icesignal.rooms import RoomTable
from icesignal.sources import Limits, SourceTable
from icesignal.toll import Pressure, Toll
from icesignal.work import Work

SECONDS = 60.0
PAIRS_PER_S = 3.0
STANDING = 50
HONEST_ROUNDS_PER_S = 4.0e6
"""Of one core of an honest client: OpenSSL, measured; the guesser's are twice as fast."""


@dataclass
class World:
    """A relay's doors, honest pairs and a guesser, by one clock."""

    random: Random
    limits: Limits
    table: RoomTable = field(init=False)
    now: float = 0.0
    became: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.table = RoomTable(randbytes=self.random.randbytes)
        self.sources = SourceTable(self.limits)
        self._numbers = itertools.count(1)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._tolls: dict[int, Toll] = {}

    def at(self, time: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), what))

    def run(self) -> None:
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()

    def toll(self, host: str) -> Toll:
        return Toll(self.sources.party(self.now, host), self.limits, self.pressure, Counter())

    def pressure(self) -> Pressure:
        return Pressure(self.table.guesses(self.now))

    def say(self, connection: int, frame: wire.Frame) -> wire.Frame:
        """Say something; return the first thing that is said upon it to this connection."""
        self.table.handle_frame(self.now, connection, frame)
        said: list[wire.Frame] = []
        while (action := self.table.poll_output()) is not None:
            if action.is_confirmed:
                self._tolls[action.connection].give_back(self.now)
            if action.connection == connection and action.frame is not None:
                said.append(action.frame)
        return said[0] if said else wire.Closed(reason="")

    # Honest pairs

    def make_code(self, read_s: float) -> None:
        """Make a code that is used after so many seconds."""
        number = next(self._numbers)
        made = self.say(number, wire.Allocate(session=self.random.randbytes(16)))
        assert isinstance(made, wire.Joined)
        self.at(self.now + read_s, lambda: self.use_code(number, made.room))

    def use_code(self, inviter: int, room: str) -> None:
        """Solve what the relay asks for; join when that is done."""
        host = f"10.{self.random.randrange(256)}.{self.random.randrange(256)}.1"
        door = self.toll(host)
        puzzle = door.puzzle(self.now)
        wait_s = 0.0
        if puzzle is not None:
            # So many exponential times, one for each part.
            wait_s = self.random.gammavariate(puzzle.parts, (puzzle.rounds << puzzle.bits) / HONEST_ROUNDS_PER_S)
        self.at(self.now + wait_s, lambda: self.join(inviter, room, door, wait_s))

    def join(self, inviter: int, room: str, door: Toll, wait_s: float) -> None:
        joiner = next(self._numbers)
        self._tolls[joiner] = door
        frame = wire.Join(session=self.random.randbytes(16), nameplate=room, work=CREDIT)
        refusal = door.take(self.now, frame)
        assert refusal is None, "whoever solved what the welcome asked for is let in"
        answer = self.say(joiner, frame)
        if not isinstance(answer, wire.Joined):
            self.became["spoilt"] += 1
            return
        self.became["met"] += 1
        self.waits.append(wait_s)
        for number in (1, 2):
            self.say(inviter, wire.Send(client_seq=number, payload=b"x"))
        self.say(inviter, wire.Close(reason="done"))

    # The guesser

    def guess(self, guesser: Guesser, hosts: list[str], began: float) -> None:
        """Guess once, from the source that has guessed least; then again, when that has been paid for."""
        host = hosts.pop(0)
        hosts.append(host)
        door, number = self.toll(host), guesser.number()
        puzzle = door.puzzle(self.now)
        paid_at = self.now if puzzle is None else guesser.pays_at(puzzle, began)
        self.at(max(self.now, paid_at), lambda: self.claim(guesser, hosts, began, door, number, puzzle))

    def claim(
        self, guesser: Guesser, hosts: list[str], began: float, door: Toll, number: str, puzzle: Work | None
    ) -> None:
        connection = next(self._numbers)
        frame = wire.Join(session=self.random.randbytes(16), nameplate=number, work=CREDIT)
        refusal = door.take(self.now, frame)
        if refusal is None:
            answer = self.say(connection, frame)
            guesser.note(number, is_hit=isinstance(answer, wire.Joined), was_free=puzzle is None)
            if isinstance(answer, wire.Joined):
                self.say(connection, wire.Close(reason="left"))
        if self.now < began + SECONDS:
            self.at(self.now + (0.0 if refusal is None else 0.02), lambda: self.guess(guesser, hosts, began))


def attacked(seed: int, limits: Limits, length: int | None = None) -> tuple[World, Guesser]:
    """Return what becomes of a relay at which 50 codes wait, and pairs come and go."""
    world = World(Random(seed), limits)
    for _ in range(STANDING):
        world.make_code(10 + SECONDS + 1)
    for number in range(int((10 + SECONDS) * PAIRS_PER_S)):
        read_s = world.random.uniform(2, 10)
        world.at(number / PAIRS_PER_S, lambda read_s=read_s: world.make_code(read_s))  # type: ignore[misc]
    guesser = Guesser(Random(seed), 0)

    def begin() -> None:
        made = world.say(next(world._numbers), wire.Allocate(session=world.random.randbytes(16)))
        assert isinstance(made, wire.Joined)
        guesser.length = len(made.room)
        guesser.see(guesser.length)
        world.guess(guesser, list(SOURCES), 10.0)

    world.at(10.0, begin)
    world.run()
    return world, guesser


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_trap_92_a_guesser_with_500_sources_spoils_less_than_one_code_in_a_hundred(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody waits for a second because of him."""
    monkeypatch.setattr(toll, "is_solved", lambda work, subject, solution: solution == CREDIT)
    world, guesser = attacked(seed, Limits())
    codes = sum(world.became.values())
    print(
        f"codes {codes}, {dict(world.became)}, guesses {guesser.guesses}, {guesser.hits} hits, {max(world.waits):.2f} s"
    )
    assert codes == STANDING + int((10 + SECONDS) * PAIRS_PER_S)
    assert world.became["spoilt"] < codes / 100
    assert max(world.waits) < 1.0
    assert guesser.free < 12, "what is free is over after the first few"
    assert 500 < guesser.guesses < 4_000


def test_the_guesser_is_no_man_of_straw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the price, and with numbers as short as they were, he spoils what there is."""
    monkeypatch.setattr(toll, "is_solved", lambda work, subject, solution: solution == CREDIT)
    monkeypatch.setattr(nameplates, "NUMBERS_PER_CODE", 2)
    world, guesser = attacked(1, Limits(work_tries=0, dear_tries=0))
    assert guesser.guesses > 5_000
    assert world.became["spoilt"] > STANDING
