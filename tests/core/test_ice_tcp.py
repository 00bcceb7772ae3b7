"""Candidates over TCP, RFC 6544: which pair up, in which order they are checked, and what a connection changes."""

from __future__ import annotations

from typing import Any

import pytest
from ice_harness import A4, B4, PEER, Link, World, agent, answer, lone, request, requests_in, transmits_of

from iceagent.core import ice, stun
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.ice import AgentState, CandidateType, DropReason, PairState, Role
from iceagent.core.ice.model.tcp import MAX_OTHER_PREFERENCE

ACTIVE_A, ACTIVE_B = TransportAddress(A4.host, 9), TransportAddress(B4.host, 9)
PASSIVE_A, PASSIVE_B = TransportAddress(A4.host, 5001), TransportAddress(B4.host, 5002)
SO_A, SO_B = TransportAddress(A4.host, 6001), TransportAddress(B4.host, 6002)
TYPES_A = {"active": ACTIVE_A, "passive": PASSIVE_A, "so": SO_A}
TYPES_B = {"active": ACTIVE_B, "passive": PASSIVE_B, "so": SO_B}


def speak_tcp(world: World, one: ice.IceAgent, bases: dict[str, TransportAddress]) -> None:
    for tcp_type, base in bases.items():
        world.owner[base] = one
        one.add_local_candidate(world.now, ice.tcp_host_candidate(base, tcp_type))
        world.drain(one)


def from_a_port_of_its_own(source: TransportAddress, destination: TransportAddress) -> TransportAddress:
    """What an active candidate does: its connections leave from ports that nobody was told."""
    return TransportAddress(source.host, 40000) if source.port == 9 else source


def tcp_world(**config: object) -> tuple[World, ice.IceAgent, ice.IceAgent]:
    world = World(1, Link(translate=from_a_port_of_its_own))
    a, b = world.pair(**config)
    speak_tcp(world, a, TYPES_A)
    speak_tcp(world, b, TYPES_B)
    return world, a, b


def lone_tcp(role: Role = Role.CONTROLLING, **config: Any) -> ice.IceAgent:
    """An agent with an active, a passive and an so candidate that knows the credentials of a hand-played peer."""
    one = agent(role, **config)
    for tcp_type, base in TYPES_A.items():
        one.add_local_candidate(0.0, ice.tcp_host_candidate(base, tcp_type))
    one.set_remote_credentials(0.0, PEER)
    return one


@pytest.mark.parametrize("ours", ["active", "passive", "so"])
@pytest.mark.parametrize("theirs", ["active", "passive", "so"])
def test_active_pairs_with_passive_and_so_with_so(ours: str, theirs: str) -> None:
    """RFC 6544 section 6.2, its table; pairs with a local passive candidate are pruned: nobody there can connect."""
    one = agent(Role.CONTROLLING)
    one.add_local_candidate(0.0, ice.tcp_host_candidate(TYPES_A[ours], ours))
    assert one.add_remote_candidate(0.0, ice.tcp_host_candidate(TYPES_B[theirs], theirs))
    assert len(one.pairs) == ((ours, theirs) in {("active", "passive"), ("so", "so")})


def test_udp_and_tcp_are_never_paired() -> None:
    """A datagram cannot arrive at a TCP port."""
    one = agent(Role.CONTROLLING)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.add_local_candidate(0.0, ice.tcp_host_candidate(ACTIVE_A, "active"))
    one.add_remote_candidate(0.0, ice.host_candidate(B4))
    one.add_remote_candidate(0.0, ice.tcp_host_candidate(PASSIVE_B, "passive"))
    assert [pair.local.transport for pair in one.pairs] == [pair.remote.transport for pair in one.pairs]
    assert len(one.pairs) == 2


@pytest.mark.parametrize(
    ("host", "port", "is_used"),
    [
        ("198.51.100.7", 22, False),
        ("198.51.100.7", 443, True),
        ("192.168.1.1", 80, False),
        ("100.64.0.1", 443, False),
        ("192.168.1.1", 8443, True),
    ],
)
def test_a_peer_cannot_have_us_speak_to_services(host: str, port: int, is_used: bool) -> None:
    """Who signals us may be anybody: browsers refuse the same ports, the web's on private networks among them."""
    one = agent(Role.CONTROLLING)
    one.add_local_candidate(0.0, ice.tcp_host_candidate(ACTIVE_A, "active"))
    there = TransportAddress(host, port)
    assert one.add_remote_candidate(0.0, ice.tcp_host_candidate(there, "passive")) is is_used
    assert len(one.pairs) == is_used
    assert one.counters[DropReason.CANDIDATE_UNUSABLE] == (not is_used)


