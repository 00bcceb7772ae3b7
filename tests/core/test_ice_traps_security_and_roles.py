"""The acceptance tests of DESIGN section 10, traps 1 to 12: who is believed, and who leads."""

from __future__ import annotations

import random
from typing import Any

import pytest
from ice_harness import (
    A4,
    B4,
    PEER,
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
    transmits_of,
)

from iceagent.core import ice, stun
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.ice import DropReason, Received, Role

STRANGER = make_address("203.0.113.66", 6666)
STUN_SERVER = make_address("198.51.100.100", 3478)


@pytest.mark.parametrize("code", [None, 400, 401, 403, 487, 500])
def test_trap_01_a_response_without_integrity_changes_nothing(code: int | None) -> None:
    """Whoever can guess or see a transaction id could otherwise validate, fail or turn around a pair."""
    one = lone()
    (check,) = transmits_of(one)
    forged = answer(check, PEER, code=code, signed=False)
    assert one.handle_datagram(0.01, A4, B4, forged) is Received.DROPPED
    assert one.counters[DropReason.STUN_NO_INTEGRITY] == 1
    assert one.pairs[0].state is ice.PairState.IN_PROGRESS
    assert one.role is Role.CONTROLLING
    assert one.handle_datagram(0.02, A4, B4, answer(check, PEER)) is Received.CONSUMED, "the true answer still counts"
    assert one.pairs[0].state is ice.PairState.SUCCEEDED


@pytest.mark.parametrize("code", [None, 403, 487])
def test_trap_01_a_response_with_a_wrong_key_changes_nothing(code: int | None) -> None:
    """An integrity attribute alone proves nothing."""
    one = lone()
    (check,) = transmits_of(one)
    forged = answer(check, ice.Credentials("peer", "x" * 24), code=code)
    assert one.handle_datagram(0.01, A4, B4, forged) is Received.DROPPED
    assert one.counters[DropReason.STUN_BAD_INTEGRITY] == 1
    assert one.pairs[0].state is ice.PairState.IN_PROGRESS
    assert one.role is Role.CONTROLLING


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pwd": "wrong" * 6}, DropReason.STUN_BAD_INTEGRITY),
        ({"username": "nobody:peer"}, DropReason.STUN_WRONG_USERNAME),
        ({"username": "nocolon"}, DropReason.STUN_WRONG_USERNAME),
        ({"fingerprint": False}, DropReason.STUN_FINGERPRINT),
    ],
)
def test_trap_02_an_unauthentic_request_has_no_effect_at_all(change: dict[str, Any], reason: DropReason) -> None:
    """No answer, no change of role, no peer-reflexive candidate: strangers must not even learn that we are here."""
    one = lone(Role.CONTROLLED)
    transmits_of(one)
    events_of(one)
    bait = request(one, peer=PEER, role=stun.IceControlled(0), nominate=True, **change)
    assert one.handle_datagram(0.01, A4, STRANGER, bait) is Received.DROPPED
    assert one.counters[reason] == 1
    assert transmits_of(one) == []
    assert events_of(one) == []
    assert one.role is Role.CONTROLLED
    assert len(one.remote_candidates) == 1


def test_trap_02_a_request_without_integrity_has_no_effect_at_all() -> None:
    """The same for a plain Binding request, as one sends it to a STUN server."""
    one = lone()
    transmits_of(one)
    plain = stun.encode(stun.binding_request(b"plain-bind-1"))
    assert one.handle_datagram(0.01, A4, STRANGER, plain) is Received.DROPPED
    assert transmits_of(one) == []
    assert one.counters[DropReason.STUN_NO_INTEGRITY] == 1


def test_trap_03_only_data_from_validated_paths_reaches_the_user() -> None:
    """A signalled candidate is a claim; only an answered check is proof."""
    one = lone()
    (check,) = transmits_of(one)
    assert not one.is_validated(A4, B4)
    assert one.handle_datagram(0.01, A4, B4, b"early") is Received.DROPPED
    assert one.handle_datagram(0.01, A4, STRANGER, b"evil") is Received.DROPPED
    one.handle_datagram(0.02, A4, B4, answer(check, PEER))
    assert one.is_validated(A4, B4)
    assert one.handle_datagram(0.03, A4, B4, b"data") is Received.APPLICATION_DATA
    assert one.handle_datagram(0.03, A4, STRANGER, b"evil") is Received.DROPPED
    assert one.handle_datagram(0.03, make_address("192.0.2.9", 9), B4, b"evil") is Received.DROPPED
    assert one.counters[DropReason.DATA_UNVALIDATED] == 4


