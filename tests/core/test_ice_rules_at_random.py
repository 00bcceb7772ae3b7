"""The five rules of the core's contract under whatever a shell, a peer and a stranger may do, in any order.

Two agents on a bad link; Hypothesis draws seeds, each seed a hundred operations: candidates added late and lost again,
restarts of either side and of both, signaling held back, networks that change, ICMP, hostile and mutilated bytes,
a lite side, data, early and late timers, and the end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ice_harness import Link, World, agent

from iceagent.core import constants, ice
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.ice import AgentState, Received, Role

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(
    max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
OPERATIONS = 100


class Chaos:
    """One seed under way."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        link = Link(delay_s=chance.choice([0.001, 0.05]), loss=chance.choice([0.0, 0.1, 0.3]), duplication=0.05)
        self.world = World(seed, link)
        lite = chance.random() < 0.15
        self.agents = [
            self.world.add(agent(chance.choice(list(Role)) if not lite else Role.CONTROLLING, seed)),
            self.world.add(agent(Role.CONTROLLED if lite else chance.choice(list(Role)), seed + 1, lite=lite)),
        ]
        self.lite = lite
        self.addresses = [
            [make_address(f"192.0.2.{n + 1}", 1000 + n) for n in range(3)],
            [make_address(f"198.51.100.{n + 1}", 2000 + n) for n in range(3)],
        ]
        self.told = [[one.credentials] for one in self.agents]
        self.heard = [0, 0]
        self.seen: list[bytes] = []
        self.done: Counter[str] = Counter()
        self.operations: list[Callable[[int], None]] = [
            self.add_candidate,
            self.tell_credentials,
            self.tell_credentials,
            self.tell_candidates,
            self.tell_candidates,
            self.tell_the_end,
            self.restart,
            self.lose_base,
            self.change_network,
            self.be_unreachable,
            self.send_hostile_bytes,
            self.send_mutant,
            self.replay,
            self.send_data,
            self.be_late,
            self.wait,
            self.wait,
        ]

    def run(self) -> None:
        original = self.world.fly

        def fly(transmit):
            self.seen.append(transmit.data)
            del self.seen[:-50]
            original(transmit)

        self.world.fly = fly  # type: ignore[method-assign]  # listens in
        for number in (0, 1):
            self.add_candidate(number)
            self.tell_credentials(number)
        for _ in range(OPERATIONS):
            operation = self.chance.choice(self.operations)
            number = self.chance.randrange(2)
            self.done[operation.__name__] += 1
            operation(number)
            self.settle()

    def settle(self) -> None:
        """Drain, and look at rules 3 and 5."""
        for one in self.agents:
            self.world.drain(one)
            check_bounds(one)
            if one.state in (AgentState.FAILED, AgentState.CLOSED):
                assert one.next_timeout() is None
                assert one.data_pair() is None
        self.world.run(self.chance.choice([0.0, 0.01, 0.3]))  # `World.step` asserts rule 3

    def source(self, number: int) -> tuple[TransportAddress, TransportAddress]:
        stranger = make_address("203.0.113.9", self.chance.randrange(1, 65536))
        local = self.chance.choice(self.addresses[number])
        return local, self.chance.choice([*self.addresses[1 - number], stranger])

    # The operations.

    def add_candidate(self, number: int) -> None:
        one, address = self.agents[number], self.chance.choice(self.addresses[number])
        self.world.owner[address] = one
        one.add_local_candidate(self.world.now, ice.host_candidate(address, self.chance.randrange(65536)))

    def tell_credentials(self, number: int) -> None:
        """Carry the peer's next credentials, or its last ones again; signaling is slow, and keeps the order."""
        credentials = self.told[1 - number][min(self.heard[number], len(self.told[1 - number]) - 1)]
        self.heard[number] = min(self.heard[number] + 1, len(self.told[1 - number]))
        options = self.chance.choice([(), ("renomination",)])
        lite = self.lite and number == 0
        self.agents[number].set_remote_credentials(self.world.now, credentials, lite=lite, options=options)
        self.note_credentials()

    def note_credentials(self) -> None:
        """Have new credentials told: each of them, since the peer's next may be the answer to any."""
        for one, told in zip(self.agents, self.told, strict=True):
            if told[-1] != one.credentials:
                told.append(one.credentials)

    def tell_candidates(self, number: int) -> None:
        for candidate in self.agents[1 - number].local_candidates:
            if self.chance.random() < 0.8:
                self.agents[number].add_remote_candidate(self.world.now, candidate)

    def tell_the_end(self, number: int) -> None:
        self.agents[number].end_of_local_candidates(self.world.now)
        self.agents[number].add_remote_candidate(self.world.now, None)

    def restart(self, number: int) -> None:
        one = self.agents[number]
        if one.state not in (AgentState.FAILED, AgentState.CLOSED) and self.chance.random() < 0.5:
            one.restart(self.world.now)
            self.note_credentials()
            self.add_candidate(number)

    def lose_base(self, number: int) -> None:
        if self.chance.random() < 0.5:
            address = self.chance.choice(self.addresses[number])
            self.world.owner.pop(address, None)
            self.agents[number].handle_base_lost(self.world.now, address)

    def change_network(self, number: int) -> None:
        self.agents[number].handle_network_changed(self.world.now)

    def be_unreachable(self, number: int) -> None:
        self.agents[number].handle_unreachable(self.world.now, *self.source(number))

    def send_hostile_bytes(self, number: int) -> None:
        body = self.chance.randbytes(4 * self.chance.randrange(40))
        head = b"\x01\x01" if self.chance.random() < 0.5 else b"\x00\x01"
        whole = head + len(body).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + self.chance.randbytes(12) + body
        self.deliver_in_vain(number, self.chance.choice([whole, body, b"", whole[:-1]]))

    def send_mutant(self, number: int) -> None:
        if not self.seen:
            return
        mutant = bytearray(self.chance.choice(self.seen))
        for _ in range(self.chance.randrange(1, 4)):
            mutant[self.chance.randrange(len(mutant))] ^= 1 << self.chance.randrange(8)
        self.deliver_in_vain(number, bytes(mutant))

    def deliver_in_vain(self, number: int, data: bytes) -> None:
        one = self.agents[number]
        local, remote = self.source(number)
        before = one.counters.total()
        valid = one.is_validated(local, remote)
        verdict = one.handle_datagram(self.world.now, local, remote, data)
        assert verdict is not Received.CONSUMED or data[:2] == b"\x00\x11"
        assert verdict is not Received.APPLICATION_DATA or valid
        assert (verdict is Received.DROPPED) == (one.counters.total() > before)

    def replay(self, number: int) -> None:
        if self.seen:
            local, remote = self.source(number)
            self.agents[number].handle_datagram(self.world.now, local, remote, self.chance.choice(self.seen))

    def send_data(self, number: int) -> None:
        one = self.agents[number]
        if self.world.send_data(one, b"data") and one.activity.unheard_since is None:
            one.activity.unheard_since = self.world.now

    def be_late(self, number: int) -> None:
        self.world.now += self.chance.choice([0.5, 3.0, 20.0]) if self.chance.random() < 0.2 else 0.0
        one = self.agents[number]
        one.handle_timeout(self.world.now)
        at = one.next_timeout()
        assert at is None or at > self.world.now

    def wait(self, number: int) -> None:
        self.world.run(self.chance.choice([0.05, 1.0, 7.0]))


