"""What is foretold from two views: relays, families, and how sure it is. The table itself is tested in tests/agent."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceagent.core.address import TransportAddress
from iceagent.core.discovery import (
    FamilyView,
    Filtering,
    MappingBehaviour,
    PredictedPath,
    SideView,
    classify_filtering,
    classify_mapping,
    meets,
    predict,
)
from iceagent.core.discovery.prediction import _possible

NO_NAT = FamilyView(MappingBehaviour.NO_NAT, Filtering.ENDPOINT_INDEPENDENT, ("203.0.113.1",))
HOME = FamilyView(MappingBehaviour.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, ("203.0.113.2",))
SYMMETRIC = FamilyView(
    MappingBehaviour.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, ("203.0.113.3", "203.0.113.4")
)
FAR = replace(SYMMETRIC, external_hosts=("198.51.100.3",))  # behind another NAT
VIEWS = st.builds(
    FamilyView,
    st.sampled_from(MappingBehaviour),
    st.sampled_from(Filtering),
    st.lists(st.sampled_from(["203.0.113.1", "203.0.113.2"]), max_size=2).map(tuple),
    st.booleans(),
    st.none() | st.booleans(),
)
SIDES = st.builds(
    SideView,
    st.dictionaries(st.sampled_from([4, 6]), VIEWS, max_size=2),
    st.frozensets(st.sampled_from(["udp", "tcp", "tls"])),
)


def side(view=None, *relays, six=None):
    families = {4: view} if view else {}
    return SideView(families | ({6: six} if six else {}), frozenset(relays))


@given(SIDES, SIDES)
def test_both_sides_foretell_the_same(ours, theirs):
    """Two people who compare their screens must not read contradictions."""
    here, there = predict(ours, theirs), predict(theirs, ours)
    assert (here.outcome, here.certain, here.family) == (there.outcome, there.certain, there.family)
    assert here.reason
    assert not here.reason.endswith(".")


@given(SIDES, SIDES)
def test_a_relay_makes_nothing_worse(ours, theirs):
    """And whoever has one over TLS is never alone, if the other side gets out at all."""
    better = SideView(ours.families, frozenset(("udp", "tcp", "tls")))
    before, after = predict(ours, theirs), predict(better, theirs)
    if before.outcome is PredictedPath.DIRECT:
        assert after.outcome is PredictedPath.DIRECT
    if theirs.families:
        assert after.outcome is not PredictedPath.IMPOSSIBLE


def test_two_symmetric_nats_need_a_relay():
    """The case everybody asks about, with its reason."""
    found = predict(side(SYMMETRIC, "udp"), side(FAR))
    assert (found.outcome, found.certain) == (PredictedPath.RELAYED, True)
    assert "both NATs map per destination" in found.reason
    alone = predict(side(SYMMETRIC), side(FAR))
    assert alone.outcome is PredictedPath.IMPOSSIBLE
    assert "no TURN server" in alone.reason


def test_reason_names_the_right_side():
    """`This side` is the one that prints."""
    assert predict(side(SYMMETRIC, "udp"), side(HOME)).reason.startswith("this side's NAT maps per destination")
    assert predict(side(HOME, "udp"), side(SYMMETRIC)).reason.startswith("the other side's NAT maps per destination")
    assert predict(side(NO_NAT), side(SYMMETRIC)).reason.startswith("this side has a public IPv4")
    assert predict(side(SYMMETRIC), side(NO_NAT)).reason.startswith("the other side has a public IPv4")


def test_ipv6_without_nat_beats_two_bad_nats():
    """Firewalls on both sides open at once; nothing is translated."""
    firewall = FamilyView(MappingBehaviour.NO_NAT, Filtering.ADDRESS_AND_PORT_DEPENDENT, ("2001:db8::1",))
    other = FamilyView(MappingBehaviour.NO_NAT, Filtering.ADDRESS_AND_PORT_DEPENDENT, ("2001:db8::2",))
    found = predict(side(SYMMETRIC, six=firewall), side(SYMMETRIC, six=other))
    assert (found.outcome, found.family) == (PredictedPath.DIRECT, 6)
    assert "public IPv6" in found.reason


def test_port_mapping_beats_a_bad_nat():
    """On one side is enough."""
    mapped = FamilyView(SYMMETRIC.mapping, SYMMETRIC.filtering, ("203.0.113.9",), maps_ports=True)
    for ours, theirs in ((mapped, SYMMETRIC), (SYMMETRIC, mapped)):
        found = predict(side(ours), side(theirs))
        assert found.outcome is PredictedPath.DIRECT
        assert "opens a port" in found.reason


@pytest.mark.parametrize(
    ("relays", "outcome"),
    [
        (((), ()), PredictedPath.IMPOSSIBLE),
        ((("udp",), ()), PredictedPath.IMPOSSIBLE),
        ((("tcp",), ()), PredictedPath.RELAYED),
        ((("tls",), ("udp",)), PredictedPath.RELAYED),
        (((), ("udp", "tcp")), PredictedPath.IMPOSSIBLE),
    ],
)
def test_side_without_udp_needs_a_relay_over_tcp_of_its_own(relays, outcome):
    """The other side's relay over UDP is out of its reach, too."""
    ours, theirs = relays
    found = predict(side(None, *ours), side(HOME, *theirs))
    assert found.outcome is outcome
    assert "UDP does not get out of this side's network" in found.reason


