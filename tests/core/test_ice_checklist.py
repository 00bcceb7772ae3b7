"""The checklist, pacing and nomination: what is checked when, and what is chosen."""

from __future__ import annotations

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
    transmits_of,
)

from iceagent.core import constants, ice, stun
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.ice import AgentState, CandidateType, DropReason, PairState, Role
from iceagent.core.ice.checks.transactions import rto_s
from iceagent.core.transmit import Transmit


def test_pairs_of_a_reflexive_candidate_are_replaced_by_its_base_and_pruned() -> None:
    """RFC 8445 section 6.1.2.4: packets can only leave from the base, so its pair is enough."""
    one = agent(Role.CONTROLLING)
    one.add_local_candidate(0.0, ice.srflx_candidate(make_address("203.0.113.5", 41000), A4, "192.0.2.3"))
    one.add_remote_candidate(0.0, ice.host_candidate(B4))
    assert [pair.local.type for pair in one.pairs] == [CandidateType.SRFLX]
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    assert [pair.local.type for pair in one.pairs] == [CandidateType.HOST], "the base's own pair is the better one"
    one.add_local_candidate(0.0, ice.srflx_candidate(make_address("203.0.113.6", 41000), A4, "192.0.2.4"))
    assert len(one.pairs) == 1


def test_the_checklist_keeps_the_100_best_pairs_whatever_the_order_they_come_in() -> None:
    """RFC 8445 section 6.1.2.5."""
    one = agent(Role.CONTROLLING)
    for index in range(12):
        one.add_local_candidate(0.0, ice.host_candidate(make_address(f"192.0.2.{index + 1}", 1), index * 100))
    for index in range(12):
        one.add_remote_candidate(0.0, ice.host_candidate(make_address(f"198.51.100.{index + 1}", 1), index * 100))
    assert len(one.pairs) == 100
    assert one.counters[DropReason.PAIR_LIMIT] > 0
    everything = sorted(
        (ice.pair_priority(x.priority, y.priority) for x in one.local_candidates for y in one.remote_candidates),
        reverse=True,
    )
    assert [pair.priority for pair in one.pairs] == everything[:100]


def test_a_check_from_a_new_address_gets_a_pair_though_the_list_is_full() -> None:
    """The peer is known to be there; the lowest pair that nobody has checked is not."""
    one = lone(max_pairs=3)
    for index in range(5):
        one.add_remote_candidate(0.0, ice.host_candidate(make_address(f"198.51.100.{index + 10}", 1)))
    source = make_address("203.0.113.7", 7)
    one.handle_datagram(0.0, A4, source, request(one, peer=PEER))
    assert len(one.pairs) == 3
    assert source in {pair.remote.address for pair in one.pairs}
    assert one.pairs[0].state is PairState.IN_PROGRESS


def test_the_first_check_goes_at_once_and_the_next_follow_ta_apart() -> None:
    """RFC 8445 section 6.1.4.2; nothing is gained by waiting before the first."""
    one = agent(Role.CONTROLLING)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.set_remote_credentials(0.0, PEER)
    for index in range(4):
        one.add_remote_candidate(1.0, ice.host_candidate(make_address(f"198.51.100.{index + 1}", 1), 100 - index))
    times = [1.0] * len(transmits_of(one))
    assert times == [1.0]
    while len(times) < 4:
        at = one.next_timeout()
        assert at is not None
        one.handle_timeout(at)
        times += [at] * len(requests_in(transmits_of(one)))
    assert times == pytest.approx([1.0, 1.05, 1.10, 1.15])


def test_ordinary_checks_go_in_order_of_priority_and_triggered_ones_first() -> None:
    """RFC 8445 section 6.1.4.2 steps 1 and 3."""
    one = agent(Role.CONTROLLED)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.set_remote_credentials(0.0, PEER)
    remotes = [make_address(f"198.51.100.{index + 1}", 1) for index in range(4)]
    for index, remote in enumerate(remotes):
        one.add_remote_candidate(0.0, ice.host_candidate(remote, index))
    one.handle_datagram(0.01, A4, remotes[1], request(one, peer=PEER))
    for step in (0.05, 0.11, 0.17):
        one.handle_timeout(step)
    order = [transmit.remote for transmit in requests_in(transmits_of(one))]
    assert order == [remotes[0], remotes[1], remotes[3], remotes[2]]


def test_a_triggered_check_after_a_pause_goes_at_once() -> None:
    """A peer behind a NAT is found in one round trip."""
    one = agent(Role.CONTROLLING)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.set_remote_credentials(0.0, PEER)
    one.handle_datagram(1.0, A4, B4, request(one, peer=PEER))
    assert len(requests_in(transmits_of(one))) == 1


