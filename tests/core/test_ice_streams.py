"""Several streams and components: one checklist set, in which components share what RFC 8445 shares, and no more."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from amount import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from ice_harness import PEER, Air, Link, answer, randbytes_of, request, requests_in, transmits_of

from iceagent.core import constants, ice, stun
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.ice import AgentState, ChecklistState, PairState, Received, Role, StreamSet
from iceagent.core.transmit import Transmit

SEEDS = st.integers(0, 2**32 - 1)
FEW = examples(20, 6, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def base(host: str, stream: int, component: int, number: int = 0) -> TransportAddress:
    """The socket of a component at an address: one port each."""
    return make_address(host, 1000 * (number + 1) + 100 * stream + component)


def streams(role: Role, layout: tuple[int, ...], seed: int = 1, **config: Any) -> StreamSet:
    return StreamSet(role=role, layout=layout, randbytes=randbytes_of(seed), config=ice.IceConfig(**config))


class StreamWorld(Air[StreamSet]):
    """A world whose agents are stream sets; it tells whom each datagram belonged to."""

    def both(self, *layouts: tuple[int, ...], **config: Any) -> tuple[StreamSet, StreamSet]:
        seed = self.random.randrange(2**32)
        first, last = layouts[0], layouts[-1]
        return (
            self.add(streams(Role.CONTROLLING, first, seed, **config)),
            self.add(streams(Role.CONTROLLED, last, seed + 1, **config)),
        )

    def hosts(self, one: StreamSet, *hosts: str) -> None:
        for stream, component in one.agents:
            for index, host in enumerate(hosts):
                address = base(host, stream, component, index)
                self.owner[address] = one
                one.add_local_candidate(self.now, ice.host_candidate(address, 65535 - index, component), stream)
        self.drain(one)

    def meet(self, a: StreamSet, b: StreamSet, *, ended: bool = True) -> None:
        for one, other in ((a, b), (b, a)):
            one.set_remote_credentials(self.now, other.credentials())
            self.drain(one)
            for (stream, _), component in other.agents.items():
                for candidate in component.local_candidates:
                    one.add_remote_candidate(self.now, ice.Candidate.from_sdp(candidate.to_sdp()), stream)
                    self.drain(one)
            if ended:
                one.end_of_local_candidates(self.now)
                one.add_remote_candidate(self.now, None, None)
                self.drain(one)

    def drain(self, one: StreamSet) -> None:
        for transmit in transmits_of(one):
            self.sent.append((self.now, one, transmit))
            self.trace.append((self.now, f"{transmit.local}>{transmit.remote} {transmit.data.hex()}"))
            self.fly(transmit)
        while (event := one.poll_event()) is not None:
            self.events[id(one)].append(event)

    def complete(self, a: StreamSet, b: StreamSet, limit_s: float = 60) -> float:
        return self.run_until(lambda: {a.state, b.state} == {AgentState.COMPLETED}, limit_s)

    def fresh_checks(self, one: StreamSet) -> list[tuple[float, Transmit]]:
        """The checks sent for the first time that are no nominations and no consent: those that pacing is about."""
        seen: set[bytes] = set()
        found = []
        for at, sender, transmit in self.sent:
            data = transmit.data
            if sender is one and data[:2] == b"\x00\x01" and data[8:20] not in seen:
                seen.add(data[8:20])
                if stun.decode(data).get(stun.UseCandidate) is None:
                    found.append((at, transmit))
        return found


def connected(layout: tuple[int, ...] = (2, 2), seed: int = 1) -> tuple[StreamWorld, StreamSet, StreamSet]:
    world = StreamWorld(seed)
    a, b = world.both(layout)
    world.hosts(a, "192.0.2.1")
    world.hosts(b, "198.51.100.1")
    world.meet(a, b)
    world.complete(a, b)
    return world, a, b


def test_every_component_of_every_stream_gets_its_own_selected_pair() -> None:
    """RFC 8445 section 8.1.1; the pair of one component never serves another."""
    _, a, b = connected((2, 1, 2))
    for key, agent in a.agents.items():
        pair, theirs = agent.data_pair(), b.component(*key).data_pair()
        assert pair == (base("192.0.2.1", *key), base("198.51.100.1", *key))
        assert theirs == (base("198.51.100.1", *key), base("192.0.2.1", *key))
    assert [a.checklist_state(stream) for stream in range(3)] == [ChecklistState.COMPLETED] * 3


# Freezing and thawing.


def lone_set(layout: tuple[int, ...], foundations: dict[int, list[int]], **config: Any) -> StreamSet:
    """An agent that has one candidate per component and knows the peer's, but not yet its credentials.

    `foundations` tells, by stream, on which of the peer's hosts every component has a candidate: each host makes for a
    foundation of its own.
    """
    one = streams(Role.CONTROLLING, layout, **config)
    for stream, component in one.agents:
        one.add_local_candidate(0.0, ice.host_candidate(base("192.0.2.1", stream, component), 65535, component), stream)
        for host in foundations[stream]:
            remote = ice.host_candidate(base(f"198.51.100.{host}", stream, component), 65535 - host, component)
            one.add_remote_candidate(0.0, remote, stream)
    return one


def host_of(pair: ice.CandidatePair) -> int:
    return int(pair.remote.address.host.rpartition(".")[2])


def begun(one: StreamSet) -> set[tuple[int, int, int]]:
    """(stream, component, host) of the pairs that are no longer frozen."""
    return {
        (stream, component, host_of(pair))
        for (stream, component), agent in one.agents.items()
        for pair in agent.pairs
        if pair.state is not PairState.FROZEN
    }


EXAMPLE = {0: [1, 2, 3], 1: [1, 2, 3, 4], 2: [1, 5]}
"""Table 1 of RFC 8445: the foundations of m1, m2 and m3."""


def test_the_example_of_rfc_8445_has_one_pair_of_each_foundation_waiting() -> None:
    """Section 6.1.2.6, table 1: f1 to f3 in the first checklist, f4 in the second, f5 in the third."""
    one = lone_set((1, 1, 1), EXAMPLE)
    assert begun(one) == set()
    one.set_remote_credentials(0.0, PEER)
    assert begun(one) == {(0, 1, 1), (0, 1, 2), (0, 1, 3), (1, 1, 4), (2, 1, 5)}


def test_of_several_components_the_lowest_has_the_waiting_pair_of_a_foundation() -> None:
    """Section 6.1.2.6 step 4: by component first, then by priority."""
    one = lone_set((2, 3), {0: [1], 1: [1, 2]})
    one.set_remote_credentials(0.0, PEER)
    assert begun(one) == {(0, 1, 1), (1, 1, 2)}


def test_a_success_thaws_its_foundation_in_all_checklists_and_no_other() -> None:
    """Section 7.2.5.3.3."""
    one = lone_set((2, 1, 1), EXAMPLE)
    one.set_remote_credentials(0.0, PEER)
    before = begun(one)
    (check,) = requests_in(transmits_of(one))
    assert check.remote == base("198.51.100.1", 0, 1)
    one.handle_datagram(0.02, check.local, check.remote, answer(check, PEER))
    assert begun(one) - before == {(0, 2, 1), (1, 1, 1), (2, 1, 1)}


def test_a_foundation_stays_frozen_while_another_checklist_checks_it() -> None:
    """Section 6.1.4.2 step 2 looks at the whole set; one silent RTO frees it (docs/deviations.md)."""
    one = lone_set((1, 1), {0: [1], 1: [1]})
    one.set_remote_credentials(0.0, PEER)
    for step in (0.05, 0.1, 0.4):
        one.handle_timeout(step)
    assert begun(one) == {(0, 1, 1)}
    one.handle_timeout(0.5)
    one.handle_timeout(0.55)
    assert begun(one) == {(0, 1, 1), (1, 1, 1)}


def test_a_component_with_a_selected_pair_holds_no_foundation_back() -> None:
    """Section 8.1.2 takes its other pairs out; a component that comes late must not wait for them."""
    world = StreamWorld()
    a, b = world.both((2,))
    for one, host in ((a, "192.0.2.1"), (b, "198.51.100.1")):
        for number in (1, 2):  # two addresses each, so that pairs are left over
            address = base(f"{host[:-1]}{number}", 0, 1)
            world.owner[address] = one
            one.add_local_candidate(0.0, ice.host_candidate(address, 65535 - number))
        world.drain(one)
    world.meet(a, b, ended=False)
    world.run_until(lambda: a.component().state is b.component().state is AgentState.COMPLETED)
    for one, host in ((a, "192.0.2.2"), (b, "198.51.100.2")):
        address = base(host, 0, 2)
        world.owner[address] = one
        one.add_local_candidate(world.now, ice.host_candidate(address, 65533, 2))
    for one, other in ((a, b), (b, a)):
        for candidate in other.component(0, 2).local_candidates:
            one.add_remote_candidate(world.now, ice.Candidate.from_sdp(candidate.to_sdp()))
        world.drain(one)
    assert world.complete(a, b) < 0.2


# Turns.


def test_the_streams_have_a_check_each_in_turn_one_per_ta() -> None:
    """Section 6.1.4.2; the first goes at once."""
    one = lone_set((1, 1, 1), {0: [1, 2, 3], 1: [4, 5, 6], 2: [7, 8]})
    one.set_remote_credentials(0.0, PEER)
    found = [(0.0, check) for check in requests_in(transmits_of(one))]
    while len(found) < 8:
        at = one.next_timeout()
        assert at is not None
        one.handle_timeout(at)
        found += [(at, check) for check in requests_in(transmits_of(one))]
    assert [at for at, _ in found] == pytest.approx([0.05 * number for number in range(8)])
    hosts = [int(check.remote.host.rpartition(".")[2]) for _, check in found]
    assert hosts == [1, 4, 7, 2, 5, 8, 3, 6], "the last stream has none left and costs no turn"


def test_triggered_checks_go_before_ordinary_ones_in_the_order_of_their_coming() -> None:
    """Section 6.1.4.1: one queue per stream, whichever component they are of."""
    one = lone_set((3,), {0: [1, 2, 3]})
    one.set_remote_credentials(0.0, PEER)
    transmits_of(one)
    sources = [(3, 2), (2, 3), (3, 1)]
    for component, host in sources:
        remote = base(f"198.51.100.{host}", 0, component)
        data = request(one.component(0, component), peer=PEER)
        assert one.handle_datagram(0.01, base("192.0.2.1", 0, component), remote, data) is Received.CONSUMED
    found = []
    for step in (0.05, 0.11, 0.17):
        one.handle_timeout(step)
        found += [transmit.remote for transmit in requests_in(transmits_of(one))]
    assert found == [base(f"198.51.100.{host}", 0, component) for component, host in sources]


def test_the_rto_counts_the_pairs_of_the_whole_set() -> None:
    """Section 14.3: Num-Waiting and Num-In-Progress are those of the checklist set."""
    one = lone_set((1, 1), {0: [1], 1: list(range(2, 18))})
    one.set_remote_credentials(0.0, PEER)
    (first,) = requests_in(transmits_of(one))
    at = 0.0
    while (at := one.next_timeout() or 9) < 9:
        one.handle_timeout(at)
        if any(transmit.data[8:20] == first.data[8:20] for transmit in transmits_of(one)):
            break
    assert at == pytest.approx(0.05 * 17), "17 pairs of the other stream wait, or are checked"


def test_all_agents_of_a_machine_are_paced_together_sets_among_them() -> None:
    """Section 14.2: a set reserves its slots as an agent does."""
    pacer = ice.Pacer(interval_s=0.2, burst=1)
    one = StreamSet(role=Role.CONTROLLING, layout=(1, 1), randbytes=randbytes_of(1), pacer=pacer)
    for stream in (0, 1):
        one.add_local_candidate(0.0, ice.host_candidate(base("192.0.2.1", stream, 1)), stream)
        one.add_remote_candidate(0.0, ice.host_candidate(base(f"198.51.100.{stream + 1}", stream, 1)), stream)
    one.set_remote_credentials(0.0, PEER)
    assert len(requests_in(transmits_of(one))) == 1
    one.handle_timeout(0.19)
    assert requests_in(transmits_of(one)) == []
    one.handle_timeout(0.2)
    assert [transmit.remote for transmit in requests_in(transmits_of(one))] == [base("198.51.100.2", 1, 1)]


# The limit.


def test_the_limit_of_pairs_is_for_the_whole_set_and_shared_evenly() -> None:
    """Section 6.1.2.5: the attack it bounds does not care which checklist a check is of."""
    one = lone_set((2, 2), {0: list(range(1, 31)), 1: list(range(1, 31))})
    counts = [len(agent.pairs) for agent in one.agents.values()]
    assert sum(counts) == constants.MAX_PAIRS
    assert counts == [25, 25, 25, 25]
    assert one.counters[ice.DropReason.PAIR_LIMIT] == 20
    for agent in one.agents.values():
        assert {host_of(pair) for pair in agent.pairs} == set(range(1, 26)), "the best are kept"


def test_short_checklists_keep_their_pairs_when_the_set_is_full() -> None:
    """What gives way is the lowest pair of the longest list."""
    one = lone_set((1, 1), {0: list(range(1, 16)), 1: [1, 2]}, max_pairs=12)
    assert [len(agent.pairs) for agent in one.agents.values()] == [10, 2]


# Roles and credentials.


def test_a_role_conflict_is_settled_once_for_all_components() -> None:
    """Section 7.3.1.1: role and tiebreaker are the agent's."""
    for role in Role:
        world = StreamWorld()
        a, b = world.add(streams(role, (2, 2), 1)), world.add(streams(role, (2, 2), 2))
        world.hosts(a, "192.0.2.1")
        world.hosts(b, "198.51.100.1")
        world.meet(a, b)
        world.complete(a, b)
        assert a.role is not b.role
        changes = [event for one in (a, b) for event in world.events[id(one)] if isinstance(event, ice.ComponentEvent)]
        assert sum(isinstance(change.event, ice.RoleChanged) for change in changes) == 1
        assert {agent.role for agent in a.agents.values()} == {a.role}