def test_we_may_listen_where_the_peer_would_not_be_believed() -> None:
    """The port of our own is the user's choice; a NAT may map it to another."""
    one = agent(Role.CONTROLLING)
    assert one.add_local_candidate(0.0, ice.tcp_host_candidate(TransportAddress("192.168.1.5", 443), "passive"))


def test_a_peer_may_use_one_port_number_for_both_transports() -> None:
    """UDP and TCP number their ports apart; neither candidate may hide the other."""
    one = agent(Role.CONTROLLING)
    one.add_local_candidate(0.0, ice.host_candidate(A4))
    one.add_local_candidate(0.0, ice.tcp_host_candidate(ACTIVE_A, "active"))
    assert one.add_remote_candidate(0.0, ice.host_candidate(B4))
    assert one.add_remote_candidate(0.0, ice.tcp_host_candidate(B4, "passive"))
    assert {pair.remote.transport for pair in one.pairs} == {"udp", "tcp"}


def test_priorities_put_direct_udp_before_tcp_and_tcp_before_relays() -> None:
    """RFC 6544 section 4.2: UDP is preferred; a direct connection still beats one through a third party."""
    server = "192.0.2.99"
    udp = [ice.host_candidate(A4), ice.srflx_candidate(B4, A4, server)]
    tcp = [ice.tcp_host_candidate(base, tcp_type) for tcp_type, base in TYPES_A.items()]
    tcp += [ice.tcp_srflx_candidate(B4, SO_A, server), ice.tcp_srflx_candidate(B4, PASSIVE_A, server, "passive")]
    relay = ice.relay_candidate(B4, server)
    assert min(one.priority for one in udp) > max(one.priority for one in tcp)
    assert min(one.priority for one in tcp) > relay.priority


def test_the_direction_ranks_hosts_by_who_connects_and_reflexive_ones_by_what_passes_nats() -> None:
    """RFC 6544 section 4.2: active 6, passive 4, so 2 for hosts; so 6, active 4, passive 2 behind NATs."""
    types = ("active", "passive", "so")
    host = sorted(types, key=lambda one: ice.tcp_priority(CandidateType.HOST, one, 0), reverse=True)
    srflx = sorted(types, key=lambda one: ice.tcp_priority(CandidateType.SRFLX, one, 0), reverse=True)
    assert (host, srflx) == (["active", "passive", "so"], ["so", "active", "passive"])
    local_preference = ice.tcp_priority(CandidateType.HOST, "active", MAX_OTHER_PREFERENCE) >> 8 & 0xFFFF
    assert local_preference == 6 * 2**13 + 8191
    for wrong in (-1, MAX_OTHER_PREFERENCE + 1):
        with pytest.raises(ValueError, match="8191"):
            ice.tcp_priority(CandidateType.HOST, "so", wrong)


def test_foundations_tell_transports_apart() -> None:
    """RFC 6544 section 4.1 by way of RFC 8445 section 5.1.1.3: what one transport can do says nothing of the other."""
    assert ice.host_candidate(A4).foundation != ice.tcp_host_candidate(PASSIVE_A, "passive").foundation
    assert ice.tcp_host_candidate(ACTIVE_A, "active").foundation == ice.tcp_host_candidate(SO_A, "so").foundation


def test_a_candidate_survives_its_text() -> None:
    """RFC 6544 section 4.5: tcptype is signalled, and port 9 for an active candidate."""
    candidate = ice.tcp_host_candidate(ACTIVE_A, "active")
    assert candidate.to_sdp().endswith("192.0.2.1 9 typ host tcptype active")
    assert ice.Candidate.from_sdp(candidate.to_sdp().replace("tcptype active", "tcptype ACTIVE")).tcp_type == "active"


@pytest.mark.parametrize("port", [0, 9])
def test_the_port_of_an_active_candidate_means_nothing(port: int) -> None:
    """Some write 0, some 9: nobody connects there."""
    one = agent(Role.CONTROLLING)
    assert one.add_remote_candidate(0.0, ice.tcp_host_candidate(TransportAddress(B4.host, port), "active"))