def test_a_check_in_progress_gives_way_to_a_triggered_one_and_its_own_answer_still_counts() -> None:
    """RFC 8445 section 7.3.1.4: the first may have been stopped by a NAT that is open now."""
    one = lone()
    (first,) = transmits_of(one)
    one.handle_datagram(0.2, A4, B4, request(one, peer=PEER))
    (second,) = requests_in(transmits_of(one))
    assert stun.decode(first.data).transaction_id != stun.decode(second.data).transaction_id
    for now in (0.5, 0.69):
        one.handle_timeout(now)
    assert requests_in(transmits_of(one)) == [], "the first is not retransmitted"
    one.handle_datagram(0.7, A4, B4, answer(first, PEER))
    assert one.pairs[0].state is PairState.SUCCEEDED


def test_an_unknown_required_attribute_in_a_check_is_answered_with_420() -> None:
    """RFC 8489 section 6.3.1, after authentication."""
    one = lone()
    transmits_of(one)
    one.handle_datagram(0.1, A4, B4, request(one, peer=PEER, extra=(stun.RawAttribute(0x7ABC, b"what"),)))
    (transmit,) = transmits_of(one)
    response = stun.decode(transmit.data)
    error, unknown = response.get(stun.ErrorCode), response.get(stun.UnknownAttributes)
    assert error is not None
    assert error.code == 420
    assert unknown == stun.UnknownAttributes((0x7ABC,))


def test_a_check_without_priority_from_an_unknown_address_is_a_bad_request() -> None:
    """Without it there is no peer-reflexive candidate; from a known one it does not matter."""
    one = lone()
    transmits_of(one)
    one.handle_datagram(0.1, A4, make_address("203.0.113.7", 7), request(one, peer=PEER, priority=None))
    one.handle_datagram(0.1, A4, B4, request(one, peer=PEER, priority=None))
    bad, good = (stun.decode(transmit.data) for transmit in transmits_of(one)[:2])
    assert bad.message_class is stun.MessageClass.ERROR
    assert good.message_class is stun.MessageClass.SUCCESS


def test_the_retransmission_timeout_follows_the_checklist_within_half_a_second_and_one() -> None:
    """RFC 8445 section 14.3, without its quadratic factor."""
    assert rto_s(0, 0) == 0.5
    assert rto_s(5, 5) == 0.5
    assert rto_s(10, 5) == pytest.approx(0.75)
    assert rto_s(100, 0) == 1.0
    with pytest.raises(ValueError):
        rto_s(-1, 0)


def test_two_hosts_that_see_each_other_complete_in_two_round_trips() -> None:
    """The first answer makes the pair valid; no better one is pending, so it is nominated at once."""
    world = World(1, Link(delay_s=0.001))
    a, b = world.pair()
    world.host(a, A4)
    world.host(b, B4)
    world.introduce(a, b)
    took = world.run_until(lambda: both(a, b, AgentState.CONNECTED))
    assert took <= 0.0021
    took += world.run_until(lambda: both(a, b, AgentState.COMPLETED))
    assert took <= 0.0041


def test_trickled_without_end_of_candidates_two_hosts_complete_as_fast() -> None:
    """Nothing can beat a host pair by enough to wait for the end of gathering."""
    world = World(1, Link(delay_s=0.001))
    a, b = world.pair()
    world.host(a, A4)
    world.host(b, B4)
    world.introduce(a, b, ended=False)
    assert world.run_until(lambda: both(a, b, AgentState.COMPLETED)) <= 0.0041


def test_dead_candidates_of_higher_priority_do_not_delay_data_and_nomination_only_a_little() -> None:
    """Ten dead addresses on one side: data flows when the live pair's turn has come, nomination half a second later."""
    world = World(1, Link(delay_s=0.01))
    a, b = world.pair()
    world.host(a, A4)
    world.host(b, *(make_address(f"198.51.100.{n + 10}", 1) for n in range(10)), B4)
    world.link.blocked = lambda source, destination: B4 not in (source, destination)
    world.introduce(a, b)
    connected = world.run_until(lambda: both(a, b, AgentState.CONNECTED))
    assert connected <= 10 * 0.05 + 0.02 + 0.001
    assert a.data_pair() == (A4, B4)
    completed = world.run_until(lambda: both(a, b, AgentState.COMPLETED))
    assert completed <= 0.5 + 0.05


