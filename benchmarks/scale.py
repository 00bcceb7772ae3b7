"""What a million members would take, computed from measured figures and tried in virtual time.

    scale.py [--members 1000000]

It prints the tables of docs/scale.md. `Measured` has what `make bench-relay` and benchmarks/turn_server.py found,
`Assumed` what nobody but an operator can know. Members are counted, not simulated, where they do the same; those whose
node dies, drains or loses its store come back one by one, with the pauses of the real client.
"""

from __future__ import annotations

import argparse
import enum
import heapq
import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from icesignal.engines.shared.engine import PATIENCE_S as STORE_PATIENCE_S
from icesignal.pauses import FIRST_PAUSE_S, TIMEOUT_S, jittered, longer
from icesignal.rooms import RoomLimits
from icesignal.server import LEAVING_S
from icesignal.transport import PING_INTERVAL_S, PING_TIMEOUT_S

DAY_S, MINUTE_S = 86_400, 60
SEED = 1
STANDS_FOR = 10
"""Of those who come back one is followed for so many, at nodes that are so many times as slow."""
BACKLOG = 4_096  # of connections that a node has not accepted: /proc/sys/net/core/somaxconn
RESUME_S = RoomLimits().resume_s
DRAINS_S = (5.0, 30.0, 120.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """One core, Python 3.11, Linux; the same machine for all.

    Attributes:
        joins: of one node that shares a Redis, each second of its processor's.
        given_up: clients that have given up before their turn, the same.
        messages: that such a node relays, the same.
        member_kb: memory of a node for each idle member.
        node_mb: of a node without members.
        redis_join_us, redis_message_us: what a join and a message cost a Redis, its processor's time.
        redis_member_kb: memory of a Redis for each waiting member.
        turn_kpps: thousands of packets that a core of our TURN server relays, one by one.
    """

    joins: float
    given_up: float
    messages: float
    member_kb: float
    node_mb: float
    redis_join_us: float
    redis_message_us: float
    redis_member_kb: float
    turn_kpps: float


@dataclass(frozen=True, slots=True)
class Assumed:
    """What depends on the users: put your own.

    Attributes:
        members: at once, at the busiest time of the day.
        night: which share of them is there at the quietest time.
        stay_s: how long a member stays, on average.
        lost_each_s: how often a connection is lost and resumed: once in so many seconds.
        messages: that a member sends while it stays.
        pairs_connected: which share of the members is connected to its peer at the same time.
        relayed: which share of these pairs needs TURN: `icesignal_outcomes_total`.
        pair_kbit: what a pair sends each second, both directions together.
        packet_bytes: of what it sends.
        busy: how much of a processor may be used in the busiest minute.
        node_mb: memory of a node.
        redis_mb: memory of a shard.
        failover_s: until a lost shard is served again.
        asks_each_s: a member that stays asks its node for something that the store must know, once in so many seconds.
    """

    members: int = 1_000_000
    night: float = 0.4
    stay_s: float = 1_800.0
    lost_each_s: float = 3_600.0
    messages: float = 40.0
    pairs_connected: float = 0.5
    relayed: float = 0.15
    pair_kbit: float = 1_000.0
    packet_bytes: int = 800
    busy: float = 0.5
    node_mb: int = 2_048
    redis_mb: int = 4_096
    failover_s: float = 15.0
    asks_each_s: float = 60.0


MEASURED = Measured(
    joins=450,
    given_up=3_200,
    messages=2_300,
    member_kb=13.1,
    node_mb=42,
    redis_join_us=140,
    redis_message_us=35,
    redis_member_kb=1.1,
    turn_kpps=90,
)


# -- a day


def present(assumed: Assumed, at_s: float) -> float:
    """Return how many members are there at a time of the day: fewest at midnight, most at noon."""
    wave = (1 - math.cos(2 * math.pi * at_s / DAY_S)) / 2
    return assumed.members * (assumed.night + (1 - assumed.night) * wave)


@dataclass(frozen=True, slots=True)
class Day:
    """The busiest minute of a day, each second: joins, resumptions, messages. And how many members there were."""

    joins: float
    resumes: float
    messages: float
    members: int


def day(assumed: Assumed, draw: random.Random) -> Day:
    """Let members come, stay and go for a day, minute by minute; the busiest one counts."""
    members, most = round(present(assumed, 0.0)), Day(0.0, 0.0, 0.0, 0)
    for minute in range(DAY_S // MINUTE_S):
        leave = _drawn(members * MINUTE_S / assumed.stay_s, draw)
        wanted = present(assumed, (minute + 1) * MINUTE_S) - (members - leave)
        come = _drawn(max(0.0, wanted), draw)
        members += come - leave
        resumes = _drawn(members * MINUTE_S / assumed.lost_each_s, draw)
        messages = come * assumed.messages / MINUTE_S
        most = Day(
            max(most.joins, come / MINUTE_S),
            max(most.resumes, resumes / MINUTE_S),
            max(most.messages, messages),
            max(most.members, members),
        )
    return most


def _drawn(mean: float, draw: random.Random) -> int:
    """Return how often something happened that is to happen so often: a Poisson number, as good as a normal one."""
    around = math.sqrt(-2 * math.log(1 - draw.random())) * math.cos(2 * math.pi * draw.random())
    return max(0, round(mean + around * math.sqrt(mean)))


# -- what it takes


@dataclass(frozen=True, slots=True)
class Needs:
    """How many of a part each of its limits asks for, by the limit's name."""

    part: str
    by_limit: dict[str, float]

    @property
    def number(self) -> int:
        """How many it takes."""
        return max(1, math.ceil(max(self.by_limit.values())))

    def first(self) -> tuple[str, float]:
        """Return which limit is met first, and by how many times before the next one."""
        (name, most), *others = sorted(self.by_limit.items(), key=lambda pair: -pair[1])
        return name, most / others[0][1] if others else math.inf


def needs(measured: Measured, assumed: Assumed, busiest: Day) -> list[Needs]:
    """Return what the busiest minute takes."""
    entries = busiest.joins + busiest.resumes
    # Joins and messages are work of the same processor.
    work = entries / measured.joins + busiest.messages / measured.messages
    redis_us = entries * measured.redis_join_us + busiest.messages * measured.redis_message_us
    relayed_mbit = turn_mbit(assumed)
    return [
        Needs(
            "relay nodes (one core each)",
            {
                "processor": work / assumed.busy,
                "memory": busiest.members * measured.member_kb / 1024 / (assumed.node_mb - measured.node_mb),
            },
        ),
        Needs(
            "Redis shards",
            {
                "processor": redis_us / 1e6 / assumed.busy,
                "memory": busiest.members * measured.redis_member_kb / 1024 / assumed.redis_mb,
            },
        ),
        Needs(
            "TURN servers (1 Gbit/s, one core each)",
            {
                "bandwidth": relayed_mbit / 1_000 / assumed.busy,
                "processor": relayed_mbit / (measured.turn_kpps * assumed.packet_bytes * 8 / 1_000) / assumed.busy,
            },
        ),
    ]


def turn_mbit(assumed: Assumed) -> float:
    """Return what TURN servers receive each second; they send as much."""
    pairs = assumed.members * assumed.pairs_connected / 2
    return pairs * assumed.relayed * assumed.pair_kbit / 1_000


# -- those who come back


class Step(enum.IntEnum):
    """What happens next: a client tries or has waited for too long, or a node has time for the next one."""

    ATTEMPT = 0
    GIVE_UP = 1
    FREE = 2


@dataclass(frozen=True, slots=True)
class Back:
    """How those whose connection was lost came back.

    Attributes:
        number: of them.
        half_s, most_s, all_s: until half of them, 99 of 100, and all were back.
        attempts: of each, on average.
        late: which share of them was not back when its session had ended.
    """

    number: int
    half_s: float
    most_s: float
    all_s: float
    attempts: float
    late: float


class Comeback:
    """Clients that come back as the real one does, and the nodes that take them, each in the order of their coming.

    Args:
        nodes: that they may come to; each attempt is sent to any of them.
        entry_s, given_up_s: of a node's time for one that is let in, and for one that has given up before its turn.
        draw: by which nodes are chosen, and pauses drawn.
        away_s: until then no entry succeeds, as the store is away; each waits at its node first.
    """

    def __init__(self, nodes: int, entry_s: float, given_up_s: float, draw: random.Random, away_s: float = 0.0) -> None:
        self._queues: list[deque[tuple[float, int]]] = [deque() for _ in range(nodes)]
        self._is_busy = [False] * nodes
        self._entry_s, self._given_up_s = entry_s * STANDS_FOR, given_up_s * STANDS_FOR
        self._draw = draw
        self._away_s = away_s
        self._pauses: list[float] = []
        self._came_at: dict[int, float] = {}  # of those who wait at a node
        self._back_at: list[float] = []
        self._attempts = self._planned = 0
        self._due: list[tuple[float, int, Step, int]] = []  # when, how many before it, what, and whose or which node

    def run(self, noticed_at: Iterator[float]) -> Back:
        """Return how it went, given when each client notices that its connection is gone, seconds."""
        for client, at in enumerate(noticed_at):
            self._pauses.append(FIRST_PAUSE_S)
            self._plan(at + _pause(FIRST_PAUSE_S, self._draw), Step.ATTEMPT, client)
        while self._due:
            now, _, step, which = heapq.heappop(self._due)
            if step is Step.ATTEMPT:
                self._attempt(now, which)
            elif step is Step.GIVE_UP:
                self._give_up(now, which)
            else:
                self._is_busy[which] = False
                self._serve(now, which)
        return self._result()

    def _plan(self, at: float, step: Step, which: int) -> None:
        self._planned += 1
        heapq.heappush(self._due, (at, self._planned, step, which))

    def _attempt(self, now: float, client: int) -> None:
        self._attempts += 1
        node = int(self._draw.random() * len(self._queues))
        if len(self._queues[node]) * STANDS_FOR >= BACKLOG:
            self._fail(now + TIMEOUT_S, client)  # the system does not answer
            return
        self._queues[node].append((now, client))
        self._came_at[client] = now
        self._plan(now + TIMEOUT_S, Step.GIVE_UP, client)
        if not self._is_busy[node]:
            self._serve(now, node)

    def _give_up(self, now: float, client: int) -> None:
        """Have a client that waits turn to another node, if it is the wait that this was planned for."""
        if self._came_at.get(client, math.inf) + TIMEOUT_S == now:
            del self._came_at[client]
            self._fail(now, client)

    def _serve(self, now: float, node: int) -> None:
        """Take the next one in that waits at a node."""
        if not self._queues[node]:
            return
        came_at, client = self._queues[node].popleft()
        is_there = self._came_at.get(client) == came_at
        done_at = now + (self._entry_s if is_there else self._given_up_s)
        if is_there and done_at <= came_at + TIMEOUT_S:  # else it gives up while it is let in
            del self._came_at[client]
            if done_at < self._away_s:
                self._fail(done_at + _pause(STORE_PATIENCE_S, self._draw), client)
            else:
                self._back_at.append(done_at)
        self._is_busy[node] = True
        self._plan(done_at, Step.FREE, node)

    def _fail(self, at: float, client: int) -> None:
        """Have a client try again."""
        self._pauses[client] = longer(self._pauses[client])
        self._plan(at + _pause(self._pauses[client], self._draw), Step.ATTEMPT, client)

    def _result(self) -> Back:
        back_at, number = sorted(self._back_at), len(self._back_at)
        most_s = back_at[number * 99 // 100]
        late = sum(at > RESUME_S for at in back_at) / number
        return Back(STANDS_FOR * number, back_at[number // 2], most_s, back_at[-1], self._attempts / number, late)


def _pause(pause_s: float, draw: random.Random) -> float:
    return jittered(pause_s, int(256 * draw.random()))


def process_dies(number: int, draw: random.Random) -> Iterator[float]:
    """Give when clients notice that their node's process is gone: at once."""
    return (0.0 for _ in range(number // STANDS_FOR))


def machine_dies(number: int, draw: random.Random) -> Iterator[float]:
    """Give when clients notice that nothing comes any more: by a ping."""
    return (PING_INTERVAL_S * draw.random() + PING_TIMEOUT_S for _ in range(number // STANDS_FOR))


def node_drains(number: int, draw: random.Random, drain_s: float) -> Iterator[float]:
    """Give when clients are sent away by a node that ends."""
    return (drain_s * draw.random() for _ in range(number // STANDS_FOR))


def shard_is_lost(number: int, draw: random.Random, assumed: Assumed) -> Iterator[float]:
    """Give when those clients are sent away who ask for something while their shard is away. The others stay."""
    for _ in range(number // STANDS_FOR):
        asked_at = -assumed.asks_each_s * math.log(1 - draw.random())
        if asked_at < assumed.failover_s:
            yield asked_at + _pause(STORE_PATIENCE_S, draw)


def moves(nodes: int) -> float:
    """Return how often a member is moved while all nodes are started anew, one after the other."""
    members, moved = [1.0] * nodes, 0.0
    for node in range(nodes):
        leaving, members[node] = members[node], 0.0
        moved += leaving
        for other in range(nodes):
            if other != node:
                members[other] += leaving / (nodes - 1)
    return moved / nodes


# -- the tables


def tables(measured: Measured = MEASURED, assumed: Assumed | None = None) -> str:
    """Return what docs/scale.md shows."""
    assumed = assumed or Assumed()
    draw = random.Random(SEED)
    busiest = day(assumed, draw)
    parts = needs(measured, assumed, busiest)
    return "\n\n".join(
        [
            _fields_table("measured", measured),
            _fields_table("assumed", assumed),
            _day_table(busiest),
            _needs_table(parts),
            _waves_table(measured, assumed, busiest, parts[0].number, parts[1].number, draw),
            _rollout_table(parts[0].number),
            _turn_table(measured, assumed),
        ]
    )


def _table(head: str, rows: list[str]) -> str:
    columns = head.count("|") - 1
    return "\n".join([head, "|" + "---|" * columns, *rows])


def _fields_table(head: str, values: Measured | Assumed) -> str:
    rows = [f"| `{field.name}` | {getattr(values, field.name):,.10g} |" for field in fields(values)]
    return _table(f"| {head} | value |", rows)


def _day_table(busiest: Day) -> str:
    return _table(
        "| in the busiest minute | each second |",
        [
            f"| members that come | {busiest.joins:,.0f} |",
            f"| members that resume | {busiest.resumes:,.0f} |",
            f"| messages | {busiest.messages:,.0f} |",
        ],
    )


def _needs_table(parts: list[Needs]) -> str:
    rows = []
    for part in parts:
        name, margin = part.first()
        limits = ", ".join(f"{limit} {number:,.1f}" for limit, number in part.by_limit.items())
        rows.append(f"| {part.part} | {part.number:,} | {name} | {margin:.1f} | {limits} |")
    return _table("| part | needed | bound first by | times the next | by each limit |", rows)


def _waves_table(
    measured: Measured, assumed: Assumed, busiest: Day, nodes: int, shards: int, draw: random.Random
) -> str:
    rows = []
    for number in (nodes, 2 * nodes, 4 * nodes):
        # What is left of a node's processor beside what it does anyhow: the same work, spread over more nodes.
        spare = 1 - assumed.busy * nodes / number
        each = busiest.members // number
        waves = [
            ("a process dies", process_dies(each, draw), number - 1, 0.0),
            ("a machine dies", machine_dies(each, draw), number - 1, 0.0),
            *((f"drain of {s:.0f} s", node_drains(each, draw, s), number - 1, 0.0) for s in DRAINS_S),
            ("a shard is lost", shard_is_lost(busiest.members // shards, draw, assumed), number, assumed.failover_s),
        ]
        for name, noticed, left, away_s in waves:
            back = Comeback(left, 1 / measured.joins / spare, 1 / measured.given_up / spare, draw, away_s).run(noticed)
            times = f"{back.half_s:.0f} s | {back.most_s:.0f} s | {back.all_s:.0f} s"
            rows.append(f"| {number} | {name} | {back.number:,} | {times} | {back.attempts:.1f} | {back.late:.0%} |")
    return _table("| nodes | what happens | members | half back | 99 % | all | attempts | sessions over |", rows)


def _rollout_table(nodes: int) -> str:
    rows = []
    for number in (nodes, 2 * nodes, 4 * nodes):
        minutes = " | ".join(f"{number * (drain_s + LEAVING_S) / 60:.0f} min" for drain_s in DRAINS_S)
        rows.append(f"| {number} | {moves(number):.2f} | {minutes} |")
    return _table(
        "| nodes | moves of a member | " + " | ".join(f"drain of {drain_s:.0f} s" for drain_s in DRAINS_S) + " |", rows
    )


def _turn_table(measured: Measured, assumed: Assumed) -> str:
    rows = []
    for share in (0.05, 0.15, 0.30):
        for kbit in (100.0, 1_000.0, 4_000.0):
            one = replace(assumed, relayed=share, pair_kbit=kbit)
            mbit = turn_mbit(one)
            cores = mbit / (measured.turn_kpps * assumed.packet_bytes * 8 / 1_000) / assumed.busy
            rows.append(f"| {share:.0%} | {kbit:,.0f} | {mbit / 1_000:,.1f} | {math.ceil(cores):,} |")
    return _table("| pairs that are relayed | kbit/s of a pair | Gbit/s in, and as much out | cores |", rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--smoke", action="store_true", help="for a tenth of a million")
    options = parser.parse_args()
    print(tables(assumed=Assumed(members=100_000 if options.smoke else options.members)))


if __name__ == "__main__":
    main()
