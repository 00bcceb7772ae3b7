"""The machines that keep a port mapped, against a gateway of the tests, in a time that is a variable."""

from __future__ import annotations

import random
from collections import deque
from itertools import pairwise

import pytest
from amount import examples
from gateway import Gateway
from hypothesis import given
from hypothesis import strategies as st

from iceagent.core.address import TransportAddress
from iceagent.core.constants import NATPMP_REQUESTS, PORT_MAPPING_FALLBACK_S, PORT_MAPPING_RETRY_MIN_S
from iceagent.core.portmap import (
    GatewayProbe,
    LeaseClient,
    LeaseState,
    Mapped,
    MappingFailed,
    MappingLost,
    NatPmpDialect,
    PcpDialect,
    PortMapper,
    Released,
    natpmp,
    natpmp_rule,
    pcp,
    pcp_rule,
)
from iceagent.core.portmap.lease import TRANSITIONS
from iceagent.errors import LocalError

LOCAL = TransportAddress("192.168.1.2", 40001)
SERVER = TransportAddress("192.168.1.1", 5351)
PORT = 40000
EXTERNAL = TransportAddress("203.0.113.1", PORT)


def make_mapper(local=LOCAL, seed=1):
    return PortMapper(local=local, server=SERVER, internal_port=PORT, randbytes=random.Random(seed).randbytes)


def make_lease(kind, seed=1):
    randbytes = random.Random(seed).randbytes
    dialect = PcpDialect(LOCAL.host, PORT, randbytes=randbytes) if kind == "pcp" else NatPmpDialect(PORT)
    return LeaseClient(dialect, local=LOCAL, server=SERVER, randbytes=randbytes)


class Bench:
    """A machine, a gateway 2 ms away, and the time."""

    def __init__(self, machine, gateway=None):
        self.machine = machine
        self.gateway = gateway
        self.now = 100.0
        self.events = []
        self.sent: deque[tuple[float, bytes]] = deque()
        self.lossy = 0

    def drain(self):
        while (transmit := self.machine.poll_transmit()) is not None:
            self.sent.append((self.now, transmit.data))
            if self.lossy > 0:
                self.lossy -= 1
            elif self.gateway is not None:
                answer = self.gateway.answer(self.now, transmit.local.host, transmit.data)
                if answer is not None:
                    self.now += 0.002
                    self.machine.handle_datagram(self.now, SERVER, answer)
        while (event := self.machine.poll_event()) is not None:
            self.events.append(event)

    def run(self, seconds):
        """Let time pass."""
        end = self.now + seconds
        self.drain()
        while (due := self.machine.next_timeout()) is not None and due <= end:
            self.now = max(self.now, due)
            self.machine.handle_timeout(self.now)
            following = self.machine.next_timeout()
            assert following is None or following > self.now  # rule 3
            self.drain()
        self.now = max(end, self.now)
        return self.take()

    def take(self):
        events, self.events = self.events, []
        return events


def started(machine, gateway=None):
    bench = Bench(machine, gateway)
    machine.start(bench.now)
    return bench


@pytest.mark.parametrize("kind", ["pcp", "nat-pmp"])
def test_mapping_is_granted_and_told_once(kind):
    """What the agent makes a candidate of."""
    bench = started(make_lease(kind), Gateway())
    assert bench.run(1) == [Mapped(kind, EXTERNAL, 7200)]
    assert bench.machine.state is LeaseState.MAPPED


@pytest.mark.parametrize("kind", ["pcp", "nat-pmp"])
def test_mapping_is_renewed_in_the_second_half_of_its_life(kind):
    """RFC 6886 section 3.3, RFC 6887 section 11.2.1: a mapping that lapses kills the path that uses it."""
    gateway = Gateway(lifetime_s=600)
    bench = started(make_lease(kind), gateway)
    bench.run(1)
    bench.sent.clear()
    assert bench.run(3600) == []
    times = sorted({round(at) for at, data in bench.sent if data[1] == 1})
    assert all(299 <= later - before <= 380 for before, later in pairwise([100, *times]))
    assert gateway.mappings == {(LOCAL.host, PORT): PORT}