def test_each_stream_may_have_credentials_of_its_own_from_the_peer() -> None:
    """RFC 8839 section 5.4: ufrag and pwd are at session level or at that of the media."""
    one = lone_set((1, 1), {0: [1], 1: [2]})
    other = ice.Credentials("other", "q" * 24)
    one.set_remote_credentials(0.0, PEER, stream=0)
    assert [agent.state for agent in one.agents.values()] == [AgentState.CHECKING, AgentState.NEW]
    one.set_remote_credentials(0.0, other, stream=1)
    one.handle_timeout(0.05)
    ours = one.credentials().ufrag
    names = [stun.decode(check.data).get(stun.Username) for check in requests_in(transmits_of(one))]
    assert names == [stun.Username(f"peer:{ours}"), stun.Username(f"other:{ours}")]


def test_a_lite_agent_may_have_several_components() -> None:
    """Section 6.2: it answers for each of them, has all its pairs nominated by the peer, and checks nothing else."""
    world = StreamWorld()
    a = world.add(streams(Role.CONTROLLING, (2, 1), 1))
    b = world.add(streams(Role.CONTROLLED, (2, 1), 2, lite=True))
    world.hosts(a, "192.0.2.1")
    world.hosts(b, "198.51.100.1")
    world.meet(a, b)
    world.complete(a, b)
    asked = [(transmit.local, transmit.remote) for _, transmit in world.fresh_checks(b)]
    assert sorted(asked) == sorted(agent.data_pair() or () for agent in b.agents.values())