def test_two_agents_connect_over_the_connection_of_the_active_one() -> None:
    """RFC 6544 section 7.2: the passive side answers, learns a peer-reflexive candidate and checks back over it."""
    world, a, b = tcp_world()
    world.link.blocked = lambda source, destination: SO_A in (source, destination)
    world.introduce(a, b)
    world.run_until(lambda: a.state is b.state is AgentState.COMPLETED)
    ours, theirs = a.selected_pair, b.selected_pair
    assert ours is not None
    assert theirs is not None
    assert {ours.local.transport, theirs.local.transport} == {"tcp"}
    assert {ours.remote.tcp_type, theirs.remote.tcp_type} == {"passive", "active"}
    passive = theirs if theirs.local.tcp_type == "passive" else ours
    assert passive.remote.type is CandidateType.PRFLX
    assert passive.remote.address.port == 40000
    assert world.send_data(a, b"there")
    world.run(1)
    assert world.received[id(b)] == [b"there"]


def test_the_mapped_address_makes_an_active_local_candidate_that_is_peer_reflexive() -> None:
    """RFC 6544 section 7.1.2: it takes the type of its base."""
    for mapped, expected in (
        (TransportAddress(A4.host, 40000), []),  # no NAT: the host candidate, whose port means nothing
        (TransportAddress("203.0.113.5", 40000), [("tcp", "active", "203.0.113.5")]),
    ):
        one = lone_tcp()
        one.add_remote_candidate(0.0, ice.tcp_host_candidate(PASSIVE_B, "passive"))
        check = requests_in(transmits_of(one))[0]
        one.handle_datagram(0.1, ACTIVE_A, PASSIVE_B, answer(check, PEER, mapped=mapped))
        reflexive = [local for local in one.local_candidates if local.type is CandidateType.PRFLX]
        assert [(local.transport, local.tcp_type, local.address.host) for local in reflexive] == expected


def test_simultaneous_open_pairs_are_checked_by_both() -> None:
    """Where only these can work, both agents end on them."""
    world, a, b = tcp_world()
    world.link.blocked = lambda source, destination: not {source, destination} <= {SO_A, SO_B}
    world.introduce(a, b)
    world.run_until(lambda: a.state is b.state is AgentState.COMPLETED)
    assert {one.selected_pair.local.tcp_type for one in (a, b) if one.selected_pair} == {"so"}


def test_a_check_over_tcp_is_sent_once_and_awaited_for_39_5_seconds() -> None:
    """RFC 8489 section 6.2.2: TCP repeats what gets lost, and Ti is 39.5 s."""
    one = lone_tcp()
    one.add_remote_candidate(0.0, ice.tcp_host_candidate(PASSIVE_B, "passive"))
    sent = requests_in(transmits_of(one))
    assert [transmit.local for transmit in sent] == [ACTIVE_A]
    while (due := one.next_timeout()) is not None and due < 39.4:
        one.handle_timeout(due)
        assert requests_in(transmits_of(one)) == []
    assert [pair.state for pair in one.pairs] == [PairState.IN_PROGRESS]
    one.handle_datagram(39.4, ACTIVE_A, PASSIVE_B, answer(sent[0], PEER))
    assert [pair.state for pair in one.pairs] == [PairState.SUCCEEDED]


def test_the_priority_attribute_is_that_of_a_peer_reflexive_tcp_candidate() -> None:
    """RFC 8445 section 7.1.1: were it UDP's, the peer would rank the pair above direct UDP."""
    one = lone_tcp()
    one.add_remote_candidate(0.0, ice.tcp_host_candidate(PASSIVE_B, "passive"))
    priority = stun.decode(requests_in(transmits_of(one))[0].data).get(stun.Priority)
    assert priority is not None
    assert priority.value >> 24 == 80


