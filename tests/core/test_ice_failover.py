"""A path that falters: consent, keepalives, backups."""

from __future__ import annotations

from itertools import pairwise

import pytest
from ice_harness import A4, B4, Link, World, both, connected_pair

from iceagent.core import ice, stun
from iceagent.core.address import make_address
from iceagent.core.ice import AgentState

A2, B2 = make_address("192.0.2.2", 1001), make_address("198.51.100.2", 2002)


class Late:
    """Nominates one second after the first valid pair, so that others become valid, too."""

    def nominate_at(self, question: ice.NominationQuestion) -> float:
        return question.first_valid_at + 1.0


def two_paths(*, backup_is_valid: bool) -> tuple[World, ice.IceAgent, ice.IceAgent]:
    """Both agents have two addresses; A4 with B4 and A2 with B2 work, the crossed pairs do not."""
    world = World(1, Link(delay_s=0.02))
    a, b = world.pair(**({"nomination": Late()} if backup_is_valid else {}))
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


def test_pairs_not_used_are_kept_alive_with_indications_every_15_seconds() -> None:
    """RFC 8445 section 11: NAT bindings of backups must live; no authentication, and a fingerprint."""
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


def test_data_arrives_in_a_world_that_loses_and_reorders() -> None:
    """The first datagram after CONNECTED arrives, though it may overtake the peer's own validation."""
    for seed in range(30):
        world = World(seed, Link(delay_s=0.01, jitter_s=0.02))
        a, b = world.pair()
        world.host(a, A4)
        world.host(b, B4)
        world.introduce(a, b)
        world.run_until(lambda a=a: a.data_pair() is not None)
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
