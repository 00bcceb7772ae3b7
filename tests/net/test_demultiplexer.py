"""Whose datagram it is: tables that cannot be flooded, and addresses that cannot be stolen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.net import demultiplexer
from iceagent.net.demultiplexer import (
    ANSWER_S,
    FRESH_S,
    MAX_ASKED,
    MAX_CLAIMS,
    MAX_PENDING,
    MAX_UFRAGS,
    Demultiplexer,
    PortMember,
    Unclaimed,
    named_ufrag,
)

R = [TransportAddress("203.0.113.1", port) for port in range(1000, 1010)]
DATA = b"\x80data"


def check(ufrag: str, number: int = 0) -> bytes:
    """A check as a peer sends it: the key does not matter, since the tables cannot read it."""
    request = stun.binding_request(number.to_bytes(12, "big"), stun.Priority(1), stun.Username(f"{ufrag}:peer"))
    return stun.encode(request, key=b"key")


def answer(request: bytes) -> bytes:
    decoded = stun.decode(request)
    return stun.encode(stun.success(decoded, stun.XorMappedAddress(R[0])), key=b"key")


def indication() -> bytes:
    return stun.encode(stun.binding_indication(bytes(12)))


def table_of(*names: str) -> tuple[Demultiplexer[str], list[PortMember[str]]]:
    table: Demultiplexer[str] = Demultiplexer()
    members = []
    for name in names:
        members.append(table.join(name))
        table.add_ufrag(members[-1], name)
    return table, members


def prove(
    table: Demultiplexer[str], now: float, member: PortMember[str], remote: TransportAddress, number: int
) -> None:
    """Let a member ask an address and be answered from there."""
    request = check("theirs", number)
    table.note_sent(now, member, remote, request)
    table.note_authenticated(now, member, remote, answer(request), valid=True)


def test_a_check_finds_the_session_it_names_from_wherever_it_comes() -> None:
    """The first checks come from addresses nobody has heard of: peer-reflexive ones."""
    table, _ = table_of("anna", "bert")
    assert [table.route(0, remote, check("bert")) for remote in R[:3]] == ["bert"] * 3
    assert table.route(0, R[0], check("carl")) is None
    assert table.counters == {Unclaimed.UNKNOWN_UFRAG: 1}


def test_a_check_alone_registers_nothing() -> None:
    """Username fragments travel in the clear: who names one has shown nothing yet."""
    table, _ = table_of("anna")
    before = table.entries
    for number in range(1000):
        assert table.route(0, TransportAddress("198.51.100.1", number), check("anna", number)) == "anna"
    assert table.entries == before
    assert table.route(0, R[0], DATA) is None


def test_data_finds_the_session_that_authenticated_its_source() -> None:
    """Two peers behind one NAT have two ports there."""
    table, (anna, bert) = table_of("anna", "bert")
    table.note_authenticated(0, anna, R[0], check("anna"), valid=False)
    table.note_authenticated(0, bert, R[1], check("bert"), valid=False)
    assert [table.route_data(remote) for remote in R[:3]] == ["anna", "bert", None]
    assert table.route(0, R[1], indication()) == "bert"
    assert table.counters == {Unclaimed.UNKNOWN_SOURCE: 1}


def test_answers_find_who_asked() -> None:
    """Two sessions may ask the same STUN server: its address says nothing, the transaction does."""
    table, (anna, bert) = table_of("anna", "bert")
    requests = [check("x", 1), check("x", 2)]
    for member, request in zip((anna, bert), requests, strict=True):
        table.note_sent(0, member, R[0], request)
    assert [table.route(1, R[0], answer(request)) for request in requests] == ["anna", "bert"]
    assert table.route(1, R[0], answer(check("x", 3))) is None
    assert table.counters == {Unclaimed.UNKNOWN_TRANSACTION: 1}


def test_an_indication_claims_nothing() -> None:
    """Indications are taken without integrity, so one with a forged source would steal an address."""
    table, (anna,) = table_of("anna")
    table.note_authenticated(0, anna, R[0], indication(), valid=True)
    assert table.route_data(R[0]) is None


def test_an_answer_from_elsewhere_claims_nothing() -> None:
    """It is authentic, but whoever sent it on may have taken any source he liked."""
    table, (anna,) = table_of("anna")
    request = check("theirs")
    table.note_sent(0, anna, R[0], request)
    table.note_authenticated(0, anna, R[1], answer(request), valid=False)
    assert table.route_data(R[1]) is None


def test_a_recorded_check_with_a_forged_source_steals_no_proven_address() -> None:
    """Requests may be recorded and sent again; answers to fresh transactions may not."""
    table, (anna, bert) = table_of("anna", "bert")
    prove(table, 0, anna, R[0], 1)
    assert table.route(1, R[0], check("bert")) is None  # not even shown to bert, who would answer to anna's peer
    table.note_authenticated(1, bert, R[0], check("bert"), valid=False)
    assert table.route_data(R[0]) == "anna"
    assert table.counters[Unclaimed.ADDRESS_TAKEN] == 2


def test_who_proves_an_address_gets_it_from_who_has_not() -> None:
    """Else a recorded check with a forged source, sent in advance, would keep the true owner out."""
    table, (anna, bert) = table_of("anna", "bert")
    table.note_authenticated(0, anna, R[0], check("anna"), valid=False)
    assert table.route(1, R[0], check("bert")) == "bert"
    table.note_authenticated(1, bert, R[0], check("bert"), valid=False)
    assert table.route_data(R[0]) == "anna"
    prove(table, 1, bert, R[0], 1)
    assert table.route_data(R[0]) == "bert"


def test_an_address_goes_on_to_another_peer_once_the_first_is_silent() -> None:
    """A NAT gives a port to the next one when the first peer is gone, though its session may not know yet."""
    table, (anna, bert) = table_of("anna", "bert")
    prove(table, 0, anna, R[0], 1)
    assert table.route(FRESH_S - 1, R[0], check("bert")) is None
    assert table.route(FRESH_S, R[0], check("bert")) == "bert"
    table.note_authenticated(FRESH_S, bert, R[0], check("bert"), valid=False)
    assert table.route_data(R[0]) == "bert"


def test_each_session_has_bounds_of_its_own() -> None:
    """One that restarts, asks or hears without end costs the others nothing; what it has proven stays longest."""
    table, (anna, bert) = table_of("anna", "bert")
    prove(table, 0, bert, R[0], 1)
    prove(table, 0, anna, R[1], 2)
    for number in range(1000):
        remote = TransportAddress("198.51.100.2", number)
        table.note_sent(number / 1000, anna, remote, check("x", 100 + number))
        table.note_authenticated(number / 1000, anna, remote, check("anna", number), valid=False)
        table.add_ufrag(anna, f"anna{number}")
    assert len(anna.pending) == MAX_PENDING
    assert len(anna.claims) == MAX_CLAIMS
    assert len(anna.asked) == MAX_ASKED
    assert len(anna.ufrags) == MAX_UFRAGS
    assert [table.route_data(remote) for remote in R[:2]] == ["bert", "anna"]
    table.note_sent(1 + ANSWER_S, anna, R[2], check("x", 5000))
    assert len(anna.pending) == 1


def test_a_restart_is_heard_under_both_names_for_a_while() -> None:
    """The old session answers checks until the peer's consent to it has ended (trap 25)."""
    table, (anna,) = table_of("anna")
    table.add_ufrag(anna, "anna2")
    assert table.route(0, R[0], check("anna")) == table.route(0, R[0], check("anna2")) == "anna"