def test_udp_pairs_are_checked_before_tcp_pairs_be_they_relayed() -> None:
    """A relay over UDP is not to wait for connections that may take seconds to fail."""
    one = agent(Role.CONTROLLING)
    relayed = make_address("203.0.113.9", 7000)
    one.add_local_candidate(0.0, ice.tcp_host_candidate(ACTIVE_A, "active"))
    one.add_local_candidate(0.0, ice.tcp_host_candidate(SO_A, "so"))
    one.add_local_candidate(0.0, ice.relay_candidate(relayed, "203.0.113.9"))
    for candidate in (
        ice.tcp_host_candidate(PASSIVE_B, "passive"),
        ice.tcp_host_candidate(SO_B, "so"),
        ice.host_candidate(B4),
    ):
        one.add_remote_candidate(0.0, candidate)
    one.set_remote_credentials(0.0, PEER)
    order = [transmit.local for transmit in requests_in(transmits_of(one))]
    while len(order) < 3:
        due = one.next_timeout()
        assert due is not None
        one.handle_timeout(due)
        order += [transmit.local for transmit in requests_in(transmits_of(one)) if transmit.local not in order]
    assert order == [relayed, ACTIVE_A, SO_A]


def test_a_relayed_pair_is_nominated_without_waiting_for_tcp() -> None:
    """Where both know renomination: a connection that comes about later takes over, and nobody has waited for it."""
    one = agent(Role.CONTROLLING)
    relayed = make_address("203.0.113.9", 7000)
    one.add_local_candidate(0.0, ice.relay_candidate(relayed, "203.0.113.9"))
    one.add_local_candidate(0.0, ice.tcp_host_candidate(ACTIVE_A, "active"))
    one.end_of_local_candidates(0.0)
    one.set_remote_credentials(0.0, PEER, options=("renomination",))
    for candidate in (ice.host_candidate(B4), ice.tcp_host_candidate(PASSIVE_B, "passive"), None):
        one.add_remote_candidate(0.0, candidate)
    check = requests_in(transmits_of(one))[0]
    one.handle_timeout(0.05)
    assert [transmit.local for transmit in requests_in(transmits_of(one))] == [ACTIVE_A]
    one.handle_datagram(0.06, relayed, B4, answer(check, PEER))
    nominating = requests_in(transmits_of(one))
    assert [transmit.local for transmit in nominating] == [relayed]
    one.handle_datagram(0.12, relayed, B4, answer(nominating[0], PEER))
    assert one.state is AgentState.COMPLETED


def test_a_full_checklist_lets_tcp_pairs_go_first() -> None:
    """They rank above relays, which are the last resort and must not be pushed out by them."""
    one = agent(Role.CONTROLLING, max_pairs=2)
    one.add_local_candidate(0.0, ice.relay_candidate(make_address("203.0.113.9", 7000), "203.0.113.9"))
    one.add_local_candidate(0.0, ice.tcp_host_candidate(ACTIVE_A, "active"))
    for port in (5002, 5003):
        one.add_remote_candidate(0.0, ice.tcp_host_candidate(TransportAddress(B4.host, port), "passive"))
    one.add_remote_candidate(0.0, ice.host_candidate(B4))
    assert {pair.local.type for pair in one.pairs} == {CandidateType.RELAY, CandidateType.HOST}


def test_a_refused_connection_fails_its_check_at_once() -> None:
    """RFC 6544 section 7.1: nothing will be sent again, so nothing is to be waited for."""
    one = lone_tcp()
    one.add_remote_candidate(0.0, ice.tcp_host_candidate(PASSIVE_B, "passive"))
    transmits_of(one)
    one.handle_unreachable(0.2, ACTIVE_A, PASSIVE_B)
    assert [pair.state for pair in one.pairs] == [PairState.FAILED]
    assert not one.uses_path(ACTIVE_A, PASSIVE_B)


def connected_by_hand(role: Role = Role.CONTROLLED) -> ice.IceAgent:
    """A passive agent whose peer has connected from port 40000, checked and nominated."""
    one = lone_tcp(role)
    path = (PASSIVE_A, TransportAddress(B4.host, 40000))
    one.handle_datagram(0.0, *path, request(one, peer=PEER, nominate=role is Role.CONTROLLED))
    for transmit in requests_in(transmits_of(one)):
        assert (transmit.local, transmit.remote) == path
        one.handle_datagram(0.02, *path, answer(transmit, PEER, mapped=PASSIVE_A))
    for transmit in requests_in(transmits_of(one)):
        one.handle_datagram(0.04, *path, answer(transmit, PEER, mapped=PASSIVE_A))
    assert one.state is AgentState.COMPLETED
    return one


