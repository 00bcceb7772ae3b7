"""Both ends on one pair: under loss, restarts and renomination, and when a NAT gives one side a new address."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from ice_harness import A4, B4, Link, World, both

from iceagent.core import ice
from iceagent.core.address import make_address
from iceagent.core.ice import AgentState

if "ice_stress" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("ice_stress", Path(__file__).with_name("stress.py"))
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["ice_stress"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["ice_stress"])
import ice_stress

OPTIONS = ("ice2", "renomination")
A_DIRECT, A_RELAY = make_address("192.0.2.1", 1), make_address("192.0.2.3", 3)

# Seeds whose stories once ended on two pairs: a consent check of the old pair, sent while a better one was being
# nominated, carried the newest value of NOMINATION and took the peer back to the old pair.
REGRESSIONS = (119, 727)


@pytest.mark.parametrize("seed", [*REGRESSIONS, *range(1, 25)])
def test_stories_of_loss_and_restarts_end_on_one_pair(seed: int) -> None:
    """`python tests/core/stress.py FIRST COUNT` tells more of them."""
    assert ice_stress.tell(seed) == ""


def behind_a_nat(renomination: bool) -> tuple[World, ice.IceAgent, ice.IceAgent]:
    """A connected pair, A's packets coming from a NAT; `rebind` gives it another mapping and kills the old one."""
    world = World(1, Link(delay_s=0.02))
    a, b = world.pair()
    world.link.translate = lambda source, _: make_address("203.0.113.1", 5000) if source == A4 else source
    world.host(a, A4)
    world.host(b, B4)
    if renomination:
        for one, other in ((a, b), (b, a)):
            one.set_remote_credentials(world.now, other.credentials, options=OPTIONS)
            world.drain(one)
    world.introduce(a, b)
    world.run_until(lambda: both(a, b, AgentState.COMPLETED))
    return world, a, b


def rebind(world: World) -> None:
    world.link.translate = lambda source, _: make_address("203.0.113.1", 5001) if source == A4 else source
    del world.mapped[make_address("203.0.113.1", 5000)]


@pytest.mark.parametrize("renomination", [True, False])
@pytest.mark.parametrize("after_s", [0.2, 5.0])
@pytest.mark.parametrize("talks", [True, False])
def test_the_controlled_side_follows_when_the_nat_of_the_other_gives_it_a_new_address(
    renomination: bool, after_s: float, talks: bool
) -> None:
    """With the first check from there: within a second where data goes unanswered, else with the next consent check."""
    world, a, b = behind_a_nat(renomination)
    world.run(after_s)
    rebind(world)
    start = world.now
    while b.selected_pair is None or b.selected_pair.remote.address.port != 5001:
        assert world.now - start < (0.8 if talks else 6.6)
        if talks:
            world.send_data(a, b"hello")
            a.activity.unheard_since = a.activity.unheard_since or start
        world.run(0.01)
    world.run(1)
    assert b.data_pair() == (B4, make_address("203.0.113.1", 5001))
    assert both(a, b, AgentState.COMPLETED)


def test_a_consent_check_says_nothing_of_its_pair_while_another_is_nominated() -> None:
    """Else it would take the peer back to the pair that is being left."""
    world, a, b = two_ways(blocked=False)
    world.run_until(lambda: a._current.context.nominating is not None)
    context = a._current.context
    selected = context.selected
    assert selected is not None
    check = context.start_check(world.now, selected, ice.checks.CheckKind.CONSENT)
    world.drain(a)
    world.run_until(lambda: a.selected_pair is not None and a.selected_pair.local.type.value != "relay")
    world.run(1)
    assert check.pair is selected
    assert b.data_pair() == (B4, A_DIRECT)


def two_ways(*, blocked: bool, loss: float = 0.0) -> tuple[World, ice.IceAgent, ice.IceAgent]:
    """A relayed pair is selected; the direct one is dead for the first 45 s, or at first (`blocked=False`)."""
    world = World(2, Link(delay_s=0.02, loss=loss))
    a, b = world.pair()
    dead = {frozenset((A_DIRECT, B4))}
    world.link.blocked = lambda source, destination: frozenset((source, destination)) in dead
    world.host(a, A_DIRECT)
    world.host(b, B4)
    world.owner[A_RELAY] = a
    a.add_local_candidate(world.now, ice.relay_candidate(A_RELAY, "203.0.113.99"))
    for one, other in ((a, b), (b, a)):
        one.set_remote_credentials(world.now, other.credentials, options=OPTIONS)
    world.introduce(a, b)
    world.run_until(lambda: both(a, b, AgentState.COMPLETED))
    assert a.data_pair() == (A_RELAY, B4)
    if blocked:
        world.run(45)
    dead.clear()
    return world, a, b


def test_a_direct_path_that_comes_late_is_moved_to_at_once() -> None:
    """The relayed pair won the patience of nomination; ten seconds of it would be ten too many."""
    world, a, b = two_ways(blocked=False)
    took = world.run_until(lambda: a.data_pair() == (A_DIRECT, B4) and b.data_pair() == (B4, A_DIRECT))
    assert took < 1.1, "the next retransmission, a round trip, and another one to nominate"


def test_a_failed_direct_path_is_tried_again_while_a_relayed_one_is_in_use() -> None:
    """On a line that loses packets, or with a NAT opened late, its first checks may have come to nothing."""
    world, a, b = two_ways(blocked=True)
    took = world.run_until(lambda: a.data_pair() == (A_DIRECT, B4) and b.data_pair() == (B4, A_DIRECT))
    assert took < 45


def test_the_search_for_a_direct_path_costs_ever_less() -> None:
    """An hour beside a relay, the direct path dead for good: some hundred checks, not thousands."""
    world, a, _ = two_ways(blocked=True)
    world.link.blocked = lambda source, destination: frozenset((source, destination)) == frozenset((A_DIRECT, B4))
    before = len(world.sent)
    world.run(3600)
    asked = [transmit for _, one, transmit in world.sent[before:] if one is a and transmit.local == A_DIRECT]
    assert 7 <= len(asked) <= 100
    assert a.data_pair() == (A_RELAY, B4)