# States.


def test_a_checklist_fails_alone_and_the_agent_waits_for_the_application_to_remove_it() -> None:
    """Sections 6.1.3 and 8.1.2: neither Completed nor Failed, until the stream is removed."""
    world = StreamWorld()
    world.link.blocked = lambda source, destination: source.port == 1102 or destination.port == 1102
    a, b = world.both((1, 2))
    world.hosts(a, "192.0.2.1")
    world.hosts(b, "198.51.100.1")
    world.meet(a, b)
    world.run(60)
    for one in (a, b):
        assert [one.checklist_state(0), one.checklist_state(1)] == [ChecklistState.COMPLETED, ChecklistState.FAILED]
        assert one.state is AgentState.CHECKING
        assert one.component(1, 1).state is AgentState.COMPLETED, "the other component of the stream goes on"
        one.remove_stream(world.now, 1)
        world.drain(one)
        assert one.state is AgentState.COMPLETED
        given_up = [event for event in world.events[id(one)] if isinstance(event, ice.ComponentGivenUp)]
        assert given_up == [ice.ComponentGivenUp(1, 1), ice.ComponentGivenUp(1, 2)]


def test_the_agent_fails_when_every_checklist_has_failed() -> None:
    """Section 6.1.3."""
    world = StreamWorld()
    world.link.blocked = lambda source, destination: True
    a, b = world.both((2, 1))
    world.hosts(a, "192.0.2.1")
    world.hosts(b, "198.51.100.1")
    world.meet(a, b)
    world.run(60)
    assert a.state is b.state is AgentState.FAILED
    states = [event.new for event in world.events[id(a)] if isinstance(event, ice.StateChanged)]
    assert states == [AgentState.CHECKING, AgentState.FAILED]
    with pytest.raises(ValueError, match="over"):
        a.restart(world.now)