def test_two_sessions_cannot_have_one_name() -> None:
    """Their checks could not be told apart."""
    table, (anna, bert) = table_of("anna", "bert")
    with pytest.raises(ValueError, match="same username fragment"):
        table.add_ufrag(bert, "anna")
    table.leave(anna)
    table.add_ufrag(bert, "anna")


def test_a_full_port_takes_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded, as everything."""
    monkeypatch.setattr(demultiplexer, "MAX_MEMBERS", 2)
    table, _ = table_of("anna", "bert")
    with pytest.raises(ValueError, match="2 sessions already"):
        table.join("carl")


def test_icmp_errors_concern_the_owner_or_the_last_to_ask() -> None:
    """An error names a destination and nothing else."""
    table, (anna, bert) = table_of("anna", "bert")
    assert table.asker(R[0]) is None
    table.note_sent(0, anna, R[0], check("x", 1))
    assert table.asker(R[0]) == "anna"
    table.note_sent(0, bert, R[0], check("x", 2))
    assert table.asker(R[0]) == "bert"
    prove(table, 0, anna, R[0], 3)
    assert table.asker(R[0]) == "anna"


@given(st.binary(max_size=120) | st.binary(max_size=100).map(lambda tail: check("anna")[:28] + tail))
def test_no_bytes_raise(data: bytes) -> None:
    """Anybody may send anything."""
    table, _ = table_of("anna")
    assert table.route(0, R[0], data) in ("anna", None)
    named_ufrag(data)


@given(st.binary(min_size=1, max_size=80), st.integers(0, 8))
def test_the_name_is_found_behind_any_attributes(software: bytes, count: int) -> None:
    """USERNAME need not be the first."""
    attributes = [stun.RawAttribute(0x8022, software)] * count
    request = stun.binding_request(bytes(12), *attributes, stun.Username("anna:bert"))
    assert named_ufrag(stun.encode(request, key=b"key")) == "anna"


class Port(RuleBasedStateMachine):
    """Sessions come, ask, hear, restart and leave in any order; the tables stay one whole."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Demultiplexer[int] = Demultiplexer()
        self.members: dict[int, PortMember[int]] = {}
        self.made = self.asked = 0
        self.now = 0.0

    def pick(self, index: int) -> PortMember[int] | None:
        return list(self.members.values())[index % len(self.members)] if self.members else None

    @rule()
    def join(self) -> None:
        self.made += 1
        self.members[self.made] = self.table.join(self.made)
        self.table.add_ufrag(self.members[self.made], f"u{self.made}")

    @rule(index=st.integers(0, 9))
    def leave(self, index: int) -> None:
        member = self.pick(index)
        if member is not None:
            self.table.leave(member)
            self.table.leave(member)
            self.table.note_sent(self.now, member, R[0], check("x", 10**9))
            self.table.note_authenticated(self.now, member, R[0], check("x"), valid=True)
            del self.members[member.session]

    @rule(index=st.integers(0, 9), remote=st.sampled_from(R), answered=st.booleans())
    def ask(self, index: int, remote: TransportAddress, answered: bool) -> None:
        member = self.pick(index)
        if member is not None:
            self.asked += 1
            request = check("theirs", self.asked)
            self.table.note_sent(self.now, member, remote, request)
            found = self.table.route(self.now, remote, answer(request))
            assert found in (member.session, None)
            if answered and found is not None:
                self.table.note_authenticated(self.now, member, remote, answer(request), valid=True)
                assert self.table.route_data(remote) == member.session

    @rule(index=st.integers(0, 9), remote=st.sampled_from(R))
    def hear(self, index: int, remote: TransportAddress) -> None:
        member = self.pick(index)
        if member is not None:
            owner = self.table.route_data(remote)
            found = self.table.route(self.now, remote, check(member.ufrags[-1]))
            assert found in (member.session, None)
            if found is not None:
                self.table.note_authenticated(self.now, member, remote, check("x"), valid=False)
            assert found is not None or owner not in (None, member.session)

    @rule(index=st.integers(0, 9), number=st.integers(0, 99))
    def restart(self, index: int, number: int) -> None:
        member = self.pick(index)
        if member is not None:
            self.table.add_ufrag(member, f"u{member.session}r{number}")

    @rule(seconds=st.floats(0.1, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def every_entry_is_a_living_session_s(self) -> None:
        parts = [(m.ufrags, m.claims, m.pending, m.asked) for m in self.members.values()]
        assert self.table.entries == len(self.members) + sum(len(part) for member in parts for part in member)
        assert sorted(self.table.sessions()) == sorted(self.members)
        if not self.members:
            assert self.table.entries == 0


TestPort = Port.TestCase
