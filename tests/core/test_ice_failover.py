"""A path that falters: consent, keepalives, backups."""

from __future__ import annotations

import heapq
from functools import partial
from itertools import pairwise

import pytest
from ice_harness import A4, B4, Flight, Link, World, both, connected_pair, request

from iceagent.core import constants, ice, stun
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.ice import AgentState
from iceagent.core.transmit import Transmit

A2, B2 = make_address("192.0.2.2", 1001), make_address("198.51.100.2", 2002)


class Late(ice.DefaultController):
    """Nominates one second after the first valid pair, so that others become valid, too."""

    def choose_nomination(self, question: ice.NominationQuestion) -> ice.Choice | None:
        if question.selected is not None:
            return ice.DefaultController.choose_nomination(self, question)
        return ice.Choice(question.valid[0], question.first_valid_at + 1.0)


def two_paths(*, backup_is_valid: bool) -> tuple[World, ice.IceAgent, ice.IceAgent]:
    """Both agents have two addresses; A4 with B4 and A2 with B2 work, the crossed pairs do not."""
    world = World(1, Link(delay_s=0.02))
    a, b = world.pair(**({"controller": Late()} if backup_is_valid else {}))
    world.link.blocked = lambda source, destination: {source, destination} not in ({A4, B4}, {A2, B2})
    world.host(a, A4, A2)
    world.host(b, B4, B2)
    world.introduce(a, b)
    world.run(3)
    assert both(a, b, AgentState.COMPLETED)
    assert a.data_pair() == (A4, B4)
    for one, backup in ((a, (A2, B2)), (b, (B2, A2))):
        assert one.is_validated(*backup) == backup_is_valid
    return world, a, b


def test_a_silent_path_is_reported_and_recovers_with_the_next_answer() -> None:
    """DISCONNECTED is a warning; consent still stands, and data may still be sent."""
    world, a, b = connected_pair()
    world.link.loss = 1.0
    took = world.run_until(lambda: a.state is AgentState.DISCONNECTED)
    assert took <= 8
    assert a.data_pair() == (A4, B4)
    world.run(5)
    world.link.loss = 0.0
    assert world.run_until(lambda: both(a, b, AgentState.COMPLETED)) <= 6
    assert not world.of_kind(a, ice.ConsentLost)


def test_one_or_two_lost_packets_are_not_reported() -> None:
    """At 5 % loss each way nobody should see a connection flap for an hour."""
    world, a, b = connected_pair()
    world.link.loss = 0.05
    world.run(3600)
    assert both(a, b, AgentState.COMPLETED)
    assert AgentState.DISCONNECTED not in world.states(a) + world.states(b)


def test_a_dead_path_without_another_ends_the_session_30_seconds_after_the_last_answer() -> None:
    """With a reason, on both sides, and with nothing sent afterwards."""
    world, a, b = connected_pair()
    last = world.now
    world.run(20)
    answered = world.now
    world.link.loss = 1.0
    world.run_until(lambda: both(a, b, AgentState.FAILED))
    assert 24 - 1 <= world.now - answered <= 30
    assert last < answered
    for one in (a, b):
        (lost,) = world.of_kind(one, ice.ConsentLost)
        assert lost.pair.remote.address in (A4, B4)
        (failed,) = world.of_kind(one, ice.Failed)
        assert failed.reason == "the peer has not answered for 30 s, and no other path to it works"
        assert one.data_pair() is None
        assert one.next_timeout() is None
        assert one.selected_pair is None
    before = len(world.sent)
    world.run(100)
    assert len(world.sent) == before


@pytest.mark.parametrize("backup_is_valid", [True, False])
def test_another_pair_takes_over_when_the_selected_one_dies(backup_is_valid: bool) -> None:
    """Seconds after silence begins: valid backups are probed, unchecked pairs checked, and what answers is nominated.

    Both ends agree on it, the session does not end, and the dead pair's expiry later disturbs nobody.
    """
    world, a, b = two_paths(backup_is_valid=backup_is_valid)
    world.link.blocked = lambda source, destination: {source, destination} != {A2, B2}
    took = world.run_until(lambda: a.data_pair() == (A2, B2) and b.data_pair() == (B2, A2), 31)
    assert took <= 11
    world.run(100)
    assert both(a, b, AgentState.COMPLETED)
    assert (a.data_pair(), b.data_pair()) == ((A2, B2), (B2, A2))
    assert AgentState.FAILED not in world.states(a) + world.states(b)


