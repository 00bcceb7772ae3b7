"""Every message of whole sessions with every single bit flipped: none of them has any effect whatever.

`make test` flips one of four, another one in each message; `make thorough` all.

FINGERPRINT alone would see to that, but who flips a bit on purpose can repair it; so each goes twice.

Each mutant is delivered where and when the original was about to be, to the very agent that gets the original next.
So one that had an effect would be seen three times: in what is visible at once, in the memory of the agent when all
mutants of the message were delivered, and in a session that goes another way.
"""

from __future__ import annotations

import copy
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from amount import amount
from ice_harness import A4, B4, World, agent, both, connected_pair, transmits_of

from iceagent.core import ice, stun
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.ice import AgentState, Received, Role

STEP = amount(1, 4)
UNTOUCHED = {
    "counters",
    "signs",
    "_calm_until",
    "_due",
    "_due_known",
    "_due_unheard_since",
    "_randbytes",
    "randbytes",
}  # no facts: notes


def mutants(data: bytes, first: int) -> Iterator[bytes]:
    """Give the message with each single bit flipped; and again with a FINGERPRINT that fits, as an attacker would.

    `first` chooses the bits where it is not all of them.
    """
    covered = len(data) - 8
    for bit in range(first % STEP, len(data) * 8, STEP):
        mutant = bytearray(data)
        mutant[bit // 8] ^= 0x80 >> (bit % 8)
        yield bytes(mutant)
        if bit < covered * 8:
            mutant[-4:] = (zlib.crc32(mutant[:covered]) ^ 0x5354554E).to_bytes(4, "big")  # RFC 8489 section 14.7
            yield bytes(mutant)


def memory(thing: Any, seen: dict[int, int] | None = None) -> object:
    """Return all that an object of the core remembers, as nested tuples; drop counters and caches aside."""
    seen = {} if seen is None else seen
    if thing is None or isinstance(thing, bool | int | float | str | bytes):
        return thing
    if id(thing) in seen:
        return seen[id(thing)]
    seen[id(thing)] = len(seen)
    if isinstance(thing, dict):
        return tuple((memory(key, seen), memory(value, seen)) for key, value in thing.items())
    if isinstance(thing, set | frozenset):
        return tuple(sorted(map(repr, thing)))
    if isinstance(thing, list | tuple) or hasattr(thing, "popleft"):
        return tuple(memory(one, seen) for one in thing)
    names = [*getattr(thing, "__dict__", {}), *(s for c in type(thing).__mro__ for s in getattr(c, "__slots__", ()))]
    if callable(thing) or not type(thing).__module__.startswith("iceagent"):
        return repr(type(thing))
    return tuple((name, memory(getattr(thing, name), seen)) for name in names if name not in UNTOUCHED)


def visible(one: ice.IceAgent) -> object:
    """Return what a mutant must not change, as far as the outside can see."""
    return (
        one.state,
        one.role,
        one.data_pair(),
        one.selected_pair,
        one.credentials,
        one.generation,
        len(one.pairs),
        len(one.local_candidates),
        len(one.remote_candidates),
        one.next_timeout(),
        one.checks_sent,
    )


@dataclass
class Mutator:
    """Stands before the agents of a world and lets the mutants of each message go first."""

    world: World
    messages: int = 0
    count: int = 0
    verdicts: Counter[Received] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)

    def guard(self, one: ice.IceAgent) -> None:
        original = one.handle_datagram

        def handle(now: float, local: TransportAddress, remote: TransportAddress, data: bytes) -> Received:
            if stun.looks_like_stun(data):
                self.try_all(one, now, local, remote, data)
            return original(now, local, remote, data)

        one.handle_datagram = handle  # type: ignore[method-assign]
        self.original = type(one).handle_datagram

    def try_all(
        self, one: ice.IceAgent, now: float, local: TransportAddress, remote: TransportAddress, data: bytes
    ) -> None:
        one.handle_timeout(now)  # what is due now anyway is no effect of a mutant
        self.world.drain(one)
        self.note(data)
        before, outside, valid = memory(one), visible(one), one.is_validated(local, remote)
        for mutant in mutants(data, self.messages):
            self.count += 1
            # One that is no STUN any more may be kept as data; that is its right, so a copy gets it.
            target = one if stun.looks_like_stun(mutant) else duplicate(one)
            verdict = self.original(target, now, local, remote, mutant)
            self.verdicts[verdict] += 1
            if verdict is Received.APPLICATION_DATA:
                assert valid
                assert target is not one
            if (
                verdict is Received.CONSUMED
            ):  # an indication keeps NATs awake, needs no integrity and means nothing else
                assert stun.decode(mutant).message_class is stun.MessageClass.INDICATION
            assert target.is_validated(local, remote) is valid
            assert visible(target) == outside
            assert transmits_of(target) == []
            assert target.poll_event() is None
        assert memory(one) == before

    def note(self, data: bytes) -> None:
        self.messages += 1
        message = stun.decode(data)
        code = message.get(stun.ErrorCode)
        kind = message.message_class.name.lower() if code is None else str(code.code)
        self.kinds[kind + (" nominating" if message.get(stun.UseCandidate) else "")] += 1


def duplicate(one: ice.IceAgent) -> ice.IceAgent:
    guard = one.__dict__.pop("handle_datagram")
    try:
        return copy.deepcopy(one)
    finally:
        one.__dict__["handle_datagram"] = guard


