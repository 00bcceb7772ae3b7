"""An agent that may be without a path for a while: `IceConfig.outage_s`."""

from __future__ import annotations

import pytest
from ice_harness import A4, B4, World, agent, both, connected_pair

from iceagent.core import ice
from iceagent.core.ice import AgentState
from iceagent.core.ice.config import IceConfig

OUTAGE_S = 600.0


def parted(outage_s: float = OUTAGE_S) -> tuple[World, ice.IceAgent, ice.IceAgent]:
    """Two connected agents between which nothing goes any more, 31 s later: consent has ended."""
    world, a, b = connected_pair(outage_s=outage_s)
    world.link.blocked = lambda source, destination: True
    world.run(31)
    return world, a, b


def meet_again(world: World, a: ice.IceAgent, b: ice.IceAgent) -> None:
    """Both have restarted: carry the descriptions and the candidates of both, over a line that works again."""
    world.link.blocked = lambda source, destination: False
    for one, other, at in ((a, b, A4), (b, a, B4)):
        world.host(one, at)
        one.end_of_local_candidates(world.now)
        other.set_remote_credentials(world.now, one.credentials)
        world.drain(other)
    for one, other in ((a, b), (b, a)):
        for candidate in other.local_candidates:
            world.signal(one, candidate)
        one.add_remote_candidate(world.now, None)
        world.drain(one)


def test_without_an_allowance_the_last_path_is_the_end() -> None:
    _, a, b = parted(outage_s=0.0)
    assert both(a, b, AgentState.FAILED)


def test_the_agent_whose_paths_are_lost_sends_nothing_and_waits_for_a_restart() -> None:
    """RFC 7675 section 5.1: without consent nothing is sent, data least of all."""
    world, a, b = parted()
    assert both(a, b, AgentState.CHECKING)
    assert a.is_lost
    assert a.data_pair() is None
    assert not world.send_data(a, b"nobody has agreed to it")
    sent = len(world.sent)
    world.run(300)
    assert len(world.sent) == sent
    assert both(a, b, AgentState.CHECKING)


def test_it_fails_when_the_allowance_ends_counted_from_the_last_answer_and_says_why() -> None:
    world, a, b = parted()
    assert a.gives_up_at == pytest.approx(OUTAGE_S, abs=5)
    world.run_until(lambda: both(a, b, AgentState.FAILED), OUTAGE_S)
    assert world.now == pytest.approx(OUTAGE_S, abs=5)
    (failed,) = world.of_kind(a, ice.Failed)
    assert "has not answered for 30 s" in failed.reason
    assert a.next_timeout() is None


@pytest.mark.parametrize("restarted_after_s", [0, 15, 200, 560])
def test_a_restart_finds_the_way_however_late_it_is_signalled(restarted_after_s: float) -> None:
    world, a, b = parted()
    for one in (a, b):
        one.restart(world.now)
        world.drain(one)
        assert not one.is_lost
    world.run(restarted_after_s)
    assert both(a, b, AgentState.CHECKING), "nobody has been told of it yet"
    meet_again(world, a, b)
    world.run_until(lambda: both(a, b, AgentState.COMPLETED), 5)
    assert world.send_data(a, b"here again")
    world.run(1)
    assert world.received[id(b)][-1] == b"here again"


def test_a_restart_begun_in_the_silence_before_lives_on_when_consent_ends() -> None:
    """What a shell with automatic restarts does; the peer's answer to it comes minutes later."""
    world, a, b = connected_pair(outage_s=OUTAGE_S)
    world.link.blocked = lambda source, destination: True
    world.run(8)
    for one in (a, b):
        one.restart(world.now)
        world.drain(one)
    world.run(300)
    assert both(a, b, AgentState.CHECKING)
    meet_again(world, a, b)
    world.run_until(lambda: both(a, b, AgentState.COMPLETED), 5)


def test_checks_of_a_restart_that_come_to_nothing_are_no_end_either() -> None:
    """The two have met again at the relay, and nothing goes between them yet; a later restart is tried as well."""
    world, a, b = parted()
    for one in (a, b):
        one.restart(world.now)
        world.drain(one)
    meet_again(world, a, b)
    world.link.blocked = lambda source, destination: True
    world.run_until(lambda: a.is_lost and b.is_lost, 120)
    assert both(a, b, AgentState.CHECKING)
    for one in (a, b):
        one.restart(world.now)
        world.drain(one)
    meet_again(world, a, b)
    world.run_until(lambda: both(a, b, AgentState.COMPLETED), 5)


def test_the_peers_restart_is_taken_by_an_agent_that_is_lost() -> None:
    world, a, b = parted()
    a.restart(world.now)
    world.drain(a)
    b.set_remote_credentials(world.now, a.credentials)
    world.drain(b)
    assert not b.is_lost
    meet_again(world, a, b)
    world.run_until(lambda: both(a, b, AgentState.COMPLETED), 5)


def test_before_there_was_a_path_patience_is_what_it_was() -> None:
    world = World(1)
    a = world.add(agent(ice.Role.CONTROLLING, outage_s=OUTAGE_S))
    world.host(a, A4)
    a.end_of_local_candidates(world.now)
    a.set_remote_credentials(world.now, ice.Credentials("nobody", "x" * 22))
    a.add_remote_candidate(world.now, None)
    world.drain(a)
    world.run(60)
    assert a.state is AgentState.FAILED


def test_who_knows_that_the_peer_is_gone_waits_for_no_check_of_a_restart_either() -> None:
    """It had restarted before it went, and that was told late: its paths would be tried for 39.5 s."""
    world, a, b = parted()
    for one in (a, b):
        one.restart(world.now)
        world.drain(one)
    meet_again(world, a, b)
    world.link.blocked = lambda source, destination: True
    world.run(1)
    assert a.state is AgentState.CHECKING
    a.give_up(world.now)
    world.drain(a)
    assert a.state is AgentState.FAILED


@pytest.mark.parametrize("restarts", [False, True])
def test_who_knows_that_the_peer_is_gone_ends_the_allowance_and_no_path_that_works(restarts: bool) -> None:
    world, a, b = parted()
    if restarts:
        a.restart(world.now)
    a.give_up(world.now)
    world.drain(a)
    world.run(10)
    assert a.state is AgentState.FAILED
    world, a, b = connected_pair(outage_s=OUTAGE_S)
    a.give_up(world.now)
    world.run(60)
    assert both(a, b, AgentState.COMPLETED)


def test_an_allowance_is_a_number_of_seconds() -> None:
    for seconds in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="outage_s"):
            IceConfig(outage_s=seconds)
