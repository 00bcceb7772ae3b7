"""ICE restart: RFC 8445 section 9, make-before-break (trap 25)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from ice_harness import A4, B4, World, both, connected_pair, request, responses_in, transmits_of

from iceagent.core import ice, stun
from iceagent.core.address import make_address
from iceagent.core.ice import AgentState

A2, B2 = make_address("192.0.2.2", 1001), make_address("198.51.100.2", 2002)


def answer_restart(world: World, a: ice.IceAgent, b: ice.IceAgent, *, a_at=(A4,), b_at=(B4,)) -> None:
    """Carry a's new description to b and b's back, with the candidates of both."""
    world.host(a, *a_at)
    b.set_remote_credentials(world.now, a.credentials)
    world.drain(b)
    world.host(b, *b_at)
    a.set_remote_credentials(world.now, b.credentials)
    world.drain(a)
    for one, other in ((a, b), (b, a)):
        for candidate in other.local_candidates:
            world.signal(one, candidate)
        one.end_of_local_candidates(world.now)
        one.add_remote_candidate(world.now, None)
        world.drain(one)


def chatter(world: World, a: ice.IceAgent, b: ice.IceAgent, first: int, count: int) -> int:
    """Send a datagram each way every 5 ms; return the number that would follow. All must have a path at once."""
    for number in range(first, first + count):
        assert world.send_data(a, b"a%d" % number)
        assert world.send_data(b, b"b%d" % number)
        world.run(0.005)
    return first + count


def test_trap_25_data_flows_without_a_gap_through_a_restart() -> None:
    """The old pair carries data until the new one is nominated, and what is under way then still arrives."""
    world, a, b = connected_pair()
    before = len(world.events[id(a)]), len(world.events[id(b)])
    old = a.credentials, b.credentials
    a.restart(world.now)
    world.drain(a)
    sent = chatter(world, a, b, 0, 20)
    assert (a.data_pair(), b.data_pair()) == ((A4, B4), (B4, A4)), "the peer has not even heard of it"
    world.owner.update({A2: a, B2: b})
    answer_restart(world, a, b, a_at=(A2,), b_at=(B2,))
    sent = chatter(world, a, b, sent, 100)
    world.run(1)
    assert (a.data_pair(), b.data_pair()) == ((A2, B2), (B2, A2))
    assert not a.restarting
    assert not b.restarting
    assert sorted(world.received[id(a)]) == sorted(set(world.received[id(a)]))
    assert len(world.received[id(a)]) == len(world.received[id(b)]) == sent
    assert old[0] != a.credentials
    assert old[1] != b.credentials
    for one, seen in ((a, before[0]), (b, before[1])):
        news = world.events[id(one)][seen:]
        assert not [event for event in news if isinstance(event, ice.StateChanged)], "it stayed completed throughout"
        (restarted,) = [event for event in news if isinstance(event, ice.Restarted)]
        assert restarted.by_peer == (one is b)
        assert restarted.credentials == one.credentials


def test_trap_25_checks_of_the_old_generation_are_answered_until_consent_to_it_has_ended() -> None:
    """The peer may not know yet, or may have missed the nomination; a stranger's checks are answered by neither."""
    world, a, b = connected_pair()
    check = request(b, peer=a.credentials)
    stranger = request(b, peer=a.credentials, pwd="x" * 24)
    a.restart(world.now)
    answer_restart(world, a, b)
    world.run(1)
    assert not b.restarting
    b.handle_datagram(world.now, B4, A4, check)
    (response,) = responses_in(transmits_of(b))
    assert response.get(stun.XorMappedAddress) == stun.XorMappedAddress(A4)
    assert b.handle_datagram(world.now, B4, A4, stranger) is ice.Received.DROPPED
    assert not responses_in(transmits_of(b))
    world.run(31)
    assert b.handle_datagram(world.now, B4, A4, check) is ice.Received.DROPPED


def test_restart_over_the_same_ports_keeps_the_role_and_asks_consent_of_the_new_session_only() -> None:
    """RFC 8445 section 9: roles stay; section 12.1 by way of RFC 7675: consent is the new credentials'."""
    world, a, b = connected_pair()
    roles = a.role, b.role
    a.restart(world.now)
    answer_restart(world, a, b)
    world.run_until(lambda: not a.restarting and not b.restarting)
    world.run(0.1)
    start = world.now
    world.run(60)
    assert (a.role, b.role) == roles
    assert both(a, b, AgentState.COMPLETED)
    ufrags = {f"{b.credentials.ufrag}:{a.credentials.ufrag}", f"{a.credentials.ufrag}:{b.credentials.ufrag}"}
    for at, _, transmit in world.sent:
        message = stun.decode(transmit.data)
        if at > start and message.message_class is stun.MessageClass.REQUEST:
            username = message.get(stun.Username)
            assert username is not None
            assert username.value in ufrags


