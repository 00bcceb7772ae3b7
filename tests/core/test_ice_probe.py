"""Probes: checks that belong to no pair, and sockets that turn out to be reachable."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from iceagent.core import ice, stun
from iceagent.core.address import make_address

EASY = make_address("192.0.2.1", 1000)
HARD = make_address("192.168.7.2", 2000)
LATE = make_address("192.168.7.2", 2001)
HARD_OUTSIDE = make_address("198.51.100.1", 31337)


def two_agents():
    made = [
        ice.IceAgent(role=role, randbytes=random.Random(seed).randbytes)
        for seed, role in enumerate((ice.Role.CONTROLLING, ice.Role.CONTROLLED))
    ]
    easy, hard = made
    easy.set_remote_credentials(0.0, hard.credentials)
    hard.set_remote_credentials(0.0, easy.credentials)
    easy.add_local_candidate(0.0, ice.host_candidate(EASY))
    hard.add_local_candidate(0.0, ice.host_candidate(HARD))
    return easy, hard


def drain(agent):
    found = []
    while (transmit := agent.poll_transmit()) is not None:
        found.append(transmit)
    return found


def test_a_probe_leads_to_an_ordinary_pair():
    """The whole point: one guessed port, and from then on checks like any other, in both directions."""
    easy, hard = two_agents()
    probe = easy.probing.build()
    assert hard.probing.is_check(probe)
    assert hard.probing.adopt(LATE)
    now = 1.0
    hard.handle_datagram(now, LATE, EASY, probe)
    flights = [("easy", one.data) for one in drain(hard) if one.local == LATE]
    for _ in range(20):
        now += 0.06
        for one in (easy, hard):
            one.handle_timeout(now)
        for to, data in flights:
            if to == "easy":
                easy.handle_datagram(now, EASY, HARD_OUTSIDE, data)
            else:
                hard.handle_datagram(now, LATE, EASY, data)
        flights = [("easy", one.data) for one in drain(hard) if one.local == LATE]
        flights += [("hard", one.data) for one in drain(easy) if one.remote == HARD_OUTSIDE]
    assert easy.selected_pair.remote.address == HARD_OUTSIDE
    assert easy.selected_pair.remote.type is ice.CandidateType.PRFLX
    assert hard.selected_pair.local.path_base == LATE
    assert easy.data_pair() == (EASY, HARD_OUTSIDE)
    assert hard.data_pair() == (LATE, EASY)


def test_an_adopted_base_is_not_paired_with_what_is_known():
    """Ten remote candidates must not cost ten checks from each socket that was hit."""
    _, hard = two_agents()
    hard.add_remote_candidate(0.0, ice.host_candidate(EASY))
    before = len(hard.pairs)
    assert hard.probing.adopt(LATE)
    assert not hard.probing.adopt(LATE)
    assert len(hard.pairs) == before == 1


def test_there_is_no_probe_before_the_peers_credentials():
    """It could not be keyed."""
    fresh = ice.IceAgent(role=ice.Role.CONTROLLING, randbytes=random.Random(1).randbytes)
    assert fresh.probing.build() is None


def test_only_the_peers_checks_count():
    """Whatever strikes an open port by chance changes nothing: it has to be keyed with our password."""
    easy, hard = two_agents()
    stranger = ice.IceAgent(role=ice.Role.CONTROLLING, randbytes=random.Random(9).randbytes)
    wrong = ice.Credentials(hard.credentials.ufrag, "x" * 24)
    stranger.set_remote_credentials(0.0, wrong)
    assert not hard.probing.is_check(stranger.probing.build())
    assert not easy.probing.is_check(easy.probing.build())  # ours to the peer, reflected
    request = stun.decode(easy.probing.build())
    plain = stun.encode(stun.binding_request(request.transaction_id, *request.attributes))
    assert not hard.probing.is_check(plain)


@given(st.binary(max_size=200))
def test_no_bytes_are_a_check_by_chance(data):
    """Rule 1."""
    _, hard = two_agents()
    assert not hard.probing.is_check(data)


@given(st.data())
def test_no_flipped_bit_passes(data):
    """A probe that was damaged or tampered with is nobody's check."""
    easy, hard = two_agents()
    probe = bytearray(easy.probing.build())
    at = data.draw(st.integers(0, len(probe) * 8 - 1))
    probe[at >> 3] ^= 1 << (at & 7)
    assert not hard.probing.is_check(bytes(probe))