def test_components_the_peer_does_not_have_are_given_up_at_its_end_of_candidates() -> None:
    """Section 6.1.2.2: the number of components is the lesser of both; so it is when the peer multiplexes RTCP."""
    world = StreamWorld()
    a, b = world.both((2, 3), (1, 2))
    world.hosts(a, "192.0.2.1")
    world.hosts(b, "198.51.100.1")
    world.meet(a, b)
    world.complete(a, b)
    given_up = [event for event in world.events[id(a)] if isinstance(event, ice.ComponentGivenUp)]
    assert given_up == [ice.ComponentGivenUp(0, 2), ice.ComponentGivenUp(1, 3)]
    assert a.component(0, 2).state is AgentState.CLOSED
    assert world.now < 1


def test_an_end_of_candidates_that_a_restart_has_overtaken_takes_no_component_away() -> None:
    """A restart cuts the candidates of before short; their end says nothing of components not told until then."""
    world = StreamWorld()
    a, b = world.both((2,))
    world.hosts(a, "192.0.2.1")
    world.hosts(b, "198.51.100.1")
    a.set_remote_credentials(0.0, b.credentials())
    b.set_remote_credentials(0.0, a.credentials())
    first = b.component(0, 1).local_candidates[0]
    a.add_remote_candidate(0.0, first)
    a.restart(0.1)
    a.add_remote_candidate(0.2, None)
    assert len(a.components_of(0)) == 2
    world.hosts(a, "192.0.2.1")
    b.set_remote_credentials(0.3, a.credentials())
    world.hosts(b, "198.51.100.1")
    a.set_remote_credentials(0.3, b.credentials())
    a.add_remote_candidate(0.4, None)
    assert len(a.components_of(0)) == 2
    for one, other in ((a, b), (b, a)):
        for agent in one.agents.values():
            for candidate in agent.local_candidates:
                other.add_remote_candidate(0.5, candidate)
    world.now = 0.5
    world.complete(a, b)
    assert len(a.components_of(0)) == len(b.components_of(0)) == 2


