"""The NAT by itself: RFC 4787's behaviours, then what must hold for any sequence of packets."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError
from iceagent.vnet import ADDRESS_RESTRICTED, FULL_CONE, MASQUERADE, PORT_RESTRICTED, SYMMETRIC, Nat, NatTable
from iceagent.vnet.nat import INPUT_TIMEOUT_S, MAX_INPUT_ENTRIES, MAX_SESSIONS

INSIDE = TransportAddress("192.168.1.2", 5000)
NEIGHBOUR = TransportAddress("192.168.1.3", 5000)
EXTERNAL = "203.0.113.1"
SERVER = TransportAddress("198.51.100.1", 3478)
SERVER_OTHER_PORT = TransportAddress("198.51.100.1", 3479)
STRANGER = TransportAddress("198.51.100.9", 3478)

BEHAVIOURS = ("endpoint-independent", "address-dependent", "address-and-port-dependent")
DEPTH = {behaviour: depth for depth, behaviour in enumerate(BEHAVIOURS)}


def table_of(nat: Nat, seed: int = 1) -> NatTable:
    return NatTable(nat, EXTERNAL, random.Random(seed))


@pytest.mark.parametrize("mapping", BEHAVIOURS)
def test_mapping_depends_on_as_much_of_the_destination_as_it_says(mapping):
    """RFC 4787 section 4.1 defines the three by whether the external endpoint changes; ICE succeeds or fails by it."""
    table = table_of(Nat(mapping=mapping))
    first = table.outbound(0.0, INSIDE, SERVER)
    assert table.outbound(1.0, INSIDE, SERVER) == first
    assert (table.outbound(1.0, INSIDE, SERVER_OTHER_PORT) == first) == (DEPTH[mapping] < 2)
    assert (table.outbound(1.0, INSIDE, STRANGER) == first) == (DEPTH[mapping] < 1)


@pytest.mark.parametrize("filtering", BEHAVIOURS)
def test_filter_admits_as_many_as_it_says(filtering):
    """RFC 4787 section 5: who may answer decides whether a first check gets in or only opens the way for the next."""
    table = table_of(Nat(filtering=filtering))
    external = table.outbound(0.0, INSIDE, SERVER)
    assert external is not None
    assert table.inbound(0.1, external.port, SERVER) == INSIDE
    assert (table.inbound(0.1, external.port, SERVER_OTHER_PORT) == INSIDE) == (DEPTH[filtering] < 2)
    assert (table.inbound(0.1, external.port, STRANGER) == INSIDE) == (DEPTH[filtering] < 1)


def test_sending_out_opens_the_filter():
    """This is hole punching; without it no two NATs could ever meet."""
    table = table_of(PORT_RESTRICTED)
    external = table.outbound(0.0, INSIDE, SERVER)
    assert external is not None
    assert table.inbound(0.1, external.port, STRANGER) is None
    assert table.outbound(0.2, INSIDE, STRANGER) == external
    assert table.inbound(0.3, external.port, STRANGER) == INSIDE


def test_port_that_nobody_opened_leads_nowhere():
    """A NAT is deaf by default."""
    table = table_of(FULL_CONE)
    assert table.inbound(0.0, 5000, SERVER) is None
    assert table.drops["no mapping"] == 1


def test_preserving_keeps_the_port_unless_it_is_taken():
    """RFC 4787 section 4.2.1; two hosts with the same port are the common case (everybody uses 5000)."""
    table = table_of(Nat(port_allocation="preserving"))
    first, second = table.outbound(0.0, INSIDE, SERVER), table.outbound(0.0, NEIGHBOUR, SERVER)
    assert first == TransportAddress(EXTERNAL, 5000)
    assert second is not None
    assert second.port != 5000


def test_sequential_ports_follow_one_another():
    """Port prediction lives on this."""
    table = table_of(Nat(mapping="address-and-port-dependent", port_allocation="sequential", ports=(2000, 2003)))
    mapped = [table.outbound(0.0, INSIDE, TransportAddress("198.51.100.1", n)) for n in (1, 2, 3, 4)]
    ports = [one.port for one in mapped if one is not None]
    assert sorted(ports) == [2000, 2001, 2002, 2003]
    assert all((later - earlier) % 4 == 1 for earlier, later in itertools.pairwise(ports))


def test_random_ports_repeat_with_the_seed():
    """A simulation that cannot be repeated finds nothing."""
    runs = [
        [table_of(SYMMETRIC, seed).outbound(0.0, INSIDE, TransportAddress("198.51.100.1", n)) for n in range(1, 20)]
        for seed in (7, 7, 8)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_mapping_dies_without_outbound_traffic():
    """RFC 4787 REQ-6: inbound packets must not keep a mapping alive, so keepalives must go out."""
    table = table_of(Nat(mapping_timeout_s=30.0))
    external = table.outbound(0.0, INSIDE, SERVER)
    assert external is not None
    assert table.inbound(29.9, external.port, SERVER) == INSIDE
    assert table.inbound(30.0, external.port, SERVER) is None
    assert len(table) == 0


def test_mapping_lives_while_it_is_refreshed():
    """What ICE keepalives are for."""
    table = table_of(Nat(mapping_timeout_s=30.0))
    externals = {table.outbound(at, INSIDE, SERVER) for at in (0.0, 25.0, 50.0, 75.0)}
    assert len(externals) == 1


def test_idle_mapping_dies_behind_a_busy_one():
    """The busy one is older, so a table that only looked at its oldest entry would keep the idle one for ever."""
    table = table_of(Nat(mapping_timeout_s=30.0))
    table.outbound(0.0, INSIDE, SERVER)
    table.outbound(1.0, NEIGHBOUR, SERVER)
    table.outbound(25.0, INSIDE, SERVER)
    assert list(table.mappings(31.0).values()) == [INSIDE]
    assert len(table) == 1


def test_inbound_refreshes_where_the_nat_says_so():
    """Some boxes do; an agent must not depend on it, a test may want it."""
    table = table_of(Nat(mapping_timeout_s=30.0, refreshed_by="both"))
    external = table.outbound(0.0, INSIDE, SERVER)
    assert external is not None
    assert table.inbound(29.0, external.port, SERVER) == INSIDE
    assert table.inbound(58.0, external.port, SERVER) == INSIDE


def test_each_remote_must_be_refreshed_by_itself():
    """A busy path to one peer does not keep the door open for another one."""
    table = table_of(Nat(filtering="address-dependent", mapping_timeout_s=30.0))
    external = table.outbound(0.0, INSIDE, SERVER)
    assert external is not None
    table.outbound(20.0, INSIDE, STRANGER)
    assert table.inbound(40.0, external.port, SERVER) is None
    assert table.inbound(40.0, external.port, STRANGER) == INSIDE


def test_full_table_refuses_and_recovers():
    """A bound, as real boxes have; the inside sees loss, not a crash."""
    table = table_of(Nat(max_mappings=2, mapping_timeout_s=30.0))
    for host in ("192.168.1.2", "192.168.1.3"):
        assert table.outbound(0.0, TransportAddress(host, 5000), SERVER) is not None
    third = TransportAddress("192.168.1.4", 5000)
    assert table.outbound(1.0, third, SERVER) is None
    assert table.drops["table full"] == 1
    assert table.outbound(31.0, third, SERVER) is not None


def test_ports_run_out_without_harm():
    """As few ports as a carrier gives one customer."""
    table = table_of(Nat(mapping="address-and-port-dependent", ports=(2000, 2002)))
    got = [table.outbound(0.0, INSIDE, TransportAddress("198.51.100.1", n)) for n in range(1, 6)]
    assert sum(external is not None for external in got) == 3


def test_sessions_of_one_mapping_are_bounded():
    """A port scan from the inside must not grow the box."""
    table = table_of(PORT_RESTRICTED)
    for port in range(1, MAX_SESSIONS + 100):
        external = table.outbound(0.0, INSIDE, TransportAddress("198.51.100.1", port))
    assert external is not None
    assert table.inbound(0.0, external.port, TransportAddress("198.51.100.1", 1)) is None
    assert table.inbound(0.0, external.port, TransportAddress("198.51.100.1", MAX_SESSIONS + 99)) == INSIDE


def test_icmp_error_passes_only_for_a_session():
    """RFC 5508 section 4.2: a forged error about a packet that was never sent must not reach the inside."""
    table = table_of(ADDRESS_RESTRICTED)
    external = table.outbound(0.0, INSIDE, SERVER)
    assert external is not None
    assert table.error_inbound(0.1, external.port, SERVER) == INSIDE
    assert table.error_inbound(0.1, external.port, STRANGER) is None
    assert table.error_outbound(0.1, INSIDE, SERVER) == external
    assert table.error_outbound(0.1, NEIGHBOUR, SERVER) is None


def test_reboot_forgets_everything():
    """The fault that consent checks exist to notice."""
    table = table_of(FULL_CONE)
    external = table.outbound(0.0, INSIDE, SERVER)
    assert external is not None
    table.reset()
    assert table.inbound(0.1, external.port, SERVER) is None
    assert table.mappings(0.1) == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"mapping": "symmetric"},
        {"filtering": ""},
        {"port_allocation": "x"},
        {"mapping_timeout_s": 0},
        {"ports": (9, 1)},
    ],
)
def test_nonsense_is_refused_with_a_sentence(wrong):
    """A misspelt behaviour would silently test the wrong thing."""
    with pytest.raises(LocalError, match="Nat"):
        Nat(**wrong)


def test_a_box_that_accepts_input_loses_the_port_to_who_was_too_early():
    """Linux: the early packet's entry holds the tuple, so the inside host's own flow to its sender gets another port.

    To everybody else the mapping is the old one: it looks symmetric to this one peer alone, and lastingly.
    """
    table = table_of(MASQUERADE)
    external = table.outbound(0.0, INSIDE, SERVER)
    assert external is not None
    assert table.inbound(1.0, external.port, STRANGER) is None
    displaced = table.outbound(2.0, INSIDE, STRANGER)
    assert displaced is not None
    assert displaced != external
    assert table.outbound(2.0, INSIDE, SERVER) == external
    assert table.inbound(3.0, displaced.port, STRANGER) == INSIDE
    assert table.inbound(3.0, external.port, STRANGER) is None, "its entry is the box's"
    assert table.outbound(3.0, INSIDE, STRANGER) == displaced, "also when the entry is long gone"
    assert table.outbound(3.0 + INPUT_TIMEOUT_S, INSIDE, STRANGER) == displaced


def test_the_entry_of_a_box_that_accepts_input_ends_when_nothing_more_comes():
    """Half a minute of silence heals it, which a peer that goes on checking never grants."""
    table = table_of(MASQUERADE)
    external = table.outbound(0.0, INSIDE, SERVER)
    assert external is not None
    for at in (1.0, 30.0):
        assert table.inbound(at, external.port, STRANGER) is None
    assert table.outbound(30.0 + INPUT_TIMEOUT_S - 1, NEIGHBOUR, SERVER) is not None
    assert table.outbound(30.0 + INPUT_TIMEOUT_S, INSIDE, STRANGER) == external


def test_the_first_to_send_keeps_its_port_at_a_box_that_accepts_input():
    """Hole punching works there for whoever opens before the peer's packet comes, and from a fresh port always."""
    table = table_of(MASQUERADE)
    external = table.outbound(0.0, INSIDE, STRANGER)
    assert external is not None
    assert table.inbound(1.0, external.port, STRANGER) == INSIDE
    assert table.outbound(2.0, INSIDE, STRANGER) == external