def test_trap_03_data_that_overtakes_the_answer_is_held_until_the_path_is_validated() -> None:
    """The peer may send when its own check is answered; ours may still be on its way."""
    one = lone()
    (check,) = transmits_of(one)
    one.handle_datagram(0.01, A4, B4, request(one, peer=PEER))
    assert one.handle_datagram(0.01, A4, B4, b"first") is Received.HELD
    assert one.handle_datagram(0.01, A4, B4, b"second") is Received.HELD
    assert not one.is_validated(A4, B4)
    assert [e for e in events_of(one) if isinstance(e, ice.HeldDataReleased)] == []
    one.handle_datagram(0.02, A4, B4, answer(check, PEER))
    released = [e for e in events_of(one) if isinstance(e, ice.HeldDataReleased)]
    assert released == [ice.HeldDataReleased(A4, B4, (b"first", b"second"))]


def test_trap_03_held_data_is_bounded() -> None:
    """A peer that floods before validation costs a fixed amount of memory."""
    one = lone()
    one.handle_datagram(0.01, A4, B4, request(one, peer=PEER))
    verdicts = [one.handle_datagram(0.01, A4, B4, bytes(1200)) for _ in range(1000)]
    assert verdicts.count(Received.HELD) == 64
    assert one.counters[DropReason.DATA_HELD_OVERFLOW] == 936


def test_trap_06_attributes_after_the_integrity_are_ignored() -> None:
    """Nobody vouches for them: a man in the middle could otherwise nominate."""
    one = lone(Role.CONTROLLED)
    (check,) = transmits_of(one)
    one.handle_datagram(0.01, A4, B4, answer(check, PEER))
    honest = request(one, peer=PEER, fingerprint=False)
    appended = honest + b"\x00\x25\x00\x00"  # USE-CANDIDATE
    length = len(appended) - 20 + 8
    appended = appended[:2] + length.to_bytes(2, "big") + appended[4:]
    crc = stun_crc(appended)
    message = appended + b"\x80\x28\x00\x04" + crc
    assert one.handle_datagram(0.02, A4, B4, message) is Received.CONSUMED, "the check itself is authentic"
    assert one.selected_pair is None, "but nobody nominated"


def stun_crc(message: bytes) -> bytes:
    from zlib import crc32

    return (crc32(message) ^ 0x5354554E).to_bytes(4, "big")


def test_trap_06_mutilated_messages_never_raise() -> None:
    """Every truncation and many mutations of a valid check and a valid answer are dropped, counted, harmless."""
    one = lone()
    (check,) = transmits_of(one)
    chance = random.Random(6)
    for whole in (request(one, peer=PEER), answer(check, PEER)):
        for end in range(len(whole)):
            one.handle_datagram(0.01, A4, B4, whole[:end])
        for _ in range(2000):
            mutant = bytearray(whole)
            for _ in range(chance.randrange(1, 6)):
                mutant[chance.randrange(len(mutant))] = chance.randrange(256)
            if bytes(mutant) != whole:
                one.handle_datagram(0.01, A4, B4, bytes(mutant))
    assert not one.is_validated(A4, B4)
    assert one.handle_datagram(0.02, A4, B4, answer(check, PEER)) is Received.CONSUMED
    assert one.is_validated(A4, B4)


def test_trap_07_both_controlled_larger_tiebreaker_becomes_controlling() -> None:
    """Whichever way the tiebreakers fall, two controlled agents end as one of each, and connect."""
    for seed in range(20):
        world = World(seed)
        a, b = world.add(agent(Role.CONTROLLED, seed)), world.add(agent(Role.CONTROLLED, seed + 1000))
        larger = max((a, b), key=tiebreaker_of)
        connect(world, a, b)
        assert {a.role, b.role} == {Role.CONTROLLING, Role.CONTROLLED}
        assert larger.role is Role.CONTROLLING, f"seed {seed}"


def test_trap_07_both_controlling_larger_tiebreaker_stays_controlling() -> None:
    """The same for two controlling ones."""
    for seed in range(20):
        world = World(seed)
        a, b = world.add(agent(Role.CONTROLLING, seed)), world.add(agent(Role.CONTROLLING, seed + 1000))
        larger = max((a, b), key=tiebreaker_of)
        connect(world, a, b)
        assert {a.role, b.role} == {Role.CONTROLLING, Role.CONTROLLED}
        assert larger.role is Role.CONTROLLING, f"seed {seed}"


def connect(world: World, a: ice.IceAgent, b: ice.IceAgent) -> None:
    world.host(a, A4)
    world.host(b, B4)
    world.introduce(a, b)
    world.run_until(lambda: both(a, b, ice.AgentState.COMPLETED), 10)