def test_without_end_of_candidates_a_component_nobody_heard_of_is_given_up_instead_of_failing() -> None:
    """A peer that cannot trickle never says that it has told all."""
    world = StreamWorld()
    a, b = world.both((2,), (1,))
    world.hosts(a, "192.0.2.1")
    world.hosts(b, "198.51.100.1")
    world.meet(a, b, ended=False)
    world.run(60)
    assert a.state is AgentState.COMPLETED
    assert a.component(0, 2).state is AgentState.CLOSED


def test_a_component_is_not_given_up_because_its_candidates_are_names() -> None:
    """What the peer has signalled counts, whether or not it can be used yet."""
    one = lone_set((2,), {0: []})
    for text in ("1 1 udp 9 198.51.100.1 9 typ host", "1 2 udp 8 somewhere.local 9 typ host"):
        one.add_remote_candidate(0.0, ice.Candidate.from_sdp(text))
    one.add_remote_candidate(0.0, None)
    assert one.component(0, 2).state is AgentState.NEW


@pytest.mark.parametrize("layout", [(), (0,), (1, 0), (257,), (1,) * 33, (40, 40)])
def test_layouts_that_cannot_be_are_refused(layout: tuple[int, ...]) -> None:
    """The caller's mistake."""
    with pytest.raises(ValueError, match=r"stream"):
        streams(Role.CONTROLLING, layout)