@pytest.mark.parametrize("kind", ["pcp", "nat-pmp"])
def test_release_deletes_the_mapping_at_the_gateway(kind):
    """Others need the port, and nobody should reach ours when we are gone."""
    gateway = Gateway()
    bench = started(make_lease(kind), gateway)
    bench.run(1)
    bench.machine.release(bench.now)
    assert bench.run(5) == [Released(kind, confirmed=True)]
    assert gateway.mappings == {}
    assert bench.machine.next_timeout() is None


@pytest.mark.parametrize("kind", ["pcp", "nat-pmp"])
def test_release_of_a_silent_gateway_ends_in_less_than_a_second(kind):
    """Whoever closes must not wait for a box that has gone."""
    bench = started(make_lease(kind), Gateway())
    bench.run(1)
    bench.gateway = None
    start = bench.now
    bench.machine.release(start)
    assert bench.run(5) == [Released(kind, confirmed=False)]
    assert bench.sent[-1][0] - start < 0.8
    deletion = bench.sent[-1][1]
    request = natpmp.decode_request_untrusted(deletion) if kind == "nat-pmp" else pcp.decode_request_untrusted(deletion)
    assert isinstance(request, natpmp.MapRequest | pcp.Request)
    assert request.lifetime_s == 0


def test_natpmp_asks_nine_times_and_fails():
    """RFC 6886 section 3.1: 250 ms, doubled, until 64 s have passed after the ninth."""
    bench = started(make_lease("nat-pmp"))
    assert bench.run(200) == [MappingFailed("nat-pmp", "no answer")]
    times = [at - 100 for at, _ in bench.sent]
    assert len(times) == NATPMP_REQUESTS
    assert times[:4] == pytest.approx([0, 0.25, 0.75, 1.75])


def test_pcp_never_stops_asking():
    """RFC 6887 section 8.1.1: 3 s, doubled up to 1024 s, each within a tenth."""
    bench = started(make_lease("pcp"))
    assert bench.run(8000) == []
    times = [at for at, _ in bench.sent]
    gaps = [later - before for before, later in pairwise(times)]
    assert 2.7 <= gaps[0] <= 3.3
    assert all(1.6 < later / before < 2.5 for before, later in pairwise(gaps[:7]))
    assert 900 <= gaps[-1] <= 1127


@pytest.mark.parametrize("kind", ["pcp", "nat-pmp"])
def test_lost_answers_are_asked_for_again(kind):
    """UDP on a busy Wi-Fi."""
    bench = Bench(make_lease(kind), Gateway())
    bench.lossy = 2
    bench.machine.start(bench.now)
    assert bench.run(15) == [Mapped(kind, EXTERNAL, 7200)]


@pytest.mark.parametrize("kind", ["pcp", "nat-pmp"])
def test_mapping_that_cannot_be_renewed_is_reported_lost_at_its_end(kind):
    """The candidate is dead then; the agent must know."""
    bench = started(make_lease(kind), Gateway(lifetime_s=600))
    bench.run(1)
    bench.gateway = None
    events = bench.run(610)
    assert [type(event) for event in events] == [MappingLost]
    assert bench.machine.state is LeaseState.REQUESTING
    bench.gateway = Gateway(external_host="203.0.113.77")
    assert bench.run(20) == [Mapped(kind, TransportAddress("203.0.113.77", PORT), 7200)]


@pytest.mark.parametrize("kind", ["pcp", "nat-pmp"])
def test_changed_external_address_is_told_at_the_next_renewal(kind):
    """A provider gives a new address at night."""
    gateway = Gateway(lifetime_s=600)
    bench = started(make_lease(kind), gateway)
    bench.run(1)
    gateway.external_host = "203.0.113.9"
    events = bench.run(400)
    assert [type(event) for event in events] == [MappingLost, Mapped]
    assert events[1].external == TransportAddress("203.0.113.9", PORT)


