"""The acceptance tests of DESIGN section 10, traps 13 to 19, 24, 27 and 28: staying alive, and knowing candidates."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from ice_harness import (
    A4,
    B4,
    PEER,
    Link,
    World,
    agent,
    answer,
    both,
    connected_pair,
    events_of,
    lone,
    request,
    requests_in,
    responses_in,
    run_timers,
    transmits_of,
)

from iceagent.core import ice, sdp, stun
from iceagent.core.address import make_address
from iceagent.core.ice import AgentState, DropReason, PairState, Received, Role


def completed(**config: Any) -> ice.IceAgent:
    """A controlling agent that has nominated the pair A4, B4 at 0.02 s."""
    one = lone(**config)
    (check,) = transmits_of(one)
    one.handle_datagram(0.01, A4, B4, answer(check, PEER))
    (nomination,) = transmits_of(one)
    one.handle_datagram(0.02, A4, B4, answer(nomination, PEER))
    assert one.state is AgentState.COMPLETED
    events_of(one)
    return one


def test_trap_13_one_lost_consent_reply_is_no_failure() -> None:
    """Networks lose packets; consent stands for 30 s and any answer renews it."""
    one = completed()
    sent = run_timers(one, 0.02, 6.2)
    assert len(sent) >= 1
    first_lost = sent[0][0]
    sent = run_timers(one, 6.2, 29.0)
    at, last = sent[-1]
    assert at > first_lost
    one.handle_datagram(29.0, A4, B4, answer(last, PEER))
    assert one.state is AgentState.COMPLETED
    run_timers(one, 29.0, 58.9)
    assert one.state is AgentState.DISCONNECTED, "consent counts from the answer, 30 s from 29.0"
    run_timers(one, 58.9, 59.1)
    assert one.state is AgentState.FAILED


def test_trap_13_a_late_reply_to_an_old_consent_check_counts() -> None:
    """RFC 7675: a response may be for a previous request."""
    one = completed()
    sent = run_timers(one, 0.02, 28.0)
    at, first = sent[0]
    assert at < 7
    one.handle_datagram(28.0, A4, B4, answer(first, PEER))
    run_timers(one, 28.0, 57.0)
    assert one.state is not AgentState.FAILED


def test_trap_13_consent_intervals_are_4_to_6_seconds_and_each_check_is_new() -> None:
    """RFC 7675 section 5.1: randomised, never below 4 s, a new transaction each time."""
    world, a, b = connected_pair()
    start = world.now
    world.run(300)
    times = [(at, t) for at, one, t in world.sent if one is a and at > start and requests_in([t])]
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(times)]
    assert min(gaps) >= 4.0
    assert max(gaps) <= 6.0
    assert max(gaps) - min(gaps) > 0.5
    ids = [stun.decode(t.data).transaction_id for _, t in times]
    assert len(set(ids)) == len(ids)
    assert both(a, b, AgentState.COMPLETED)


@pytest.mark.parametrize("kind", ["data", "unsigned", "wrong key", "request", "indication"])
def test_trap_14_only_authenticated_responses_refresh_consent(kind: str) -> None:
    """Data that keeps coming, and answers anybody could send, prove no consent."""
    one = completed()
    sent = run_timers(one, 0.02, 6.2)
    now, check = 6.2, sent[0][1]
    fakes = {
        "data": b"data",
        "unsigned": answer(check, PEER, signed=False),
        "wrong key": answer(check, ice.Credentials("peer", "x" * 24)),
        "request": request(one, peer=PEER),
        "indication": stun.encode(stun.binding_indication(b"indication-1")),
    }
    while one.state is not AgentState.FAILED and now < 60:
        now += 0.5
        one.handle_datagram(now, A4, B4, fakes[kind])
        one.handle_timeout(now)
    assert 29.9 < now < 31
    assert any(isinstance(event, ice.ConsentLost) for event in events_of(one))
    assert one.data_pair() is None
    assert not one.is_validated(A4, B4)


def test_trap_14_an_authenticated_answer_after_expiry_does_not_bring_consent_back() -> None:
    """RFC 7675 section 5.1; a machine that slept may read the answer before its timer has run."""
    one = completed()
    sent = run_timers(one, 0.02, 6.2)
    one.handle_datagram(100.0, A4, B4, answer(sent[0][1], PEER))
    assert one.state is AgentState.FAILED
    assert one.data_pair() is None


@pytest.mark.parametrize("outage_s", [0.0, 600.0])
def test_trap_14_a_403_to_a_consent_check_revokes_at_once(outage_s: float) -> None:
    """RFC 7675 section 5.2; who waits for a path to come back does not wait for this peer."""
    one = completed(outage_s=outage_s)
    sent = run_timers(one, 0.02, 6.2)
    one.handle_datagram(6.3, A4, B4, answer(sent[0][1], PEER, code=403))
    assert one.state is AgentState.FAILED
    (failed,) = [event for event in events_of(one) if isinstance(event, ice.Failed)]
    assert "revoked" in failed.reason


def test_trap_15_a_check_of_a_succeeded_pair_triggers_none() -> None:
    """Two agents that re-trigger each other would never stop."""
    one = completed()
    for step in range(50):
        one.handle_datagram(0.1 + step / 100, A4, B4, request(one, peer=PEER, transaction_id=b"again-%06d" % step))
    sent = transmits_of(one)
    assert len(responses_in(sent)) == 50
    (again,) = requests_in(sent)  # the nomination, repeated once to a peer that may have been deaf so far
    assert stun.decode(again.data).get(stun.UseCandidate) is not None


def test_trap_16_no_failure_before_patience_ends_though_all_pairs_failed() -> None:
    """RFC 8863: the peer's own check may still come and open the way."""
    one = lone()
    one.end_of_local_candidates(0.0)
    one.add_remote_candidate(0.0, None)
    (check,) = transmits_of(one)
    one.handle_datagram(0.1, A4, B4, answer(check, PEER, code=400))
    assert one.pairs[0].state is PairState.FAILED
    run_timers(one, 0.1, 39.4)
    assert one.state is AgentState.CHECKING
    source = make_address("203.0.113.7", 7)
    one.handle_datagram(39.4, A4, source, request(one, peer=PEER))
    (late,) = requests_in(transmits_of(one))
    one.handle_datagram(39.45, A4, source, answer(late, PEER))
    assert one.state is AgentState.CONNECTED