def test_silence_towards_both_sides_proves_nothing():
    """A dead STUN server is no blocked UDP, and two sides on one table are connected without any server."""
    found = predict(side(None), side(None))
    assert (found.outcome, found.certain) == (PredictedPath.UNKNOWN, False)
    assert "the servers are down, or" in found.reason
    assert predict(side(None, "tcp"), side(None, "tls")).outcome is PredictedPath.RELAYED


def test_different_families_need_a_relay():
    """An IPv6-only phone and an IPv4-only office."""
    found = predict(side(six=HOME), side(HOME, "udp"))
    assert found.outcome is PredictedPath.RELAYED
    assert found.reason == "this side has only IPv6, the other only IPv4"


def test_same_nat_is_recognised():
    """Two laptops on one table; hairpinning makes it sure."""
    unsure = predict(side(SYMMETRIC), side(SYMMETRIC))
    assert (unsure.outcome, unsure.certain) == (PredictedPath.DIRECT, False)
    one = FamilyView(MappingBehaviour.ENDPOINT_INDEPENDENT, Filtering.UNKNOWN, ("203.0.113.7",), hairpin=True)
    same = predict(side(one), side(one))
    assert (same.outcome, same.certain) == (PredictedPath.DIRECT, True)
    assert "same NAT" in same.reason


def test_unknown_filters_matter_only_where_they_matter():
    """Two home routers meet whatever they filter; against a symmetric one it depends."""
    unknown = FamilyView(MappingBehaviour.ENDPOINT_INDEPENDENT, Filtering.UNKNOWN, ("203.0.113.8",))
    assert predict(side(unknown), side(HOME)).certain
    guess = predict(side(unknown, "udp"), side(SYMMETRIC))
    assert (guess.outcome, guess.certain) == (PredictedPath.UNKNOWN, False)
    assert "this side's NAT lets in" in guess.reason


def test_nothing_known_is_said_to_be_uncertain():
    """One server with one address on each side."""
    found = predict(side(FamilyView()), side(FamilyView()))
    assert (found.outcome, found.certain) == (PredictedPath.UNKNOWN, False)
    assert "too few STUN servers" in found.reason
    assert "this side's and the other side's" in found.reason