def test_announcement_of_a_reboot_makes_the_mapping_anew():
    """RFC 6887 section 14.1.3: within 5 s, not when half of two hours has passed."""
    gateway = Gateway()
    bench = started(make_lease("pcp"), gateway)
    bench.run(50)
    gateway.reboot(bench.now)
    announcement = pcp.Response(pcp.Opcode.ANNOUNCE, 0, 0, 0).encode()
    assert bench.machine.handle_datagram(bench.now, SERVER, announcement)
    assert bench.machine.counters["epoch_reset"] == 1
    bench.run(6)
    assert gateway.mappings == {(LOCAL.host, PORT): PORT}


def test_announcement_of_natpmp_makes_the_mapping_anew():
    """RFC 6886 section 3.2.1: the same with the older protocol."""
    gateway = Gateway()
    bench = started(make_lease("nat-pmp"), gateway)
    bench.run(50)
    gateway.reboot(bench.now)
    announcement = natpmp.AddressResponse(0, 0, 0, "203.0.113.1").encode()
    assert bench.machine.handle_datagram(bench.now, SERVER, announcement)
    bench.run(6)
    assert gateway.mappings == {(LOCAL.host, PORT): PORT}


def test_refusal_that_may_pass_is_asked_again():
    """RFC 6887 section 7.4: an error comes with how long it lasts."""
    gateway = Gateway(result=pcp.ResultCode.NO_RESOURCES, error_lifetime_s=60)
    bench = started(make_lease("pcp"), gateway)
    events = bench.run(1)
    assert [(event.reason, event.retry_s) for event in events] == [("the gateway has no port left", 60)]
    gateway.result = 0
    assert bench.run(61) == [Mapped("pcp", EXTERNAL, 7200)]


def test_refusal_for_good_is_final():
    """A switched-off feature is not asked for again and again."""
    bench = started(make_lease("pcp"), Gateway(result=pcp.ResultCode.NOT_AUTHORIZED, error_lifetime_s=60))
    (event,) = bench.run(100)
    assert event.retry_s is None
    assert bench.machine.state is LeaseState.FAILED
    bench.machine.release(bench.now)
    assert bench.run(1) == [Released("pcp", confirmed=True)]


def test_gateway_without_an_external_address_is_asked_again_later():
    """A router that has not dialled in yet says 0.0.0.0."""
    gateway = Gateway(external_host="0.0.0.0")
    bench = started(make_lease("nat-pmp"), gateway)
    (event,) = bench.run(1)
    assert event.retry_s == PORT_MAPPING_RETRY_MIN_S
    gateway.external_host = EXTERNAL.host
    assert bench.run(31) == [Mapped("nat-pmp", EXTERNAL, 7200)]


def test_only_the_gateway_is_believed():
    """Anybody on the network can send to us; PCP's nonce and the source both count."""
    lease = make_lease("pcp")
    lease.start(0)
    asked = pcp.decode_request_untrusted(lease.poll_transmit().data).fields
    assert asked is not None
    right = pcp.MapFields(asked.nonce, 17, PORT, PORT, "203.0.113.1")
    wrong = pcp.MapFields(bytes(12), 17, PORT, PORT, "203.0.113.1")
    stranger, other_port = TransportAddress("192.168.1.66", 5351), TransportAddress(SERVER.host, 9)
    for source, fields in ((stranger, right), (other_port, right), (SERVER, wrong)):
        assert not lease.handle_datagram(0.1, source, pcp.Response(1, 0, 60, 0, fields).encode())
    assert lease.poll_event() is None
    assert lease.counters["wrong_source"] == 2
    assert lease.handle_datagram(0.2, SERVER, pcp.Response(1, 0, 60, 0, right).encode())
    assert isinstance(lease.poll_event(), Mapped)