def test_one_stream_with_one_component_is_an_agent_without_a_checklist_set() -> None:
    """The simple case costs nothing."""
    one = streams(Role.CONTROLLING, (1,))
    assert one.component()._membership is None
    assert one.component()._sessions.current.facts.checklist.in_set is None


# Datagrams.


def test_data_at_the_socket_of_another_component_is_not_delivered() -> None:
    """Trap 3 for each component: the path is valid for one, not for its neighbour."""
    _, a, _ = connected((2,))
    for local, remote, verdict in (
        ((0, 1), (0, 1), Received.APPLICATION_DATA),
        ((0, 2), (0, 1), Received.DROPPED),
        ((0, 1), (0, 2), Received.DROPPED),
    ):
        where = base("192.0.2.1", *local), base("198.51.100.1", *remote)
        assert a.handle_datagram(9.0, *where, b"data") is verdict
    assert a.handle_datagram(9.0, make_address("192.0.2.9", 9), base("198.51.100.1", 0, 1), b"data") is Received.DROPPED


# Restart.


def offer_again(world: StreamWorld, a: StreamSet, b: StreamSet, only: int | None = None) -> None:
    """Answer a restart of `a`: credentials and candidates both ways."""
    for one, other in ((b, a), (a, b)):
        for stream in range(len(a.layout)) if only is None else (only,):
            one.set_remote_credentials(world.now, other.credentials(stream), stream=None if only is None else stream)
            world.drain(one)
    for one, host in ((a, "192.0.2.1"), (b, "198.51.100.1")):
        for (stream, component), agent in one.agents.items():
            if only in (None, stream):
                address = base(host, stream, component)
                agent.add_local_candidate(world.now, ice.host_candidate(address, 65535, component))
        world.drain(one)
    for one, other in ((a, b), (b, a)):
        for (stream, _), agent in other.agents.items():
            for candidate in agent.local_candidates if only in (None, stream) else ():
                one.add_remote_candidate(world.now, ice.Candidate.from_sdp(candidate.to_sdp()), stream)
            world.drain(one)