def test_trap_16_no_failure_while_there_are_no_pairs_yet() -> None:
    """Candidates may be seconds away, or never signalled and only learned from checks."""
    one = agent(Role.CONTROLLED)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.set_remote_credentials(0.0, PEER)
    one.end_of_local_candidates(0.0)
    one.add_remote_candidate(0.0, None)
    run_timers(one, 0.0, 39.4)
    assert one.state is AgentState.CHECKING
    run_timers(one, 39.4, 39.6)
    assert one.state is AgentState.FAILED
    (failed,) = [event for event in events_of(one) if isinstance(event, ice.Failed)]
    assert failed.reason == "the peer sent no usable candidate within 39.5 s"


def test_trap_16_without_end_of_candidates_patience_begins_anew_with_each_candidate() -> None:
    """RFC 8838 section 8: a checklist without end-of-candidates has not failed; we only do not wait for ever."""
    one = lone()
    run_timers(one, 0.0, 30.0)
    one.add_remote_candidate(30.0, ice.host_candidate(make_address("198.51.100.2", 2)))
    run_timers(one, 30.0, 69.4)
    assert one.state is AgentState.CHECKING
    run_timers(one, 69.4, 70.0)
    assert one.state is AgentState.FAILED


def test_trap_16_the_failure_says_why() -> None:
    """ "ICE failed" helps nobody."""
    one = lone()
    one.end_of_local_candidates(0.0)
    one.add_remote_candidate(0.0, None)
    run_timers(one, 0.0, 60)
    (failed,) = [event for event in events_of(one) if isinstance(event, ice.Failed)]
    assert failed.reason == (
        "no candidate pair answered: 1 pair tried, 7 checks sent, 0 answered, 0 checks received; "
        "ours: 1 host IPv4; the peer's: 1 host IPv4"
    )


def test_trap_17_a_peer_reflexive_pair_is_upgraded_by_its_signalled_twin_and_stays_nominated() -> None:
    """Trickled candidates often come after the checks from them; the pair must not be checked or nominated again."""
    one = agent(Role.CONTROLLING)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.set_remote_credentials(0.0, PEER)
    one.handle_datagram(0.0, A4, B4, request(one, peer=PEER))
    (check,) = requests_in(transmits_of(one))
    one.handle_datagram(0.01, A4, B4, answer(check, PEER))
    (nomination,) = requests_in(transmits_of(one))
    one.handle_datagram(0.02, A4, B4, answer(nomination, PEER))
    before = one.selected_pair
    assert before is not None
    assert before.remote.type is ice.CandidateType.PRFLX
    twin = ice.host_candidate(B4)
    assert one.add_remote_candidate(0.03, twin)
    after = one.selected_pair
    assert after is not None
    assert after.remote == twin
    assert after.nominated
    assert after.priority > before.priority
    assert one.state is AgentState.COMPLETED
    assert len(one.pairs) == 1
    assert transmits_of(one) == []
    assert not one.add_remote_candidate(0.04, twin), "the second time it is a duplicate"