def test_only_a_connection_with_an_authenticated_check_is_worth_keeping() -> None:
    """The shell asks this of each connection that came in; strangers are closed."""
    one = lone_tcp(Role.CONTROLLED)
    stranger = TransportAddress("198.51.100.77", 4000)
    one.handle_datagram(0.0, PASSIVE_A, stranger, request(one, peer=PEER, pwd="x" * 24))
    assert not one.uses_path(PASSIVE_A, stranger)
    one.handle_datagram(0.0, PASSIVE_A, stranger, request(one, peer=PEER))
    assert one.uses_path(PASSIVE_A, stranger)


def test_a_check_before_the_credentials_keeps_its_connection() -> None:
    """Trap 18 over TCP: the peer's first check comes before its description, and is the only one it sends."""
    one = agent(Role.CONTROLLED)
    one.add_local_candidate(0.0, ice.tcp_host_candidate(PASSIVE_A, "passive"))
    path = (PASSIVE_A, TransportAddress(B4.host, 40000))
    one.handle_datagram(0.0, *path, request(one, peer=PEER))
    assert one.uses_path(*path)
    transmits_of(one)
    one.set_remote_credentials(1.0, PEER)
    assert [(t.local, t.remote) for t in requests_in(transmits_of(one))] == [path]


def test_a_broken_connection_is_probed_at_once_and_the_probe_nominates_again() -> None:
    """RFC 6544 section 11.1: the active side reopens it and checks first; to the peer that is an unknown path."""
    world, a, b = tcp_world()
    world.introduce(a, b)
    world.run_until(lambda: a.state is b.state is AgentState.COMPLETED)
    active = a if a.selected_pair and a.selected_pair.local.tcp_type != "passive" else b
    world.run(2)
    world.sent.clear()
    path = active.data_pair()
    assert path is not None
    active.handle_unreachable(world.now, *path)
    probes = requests_in(transmits_of(active))
    assert [(probe.local, probe.remote) for probe in probes] == [path]
    nominates = stun.decode(probes[0].data).get(stun.UseCandidate) is not None
    assert nominates == (active.role is Role.CONTROLLING)


def test_a_peer_that_reconnects_for_ever_is_always_let_in() -> None:
    """Each connection of an active candidate is another peer-reflexive one; those that died make room."""
    one = connected_by_hand()
    for number in range(40):
        old = one.data_pair()
        assert old is not None
        now = 1.0 + number
        path = (PASSIVE_A, TransportAddress(B4.host, 41000 + number))
        one.handle_unreachable(now, *old)
        transmits_of(one)
        one.handle_datagram(now, *path, request(one, peer=PEER, nominate=True, transaction_id=number.to_bytes(12)))
        for step in range(20):  # the triggered check may have to wait for its slot
            for transmit in requests_in(transmits_of(one)):
                if (transmit.local, transmit.remote) == path:
                    one.handle_datagram(now + 0.02 * step, *path, answer(transmit, PEER, mapped=PASSIVE_A))
            one.handle_timeout(now + 0.02 * step)
        one.handle_datagram(now + 0.5, *path, request(one, peer=PEER, nominate=True))
        transmits_of(one)
        now += 4.0  # beyond the settling of an aggressive peer's nominations
        one.handle_unreachable(now - 0.1, *old)
        assert DropReason.CANDIDATE_LIMIT not in one.counters
    assert len(one.remote_candidates) < 40
    assert len(one.pairs) < 40


def test_the_rtt_leaves_out_the_opening_of_the_connection() -> None:
    """The first check waits for the handshake; the second sample takes its place."""
    pair_of = lone(Role.CONTROLLING).pairs[0]
    assert pair_of.rtt_s is None
    one = lone_tcp()
    one.add_remote_candidate(0.0, ice.tcp_host_candidate(PASSIVE_B, "passive"))
    first = requests_in(transmits_of(one))[0]
    one.handle_datagram(0.2, ACTIVE_A, PASSIVE_B, answer(first, PEER))
    nominating = requests_in(transmits_of(one))
    assert nominating
    one.handle_datagram(0.3, ACTIVE_A, PASSIVE_B, answer(nominating[0], PEER))
    assert [pair.rtt_s for pair in one.pairs] == [pytest.approx(0.1)]