def test_a_restart_renews_all_streams_with_one_pair_of_credentials_and_keeps_the_roles() -> None:
    """Section 9; data keeps flowing over every component meanwhile."""
    world, a, b = connected((2, 1))
    old = a.credentials(), b.credentials()
    fresh = a.restart(world.now)
    world.drain(a)
    assert {agent.credentials for agent in a.agents.values()} == {fresh}
    assert a.restart(world.now) == fresh, "the peer's answer is awaited"
    world.run(1)
    offer_again(world, a, b)
    assert len({agent.credentials for agent in b.agents.values()}) == 1
    assert (a.credentials(), b.credentials()) != old
    for _ in range(100):
        world.run(0.01)
        assert all(one.component(*key).data_pair() for one in (a, b) for key in one.agents)
    assert not any(agent.restarting for one in (a, b) for agent in one.agents.values())
    assert a.state is b.state is AgentState.COMPLETED
    assert (a.role, b.role) == (Role.CONTROLLING, Role.CONTROLLED)


def test_one_stream_may_restart_alone() -> None:
    """RFC 8445 section 9: for "the data stream(s) being restarted"; the others do not notice."""
    world, a, b = connected((1, 2))
    old = a.credentials(0)
    fresh = a.restart(world.now, stream=1)
    world.drain(a)
    offer_again(world, a, b, only=1)
    world.run(5)
    assert (a.credentials(0), a.credentials(1)) == (old, fresh)
    assert [agent.generation for agent in b.agents.values()] == [0, 1, 1]
    assert a.state is b.state is AgentState.COMPLETED
    assert not any(agent.restarting for one in (a, b) for agent in one.agents.values())


# The five rules of the core's contract.


def bad_world(seed: int, **config: Any) -> tuple[StreamWorld, StreamSet, StreamSet]:
    """Two sets of one to four components, any roles, one to three addresses each, on a bad link with dead paths."""
    chance = random.Random(seed)
    link = Link(
        delay_s=chance.choice([0.0005, 0.01, 0.1]),
        jitter_s=chance.choice([0.0, 0.02, 0.3]),
        loss=chance.choice([0.0, 0.1, 0.25]),
        duplication=chance.choice([0.0, 0.2]),
    )
    dead, dead_seed = chance.choice([0.0, 0.3]), chance.random()

    def blocked(source: TransportAddress, destination: TransportAddress) -> bool:
        if source.port < 2000 and destination.port < 2000:
            return False  # the first addresses always reach each other
        return random.Random(f"{dead_seed} {sorted((source, destination))}").random() < dead

    link.blocked = blocked
    world = StreamWorld(seed, link)
    layout = chance.choice([(2,), (1, 1), (2, 2), (1, 2), (3,)])
    a = world.add(streams(chance.choice(list(Role)), layout, chance.randrange(2**32), **config))
    b = world.add(streams(chance.choice(list(Role)), layout, chance.randrange(2**32), **config))
    world.hosts(a, *(f"192.0.2.{number + 1}" for number in range(chance.randrange(1, 4))))
    world.hosts(b, *(f"198.51.100.{number + 1}" for number in range(chance.randrange(1, 4))))
    return world, a, b


@given(st.lists(st.tuples(st.binary(max_size=100), st.booleans(), st.integers(0, 3)), max_size=30), SEEDS)
@FEW
def test_rule_1_no_bytes_raise_at_any_component(datagrams: list[tuple[bytes, bool, int]], seed: int) -> None:
    """Whatever arrives at whichever socket."""
    one = lone_set((2, 1), {0: [1], 1: [2]})
    if seed % 2:
        one.set_remote_credentials(0.0, PEER)
    for datagram, as_stun, where in datagrams:
        data = datagram
        if as_stun:
            body = datagram + bytes(-len(datagram) % 4)
            data = b"\x00\x01" + len(body).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + b"transaction!" + body
        local = base("192.0.2.1", *((0, 1), (0, 2), (1, 1), (5, 5))[where])
        assert one.handle_datagram(0.01, local, base("198.51.100.1", 0, 1), data) is Received.DROPPED