pytestmark = pytest.mark.thorough


@pytest.fixture
def guarded(record_property, capsys) -> Iterator[Callable[..., Mutator]]:
    """Put a mutator before agents; tell how many mutants there were."""
    made: list[Mutator] = []

    def guard(world: World, *agents: ice.IceAgent) -> Mutator:
        made.append(Mutator(world))
        for one in agents:
            made[-1].guard(one)
        return made[-1]

    yield guard
    (mutator,) = made
    record_property("mutants", mutator.count)
    with capsys.disabled():
        print(f" {mutator.count} mutants of {mutator.messages} messages ", end="")


ROLES = {
    "roles as they should be": (Role.CONTROLLING, Role.CONTROLLED),
    "both controlling": (Role.CONTROLLING, Role.CONTROLLING),
    "both controlled": (Role.CONTROLLED, Role.CONTROLLED),
}


@pytest.mark.parametrize(("roles", "renomination"), [*((roles, True) for roles in ROLES), (next(iter(ROLES)), False)])
def test_no_bit_of_any_message_of_a_session_can_be_flipped_with_effect(guarded, roles, renomination):
    """Checks, answers, nomination and consent both ways, with and without role conflict."""
    world = World(7)
    a, b = (world.add(agent(role, seed)) for seed, role in enumerate(ROLES[roles], 1))
    mutator = guarded(world, a, b)
    world.host(a, A4)
    world.host(b, B4)
    options = ("renomination",) if renomination else ()
    for one, other in ((a, b), (b, a)):
        one.set_remote_credentials(world.now, other.credentials, options=options)
        world.drain(one)
        for candidate in other.local_candidates:
            world.signal(one, candidate)
    world.run_until(lambda: both(a, b, AgentState.COMPLETED))
    world.run(7)
    assert both(a, b, AgentState.COMPLETED)
    assert mutator.messages >= 10
    assert mutator.kinds["request nominating"] >= 1
    assert mutator.kinds["success"] >= 5
    assert (mutator.kinds["487"] > 0) is (roles != "roles as they should be")
    assert mutator.count > 12_000 // STEP
    assert mutator.count == sum(mutator.verdicts.values())


def test_no_bit_can_be_flipped_while_peer_reflexive_candidates_are_learnt(guarded):
    """A check from an unknown address makes a candidate and a pair; its mutants make none."""
    world = World(8)
    a, b = world.pair()
    public = make_address("203.0.113.7", 7777)
    world.link.translate = lambda source, destination: public if source == A4 else source
    mutator = guarded(world, a, b)
    world.host(a, A4)
    world.host(b, B4)
    for one, other in ((a, b), (b, a)):
        one.set_remote_credentials(world.now, other.credentials)
        world.drain(one)
    world.signal(a, ice.host_candidate(B4))  # b learns of a from its checks alone
    world.run_until(lambda: both(a, b, AgentState.COMPLETED))
    assert {candidate.type for candidate in b.remote_candidates} == {ice.CandidateType.PRFLX}
    assert ice.CandidateType.PRFLX in {candidate.type for candidate in a.local_candidates}
    assert mutator.messages >= 4


def test_no_bit_of_an_early_check_can_be_flipped(guarded):
    """Checks before the peer's description are answered, kept and acted upon later; their mutants are not (trap 18)."""
    world = World(9)
    a, b = world.pair()
    mutator = guarded(world, a, b)
    world.host(a, A4)
    world.host(b, B4)
    a.set_remote_credentials(world.now, b.credentials)
    world.drain(a)
    world.signal(a, ice.host_candidate(B4))
    world.run(0.3)
    assert mutator.messages >= 2
    b.set_remote_credentials(world.now, a.credentials)
    world.drain(b)
    world.run_until(lambda: both(a, b, AgentState.COMPLETED))


def test_no_bit_of_a_message_to_or_from_a_lite_agent_can_be_flipped(guarded):
    """A lite agent believes what it is told, so it must be told by nobody else."""
    world = World(10)
    a = world.add(agent(Role.CONTROLLING, 1))
    b = world.add(agent(Role.CONTROLLED, 2, lite=True))
    mutator = guarded(world, a, b)
    world.host(a, A4)
    world.host(b, B4)
    a.set_remote_credentials(world.now, b.credentials, lite=True)
    world.drain(a)
    b.set_remote_credentials(world.now, a.credentials)
    world.drain(b)
    world.signal(a, ice.host_candidate(B4))
    world.signal(b, ice.host_candidate(A4))
    world.run_until(lambda: both(a, b, AgentState.COMPLETED))
    world.run(15)
    assert both(a, b, AgentState.COMPLETED)
    assert mutator.kinds["request nominating"] >= 1


def test_no_bit_of_a_message_during_a_restart_can_be_flipped(guarded):
    """Two generations are alive then, each with keys of its own."""
    world, a, b = connected_pair(11)
    mutator = guarded(world, a, b)
    a.restart(world.now)
    world.host(a, A4)
    b.set_remote_credentials(world.now, a.credentials)
    world.host(b, B4)
    a.set_remote_credentials(world.now, b.credentials)
    world.signal(a, ice.host_candidate(B4))
    world.signal(b, ice.host_candidate(A4))
    world.run_until(lambda: not a.restarting and not b.restarting)
    world.run(10)
    assert both(a, b, AgentState.COMPLETED)
    assert a.generation == b.generation == 1
    assert mutator.messages >= 8