def test_what_still_arrives_on_a_path_that_lost_consent_is_delivered_but_nothing_is_sent_there() -> None:
    """RFC 7675 forbids to send; the peer may have consent for its direction and use it."""
    world, a, b = two_paths(backup_is_valid=True)
    # On the selected path the controlled side's requests are lost, so it loses consent there; the other keeps it.
    world.filter = lambda transmit: not (transmit.local == B4 and transmit.data[:2] == b"\x00\x01")
    world.run_until(lambda: bool(world.of_kind(b, ice.ConsentLost)), 40)
    start = world.now
    assert a.data_pair() == (A4, B4)
    assert b.data_pair() == (B2, A2)
    world.run(60)
    assert both(a, b, AgentState.COMPLETED) or b.state is AgentState.CONNECTED
    world.send_data(a, b"to b")
    world.send_data(b, b"to a")
    world.run(1)
    assert world.received[id(b)] == [b"to b"]
    assert world.received[id(a)] == [b"to a"]
    late = [t for at, one, t in world.sent if one is b and at > start and (t.local, t.remote) == (B4, A4)]
    assert late, "checks are still answered there"
    assert all(stun.decode(transmit.data).message_class is stun.MessageClass.SUCCESS for transmit in late)


def test_pairs_not_used_are_kept_alive_with_indications_every_15_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 8445 section 11: NAT bindings of backups must live; no authentication, and a fingerprint."""
    monkeypatch.setattr(constants, "WARM_BACKUPS", 0)
    world, a, _ = two_paths(backup_is_valid=True)
    start = world.now
    world.run(100)
    kept = [
        (at, stun.decode(transmit.data))
        for at, one, transmit in world.sent
        if one is a and at > start and transmit.local == A2
    ]
    assert len(kept) == 6
    assert all(message.message_class is stun.MessageClass.INDICATION for _, message in kept)
    assert all(not message.has_integrity and message.verify_fingerprint() for _, message in kept)
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(kept)]
    assert all(14.99 <= gap <= 15.01 for gap in gaps)


def has_path(one: ice.IceAgent) -> bool:
    return one.data_pair() is not None


def test_data_arrives_in_a_world_that_loses_and_reorders() -> None:
    """The first datagram after CONNECTED arrives, though it may overtake the peer's own validation."""
    for seed in range(30):
        world = World(seed, Link(delay_s=0.01, jitter_s=0.02))
        a, b = world.pair()
        world.host(a, A4)
        world.host(b, B4)
        world.introduce(a, b)
        world.run_until(partial(has_path, a))
        world.send_data(a, b"hello")
        world.run(2)
        assert world.received[id(b)] == [b"hello"], f"seed {seed}"


@pytest.mark.parametrize("seed", range(12))
def test_consent_outlives_ten_minutes_of_heavy_loss(seed: int) -> None:
    """A line that loses 30 % each way still has a living peer at its end; chance alone must not end the session."""
    world, a, b = connected_pair(seed)
    world.link.loss = 0.3
    world.run(600)
    assert AgentState.FAILED not in (a.state, b.state)


def test_best_backups_are_asked_instead_so_that_consent_to_them_stands() -> None:
    """Two minutes later the backup may carry data at once, and its round-trip time is known."""
    world, a, b = two_paths(backup_is_valid=True)
    world.run(120)
    for one in (a, b):
        inside = one._sessions.current.facts
        backup = next(pair for pair in inside.checklist if pair.base in (A2, B2) and pair.is_valid)
        assert inside.has_fresh_consent(world.now, backup)
        assert backup.rtt_samples >= 7


@pytest.mark.parametrize("rtt_s", [0.002, 0.04, 0.2])
@pytest.mark.parametrize("dead", ["both ways", "one way"])
def test_path_killed_in_mid_transfer_is_replaced_within_a_second(rtt_s: float, dead: str) -> None:
    """Data was flowing, and nothing comes any more: that is noticed without waiting for a consent check."""
    world, a, b = two_paths(backup_is_valid=True)
    world.link.delay_s = rtt_s / 2
    for _ in range(300):
        exchange(world, a, b)
    killed_at = world.now
    ways = {(A4, B4), (B4, A4)} if dead == "both ways" else {(A4, B4)}
    crossed = world.link.blocked
    world.link.blocked = lambda source, destination: (source, destination) in ways or crossed(source, destination)
    while (a.data_pair(), b.data_pair()) != ((A2, B2), (B2, A2)):
        exchange(world, a, b)
        assert world.now - killed_at < 1 + rtt_s
    assert both(a, b, AgentState.COMPLETED)
    assert AgentState.DISCONNECTED not in world.states(a) + world.states(b)