def test_both_restarting_at_once_is_one_restart() -> None:
    """Glare: both noticed the same trouble. Each takes the other's new credentials as the answer to its own."""
    world, a, b = connected_pair()
    a.restart(world.now)
    b.restart(world.now)
    answer_restart(world, a, b)
    world.run_until(lambda: not a.restarting and not b.restarting, 2)
    assert (a.generation, b.generation) == (1, 1)
    assert both(a, b, AgentState.COMPLETED)


def test_restart_begun_twice_before_the_peer_answers_is_one() -> None:
    """Whoever calls it again gets the credentials that are on their way already."""
    world, a, _ = connected_pair()
    first = a.restart(world.now)
    assert a.restart(world.now + 1) == first
    assert a.generation == 1


def test_credentials_repeated_after_their_session_is_forgotten_answer_nothing() -> None:
    """Else one late repetition makes each side take the other's answers for restarts, and answer them, for ever."""
    world, a, b = connected_pair()
    old = b.credentials
    for _ in range(6):  # more than are kept to answer checks
        a.restart(world.now)
        answer_restart(world, a, b, a_at=(A4,), b_at=(B4,))
        world.run(40)
    a.restart(world.now)
    a.set_remote_credentials(world.now, old)
    assert a.remote_credentials is None


def test_restart_that_the_peer_never_answers_leaves_the_path_alone() -> None:
    """Signaling may be gone; nothing is lost by having tried."""
    world, a, b = connected_pair()
    a.restart(world.now)
    world.host(a, A4)
    world.run(300)
    assert both(a, b, AgentState.COMPLETED)
    assert world.send_data(a, b"still here")
    world.run(1)
    assert world.received[id(b)] == [b"still here"]


def test_restart_that_finds_no_path_goes_back_to_the_old_one() -> None:
    """The old path works: that beats being right about the new addresses."""
    world, a, b = connected_pair()
    old = a.credentials
    a.restart(world.now)
    world.link.blocked = lambda source, destination: A2 in (source, destination)
    answer_restart(world, a, b, a_at=(A2,), b_at=(B2,))
    world.owner.update({A2: a, B2: b})
    world.run(60)
    for one in (a, b):
        (failed,) = world.of_kind(one, ice.RestartFailed)
        assert "no candidate pair answered" in failed.reason
        assert one.state is AgentState.COMPLETED
    assert a.credentials == old
    assert a.data_pair() == (A4, B4)
    a.restart(world.now)
    world.link.blocked = lambda source, destination: False
    answer_restart(world, a, b)
    world.run_until(lambda: not a.restarting and not b.restarting, 2)


def test_path_that_dies_during_a_restart_is_replaced_as_soon_as_another_is_valid() -> None:
    """The state says so meanwhile: silent, then checking, then connected again; the agent does not fail."""
    world, a, b = connected_pair()
    world.link.loss = 1.0
    world.run_until(lambda: both(a, b, AgentState.DISCONNECTED))
    a.restart(world.now)
    answer_restart(world, a, b)
    world.run_until(lambda: both(a, b, AgentState.CHECKING), 31)
    assert a.data_pair() is None
    world.link.loss = 0.0
    took = world.run_until(lambda: both(a, b, AgentState.COMPLETED), 5)
    assert took <= 1.1, "checks after a restart are retransmitted every second"
    assert world.send_data(a, b"back")
    world.run(1)
    assert world.received[id(b)] == [b"back"]


@pytest.mark.parametrize("how", ["unanswered", "its socket is gone"])
def test_what_a_restart_has_found_is_told_from_a_path_of_before_that_is_silent(how: str) -> None:
    """Its pair stays valid until consent ends; whoever asks whether there is a path must not take it for one."""
    world, a, b = connected_pair()
    assert not a.path_is_silent
    if how == "unanswered":
        world.link.loss = 1.0
        world.run_until(lambda: a.stranded)
    else:
        a.handle_base_lost(world.now, A4)
        world.drain(a)
    assert a.path_is_silent
    a.restart(world.now)
    answer_restart(world, a, b, a_at=(A2,), b_at=(B2,))
    assert a.restarting
    assert a.path_is_silent
    assert [pair.valid for pair in a.current_pairs] == [False]
    assert sum(pair.valid for pair in a.pairs) == 1, "that of before"
    world.owner.update({A2: a, B2: b})
    world.link.loss = 0.0
    world.run_until(lambda: not a.restarting, 5)
    assert not a.path_is_silent
    assert [pair.valid for pair in a.current_pairs] == [pair.valid for pair in a.pairs] == [True]


