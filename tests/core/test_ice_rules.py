"""The five rules of the core's contract (DESIGN section 3), on two agents joined by a bad link with explicit time.

Each example is one seed, which Hypothesis prints when it fails; `World(seed, ...)` repeats it.
"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

from amount import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from ice_harness import (
    A4,
    B4,
    PEER,
    Link,
    World,
    agent,
    answer,
    both,
    events_of,
    lone,
    request,
    transmits_of,
)

from iceagent.core import constants, ice
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.ice import AgentState, Received, Role

SEEDS = st.integers(0, 2**32 - 1)
FEW = examples(40, 10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MANY = examples(200, 60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def bad_world(seed: int, **config: object) -> tuple[World, ice.IceAgent, ice.IceAgent]:
    """Two agents with one to four addresses each, any roles, on a link that loses, delays, doubles and reorders."""
    chance = random.Random(seed)
    link = Link(
        delay_s=chance.choice([0.0005, 0.01, 0.1]),
        jitter_s=chance.choice([0.0, 0.02, 0.3]),
        loss=chance.choice([0.0, 0.1, 0.3]),
        duplication=chance.choice([0.0, 0.2]),
    )
    dead = chance.choice([0.0, 0.3])
    dead_seed = chance.random()

    def blocked(source: TransportAddress, destination: TransportAddress) -> bool:
        if (source.port, destination.port) in ((1000, 2000), (2000, 1000)):
            return False  # one path always works
        path = sorted((source, destination))
        return random.Random(f"{dead_seed} {path}").random() < dead

    link.blocked = blocked
    world = World(seed, link)
    a = world.add(agent(chance.choice(list(Role)), chance.randrange(2**32), **config))
    b = world.add(agent(chance.choice(list(Role)), chance.randrange(2**32), **config))
    world.host(a, *(make_address(f"192.0.2.{n + 1}", 1000 + n) for n in range(chance.randrange(1, 5))))
    world.host(b, *(make_address(f"198.51.100.{n + 1}", 2000 + n) for n in range(chance.randrange(1, 5))))
    return world, a, b


def trickle(world: World, a: ice.IceAgent, b: ice.IceAgent) -> None:
    """Signal in a random order with pauses, each side's credentials first; checks may overtake the answer."""
    chance = world.random
    steps: list[tuple[float, ice.IceAgent, ice.IceAgent, Any]] = []
    for one, other in ((a, b), (b, a)):
        at = world.now + chance.random() * 0.5
        steps.append((at, one, other, "credentials"))
        steps += [(at + 0.001 + chance.random() * 0.5, one, other, found) for found in other.local_candidates]
        steps.append((at + 1, one, other, None))
    for at, one, other, what in sorted(steps, key=lambda step: step[0]):
        world.run(at - world.now)
        if what == "credentials":
            one.set_remote_credentials(world.now, other.credentials)
        elif what is None:
            one.end_of_local_candidates(world.now)
            world.drain(one)
            one.add_remote_candidate(world.now, None)
        else:
            one.add_remote_candidate(world.now, what)
        world.drain(one)


@given(st.lists(st.tuples(st.binary(max_size=200), st.booleans(), st.booleans()), max_size=30), SEEDS)
@MANY
def test_rule_1_no_bytes_from_the_network_raise(datagrams: list[tuple[bytes, bool, bool]], seed: int) -> None:
    """Whatever arrives, in whatever state, is consumed, handed on or dropped and counted."""
    one = lone(random.Random(seed).choice(list(Role)), seed)
    for datagram, as_stun, from_peer in datagrams:
        data = datagram
        if as_stun:
            body = datagram + bytes(-len(datagram) % 4)
            data = b"\x00\x01" + len(body).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + b"transaction!" + body
        before = one.counters.total()
        verdict = one.handle_datagram(0.01, A4, B4 if from_peer else make_address("203.0.113.9", 9), data)
        assert verdict is not Received.APPLICATION_DATA
        assert (verdict is Received.DROPPED) == (one.counters.total() > before)


def mirrored(path: tuple[TransportAddress, TransportAddress] | None) -> tuple[TransportAddress, ...] | None:
    """Return the path as the other end has it."""
    return None if path is None else path[::-1]