def tiebreaker_of(one: ice.IceAgent) -> int:
    return one._roles.tiebreaker


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("theirs_is_larger", [True, False])
def test_trap_08_a_conflict_is_refused_or_obeyed_never_both(role: Role, theirs_is_larger: bool) -> None:
    """Refusing and switching would only move the conflict to the other side."""
    one = lone(role)
    transmits_of(one)
    theirs = tiebreaker_of(one) + (1 if theirs_is_larger else -1)
    same = stun.IceControlling(theirs) if role is Role.CONTROLLING else stun.IceControlled(theirs)
    one.handle_datagram(0.01, A4, B4, request(one, peer=PEER, role=same))
    (response,) = responses_in(transmits_of(one))
    refused = response.message_class is stun.MessageClass.ERROR
    switched = one.role is not role
    assert refused != switched
    assert switched == (theirs_is_larger == (role is Role.CONTROLLING))
    if refused:
        error = response.get(stun.ErrorCode)
        assert error is not None
        assert error.code == 487


@pytest.mark.parametrize("role", list(Role))
def test_trap_08_on_equal_tiebreakers_the_receiver_has_its_way_as_the_rfc_says(role: Role) -> None:
    """RFC 8445 section 7.3.1.1 says "larger than or equal" in both cases."""
    one = lone(role)
    transmits_of(one)
    theirs = tiebreaker_of(one)
    same = stun.IceControlling(theirs) if role is Role.CONTROLLING else stun.IceControlled(theirs)
    one.handle_datagram(0.01, A4, B4, request(one, peer=PEER, role=same))
    assert one.role is Role.CONTROLLING
    (response,) = responses_in(transmits_of(one))
    assert (response.message_class is stun.MessageClass.ERROR) == (role is Role.CONTROLLING)


def test_trap_08_a_refused_check_is_checked_back_with_our_role_and_nominates_nothing() -> None:
    """The 487 may come from another address than was asked, and is dropped then; our own check gets there."""
    one = lone(Role.CONTROLLING)
    transmits_of(one)
    smaller = stun.IceControlling(tiebreaker_of(one) - 1)
    one.handle_datagram(0.01, A4, STRANGER, request(one, peer=PEER, role=smaller, nominate=True))
    one.handle_timeout(0.1)
    (response,) = responses_in(sent := transmits_of(one))
    assert response.message_class is stun.MessageClass.ERROR
    (check,) = [check for check in requests_in(sent) if check.remote == STRANGER]
    assert stun.decode(check.data).get(stun.IceControlling) is not None
    one.handle_datagram(0.2, A4, STRANGER, answer(check, PEER))
    assert one.selected_pair is None


@pytest.mark.parametrize("seed", range(6))
def test_trap_08_a_conflict_is_settled_between_nats_that_map_per_destination(seed: int) -> None:
    """Both lead, and the 487 comes from an address that was not asked; so each check must be checked back."""
    world = World(seed)
    a, b = world.add(agent(Role.CONTROLLING, seed)), world.add(agent(Role.CONTROLLING, seed + 100))
    inside = {a: make_address("10.1.0.2", 1000), b: make_address("10.2.0.2", 2000)}
    outside = {inside[a]: ("203.0.113.4", 4000), inside[b]: ("203.0.113.5", 5000)}

    def translate(source: TransportAddress, destination: TransportAddress) -> TransportAddress:
        host, port = outside[source]
        return make_address(host, port if destination == STUN_SERVER else port + 1)

    told = {one: translate(address, STUN_SERVER) for one, address in inside.items()}
    world.mapped |= {told[one]: address for one, address in inside.items()}
    # a's NAT lets in only whom a has sent to, so b gets nowhere by what it was told; b's lets everybody in.
    world.link.translate = translate
    world.link.blocked = lambda source, destination: destination in (told[a], *inside.values())
    for one, address in inside.items():
        world.host(one, address)
        one.add_local_candidate(0.0, ice.srflx_candidate(told[one], address, STUN_SERVER.host))
    world.introduce(a, b)
    world.run_until(lambda: both(a, b, ice.AgentState.COMPLETED), 20)
    assert {a.role, b.role} == set(Role)


def test_trap_09_a_487_is_obeyed_once_with_a_new_tiebreaker() -> None:
    """Two refusals of checks sent in the same role must not turn the role around twice."""
    one = agent(Role.CONTROLLING)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.set_remote_credentials(0.0, PEER)
    other = make_address("198.51.100.2", 2000)
    one.add_remote_candidate(0.0, ice.host_candidate(B4))
    one.add_remote_candidate(0.0, ice.host_candidate(other, 1000))
    one.handle_timeout(0.05)
    first, second = transmits_of(one)
    before = tiebreaker_of(one)
    one.handle_datagram(0.06, A4, first.remote, answer(first, PEER, code=487))
    assert one.role is Role.CONTROLLED
    after = tiebreaker_of(one)
    assert after != before
    one.handle_datagram(0.07, A4, second.remote, answer(second, PEER, code=487))
    assert one.role is Role.CONTROLLED, "the second check was sent in the role already given up"
    assert tiebreaker_of(one) == after
    assert one.counters[DropReason.RESPONSE_STALE_ROLE_CONFLICT] == 1