def exchange(world: World, a: ice.IceAgent, b: ice.IceAgent) -> None:
    """Let both send a datagram as a shell would, and 5 ms pass."""
    for one in (a, b):
        if one.activity.unheard_since is None:
            one.activity.unheard_since = world.now
        world.send_data(one, b"data")
    counts = {id(one): len(world.received[id(one)]) for one in (a, b)}
    world.run(0.005)
    for one in (a, b):
        if len(world.received[id(one)]) > counts[id(one)]:
            one.activity.unheard_since = None


def test_idle_path_that_dies_is_replaced_within_a_second_of_the_first_sign() -> None:
    """Nobody sends, so the first sign is the consent check that stays unanswered."""
    world, a, b = two_paths(backup_is_valid=True)
    world.run(20)
    world.link.blocked = lambda source, destination: {source, destination} == {A4, B4}
    killed_at = world.now
    world.run_until(lambda: (a.data_pair(), b.data_pair()) == ((A2, B2), (B2, A2)), 10)
    checks = [at for at, _, transmit in world.sent if at >= killed_at and transmit.local in (A4, B4)]
    assert world.now - min(checks) < 1


def test_one_way_stream_costs_few_checks_and_is_not_called_dead() -> None:
    """A sender that is never answered looks like a dead path; a check twice a second settles it."""
    world, a, b = two_paths(backup_is_valid=True)
    before = a.checks_sent
    for _ in range(2000):
        if a.activity.unheard_since is None:
            a.activity.unheard_since = world.now
        world.send_data(a, b"data")
        world.run(0.005)
    assert a.data_pair() == (A4, B4)
    assert a.checks_sent - before < 10 * 5
    assert b.data_pair() == (B4, A4)


def renominating(world: World, a: ice.IceAgent, b: ice.IceAgent) -> None:
    """Introduce two agents that both know renomination."""
    for one, other in ((a, b), (b, a)):
        one.set_remote_credentials(world.now, other.credentials, options=("ice2", "renomination"))
        world.drain(one)
        for candidate in other.local_candidates:
            world.signal(one, candidate)
        world.drain(one)


def relayed(base: TransportAddress) -> ice.Candidate:
    return ice.relay_candidate(base, "203.0.113.1")


@pytest.mark.parametrize("seed", range(5))
def test_direct_path_that_opens_late_takes_over_from_the_relay(seed: int) -> None:
    """Renomination: the relay was the only way for ten seconds; then the firewall lets the direct checks pass."""
    world = World(seed, Link(delay_s=0.02, loss=0.1))
    a, b = world.pair()
    opens_at = 5.0
    world.link.blocked = lambda source, destination: world.now < opens_at and {source, destination} != {A2, B2}
    for one, direct, relay in ((a, A4, A2), (b, B4, B2)):
        world.host(one, direct)
        world.owner[relay] = one
        one.add_local_candidate(0.0, relayed(relay))
    renominating(world, a, b)
    world.run_until(lambda: both(a, b, AgentState.COMPLETED), 5)
    assert (a.data_pair(), b.data_pair()) == ((A2, B2), (B2, A2))
    world.run(40)
    assert (a.data_pair(), b.data_pair()) == ((A4, B4), (B4, A4))
    assert both(a, b, AgentState.COMPLETED)
    assert AgentState.DISCONNECTED not in world.states(a) + world.states(b)


def test_shorter_path_takes_over_once_and_stays() -> None:
    """Two direct paths; the better-ranked one takes 200 ms, the other 20 ms."""
    world = World(1)
    a, b = world.pair(controller=Late())
    slow = Slow(world, {A4, B4}, 0.09)
    world.filter = slow
    world.link.blocked = lambda source, destination: {source, destination} not in ({A4, B4}, {A2, B2})
    world.host(a, A4, A2)
    world.host(b, B4, B2)
    renominating(world, a, b)
    world.run_until(lambda: both(a, b, AgentState.COMPLETED))
    assert a.data_pair() == (A4, B4)
    world.run(300)
    assert (a.data_pair(), b.data_pair()) == ((A2, B2), (B2, A2))
    assert len(world.of_kind(a, ice.SelectedPairChanged)) == 2
    assert len(world.of_kind(b, ice.SelectedPairChanged)) == 2


class Slow:
    """Sends what goes between two addresses later, by way of a flight of its own."""

    def __init__(self, world: World, way: set[TransportAddress], delay_s: float) -> None:
        self._world = world
        self._way = way
        self._delay_s = delay_s

    def __call__(self, transmit: Transmit) -> bool:
        if {transmit.local, transmit.remote} != self._way:
            return True
        world = self._world
        target = world.owner[transmit.remote]
        world._number += 1
        at = world.now + self._delay_s
        flight = Flight(at, world._number, target, transmit.local, transmit.remote, transmit.data)
        heapq.heappush(world.flights, flight)
        return False