@given(SEEDS)
@FEW
def test_rules_2_and_3_after_each_timeout_the_next_is_later_and_all_seeds_connect(seed: int) -> None:
    """`World.step` asserts rule 3 each time; drained after each mutation, nothing else is needed to get anywhere."""
    world, a, b = bad_world(seed)
    trickle(world, a, b)
    # The answers to one nomination may all get lost; then the next pair is nominated, and the peer follows.
    world.run_until(lambda: both(a, b, AgentState.COMPLETED) and a.data_pair() == mirrored(b.data_pair()), 60)
    assert a.role is not b.role


@given(SEEDS, st.lists(st.floats(0, 3), min_size=1, max_size=30))
@FEW
def test_rule_3_holds_for_timers_handled_at_any_time(seed: int, waits: list[float]) -> None:
    """A shell may be late, as after a sleep, or early."""
    world, a, b = bad_world(seed)
    world.introduce(a, b)
    for wait in waits:
        world.run(wait)
        world.now += wait * 10
        for one in (a, b):
            one.handle_timeout(world.now)
            world.drain(one)
            at = one.next_timeout()
            assert at is None or at > world.now


@given(SEEDS)
@FEW
def test_rule_4_same_seed_and_inputs_give_the_same_outputs(seed: int) -> None:
    """Byte for byte, so that a failure found once can be repeated."""

    def run() -> tuple[list[tuple[float, str]], list[object]]:
        world, a, b = bad_world(seed)
        trickle(world, a, b)
        world.run(20)
        return world.trace, [world.events[id(one)] for one in (a, b)]

    assert run() == run()


@given(SEEDS)
@FEW
def test_rule_5_every_table_is_bounded_though_the_peer_misbehaves(seed: int) -> None:
    """An authenticated peer may check from a thousand ports and signal a thousand candidates."""
    chance = random.Random(seed)
    one = lone(chance.choice(list(Role)), seed)
    now = 0.0
    for step in range(1000):
        now += chance.random() * 0.1
        address = make_address(f"203.0.113.{chance.randrange(1, 255)}", chance.randrange(1, 65536))
        what = chance.randrange(4)
        if what == 0:
            one.add_remote_candidate(now, ice.host_candidate(address, chance.randrange(65536)))
        elif what == 1:
            one.handle_datagram(now, A4, address, request(one, peer=PEER, transaction_id=b"flood-%06d" % step))
        elif what == 2:
            one.handle_datagram(now, A4, address, b"data")
        else:
            one.handle_timeout(now)
        transmits = transmits_of(one) if chance.random() < 0.5 else []
        for transmit in transmits[-2:]:
            if transmit.data[:2] == b"\x00\x01" and chance.random() < 0.2:
                mapped = make_address("203.0.113.99", chance.randrange(1, 65536))
                one.handle_datagram(now, A4, transmit.remote, answer(transmit, PEER, mapped=mapped))
    inside = one._sessions.current.facts
    assert len(one.pairs) <= constants.MAX_PAIRS
    assert len(one.remote_candidates) <= constants.MAX_REMOTE_CANDIDATES
    assert len(one.local_candidates) <= constants.MAX_LOCAL_CANDIDATES
    assert len(inside.runner._checks) <= constants.MAX_TRANSACTIONS
    assert len(inside.checklist._triggered) <= constants.MAX_PAIRS
    assert len(inside.outbox.transmits) <= constants.MAX_QUEUED_TRANSMITS
    assert len(inside.outbox.events) <= constants.MAX_QUEUED_EVENTS
    assert len(inside.validated) <= constants.MAX_PAIRS


def test_rule_5_undrained_queues_are_bounded() -> None:
    """A shell that forgets to drain loses the oldest, and can see it in the counters."""
    one = lone()
    for step in range(3000):
        one.handle_datagram(0.0, A4, B4, request(one, peer=PEER, transaction_id=b"flood-%06d" % step))
    assert len(transmits_of(one)) == constants.MAX_QUEUED_TRANSMITS
    assert one.counters[ice.DropReason.TRANSMIT_OVERFLOW] > 0
    assert len(events_of(one)) <= constants.MAX_QUEUED_EVENTS