def test_a_symmetric_box_that_accepts_input_avoids_the_port_too():
    """Whatever the mapping, two entries of one tuple there cannot be."""
    table = table_of(Nat(mapping="address-and-port-dependent", accepts_input=True))
    assert table.inbound(0.0, INSIDE.port, STRANGER) is None
    external = table.outbound(1.0, INSIDE, STRANGER)
    assert external is not None
    assert external.port != INSIDE.port
    assert len(table) == 1


def test_a_packet_that_is_turned_round_holds_no_port():
    """Its entry has the inside endpoint for its source, with which no flow to the outside can clash."""
    table = table_of(Nat(accepts_input=True, hairpin=True))
    external, other = table.outbound(0.0, INSIDE, SERVER), table.outbound(0.0, NEIGHBOUR, SERVER)
    assert external is not None
    assert other is not None
    assert table.inbound(1.0, external.port, other) is None
    assert table.outbound(2.0, INSIDE, other) == external


def test_what_a_box_accepts_is_bounded():
    """Anybody can send to it from any address."""
    table = table_of(Nat(accepts_input=True, ports=(1, 5)))
    for port in range(1, 65536, 4):
        for number in range(1, 6):
            table.inbound(0.0, number, TransportAddress("198.51.100.7", port))
    assert len(table._input) == MAX_INPUT_ENTRIES
    assert table.outbound(1.0, INSIDE, SERVER) is not None
    table.reset()
    assert not table._input