def test_a_better_pair_still_likely_is_waited_for() -> None:
    """Its answer is a few milliseconds behind, and it will be used for hours."""
    one = lone()
    better = ice.host_candidate(make_address("198.51.100.9", 9), 65535)
    worse = ice.host_candidate(make_address("198.51.100.5", 5), 100)
    one = agent(Role.CONTROLLING)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.set_remote_credentials(0.0, PEER)
    one.add_remote_candidate(0.0, worse)
    one.add_remote_candidate(0.0, better)
    one.handle_timeout(0.05)
    first, second = transmits_of(one)
    assert second.remote == better.address
    one.handle_datagram(0.06, A4, first.remote, answer(first, PEER))
    assert one.state is AgentState.CONNECTED
    assert transmits_of(one) == [], "not nominated yet"
    one.handle_datagram(0.07, A4, second.remote, answer(second, PEER))
    (nomination,) = transmits_of(one)
    assert nomination.remote == better.address


def test_of_an_aggressive_peers_nominations_the_best_counts() -> None:
    """RFC 8445 section 8.1.1, for peers that still follow RFC 5245."""
    one = agent(Role.CONTROLLED)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.set_remote_credentials(0.0, PEER)
    for host, rank in (("198.51.100.5", 100), ("198.51.100.9", 60000), ("198.51.100.1", 1)):
        address = make_address(host, 1)
        one.add_remote_candidate(0.0, ice.host_candidate(address, rank))
    now = 0.0
    selected = []
    for host in ("198.51.100.5", "198.51.100.9", "198.51.100.1"):
        now += 0.1
        address = make_address(host, 1)
        one.handle_datagram(now, A4, address, request(one, peer=PEER, nominate=True))
        for transmit in requests_in(transmits_of(one)):
            one.handle_datagram(now, A4, transmit.remote, answer(transmit, PEER))
        pair = one.selected_pair
        assert pair is not None
        selected.append(pair.remote.address.host)
    assert selected == ["198.51.100.5", "198.51.100.9", "198.51.100.9"]


@pytest.mark.parametrize("renomination", [False, True])
@pytest.mark.parametrize("worse_first", [True, False])
def test_the_later_of_two_nominations_counts_whichever_pair_is_answered_first(
    renomination: bool, worse_first: bool
) -> None:
    """The peer has gone on to a better pair; our checks of both are answered in either order, or sent again in between.

    Without renomination it is the better one that counts, which is the same here.
    """
    one = agent(Role.CONTROLLED)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.set_remote_credentials(0.0, PEER, options=("renomination",) if renomination else ())
    worse, better = make_address("198.51.100.5", 1), make_address("198.51.100.9", 1)
    for remote, rank in ((worse, 100), (better, 60000)):
        one.add_remote_candidate(0.0, ice.host_candidate(remote, rank))
    transmits_of(one)
    for value, remote in enumerate((worse, better), 1):
        extra = (stun.Nomination(value),) if renomination else ()
        one.handle_datagram(0.1, A4, remote, request(one, peer=PEER, nominate=True, extra=extra))
    checks: dict[TransportAddress, Transmit] = {}
    now = 0.1
    for remote in (worse, better) if worse_first else (better, worse):
        while remote not in checks:
            now += 0.05
            one.handle_timeout(now)
            checks |= {check.remote: check for check in requests_in(transmits_of(one))}
        one.handle_datagram(now, A4, remote, answer(checks[remote], PEER))
        checks |= {check.remote: check for check in requests_in(transmits_of(one))}
    pair = one.selected_pair
    assert pair is not None
    assert pair.remote.address == better


@pytest.mark.parametrize("renomination", [False, True])
@pytest.mark.parametrize("older_is_better", [False, True])
def test_a_nomination_heard_long_before_another_does_not_come_back(renomination: bool, older_is_better: bool) -> None:
    """The pair that it was for is answered seconds after the peer has gone on to another one."""
    one = agent(Role.CONTROLLED)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.set_remote_credentials(0.0, PEER, options=("renomination",) if renomination else ())
    older, newer = make_address("198.51.100.5", 1), make_address("198.51.100.9", 1)
    ranks = {older: 60000, newer: 100} if older_is_better else {older: 100, newer: 60000}
    for remote, rank in ranks.items():
        one.add_remote_candidate(0.0, ice.host_candidate(remote, rank))
    transmits_of(one)
    checks: dict[TransportAddress, Transmit] = {}
    now = 0.1
    for value, remote in enumerate((older, newer), 1):
        extra = (stun.Nomination(value),) if renomination else ()
        one.handle_datagram(now, A4, remote, request(one, peer=PEER, nominate=True, extra=extra))
    while newer not in checks:
        now += 0.05
        one.handle_timeout(now)
        checks |= {check.remote: check for check in requests_in(transmits_of(one))}
    one.handle_datagram(now, A4, newer, answer(checks[newer], PEER))
    assert one.selected_pair is not None
    while now < 5.0:
        now += 0.05
        one.handle_timeout(now)
        checks |= {check.remote: check for check in requests_in(transmits_of(one))}
    if older in checks:
        one.handle_datagram(now, A4, older, answer(checks[older], PEER))
    assert one.selected_pair is not None
    assert one.selected_pair.remote.address == newer


