"""Candidates: their text, priorities, foundations, and which of them may be paired."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ice_harness import A4, B4, PEER, agent, transmits_of

from iceagent.core import ice
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.ice import CandidateType, DropReason, Role
from iceagent.core.ice.model.checklist import path_of


@pytest.mark.parametrize(
    ("text", "kind", "host"),
    [
        ("candidate:1 1 UDP 2130706431 192.0.2.1 1000 typ host", CandidateType.HOST, "192.0.2.1"),
        ("a=candidate:1 1 udp 1 2001:DB8:0::1 1000 typ relay raddr :: rport 9", CandidateType.RELAY, "2001:db8::1"),
        ("1 1 udp 1 ::ffff:192.0.2.1 1000 typ prflx", CandidateType.PRFLX, "192.0.2.1"),
        ("1 1 udp 1 8D2B-1.local 1000 typ host", CandidateType.HOST, "8d2b-1.local"),
    ],
)
def test_candidates_are_read_with_canonical_addresses(text: str, kind: CandidateType, host: str) -> None:
    """Equal addresses compare equal however they were spelled; names stay names."""
    candidate = ice.Candidate.from_sdp(text)
    assert candidate.type is kind
    assert candidate.address == (host, 1000)
    assert candidate.transport == "udp"
    assert candidate.base is None


def test_what_is_no_candidate_raises_a_candidate_error() -> None:
    """A ValueError, so that callers need not know ours."""
    for text in ("", "nonsense", "1 1 udp 1 192.0.2.1 1000 typ other", "1 1 udp 1 %192. 9 typ srflx"):
        with pytest.raises(ValueError) as caught:
            ice.Candidate.from_sdp(text)
        assert isinstance(caught.value, ice.CandidateError)


def test_tcp_types_survive_the_round_trip() -> None:
    """RFC 6544: tcptype is a field of its own, written before other extensions."""
    text = "candidate:1 1 tcp 1 192.0.2.1 9 typ host tcptype active generation 0"
    candidate = ice.Candidate.from_sdp(text)
    assert candidate.tcp_type == "active"
    assert candidate.extensions == (("generation", "0"),)
    assert candidate.to_sdp() == text


def test_reflexive_candidates_tell_their_related_address_and_link_local_ones_no_zone() -> None:
    """RFC 8839 section 5.1 demands raddr and rport; a zone means nothing to the peer."""
    public = make_address("203.0.113.5", 41000)
    text = ice.srflx_candidate(public, A4, "198.51.100.9").to_sdp()
    assert text.endswith("203.0.113.5 41000 typ srflx raddr 192.0.2.1 rport 1000")
    local = ice.host_candidate(TransportAddress("fe80::1%eth0", 7))
    assert " fe80::1 7 " in local.to_sdp()
    bare = ice.Candidate("1", 1, "udp", 1, public, CandidateType.RELAY)
    assert bare.to_sdp().endswith("typ relay raddr 0.0.0.0 rport 9")


@given(st.sampled_from(list(CandidateType)), st.integers(0, 65535), st.integers(1, 256))
def test_priorities_stay_within_31_bits_and_types_do_not_mix(kind: CandidateType, local: int, component: int) -> None:
    """RFC 8445 section 5.1.2: any host candidate beats any reflexive one, and so on."""
    priority = ice.candidate_priority(kind, local, component)
    assert 0 <= priority < 2**31
    assert (priority >> 24) == {"host": 126, "prflx": 110, "srflx": 100, "relay": 0}[kind.value]
    assert (priority >> 8) & 0xFFFF == local
    assert 256 - (priority & 0xFF) == component % 256 or component == 256


def test_the_priority_of_the_rfcs_example() -> None:
    """RFC 8445 section 15.1: host 2130706431, peer-reflexive from it 1862270975, server-reflexive 1694498815."""
    assert ice.host_candidate(A4).priority == 2130706431
    assert ice.srflx_candidate(B4, A4, "192.0.2.3").priority == 1694498815
    one = agent(Role.CONTROLLING)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.set_remote_credentials(0.0, PEER)
    one.add_remote_candidate(0.0, ice.host_candidate(B4))
    from iceagent.core import stun

    priority = stun.decode(transmits_of(one)[0].data).get(stun.Priority)
    assert priority is not None
    assert priority.value == 1862270975


@pytest.mark.parametrize(("local", "component"), [(-1, 1), (65536, 1), (0, 0), (0, 257)])
def test_priorities_out_of_range_are_refused(local: int, component: int) -> None:
    """Silently wrapped ones would order pairs wrongly."""
    with pytest.raises(ValueError):
        ice.candidate_priority(CandidateType.HOST, local, component)


def test_foundations_are_equal_for_equal_type_base_and_server_only() -> None:
    """RFC 8445 section 5.1.1.3; the port does not count."""
    host = ice.host_candidate(A4).foundation
    assert ice.host_candidate(make_address("192.0.2.1", 9)).foundation == host
    assert ice.host_candidate(make_address("192.0.2.2", 1000)).foundation != host
    one = ice.srflx_candidate(B4, A4, "192.0.2.3").foundation
    assert one != host
    assert ice.srflx_candidate(make_address("198.51.100.9", 1), A4, "192.0.2.3").foundation == one
    assert ice.srflx_candidate(B4, A4, "192.0.2.4").foundation != one


@pytest.mark.parametrize(
    ("local", "remote", "paired"),
    [
        ("192.0.2.1", "198.51.100.1", True),
        ("192.0.2.1", "2001:db8::1", False),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "fe80::2", False),
        ("fe80::1%eth0", "2001:db8::2", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "192.0.2.1", False),
        ("192.0.2.1", "127.0.0.1", False),
        ("::1", "::1", True),
        ("::1", "2001:db8::1", False),
    ],
)
def test_only_addresses_that_can_reach_each_other_are_paired(local: str, remote: str, paired: bool) -> None:
    """RFC 8445 section 6.1.2.2, and loopback with loopback only."""
    ours, theirs = ice.host_candidate(TransportAddress(local, 1)), ice.host_candidate(TransportAddress(remote, 2))
    assert (path_of(ours, theirs) is not None) == paired


def test_a_link_local_path_takes_the_local_zone() -> None:
    """The kernel needs it to send, and reports it with what arrives."""
    ours = ice.host_candidate(TransportAddress("fe80::1%eth0", 1))
    path = path_of(ours, ice.Candidate.from_sdp("1 1 udp 1 fe80::2 2 typ host"))
    assert path == (("fe80::1%eth0", 1), ("fe80::2%eth0", 2))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 1 tcp 1 192.0.2.9 9999 typ host", DropReason.CANDIDATE_TRANSPORT),
        ("1 1 tcp 1 192.0.2.9 9999 typ host tcptype reluctant", DropReason.CANDIDATE_TRANSPORT),
        ("1 1 sctp 1 192.0.2.9 9999 typ host", DropReason.CANDIDATE_TRANSPORT),
        ("1 1 tcp 1 192.0.2.9 25 typ host tcptype passive", DropReason.CANDIDATE_UNUSABLE),
        ("1 1 tcp 1 192.0.2.9 0 typ host tcptype so", DropReason.CANDIDATE_UNUSABLE),
        ("1 2 udp 1 192.0.2.9 9 typ host", DropReason.CANDIDATE_TRANSPORT),
        ("1 1 udp 1 x.local 9 typ host", DropReason.CANDIDATE_UNRESOLVED),
        ("1 1 udp 1 192.0.2.9 0 typ host", DropReason.CANDIDATE_UNUSABLE),
        ("1 1 udp 1 0.0.0.0 9 typ host", DropReason.CANDIDATE_UNUSABLE),
        ("1 1 udp 1 224.0.0.1 9 typ host", DropReason.CANDIDATE_UNUSABLE),
        ("1 1 udp 1 255.255.255.255 9 typ host", DropReason.CANDIDATE_UNUSABLE),
        ("1 1 udp 1 :: 9 typ host", DropReason.CANDIDATE_UNUSABLE),
        ("1 1 udp 1 ff02::1 9 typ host", DropReason.CANDIDATE_UNUSABLE),
    ],
)
def test_candidates_nobody_should_send_to_are_refused_and_counted(text: str, reason: DropReason) -> None:
    """A peer names the addresses we send to; some must never be sent to."""
    one = agent(Role.CONTROLLING)
    assert not one.add_remote_candidate(0.0, ice.Candidate.from_sdp(text))
    assert one.counters == {reason: 1}


def test_a_redundant_local_candidate_is_refused() -> None:
    """RFC 8445 section 5.1.3: without a NAT the server sees the host candidate."""
    one = agent(Role.CONTROLLING)
    assert one.add_local_candidate(0.0, ice.host_candidate(A4))
    assert not one.add_local_candidate(0.0, ice.srflx_candidate(A4, A4, "192.0.2.3"))
    assert one.counters == {DropReason.CANDIDATE_DUPLICATE: 1}


def test_credentials_are_long_random_and_do_not_show_their_password() -> None:
    """RFC 8445 section 5.3: 24 and 128 bits at least."""
    made = [ice.generate_credentials(secrets.token_bytes) for _ in range(50)]
    assert len({one.ufrag for one in made}) == len({one.pwd for one in made}) == 50
    assert all(len(one.ufrag) >= 4 and len(one.pwd) >= 22 for one in made)
    assert made[0].pwd not in repr(made[0])


@pytest.mark.parametrize(
    "change",
    [
        {"ta_s": 0.001},
        {"consent_interval_s": 1},
        {"consent_expiry_s": 5},
        {"consent_expiry_s": 60},
        {"keepalive_s": 1},
        {"max_pairs": 0},
    ],
)
def test_settings_the_rfcs_forbid_are_refused(change: dict[str, float]) -> None:
    """Loudly, and not by clamping."""
    with pytest.raises(ValueError):
        ice.IceConfig(**change)  # type: ignore[arg-type]