ENDPOINTS = st.builds(TransportAddress, st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]), st.integers(1, 4))
REMOTES = st.builds(TransportAddress, st.sampled_from(["192.0.2.1", "192.0.2.2"]), st.integers(1, 4))
NATS = st.builds(
    Nat,
    mapping=st.sampled_from(BEHAVIOURS),
    filtering=st.sampled_from(BEHAVIOURS),
    port_allocation=st.sampled_from(["preserving", "random", "sequential"]),
    refreshed_by=st.sampled_from(["outbound", "both"]),
    mapping_timeout_s=st.just(30.0),
    max_mappings=st.integers(1, 12),
    ports=st.sampled_from([(1, 5), (1024, 65535)]),
)
STEPS = st.lists(st.tuples(st.booleans(), st.floats(0, 20), ENDPOINTS, REMOTES), max_size=60)


def seen(behaviour, remote):
    return (remote.host, remote.port)[: DEPTH[behaviour]]


@given(NATS, STEPS)
def test_any_traffic_meets_the_definitions(nat, steps):
    """A model that remembers everything, and the definitions applied to it, against the table."""
    table, now = table_of(nat), 0.0
    mappings: dict[tuple, tuple[int, float]] = {}
    sessions: dict[tuple, float] = {}
    for is_outbound, pause, internal, remote in steps:
        now += pause
        live = {key: (port, end) for key, (port, end) in mappings.items() if end > now}
        key = (internal, seen(nat.mapping, remote))
        if is_outbound:
            external = table.outbound(now, internal, remote)
            if key in live:
                assert external is not None, "a live mapping is found again"
                assert external.port == live[key][0]
            if external is None:
                assert len(live) >= min(nat.max_mappings, nat.ports[1] - nat.ports[0] + 1)
                continue
            assert external.port not in {port for other, (port, _) in live.items() if other != key}
            mappings[key] = (external.port, now + 30.0)
            sessions[key, external.port, seen(nat.filtering, remote)] = now + 30.0
        else:
            port = live[key][0] if key in live else internal.port
            owner = next((k for k, (p, _) in live.items() if p == port), None)
            session = (owner, port, seen(nat.filtering, remote))
            expected = owner[0] if owner and sessions.get(session, 0.0) > now else None
            assert table.inbound(now, port, remote) == expected
            if owner and expected and nat.refreshed_by == "both":
                mappings[owner] = (port, now + 30.0)
                sessions[session] = now + 30.0
        assert len(table) <= nat.max_mappings
        assert nat.ports[0] <= min(table.mappings(now), key=lambda a: a.port, default=TransportAddress("", 1024)).port