def test_trap_17_a_local_peer_reflexive_candidate_is_upgraded_by_the_gathered_one() -> None:
    """The STUN server may answer after the peer did."""
    one = lone()
    (check,) = transmits_of(one)
    public = make_address("203.0.113.1", 41000)
    one.handle_datagram(0.01, A4, B4, answer(check, PEER, mapped=public))
    assert one.pairs[0].local.type is ice.CandidateType.PRFLX
    assert one.pairs[0].local.address == public
    assert one.add_local_candidate(0.02, ice.srflx_candidate(public, A4, "198.51.100.100"))
    assert one.pairs[0].local.type is ice.CandidateType.SRFLX
    assert len(one.local_candidates) == 2


def test_trap_18_checks_before_the_answer_are_answered_at_once_and_acted_upon_later() -> None:
    """They are keyed with our own password; the peer's credentials are needed only for our own checks."""
    one = agent(Role.CONTROLLED)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.handle_datagram(0.1, A4, B4, request(one, peer=PEER, nominate=True))
    (response,) = responses_in(transmits_of(one))
    assert response.message_class is stun.MessageClass.SUCCESS
    assert one.state is AgentState.NEW
    assert one.handle_datagram(0.15, A4, B4, b"early data") is Received.HELD
    one.set_remote_credentials(0.2, PEER)
    (check,) = requests_in(transmits_of(one))
    assert check.remote == B4
    one.handle_datagram(0.21, A4, B4, answer(check, PEER))
    assert one.state is AgentState.COMPLETED, "the nomination was not forgotten"
    released = [event for event in events_of(one) if isinstance(event, ice.HeldDataReleased)]
    assert [event.datagrams for event in released] == [(b"early data",)]


def test_trap_18_early_checks_of_another_generation_or_in_floods_are_harmless() -> None:
    """The table of early checks is bounded, and only the right peer's are acted upon."""
    one = agent(Role.CONTROLLED)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    for port in range(1, 201):
        one.handle_datagram(0.1, A4, make_address("203.0.113.7", port), request(one, username=None))
    assert one.counters[DropReason.CHECK_EARLY_OVERFLOW] == 200 - 64
    transmits_of(one)
    one.set_remote_credentials(0.2, ice.Credentials("somebodyelse", "q" * 24))
    assert one.counters[DropReason.CHECK_OTHER_GENERATION] == 64
    assert transmits_of(one) == []
    assert one.pairs == ()


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        {},
        {"candidate": ""},
        {"candidate": None},
        "end-of-candidates",
        "a=end-of-candidates",
        "candidate:",
        " ",
    ],
)
def test_trap_19_every_form_of_end_of_candidates_is_understood(value: object) -> None:
    """Browsers, libnice and others each send another one."""
    assert sdp.is_end_of_candidates(value)
    assert sdp.trickled_candidate(value) is None


@pytest.mark.parametrize("prefix", ["", "candidate:", "a=candidate:", "  a=candidate:"])
def test_trap_19_candidates_are_accepted_with_and_without_prefix(prefix: str) -> None:
    """The same."""
    text = prefix + "1 1 UDP 2130706431 192.0.2.1 1000 typ host"
    assert not sdp.is_end_of_candidates(text)
    assert ice.Candidate.from_sdp(text).address == A4
    assert sdp.trickled_candidate({"candidate": text, "sdpMid": "0"}) == text


def foundation_group(count: int) -> tuple[ice.IceAgent, list[ice.Candidate]]:
    one = agent(Role.CONTROLLING)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    remotes = [ice.host_candidate(make_address("198.51.100.1", 2000 + n), 60000 - n) for n in range(count)]
    for remote in remotes:
        one.add_remote_candidate(0.0, remote)
    return one, remotes


def test_trap_24_pairs_of_one_foundation_are_checked_one_at_a_time_and_thaw_together() -> None:
    """If one works the others will; if it does not, they hardly would."""
    one, remotes = foundation_group(3)
    assert len({pair.remote.foundation for pair in one.pairs}) == 1
    assert {pair.state for pair in one.pairs} == {PairState.FROZEN}
    one.set_remote_credentials(0.0, PEER)
    assert [pair.state for pair in one.pairs] == [PairState.IN_PROGRESS, PairState.FROZEN, PairState.FROZEN]
    one.handle_timeout(0.2)
    (check,) = transmits_of(one)
    assert check.remote == remotes[0].address
    one.handle_datagram(0.3, A4, check.remote, answer(check, PEER))
    states = [pair.state for pair in one.pairs]
    assert states[0] is PairState.SUCCEEDED
    assert PairState.FROZEN not in states