def test_a_single_bit_flipped_in_an_answer_never_validates_a_pair() -> None:
    """All bits of a check's answer, one by one."""
    one = lone()
    (check,) = transmits_of(one)
    whole = answer(check, PEER)
    for bit in range(len(whole) * 8):
        mutant = bytearray(whole)
        mutant[bit // 8] ^= 1 << (bit % 8)
        assert one.handle_datagram(0.01, A4, B4, bytes(mutant)) is Received.DROPPED, f"bit {bit}"
        assert not one.is_validated(A4, B4)
        assert one.data_pair() is None
    one.handle_datagram(0.02, A4, B4, whole)
    assert one.is_validated(A4, B4)


def test_a_single_bit_flipped_in_a_check_never_has_any_effect() -> None:
    """All bits of a nominating check: no answer, no candidate, no nomination, no role."""
    one = lone(Role.CONTROLLED)
    (check,) = transmits_of(one)
    one.handle_datagram(0.01, A4, B4, answer(check, PEER))
    events_of(one)
    whole = request(one, peer=PEER, nominate=True)
    stranger = make_address("203.0.113.9", 9)
    for bit in range(len(whole) * 8):
        mutant = bytearray(whole)
        mutant[bit // 8] ^= 1 << (bit % 8)
        for source in (B4, stranger):
            # A flip in the magic cookie or length makes it data to the eye: from a validated path that is the user's.
            verdict = one.handle_datagram(0.02, A4, source, bytes(mutant))
            assert verdict is Received.DROPPED or (source is B4 and verdict is Received.APPLICATION_DATA), f"bit {bit}"
    assert transmits_of(one) == []
    assert events_of(one) == []
    assert one.selected_pair is None
    assert one.role is Role.CONTROLLED


@given(SEEDS)
@FEW
def test_a_link_that_flips_one_bit_of_every_datagram_never_connects_anybody(seed: int) -> None:
    """The same with both agents' own messages."""
    world, a, b = bad_world(seed)

    def flip(data: bytes) -> bytes:
        bit = world.random.randrange(len(data) * 8)
        mutant = bytearray(data)
        mutant[bit // 8] ^= 1 << (bit % 8)
        return bytes(mutant)

    world.link.mutate = flip
    world.introduce(a, b)
    world.run(60)
    for one in (a, b):
        assert one.state is AgentState.FAILED
        assert not world.of_kind(one, ice.PairValidated)
        assert not world.received[id(one)]


@given(SEEDS)
@FEW
def test_new_checks_are_never_sent_faster_than_ta(seed: int) -> None:
    """Retransmissions, nominations, consent and answers aside (RFC 8445 section 14.2)."""
    world, a, b = bad_world(seed)
    trickle(world, a, b)
    world.run(5)
    for one in (a, b):
        seen: set[bytes] = set()
        fresh = []
        for (at, sender, transmit), on_data_path in zip(world.sent, world.sent_on_data_path, strict=True):
            data = transmit.data
            exempt = b"\x00\x25\x00\x00" in data or on_data_path
            if sender is one and data[:2] == b"\x00\x01" and data[8:20] not in seen and not exempt:
                seen.add(data[8:20])
                fresh.append(at)
        gaps = [later - earlier for earlier, later in pairwise(fresh)]
        assert all(gap >= constants.TA_S - 1e-9 for gap in gaps)


@given(SEEDS)
@examples(40, 5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_both_ends_agree_again_when_a_lossy_link_heals(seed: int) -> None:
    """Whatever was nominated, answered and lost meanwhile: one path in the end, and no session lost."""
    world, a, b = bad_world(seed)
    world.introduce(a, b, ended=seed % 2 == 0)
    world.run_until(lambda: both(a, b, AgentState.COMPLETED), 60)
    world.run(30)
    world.link.loss = 0.0
    world.run(45)
    assert both(a, b, AgentState.COMPLETED)
    world.run_until(lambda: agree(a, b), 3)  # a switch to a shorter round trip may be under way at any moment
    assert both(a, b, AgentState.COMPLETED)


def agree(a: ice.IceAgent, b: ice.IceAgent) -> bool:
    """Tell whether both send over one path."""
    mine, theirs = a.data_pair(), b.data_pair()
    return mine is not None and theirs == (mine[1], mine[0])