def test_an_aggressive_peers_worse_nomination_that_is_answered_late_changes_nothing() -> None:
    """Both were nominated at once, and the better one is in use; the other's check was lost for some seconds."""
    one = agent(Role.CONTROLLED)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.set_remote_credentials(0.0, PEER)
    better, worse = make_address("198.51.100.9", 1), make_address("198.51.100.5", 1)
    for remote, rank in ((better, 60000), (worse, 100)):
        one.add_remote_candidate(0.0, ice.host_candidate(remote, rank))
    transmits_of(one)
    checks: dict[TransportAddress, Transmit] = {}
    for remote in (better, worse):
        one.handle_datagram(0.1, A4, remote, request(one, peer=PEER, nominate=True))
    now = 0.1
    while now < 6.0:
        now += 0.05
        one.handle_timeout(now)
        fresh = {check.remote: check for check in requests_in(transmits_of(one))}
        checks |= fresh
        if better in fresh:  # the peer goes on answering there
            one.handle_datagram(now, A4, better, answer(fresh[better], PEER))
    one.handle_datagram(now, A4, worse, answer(checks[worse], PEER))
    assert one.selected_pair is not None
    assert one.selected_pair.remote.address == better


def test_the_controlled_side_may_send_before_it_is_nominated() -> None:
    """RFC 8445 section 12.1."""
    one = lone(Role.CONTROLLED)
    (check,) = transmits_of(one)
    one.handle_datagram(0.01, A4, B4, answer(check, PEER))
    assert one.selected_pair is None
    assert one.data_pair() == (A4, B4)
    assert one.is_validated(A4, B4)


def test_two_peers_behind_nats_meet_over_their_reflexive_addresses() -> None:
    """Host pairs are dead; each NAT maps to one public address; the checks of both open the way."""
    world = World(1, Link(delay_s=0.02))
    a, b = world.pair()
    inside_a, inside_b = make_address("10.0.0.2", 1000), make_address("10.1.0.2", 2000)
    public = {inside_a: make_address("203.0.113.1", 41000), inside_b: make_address("203.0.113.2", 42000)}
    world.link.translate = lambda source, destination: public[source]
    world.link.blocked = lambda source, destination: destination in public
    world.host(a, inside_a)
    world.host(b, inside_b)
    for one, inside in ((a, inside_a), (b, inside_b)):
        one.add_local_candidate(0.0, ice.srflx_candidate(public[inside], inside, "198.51.100.99"))
        world.drain(one)
    world.introduce(a, b)
    took = world.run_until(lambda: both(a, b, AgentState.COMPLETED))
    assert took <= 0.05 + 2 * 0.04 + 0.001, "two round trips and one Ta"
    pair = a.selected_pair
    assert pair is not None
    assert (pair.local.type, pair.remote.type) == (CandidateType.SRFLX, CandidateType.SRFLX)
    assert a.data_pair() == (inside_a, public[inside_b])


def test_a_nat_that_maps_per_destination_makes_peer_reflexive_candidates_on_both_sides() -> None:
    """One side behind a symmetric NAT, the other open."""
    world = World(1)
    a, b = world.pair()
    inside = make_address("10.0.0.2", 1000)

    def translate(source, destination):
        return make_address("203.0.113.1", 40000 + destination.port) if source == inside else source

    world.link.translate = translate
    world.link.blocked = lambda source, destination: destination == inside
    world.host(a, inside)
    world.host(b, B4)
    world.introduce(a, b)
    world.run_until(lambda: both(a, b, AgentState.COMPLETED))
    mine, theirs = a.selected_pair, b.selected_pair
    assert mine is not None
    assert theirs is not None
    assert mine.local.type is CandidateType.PRFLX
    assert mine.local.address == make_address("203.0.113.1", 42000)
    assert mine.local.related_address == inside
    assert theirs.remote.type is CandidateType.PRFLX
    assert theirs.remote.address == mine.local.address