def test_trap_24_different_foundations_are_not_held_back_by_each_other() -> None:
    """Each group gets its first check as soon as its slot comes."""
    one, _ = foundation_group(3)
    elsewhere = ice.host_candidate(make_address("203.0.113.5", 5), 100)
    one.add_remote_candidate(0.0, elsewhere)
    one.set_remote_credentials(0.0, PEER)
    one.handle_timeout(0.05)
    assert [check.remote for check in transmits_of(one)][-1] == elsewhere.address


def test_trap_24_a_silent_check_holds_its_foundation_back_only_until_it_is_retransmitted() -> None:
    """By the RFC it would for 39.5 s; see docs/deviations.md."""
    one, remotes = foundation_group(2)
    one.set_remote_credentials(0.0, PEER)
    sent = run_timers(one, 0.0, 0.6)
    assert {transmit.remote for _, transmit in sent} >= {remotes[1].address}


@pytest.mark.parametrize("moment", ["new", "checking", "completed", "failed"])
def test_trap_27_no_timer_and_no_datagram_after_close(moment: str) -> None:
    """A closed agent is only memory."""
    one = {"new": lambda: agent(Role.CONTROLLING), "checking": lone, "completed": completed, "failed": completed}[
        moment
    ]()
    now = 0.1
    if moment == "failed":
        run_timers(one, 0.02, 60)
        assert one.state is AgentState.FAILED
        assert one.next_timeout() is None
        now = 60.0
    one.close(now)  # with a check in the queue that nobody has sent yet
    assert one.state is AgentState.CLOSED
    assert one.next_timeout() is None
    one.handle_timeout(now + 100)
    one.add_local_candidate(now, ice.host_candidate(make_address("192.0.2.3", 3)))
    one.add_remote_candidate(now, ice.host_candidate(make_address("198.51.100.3", 3)))
    one.set_remote_credentials(now, PEER)
    one.end_of_local_candidates(now)
    one.handle_unreachable(now, A4, B4)
    assert one.handle_datagram(now, A4, B4, request(one, peer=PEER)) is Received.DROPPED
    assert one.handle_datagram(now, A4, B4, b"data") is Received.DROPPED
    assert transmits_of(one) == []
    assert one.next_timeout() is None
    assert one.data_pair() is None
    one.close(now)
    assert one.state is AgentState.CLOSED


def test_trap_28_icmp_fails_no_check_that_is_in_progress() -> None:
    """ICMP is not authenticated: anybody could send one, and the answer may well be on its way."""
    one = lone()
    (check,) = transmits_of(one)
    for step in range(50):
        one.handle_unreachable(0.01 + step / 1000, A4, B4)
    assert one.counters[DropReason.UNREACHABLE] == 50
    again = run_timers(one, 0.06, 1.9)
    assert len(again) >= 2, "it is still repeated"
    assert [pair.state for pair in one.pairs] == [PairState.IN_PROGRESS]
    one.handle_datagram(1.9, A4, B4, answer(check, PEER))
    assert [pair.state for pair in one.pairs] == [PairState.SUCCEEDED]


def test_trap_28_an_unreachable_destination_fails_neither_its_pair_nor_another() -> None:
    """It speaks of one destination, and of checks; consent does not end by it either."""
    world = World(28, Link(delay_s=0.2))
    a, b = world.pair()
    world.host(a, A4)
    world.host(b, B4, make_address("198.51.100.2", 2000))
    world.introduce(a, b)
    world.run_until(lambda: all(pair.state is PairState.IN_PROGRESS for pair in a.pairs), 0.1)
    for _ in range(50):
        for pair in a.pairs:
            a.handle_unreachable(world.now, A4, pair.remote.address)
            world.drain(a)
    world.run_until(lambda: both(a, b, AgentState.COMPLETED))
    assert all(pair.state is not PairState.FAILED for pair in a.pairs)
    assert a.counters[DropReason.UNREACHABLE] == 100
    for _ in range(50):
        a.handle_unreachable(world.now, A4, B4)
    world.run(60)
    assert both(a, b, AgentState.COMPLETED)


def test_trap_28_an_unreachable_and_silent_destination_is_given_up_sooner() -> None:
    """Waiting 39.5 s for what the network says is not there helps nobody; other pairs keep their time."""
    one = lone()
    other = make_address("203.0.113.5", 5)
    one.add_remote_candidate(0.0, ice.host_candidate(other, 100))
    one.handle_timeout(0.05)
    one.handle_unreachable(0.1, A4, B4)
    run_timers(one, 0.1, 5.0)
    states = {pair.remote.address: pair.state for pair in one.pairs}
    assert states == {B4: PairState.FAILED, other: PairState.IN_PROGRESS}
    assert one.state is AgentState.CHECKING