def test_machine_is_good_for_one_mapping():
    """A second start would forget the first."""
    for machine in (make_lease("pcp"), make_mapper()):
        machine.start(0)
        with pytest.raises(LocalError):
            machine.start(0)


# PCP and NAT-PMP together


def test_pcp_is_preferred():
    """One gateway, one mapping, by the newer protocol."""
    gateway = Gateway()
    bench = started(make_mapper(), gateway)
    assert bench.run(5) == [Mapped("pcp", EXTERNAL, 7200)]
    assert not any(isinstance(request, natpmp.MapRequest) for request in gateway.log)
    assert bench.machine.external == EXTERNAL


def test_older_gateway_is_asked_in_natpmp_at_once():
    """RFC 6887 appendix A: its refusal of the version costs one round trip."""
    bench = started(make_mapper(), Gateway(speaks_pcp=False))
    assert bench.run(0.1) == [Mapped("nat-pmp", EXTERNAL, 7200)]


def test_gateway_that_drops_pcp_is_asked_in_natpmp_after_a_moment():
    """Not all old boxes answer what they do not know."""
    bench = started(make_mapper(), Gateway(silent_to_pcp=True))
    assert bench.run(PORT_MAPPING_FALLBACK_S - 0.01) == []
    assert bench.run(0.1) == [Mapped("nat-pmp", EXTERNAL, 7200)]
    assert bench.run(20) == []
    assert not [data for _, data in list(bench.sent)[3:] if data[0] == pcp.VERSION], "PCP is given up"


def test_gateway_that_knows_only_pcp_is_not_lost_to_the_fallback():
    """Its refusal of NAT-PMP comes in PCP's version, and must not end the PCP mapping."""
    bench = Bench(make_mapper(), Gateway(speaks_natpmp=False))
    bench.lossy = 1  # the first request of PCP, so that NAT-PMP is tried
    bench.machine.start(bench.now)
    assert bench.run(5) == [Mapped("pcp", EXTERNAL, 7200)]
    assert [data[0] for _, data in bench.sent][1] == natpmp.VERSION


@pytest.mark.parametrize("speaks_pcp", [True, False])
def test_mapper_releases_what_it_has(speaks_pcp):
    """Whichever protocol it was."""
    gateway = Gateway(speaks_pcp=speaks_pcp)
    bench = started(make_mapper(), gateway)
    bench.run(1)
    bench.machine.release(bench.now)
    (event,) = bench.run(5)
    assert isinstance(event, Released)
    assert event.confirmed
    assert gateway.mappings == {}
    assert bench.machine.finished
    assert bench.machine.next_timeout() is None


def test_unreachable_gateway_port_fails_at_once():
    """Most gateways have neither; their ICMP error is an answer, too."""
    bench = started(make_mapper())
    bench.drain()
    bench.machine.handle_unreachable(bench.now)
    assert bench.run(60) == [MappingFailed("pcp", "nobody listens there")]
    assert bench.machine.finished
    assert len(bench.sent) == 1


def test_ipv6_is_asked_of_pcp_alone():
    """NAT-PMP has no room for an IPv6 address; in PCP it opens the firewall."""
    mapper = PortMapper(
        local=TransportAddress("2001:db8::2", 40001),
        server=SERVER,
        internal_port=PORT,
        randbytes=random.Random(1).randbytes,
    )
    bench = started(mapper, Gateway(external_host="2001:db8::2"))
    assert bench.run(1) == [Mapped("pcp", TransportAddress("2001:db8::2", PORT), 7200)]