def test_trap_09_a_487_after_a_switch_by_request_is_stale() -> None:
    """The peer's own check may have settled the conflict before its 487 arrives."""
    one = lone(Role.CONTROLLING)
    (check,) = transmits_of(one)
    larger = stun.IceControlling(2**64 - 1)
    one.handle_datagram(0.01, A4, B4, request(one, peer=PEER, role=larger))
    assert one.role is Role.CONTROLLED
    one.handle_datagram(0.02, A4, B4, answer(check, PEER, code=487))
    assert one.role is Role.CONTROLLED


def test_trap_09_the_refused_pair_is_checked_again_in_the_new_role() -> None:
    """RFC 8445 section 7.2.5.1: the pair goes to the triggered-check queue."""
    one = lone(Role.CONTROLLING)
    (check,) = transmits_of(one)
    one.handle_datagram(0.06, A4, B4, answer(check, PEER, code=487))
    (again,) = requests_in(transmits_of(one))
    message = stun.decode(again.data)
    assert message.get(stun.IceControlled) is not None
    assert message.get(stun.IceControlling) is None


def test_trap_10_a_full_agent_is_controlling_and_nominates_regularly_against_a_lite_peer() -> None:
    """A lite peer never checks: all must come from us, and USE-CANDIDATE only after an answered check."""
    one = agent(Role.CONTROLLED)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.set_remote_credentials(0.0, PEER, lite=True)
    one.add_remote_candidate(0.0, ice.host_candidate(B4))
    assert one.role is Role.CONTROLLING
    (check,) = transmits_of(one)
    assert stun.decode(check.data).get(stun.UseCandidate) is None
    one.handle_datagram(0.01, A4, B4, answer(check, PEER))
    (nomination,) = transmits_of(one)
    assert stun.decode(nomination.data).get(stun.UseCandidate) is not None
    assert one.state is ice.AgentState.CONNECTED
    one.handle_datagram(0.02, A4, B4, answer(nomination, PEER))
    assert one.state is ice.AgentState.COMPLETED
    selected = one.selected_pair
    assert selected is not None
    assert selected.nominated


def test_trap_11_checks_are_answered_whatever_the_state_of_the_pair() -> None:
    """A peer that still checks another pair, or its consent on the selected one, must not find us dead."""
    world, a, b = connected_pair()
    world.run(60)
    for source in (B4, make_address("198.51.100.77", 7)):
        assert b.remote_credentials is not None
        a.handle_datagram(world.now, A4, source, request(a, peer=b.credentials))
        (response,) = responses_in(transmits_of(a))
        mapped = response.get(stun.XorMappedAddress)
        assert mapped is not None
        assert mapped.address == source


def test_trap_11_checks_of_a_failed_pair_are_answered_and_revive_it() -> None:
    """The peer's check opens its NAT: what failed before may work now (RFC 8445 section 7.3.1.4)."""
    one = lone()
    (check,) = transmits_of(one)
    one.handle_datagram(0.01, A4, B4, answer(check, PEER, code=400))
    assert one.pairs[0].state is ice.PairState.FAILED
    one.handle_datagram(1.0, A4, B4, request(one, peer=PEER))
    sent = transmits_of(one)
    assert len(responses_in(sent)) == 1
    (again,) = requests_in(sent)
    one.handle_datagram(1.1, A4, B4, answer(again, PEER))
    assert one.pairs[0].state is ice.PairState.SUCCEEDED


def test_trap_12_pair_priorities_have_64_bits_and_order_pairs_alike_on_both_sides() -> None:
    """A 32-bit sum or a float would tie or swap pairs, and the two sides would check in different orders."""
    high = ice.candidate_priority(ice.CandidateType.HOST, 65535)
    low = ice.candidate_priority(ice.CandidateType.RELAY, 0)
    assert ice.pair_priority(high, high) == 2**32 * high + 2 * high
    assert ice.pair_priority(high, low) == 2**32 * low + 2 * high + 1
    assert ice.pair_priority(low, high) == 2**32 * low + 2 * high
    assert ice.pair_priority(high, high) > 2**62
    world = World(12)
    a, b = world.pair()
    world.host(a, A4, make_address("192.0.2.2", 1))
    world.host(b, B4, make_address("198.51.100.2", 2))
    world.introduce(a, b)
    seen_by_a = [(p.local.address, p.remote.address, p.priority) for p in a.pairs]
    seen_by_b = [(p.remote.address, p.local.address, p.priority) for p in b.pairs]
    assert seen_by_a == seen_by_b