@pytest.mark.parametrize("relays", [(), ("udp",)])
def test_a_path_is_promised_only_where_every_possibility_has_it(relays):
    """Two unknown NATs were promised a direct path, and were symmetric: unknown is an answer."""
    for mapping, filtering, mapping_2, filtering_2 in product(MappingBehaviour, Filtering, MappingBehaviour, Filtering):
        ours, theirs = FamilyView(mapping, filtering), FamilyView(mapping_2, filtering_2)
        found = predict(side(ours, *relays), side(theirs))
        results = {meets(one, other) for one, other in product(_possible(ours), _possible(theirs))}
        assert (found.outcome is PredictedPath.DIRECT) == (results == {True})
        assert (found.outcome is PredictedPath.UNKNOWN) == (len(results) == 2)


KNOWN_MAPPINGS = [
    one for one in MappingBehaviour if one not in (MappingBehaviour.UNKNOWN, MappingBehaviour.DESTINATION_DEPENDENT)
]
KNOWN_FILTERINGS = [one for one in Filtering if one is not Filtering.UNKNOWN]


@pytest.mark.parametrize("mapping", KNOWN_MAPPINGS)
def test_meeting_is_mutual(mapping):
    """Who meets whom does not depend on who asks."""
    for filtering, mapping_2, filtering_2 in product(KNOWN_FILTERINGS, KNOWN_MAPPINGS, KNOWN_FILTERINGS):
        one, other = FamilyView(mapping, filtering), FamilyView(mapping_2, filtering_2)
        assert meets(one, other) is meets(other, one)


# What observations show

LOCAL = TransportAddress("192.168.1.2", 5000)
ONE, ONE_B = TransportAddress("198.51.100.1", 3478), TransportAddress("198.51.100.1", 3479)
TWO = TransportAddress("198.51.100.2", 3478)
SEEN = [TransportAddress("203.0.113.1", port) for port in (1, 2, 3)]


@pytest.mark.parametrize(
    ("seen", "mapping"),
    [
        ({}, MappingBehaviour.UNKNOWN),
        ({ONE: LOCAL}, MappingBehaviour.NO_NAT),
        ({ONE: SEEN[0]}, MappingBehaviour.UNKNOWN),
        ({ONE: SEEN[0], ONE_B: SEEN[0]}, MappingBehaviour.UNKNOWN),
        ({ONE: SEEN[0], TWO: SEEN[0]}, MappingBehaviour.ENDPOINT_INDEPENDENT),
        ({ONE: SEEN[0], TWO: SEEN[1]}, MappingBehaviour.DESTINATION_DEPENDENT),
        ({ONE: SEEN[0], ONE_B: SEEN[0], TWO: SEEN[1]}, MappingBehaviour.ADDRESS_DEPENDENT),
        ({ONE: SEEN[0], ONE_B: SEEN[1]}, MappingBehaviour.ADDRESS_AND_PORT_DEPENDENT),
        ({ONE: SEEN[0], ONE_B: SEEN[2], TWO: SEEN[1]}, MappingBehaviour.ADDRESS_AND_PORT_DEPENDENT),
    ],
)
def test_mapping_is_told_by_what_differs(seen, mapping):
    """RFC 5780 section 4.3, for any set of servers."""
    assert classify_mapping(LOCAL, seen) is mapping


@pytest.mark.parametrize(
    ("elsewhere", "port", "lives", "filtering"),
    [
        (True, True, True, Filtering.ENDPOINT_INDEPENDENT),
        (True, None, False, Filtering.ENDPOINT_INDEPENDENT),
        (False, True, True, Filtering.ADDRESS_DEPENDENT),
        (False, False, True, Filtering.ADDRESS_AND_PORT_DEPENDENT),
        (False, False, False, Filtering.UNKNOWN),
        (None, None, True, Filtering.UNKNOWN),
        (None, True, True, Filtering.UNKNOWN),
    ],
)
def test_filtering_is_told_by_what_arrives(elsewhere, port, lives, filtering):
    """RFC 5780 section 4.4; silence of a server that may be broken shows nothing."""
    found = classify_filtering(from_elsewhere=elsewhere, from_other_port=port, alternate_lives=lives)
    assert found is filtering