@examples(200, 60)
@given(st.lists(st.tuples(st.binary(max_size=80), st.booleans(), st.floats(0, 4000)), max_size=30), st.integers(0, 9))
def test_hostile_gateways_never_raise_and_never_stop_the_clock(packets, seed):
    """Bytes of all kinds from the right source, at any time: dropped, counted, bounded."""
    mapper, gateway = make_mapper(seed=seed), Gateway(lifetime_s=1)
    now = 0.0
    mapper.start(now)
    for garbage, honest, pause in packets:
        data, transmit = garbage, mapper.poll_transmit()
        if honest and transmit is not None:
            data = gateway.answer(now, LOCAL.host, transmit.data) or garbage
        mapper.handle_datagram(now, SERVER, data)
        now += pause
        mapper.handle_timeout(now)
        due = mapper.next_timeout()
        assert due is None or due > now
        while mapper.poll_event() is not None:
            pass
    mapper.release(now)
    for _ in range(20):
        due = mapper.next_timeout()
        if due is None:
            break
        mapper.handle_timeout(due)
    assert mapper.finished


@given(st.integers(0, 255), st.sampled_from([0x80, 0x81, 129, 128]), st.integers(0, 20), st.binary(max_size=60))
def test_every_result_is_taken(version, opcode, result, rest):
    """Unknown codes of a future protocol included."""
    mapper = make_mapper()
    mapper.start(0)
    mapper.handle_datagram(0.1, SERVER, bytes((version % 3, opcode, 0, result)) + rest)
    mapper.handle_timeout(1)


# Epochs


@pytest.mark.parametrize(
    ("rule", "elapsed", "server_elapsed", "lives"),
    [
        (natpmp_rule, 80, 80, True),
        (natpmp_rule, 80, 68, True),
        (natpmp_rule, 80, 67, False),
        (natpmp_rule, 80, 5000, True),
        (pcp_rule, 80, 80, True),
        (pcp_rule, 160, 148, True),
        (pcp_rule, 160, 147, False),
        (pcp_rule, 160, 172, True),
        (pcp_rule, 160, 174, False),
        (pcp_rule, 0, -1, True),
        (pcp_rule, 0, -2, False),
    ],
)
def test_epoch_rules_are_those_of_the_rfcs(rule, elapsed, server_elapsed, lives):
    """A clock that drifts is no reboot; a reboot is no drift. RFC 6886 section 3.6, RFC 6887 section 8.5."""
    assert rule(1000.0, 500, 1000.0 + elapsed, 500 + server_elapsed) is lives


def test_no_state_is_a_dead_end():
    """The table of transitions is what the diagrams are drawn from: each state is reached and can be closed."""
    reached = set().union(*TRANSITIONS.values()) | {LeaseState.IDLE}
    assert reached == set(LeaseState)
    assert all(LeaseState.CLOSED in after for state, after in TRANSITIONS.items() if state is not LeaseState.CLOSED)


# The probe


@pytest.mark.parametrize(
    ("gateway", "available"),
    [
        (Gateway(), {"pcp": True, "nat-pmp": True}),
        (Gateway(speaks_pcp=False), {"pcp": False, "nat-pmp": True}),
        (Gateway(speaks_natpmp=False), {"pcp": True, "nat-pmp": False}),
        (Gateway(silent_to_pcp=True), {"pcp": False, "nat-pmp": True}),
        (None, {"pcp": False, "nat-pmp": False}),
    ],
)
def test_probe_tells_what_the_gateway_speaks_and_maps_nothing(gateway, available):
    """A check must not change what it looks at."""
    probe = GatewayProbe(local=LOCAL, server=SERVER)
    now = 0.0
    probe.start(now)
    while not probe.finished:
        while (transmit := probe.poll_transmit()) is not None:
            answer = gateway and gateway.answer(now, LOCAL.host, transmit.data)
            if answer:
                probe.handle_datagram(now, SERVER, answer)
        if (due := probe.next_timeout()) is not None:
            now = due
            probe.handle_timeout(now)
    assert {name: answer.available for name, answer in probe.answers.items()} == available
    assert now <= 1.75
    assert gateway is None or gateway.mappings == {}


@given(st.binary(max_size=64))
def test_probe_survives_any_bytes(data):
    """From the gateway and from others."""
    probe = GatewayProbe(local=LOCAL, server=SERVER)
    probe.start(0)
    probe.handle_datagram(0, SERVER, data)
    assert not probe.handle_datagram(0, LOCAL, data)
