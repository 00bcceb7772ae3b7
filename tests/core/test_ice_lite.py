"""A lite agent of our own, with a full peer: RFC 8445 sections 2.5, 6.1.1, 7.3.2 and trap 10."""

from __future__ import annotations

import pytest
from ice_harness import (
    A4,
    B4,
    PEER,
    World,
    agent,
    answer,
    both,
    lone,
    request,
    requests_in,
    responses_in,
    transmits_of,
)

from iceagent.core import ice, stun
from iceagent.core.address import make_address
from iceagent.core.ice import AgentState, Role

B2 = make_address("198.51.100.2", 2002)


def lite_world(seed: int = 1, loss: float = 0.0) -> tuple[World, ice.IceAgent, ice.IceAgent]:
    """A full agent, and a lite one with two addresses, introduced to each other."""
    world = World(seed)
    world.link.loss = loss
    full = world.add(agent(Role.CONTROLLING, seed))
    lite = world.add(agent(Role.CONTROLLED, seed + 1, lite=True))
    world.host(full, A4)
    world.host(lite, B4, B2)
    lite.set_remote_credentials(0.0, full.credentials)
    full.set_remote_credentials(0.0, lite.credentials, lite=True)
    for one, other in ((full, lite), (lite, full)):
        for candidate in other.local_candidates:
            world.signal(one, candidate)
        one.end_of_local_candidates(0.0)
        one.add_remote_candidate(0.0, None)
        world.drain(one)
    return world, full, lite


@pytest.mark.parametrize("seed", range(10))
def test_trap_10_a_lite_agent_checks_nothing_but_what_is_nominated(seed: int) -> None:
    """It answers, and where the peer has nominated it asks for consent; candidates it leaves to the peer."""
    world, full, lite = lite_world(seed, loss=0.2)
    world.run_until(lambda: both(full, lite, AgentState.COMPLETED), 40)
    world.run(100)
    assert both(full, lite, AgentState.COMPLETED)
    path = full.data_pair()
    assert path is not None
    assert lite.data_pair() == path[::-1]
    sent = [transmit for _, one, transmit in world.sent if one is lite]
    assert {(check.local, check.remote) for check in requests_in(sent)} == {lite.data_pair()}
    assert responses_in(sent)


def test_trap_10_a_lite_agent_that_nobody_nominates_asks_nobody() -> None:
    """Neither candidates that it is told nor checks that come make it send a request."""
    lite = lone(Role.CONTROLLED, lite=True)
    for step in range(80):
        lite.handle_datagram(step / 2, A4, B4, request(lite, peer=PEER, transaction_id=b"no-%09d" % step))
        lite.handle_timeout(step / 2 + 0.25)
    sent = transmits_of(lite)
    assert len(responses_in(sent)) == 80
    assert requests_in(sent) == []
    assert lite.data_pair() is None


@pytest.mark.parametrize("tiebreaker", [0, 2**64 - 1])
def test_trap_10_a_lite_agent_never_leads(tiebreaker: int) -> None:
    """It could nominate nothing; so of two that claim to follow the other one has to lead (RFC 8445 section 6.1.1)."""
    lite = lone(Role.CONTROLLED, lite=True)
    lite.handle_datagram(0.1, A4, B4, request(lite, peer=PEER, role=stun.IceControlled(tiebreaker)))
    (response,) = responses_in(transmits_of(lite))
    error = response.get(stun.ErrorCode)
    assert error is not None
    assert error.code == 487
    lite.handle_datagram(0.2, A4, B4, request(lite, peer=PEER, nominate=True))
    (check,) = requests_in(transmits_of(lite))
    lite.handle_datagram(0.3, A4, B4, answer(check, PEER, code=487))
    assert lite.role is Role.CONTROLLED


def test_data_flows_both_ways_with_a_lite_peer() -> None:
    """Once nominated; what comes from a path nobody nominated is not delivered."""
    world, full, lite = lite_world()
    assert lite.data_pair() is None
    world.run_until(lambda: both(full, lite, AgentState.COMPLETED))
    world.send_data(full, b"to lite")
    world.send_data(lite, b"to full")
    world.run(1)
    assert world.received[id(lite)] == [b"to lite"]
    assert world.received[id(full)] == [b"to full"]


def test_lite_agent_notices_that_its_peer_is_gone() -> None:
    """No check for thirty seconds: nothing may be sent any more (RFC 7675)."""
    world, full, lite = lite_world()
    world.run_until(lambda: both(full, lite, AgentState.COMPLETED))
    world.link.loss = 1.0
    start = world.now
    world.run_until(lambda: lite.state is AgentState.FAILED, 40)
    assert world.now - start <= 31


def test_lite_agent_whose_peer_never_gets_through_fails() -> None:
    """Its pairs wait for ever, since it checks nothing; its patience does not."""
    world, full, lite = lite_world()
    world.link.loss = 1.0
    assert lite.pairs
    world.run_until(lambda: lite.state is AgentState.FAILED, 41)
    assert world.now >= lite_patience_s()
    world.run_until(lambda: both(full, lite, AgentState.FAILED), 60)
    failures = [event.reason for event in world.events[id(lite)] if isinstance(event, ice.Failed)]
    assert len(failures) == 1
    assert "nominated no pair" in failures[0]
    assert lite.next_timeout() is None


def test_lite_agent_waits_for_as_long_as_its_peer_checks() -> None:
    """Its answers are lost: the peer goes on until its own patience ends, and a lite agent does not give up before."""
    world, full, lite = lite_world()
    world.link.blocked = lambda source, destination: source in (B4, B2)
    world.run_until(lambda: lite.state is AgentState.FAILED, 90)
    last_check_at = max(at for at, one, _ in world.sent if one is full)
    assert world.now >= last_check_at + lite_patience_s()
    assert full.state is AgentState.FAILED


def lite_patience_s() -> float:
    return ice.IceConfig().patience_s


def base_of(one: ice.IceAgent) -> object:
    path = one.data_pair()
    assert path is not None
    return path[0]


def test_lite_agent_follows_when_its_selected_path_dies() -> None:
    """The full peer nominates another pair; the lite one has nothing to decide."""
    world, full, lite = lite_world()
    world.run_until(lambda: both(full, lite, AgentState.COMPLETED))
    world.run(5)
    dead = base_of(lite)
    world.link.blocked = lambda source, destination: dead in (source, destination)
    world.run_until(lambda: base_of(lite) != dead, 12)
    world.run(100)
    assert both(full, lite, AgentState.COMPLETED)


def test_lite_agent_restarts_with_its_peer() -> None:
    """New credentials, the same sockets, no gap."""
    world, full, lite = lite_world()
    world.run_until(lambda: both(full, lite, AgentState.COMPLETED))
    full.restart(world.now)
    world.host(full, A4)
    lite.set_remote_credentials(world.now, full.credentials)
    world.host(lite, B4, B2)
    full.set_remote_credentials(world.now, lite.credentials, lite=True)
    for candidate in lite.local_candidates:
        world.signal(full, candidate)
    world.run_until(lambda: not full.restarting and not lite.restarting, 5)
    assert both(full, lite, AgentState.COMPLETED)


def test_lite_agent_cannot_be_controlling() -> None:
    """RFC 8445 section 6.1.1: the full agent is."""
    with pytest.raises(ValueError, match="controlled"):
        agent(Role.CONTROLLING, lite=True)