def test_without_renomination_in_both_descriptions_nothing_is_switched() -> None:
    """RFC 8445 section 8.1.1: nomination is for good; a peer that does not know better would be confused."""
    world = World(1)
    a, b = world.pair(controller=Late())
    world.filter = Slow(world, {A4, B4}, 0.09)
    world.link.blocked = lambda source, destination: {source, destination} not in ({A4, B4}, {A2, B2})
    world.host(a, A4, A2)
    world.host(b, B4, B2)
    world.introduce(a, b)
    world.run(300)
    assert a.data_pair() == (A4, B4)
    values = [stun.decode(transmit.data).get(stun.Nomination) for _, _, transmit in world.sent]
    assert not any(values)


def test_nomination_that_was_overtaken_is_ignored() -> None:
    """draft-thatcher-ice-renomination: the highest value wins, not the last to arrive."""
    world, a, b = two_paths(backup_is_valid=True)
    b._sessions.current.facts.renominates = True
    newer = request(b, peer=a.credentials, nominate=True, extra=(stun.Nomination(7),), transaction_id=b"newer-check!")
    older = request(b, peer=a.credentials, nominate=True, extra=(stun.Nomination(6),), transaction_id=b"older-check!")
    b.handle_datagram(world.now, B2, A2, newer)
    assert b.data_pair() == (B2, A2)
    b.handle_datagram(world.now, B4, A4, older)
    assert b.data_pair() == (B2, A2)


def test_path_without_backup_that_dies_is_told_within_two_seconds() -> None:
    """A NAT that was rebooted tells nobody; a restart finds the new addresses, and need not wait for 7 s of silence."""
    world, a, b = connected_pair()
    world.run(20)
    world.link.blocked = lambda source, destination: True
    began = world.now
    for one in (a, b):
        one.activity.unheard_since = began
        one.handle_timeout(began)  # as the shell does when it sends
    world.run_until(lambda: a.stranded and b.stranded)
    assert world.now - began < 1.5
    world.run(3)
    assert [len(world.of_kind(one, ice.PathUnanswered)) for one in (a, b)] == [1, 1]
    world.link.blocked = lambda source, destination: False
    world.run(2)
    assert not a.stranded
    assert not b.stranded


def test_path_that_dies_while_a_backup_answers_is_not_told() -> None:
    """Then nomination moves the data, and a restart would only disturb."""
    world, a, b = two_paths(backup_is_valid=True)
    world.link.blocked = lambda source, destination: {source, destination} != {A2, B2}
    world.run(20)
    assert a.data_pair() == (A2, B2)
    assert not any(world.of_kind(one, ice.PathUnanswered) for one in (a, b))


@pytest.mark.parametrize(("loss", "most"), [(0.1, 0), (0.2, 0), (0.3, 2)])
def test_path_that_loses_packets_is_not_taken_for_dead(loss: float, most: int) -> None:
    """A restart each time would be a storm of them; ten minutes of a line that loses half of what is asked."""
    for seed in (1, 2):
        world, a, b = connected_pair(seed)
        world.link.loss = loss
        world.run(600)
        assert sum(len(world.of_kind(one, ice.PathUnanswered)) for one in (a, b)) <= most


@pytest.mark.parametrize("delay_s", [0.01, 0.035, 0.1, 0.35])
def test_a_doubt_ends_however_long_a_round_trip_takes(delay_s: float) -> None:
    """Probes repeated before an answer can have come had the backups asked; then the peer doubted, and so for ever."""
    world, a, b = two_paths(backup_is_valid=True)
    world.link.delay_s = delay_s
    world.run(60)
    before = a.checks_sent + b.checks_sent
    a.handle_network_changed(world.now)
    world.drain(a)
    world.run(60)
    assert a.data_pair() == (A4, B4)
    assert a.checks_sent + b.checks_sent - before < 2 * 60 * 2, "each sends two a second, which is what backups cost"


def test_a_long_round_trip_is_no_loss() -> None:
    """What is repeated before an answer can have come has not been lost, and asks for no more patience."""
    world, a, _ = two_paths(backup_is_valid=True)
    world.link.delay_s = 0.2
    world.run(60)
    for _ in range(10):
        a.handle_network_changed(world.now)
        world.drain(a)
        world.run(5)
    assert a._sessions.current.consent._is_lossy() == 0