@given(SEEDS)
@FEW
def test_rules_2_and_3_all_seeds_complete_and_no_timeout_repeats(seed: int) -> None:
    """`World.step` asserts rule 3; both sides end with mirrored pairs in every component."""
    world, a, b = bad_world(seed)
    world.meet(a, b, ended=seed % 3 > 0)

    def agreed() -> bool:
        pairs = [(agent.data_pair(), b.component(*key).data_pair()) for key, agent in a.agents.items()]
        mirrored = all(mine is not None and theirs == (mine[1], mine[0]) for mine, theirs in pairs)
        return mirrored and a.state is b.state is AgentState.COMPLETED

    world.run_until(agreed, 90)
    assert a.role is not b.role
    for one in (a, b):
        for (stream, component), agent in one.agents.items():
            path = agent.data_pair()
            assert path is not None
            assert all(end.port % 1000 == 100 * stream + component for end in path), "a pair of its own component"


@given(SEEDS)
@FEW
def test_rule_4_same_seed_same_trace(seed: int) -> None:
    """Byte for byte."""

    def run() -> tuple[list[tuple[float, str]], list[object]]:
        world, a, b = bad_world(seed)
        world.meet(a, b)
        world.run(10)
        return world.trace, [world.events[id(one)] for one in (a, b)]

    assert run() == run()


@given(SEEDS)
@FEW
def test_rule_5_the_set_is_bounded_though_the_peer_misbehaves(seed: int) -> None:
    """Candidates and checks without end, at every component."""
    chance = random.Random(seed)
    one = lone_set((2, 2), {0: [1], 1: [2]})
    one.set_remote_credentials(0.0, PEER)
    now = 0.0
    for step in range(400):
        now += chance.random() * 0.1
        stream, component = chance.randrange(2), chance.randrange(1, 4)
        address = make_address(f"203.0.113.{chance.randrange(1, 255)}", chance.randrange(1, 65536))
        what = chance.randrange(3)
        if what == 0:
            candidate = ice.host_candidate(address, chance.randrange(65536), component)
            one.add_remote_candidate(now, candidate, stream)
        elif what == 1:
            data = request(one.component(stream, 1), peer=PEER, transaction_id=b"flood-%06d" % step)
            one.handle_datagram(now, base("192.0.2.1", stream, component), address, data)
        else:
            one.handle_timeout(now)
    assert sum(len(agent.pairs) for agent in one.agents.values()) <= constants.MAX_PAIRS
    for agent in one.agents.values():
        assert len(agent.remote_candidates) <= constants.MAX_REMOTE_CANDIDATES
        assert len(agent._sessions.current.facts.checklist.triggered) <= constants.MAX_PAIRS


@given(SEEDS)
@FEW
def test_one_new_check_per_ta_over_the_whole_set(seed: int) -> None:
    """Section 6.1.4.2: retransmissions, nominations and consent aside, whatever the number of components."""
    world, a, b = bad_world(seed)
    world.meet(a, b)
    world.run(4)  # before the first consent check
    for one in (a, b):
        times = [at for at, _ in world.fresh_checks(one)]
        assert all(later - earlier >= constants.TA_S - 1e-9 for earlier, later in pairwise(times))


def test_nomination_knows_how_many_take_turns_with_the_slots() -> None:
    """A pair still to be checked is sent after the turns of the other components, not one Ta from now."""
    turns: list[int] = []

    class Watching(ice.DefaultController):
        def choose_nomination(self, question: ice.NominationQuestion) -> ice.Choice | None:
            turns.append(question.turns)
            return super().choose_nomination(question)

    world, a, b = bad_world(1, controller=Watching())
    world.meet(a, b)
    world.run(20)
    assert 1 in turns  # the last one to finish is alone
    assert max(turns) > 1