def check_bounds(one: ice.IceAgent) -> None:
    """Rule 5, as far as it can be seen from outside."""
    assert len(one.pairs) <= 2 * constants.MAX_PAIRS  # during a restart those of two sessions
    assert len(one.local_candidates) <= constants.MAX_LOCAL_CANDIDATES
    assert len(one.remote_candidates) <= constants.MAX_REMOTE_CANDIDATES


@given(SEEDS)
@FEW
def test_rules_1_2_3_and_5_hold_whatever_happens(seed: int) -> None:
    """Nothing raises, timers move on, tables are bounded, nothing unauthenticated counts; and the end is the end."""
    chaos = Chaos(seed)
    chaos.run()
    for one in chaos.agents:
        one.close(chaos.world.now)
        assert one.next_timeout() is None
        assert one.poll_transmit() is None
        assert one.state is AgentState.CLOSED


@given(SEEDS)
@FEW
def test_rule_4_holds_whatever_happens(seed: int) -> None:
    """The same operations give the same bytes."""
    one, other = Chaos(seed), Chaos(seed)
    one.run()
    other.run()
    assert one.world.trace == other.world.trace
    assert one.done == other.done


@given(SEEDS)
@FEW
def test_agents_that_lived_through_anything_connect_after_a_restart(seed: int) -> None:
    """No operation leaves a living session in a corner from which a restart does not lead."""
    chaos = Chaos(seed)
    chaos.run()
    world, (a, b) = chaos.world, chaos.agents
    if AgentState.FAILED in (a.state, b.state):
        return
    world.link.loss = 0.0
    world.run(1)
    for _ in range(3):  # a restart of ours may cross one that was under way
        if AgentState.FAILED in (a.state, b.state):
            return
        a.restart(world.now)
        chaos.note_credentials()
        while chaos.heard != [len(told) for told in reversed(chaos.told)]:
            for number in (1, 0):
                chaos.add_candidate(number)
                chaos.tell_credentials(number)
                world.drain(chaos.agents[number])
        for one, number in ((b, 1), (a, 0)):
            address = chaos.addresses[number][0]
            world.owner[address] = one
            one.add_local_candidate(world.now, ice.host_candidate(address))
            world.drain(one)
        for one, other in ((a, b), (b, a)):
            for candidate in other.local_candidates:
                one.add_remote_candidate(world.now, candidate)
            world.drain(one)
        world.run(30)
    assert a.data_pair() is not None  # not always the same: a base that was lost answers again in this world
    assert b.data_pair() is not None