def test_restart_that_nobody_answers_while_the_path_is_dead_ends_with_both_reasons() -> None:
    """RFC 8863's patience, then the truth."""
    world, a, _ = connected_pair()
    world.link.loss = 1.0
    world.run_until(lambda: a.state is AgentState.DISCONNECTED)
    a.restart(world.now)
    world.host(a, A4)
    world.run_until(lambda: a.state is AgentState.FAILED, 100)
    (failed,) = world.of_kind(a, ice.Failed)
    assert "has not answered for 30 s" in failed.reason
    assert "nor has it answered the restart" in failed.reason
    assert a.next_timeout() is None
    with pytest.raises(ValueError, match="over"):
        a.restart(world.now)


def test_restart_before_there_was_a_path_starts_anew() -> None:
    """Nothing is worth keeping; the peer's old checks are still answered."""
    world = World(1)
    a, b = world.pair()
    world.host(a, A4)
    world.host(b, B4)
    world.link.loss = 1.0
    world.introduce(a, b)
    world.run(5)
    world.link.loss = 0.0
    a.restart(world.now)
    answer_restart(world, a, b)
    world.run_until(lambda: both(a, b, AgentState.COMPLETED), 2)
    assert not a.restarting


def test_restart_before_the_peer_is_known_changes_nothing() -> None:
    """The credentials may be on their way to the peer already."""
    world = World(1)
    a, _ = world.pair()
    ours = a.credentials
    assert a.restart(0.0) == ours
    assert a.generation == 0


def test_restarts_without_end_keep_their_tables_bounded() -> None:
    """Rule 5: a peer that restarts ten times a second must not cost more than one that does not."""
    world, a, b = connected_pair()
    for _ in range(50):
        a.restart(world.now)
        answer_restart(world, a, b)
        world.run(0.1)
    assert len(list(a._sessions.all())) <= 6
    assert both(a, b, AgentState.COMPLETED)
    world.run(40)
    assert len(list(a._sessions.all())) == 1


@pytest.mark.parametrize("seed", range(15))
def test_restart_over_a_bad_line_ends_on_one_path_for_both(seed: int) -> None:
    """Loss, jitter and duplicates, either side restarting, or both: both end completed, with the same credentials."""
    world, a, b = connected_pair(seed)
    world.link.loss, world.link.jitter_s, world.link.duplication = 0.2, 0.05, 0.1
    first, second = (a, b) if seed % 2 else (b, a)
    for _ in range(3):
        first.restart(world.now)
        if seed % 5 == 0:
            second.restart(world.now)
        answer_restart(
            world, first, second, a_at=((A4,) if first is a else (B4,)), b_at=((B4,) if first is a else (A4,))
        )
        world.run(20)
        assert both(a, b, AgentState.COMPLETED)
        assert not a.restarting
        assert not b.restarting
        assert a.remote_credentials == b.credentials
        assert b.remote_credentials == a.credentials


def test_the_two_sessions_of_a_restart_share_the_slots_of_ta() -> None:
    """RFC 8445 section 14.2: Ta is of the agent, not of the session; neither of the two starves."""
    world, a, _ = connected_pair()
    dead = [make_address(f"203.0.113.{number + 1}", 3000) for number in range(30)]
    world.link.blocked = lambda source, destination: True
    world.run(12)
    assert a.state is AgentState.DISCONNECTED
    began = world.now
    for address in dead:  # the old session has lost its path, and gets more to check
        world.signal(a, ice.host_candidate(address))
    a.restart(world.now)
    a.set_remote_credentials(world.now, ice.Credentials("anew", "p" * 22))
    world.host(a, A4, A2)
    for address in dead:
        world.signal(a, ice.host_candidate(address))
    world.run(2)
    first: dict[bytes, tuple[float, bytes]] = {}
    for at, one, transmit in world.sent:
        if one is a and at >= began and transmit.remote in dead:
            first.setdefault(transmit.data[8:20], (at, transmit.data))
    times = sorted(at for at, _ in first.values())
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert min(gaps) > 0.049
    ours = [b"anew:" in data for _, data in first.values()]
    assert ours.count(True) >= 10
    assert ours.count(False) >= 10


def test_an_end_of_candidates_that_comes_before_the_answer_to_a_restart_is_that_of_before_it() -> None:
    """The peer had not heard of the restart: what it has to tell from now on is yet to come."""
    world, a, b = connected_pair()
    a.restart(world.now)
    a.add_remote_candidate(world.now, None)
    assert not a.remote_candidates_ended
    answer_restart(world, a, b)
    a.add_remote_candidate(world.now, None)
    assert a.remote_candidates_ended