def test_rtt_is_measured() -> None:
    """By the checks themselves, and kept fresh by consent."""
    world, a, b = connected_pair()
    for one in (a, b):
        pair = one.selected_pair
        assert pair is not None
        assert pair.rtt_s == pytest.approx(0.02, abs=1e-6)
    world.link.delay_s = 0.1
    world.run(120)
    pair = a.selected_pair
    assert pair is not None
    assert pair.rtt_s == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("timers_first", [False, True])
@pytest.mark.parametrize("stop_s", [0.7, 3.0, 20.0])
@pytest.mark.parametrize("begins_s", [0.005, 0.025])
def test_a_time_in_which_we_were_stopped_is_no_round_trip(begins_s: float, stop_s: float, timers_first: bool) -> None:
    """Ctrl-Z and fg while the first checks are out: the path line told a round trip of as many seconds."""
    world = World()
    world.timers_first = timers_first
    a, b = world.pair()
    world.host(a, A4)
    world.host(b, B4)
    world.introduce(a, b)
    world.run(begins_s)
    world.stopped = a
    world.run(stop_s)
    world.go_on()
    while (pair := a.selected_pair) is None or pair.rtt_s is None:
        assert world.step(world.now + 10.0)
    assert pair.rtt_s == pytest.approx(0.02, abs=1e-6)


def test_a_stop_while_connected_is_no_round_trip() -> None:
    """A machine that slept with a consent check out."""
    world, a, _ = connected_pair()
    for _ in range(20):
        sent = len(world.sent)
        while not any(one is a for _, one, _ in world.sent[sent:]):
            world.step(world.now + 10.0)
        world.stopped = a
        world.run(8.0)
        world.go_on()
        world.run(7.0)
        pair = a.selected_pair
        assert pair is not None
        assert pair.rtt_s == pytest.approx(0.02, abs=1e-6)


def test_events_tell_the_story_in_order() -> None:
    """What a shell, a log or a user sees."""
    world, a, _ = connected_pair()
    kinds = [type(event).__name__ for event in world.events[id(a)]]
    assert kinds.index("LocalCandidateAdded") < kinds.index("RemoteCandidateAdded") < kinds.index("PairValidated")
    assert kinds.index("PairValidated") < kinds.index("PairNominated") < kinds.index("SelectedPairChanged")
    assert world.states(a) == [AgentState.CHECKING, AgentState.CONNECTED, AgentState.COMPLETED]
    assert events_of(a) == []


def test_the_same_credentials_of_the_peer_change_nothing() -> None:
    """Signaling repeats itself; other credentials are an ICE restart."""
    one = lone()
    ours = one.credentials
    one.set_remote_credentials(1.0, PEER)
    assert one.credentials == ours
    assert one.generation == 0
    one.set_remote_credentials(1.0, ice.Credentials("others", "q" * 24))
    assert one.credentials != ours
    assert one.generation == 1


def test_a_pair_is_ranked_by_the_best_local_candidate_of_its_base() -> None:
    """RFC 8445 section 6.1.2.4: the reflexive twin of a host candidate is redundant, and must not lower its pair."""
    one = agent(Role.CONTROLLING)
    one.add_local_candidate(0.0, ice.host_candidate(A4, 65535))
    other = make_address("192.0.2.9", 9)
    one.add_local_candidate(0.0, ice.host_candidate(other, 65534))
    one.add_local_candidate(0.0, ice.srflx_candidate(make_address("203.0.113.9", 1), A4, "192.0.2.99"))
    one.set_remote_credentials(0.0, PEER)
    one.add_remote_candidate(0.0, ice.srflx_candidate(B4, make_address("10.0.0.1", 1), "192.0.2.99"))
    assert [pair.local.address for pair in one.pairs] == [A4, other]


def test_unlikely_pairs_give_way_first_in_a_full_checklist() -> None:
    """Else eleven container bridges on each side leave no room for the reflexive pair, which alone works."""
    one = agent(Role.CONTROLLING)
    one.set_remote_credentials(0.0, PEER)
    for index in range(11):
        one.add_local_candidate(0.0, ice.host_candidate(make_address(f"172.{16 + index}.1.1", 1), 65535 - index))
        one.add_remote_candidate(0.0, ice.host_candidate(make_address(f"172.{16 + index}.2.1", 1), 65535 - index))
    one.add_remote_candidate(0.0, ice.srflx_candidate(B4, make_address("172.16.2.1", 1), "192.0.2.99"))
    assert len(one.pairs) == constants.MAX_PAIRS
    assert sum(pair.remote.address == B4 for pair in one.pairs) == 11
