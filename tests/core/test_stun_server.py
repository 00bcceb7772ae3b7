"""The Binding server and its rate limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stun_strategies import DETERMINISTIC

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.stun.rate_limit import source_of

LOCAL = TransportAddress("192.0.2.1", 3478)
CLIENT = TransportAddress("203.0.113.7", 61000)
ID = bytes(range(12))


def ask(server: stun.BindingServer, data: bytes, remote: TransportAddress = CLIENT, now: float = 0.0) -> bytes | None:
    """Hand over a datagram."""
    return server.handle_datagram(now, LOCAL, remote, data)


def request(*attributes: stun.Attribute, fingerprint: bool = True) -> bytes:
    """Return an encoded Binding request."""
    return stun.encode(stun.binding_request(ID, *attributes), fingerprint=fingerprint)


@pytest.mark.parametrize("remote", [CLIENT, TransportAddress("2001:db8::7", 61000)])
def test_a_request_is_answered_with_its_source(remote: TransportAddress) -> None:
    """All that STUN is for."""
    server = stun.BindingServer()
    answer = ask(server, request(), remote)
    assert answer is not None
    message = stun.decode(answer)
    assert message == stun.success(stun.binding_request(ID), stun.XorMappedAddress(remote))
    assert message.verify_fingerprint() is True
    assert server.counters == {"answered": 1}


@pytest.mark.parametrize("remote", [CLIENT, TransportAddress("2001:db8::7", 61000)])
def test_a_client_of_rfc_3489_is_answered_in_its_own_terms(remote: TransportAddress) -> None:
    """RFC 5389 section 12.2: no cookie in, none out, and the plain address; libnice still gathers so."""
    server = stun.BindingServer()
    transaction_id = bytes(range(100, 116))
    answer = ask(server, b"\x00\x01\x00\x00" + transaction_id, remote)
    assert answer is not None
    assert answer[:2] == b"\x01\x01"
    assert answer[4:20] == transaction_id
    message = stun.decode(answer[:4] + stun.MAGIC_COOKIE.to_bytes(4, "big") + answer[8:])
    assert message.attributes == (stun.MappedAddress(remote),)
    assert server.counters == {"answered": 1}


@pytest.mark.parametrize("data", [bytes(20), b"\x00\x01\x00\x04" + bytes(16), b"\x01\x01\x00\x00" + bytes(16)])
def test_what_only_resembles_a_classic_request_gets_no_answer(data: bytes) -> None:
    """Without a cookie little tells STUN from noise, so that little must fit."""
    server = stun.BindingServer()
    assert ask(server, data) is None
    assert server.counters == {"not_stun": 1}


def test_only_a_request_with_fingerprint_gets_one() -> None:
    """A client that knows no FINGERPRINT keeps its answer small."""
    answer = ask(stun.BindingServer(), request(fingerprint=False))
    assert answer is not None
    assert stun.decode(answer).has_fingerprint is False
    assert len(answer) == 32


def test_software_is_told_only_when_configured() -> None:
    """Scanners collect versions."""
    answer = ask(stun.BindingServer(software="iceagent"), request())
    assert answer is not None
    assert stun.decode(answer).get(stun.Software) == stun.Software("iceagent")


def test_credentials_are_tolerated_and_not_used() -> None:
    """Some clients send them everywhere; the server has nothing to protect."""
    server = stun.BindingServer()
    data = stun.encode(stun.binding_request(ID, stun.Username("u"), stun.Realm("r")), key=b"k")
    assert ask(server, data) is not None
    assert server.counters["answered"] == 1


@pytest.mark.parametrize(
    ("attribute", "number"),
    [(stun.RawAttribute(0x7FFF, b"x"), 0x7FFF), (stun.ChangeRequest(True), 0x0003), (stun.ResponsePort(9), 0x0027)],
)
def test_what_it_does_not_support_is_named_in_a_420(attribute: stun.Attribute, number: int) -> None:
    """RFC 8489 section 6.3.1. RESPONSE-PORT would let anybody aim the answer at somebody else's port."""
    server = stun.BindingServer()
    answer = ask(server, request(attribute))
    assert answer is not None
    message = stun.decode(answer)
    assert message.get(stun.ErrorCode) == stun.ErrorCode(420, "Unknown Attribute")
    assert message.get(stun.UnknownAttributes) == stun.UnknownAttributes((number,))
    assert server.counters["unknown_attributes"] == 1


@pytest.mark.parametrize(
    ("data", "counter"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not_stun"),
        (request(stun.RawAttribute(0x0024, b"x")), "bad_attribute"),
        (request()[:-1] + b"\0", "bad_fingerprint"),
        (stun.encode(stun.binding_indication(ID)), "indication"),
        (stun.encode(stun.success(stun.binding_request(ID))), "response"),
        (stun.encode(stun.Message(stun.MessageClass.REQUEST, stun.Method.ALLOCATE, ID)), "method"),
    ],
)
def test_everything_else_gets_no_answer_and_is_counted(data: bytes, counter: str) -> None:
    """Two servers that answered each other's answers would never stop."""
    server = stun.BindingServer()
    assert ask(server, data) is None
    assert server.counters == {counter: 1}


def test_port_zero_gets_no_answer() -> None:
    """There is no such port to answer to."""
    server = stun.BindingServer()
    assert ask(server, request(), TransportAddress("203.0.113.7", 0)) is None
    assert server.counters["no_port"] == 1


def test_each_source_has_its_own_limit() -> None:
    """A flood from one costs the others nothing; a second later it may ask again."""
    server = stun.BindingServer(limits=stun.BindingLimits(rate_per_s=1, burst=3))
    assert [ask(server, request()) is not None for _ in range(5)] == [True, True, True, False, False]
    assert ask(server, request(), TransportAddress("203.0.113.8", 1)) is not None
    assert ask(server, request(), now=1.0) is not None
    assert ask(server, request(), now=1.5) is None
    assert server.counters == {"answered": 5, "rate_limited": 3}


def test_ipv6_sources_are_counted_by_their_64() -> None:
    """Trap 40's rule, here too: every subscriber has 2**64 addresses."""
    server = stun.BindingServer(limits=stun.BindingLimits(rate_per_s=1, burst=2))
    answers = [ask(server, request(), TransportAddress(f"2001:db8::{host:x}", 9)) for host in range(4)]
    assert [answer is not None for answer in answers] == [True, True, False, False]
    assert ask(server, request(), TransportAddress("2001:db8:0:1::1", 9)) is not None
    assert source_of("fe80::1%eth0") == source_of("fe80::2")


def test_what_is_not_stun_takes_no_place_in_the_table() -> None:
    """Random bytes from forged sources cost a comparison."""
    server = stun.BindingServer()
    ask(server, b"\x00" * 20)
    assert server.sources == 0


@DETERMINISTIC
@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 0.5)), max_size=200))
def test_the_table_of_sources_is_bounded_and_nobody_exceeds_the_rate(steps: list[tuple[int, float]]) -> None:
    """Rule 5; within any run a remembered source gets at most its burst and what the time since has earned."""
    limiter = stun.RateLimiter(rate_per_s=2, burst=3, max_sources=40)
    now, granted = 0.0, dict.fromkeys(range(31), 0)
    for host, pause in steps:
        now += pause
        granted[host] += limiter.allow(now, f"192.0.2.{host}")
        assert granted[host] <= 3 + 2 * now + 1e-6
    assert len(limiter) <= 40


def test_the_source_silent_for_longest_is_forgotten() -> None:
    """Its bucket is the likeliest to be full again."""
    limiter = stun.RateLimiter(rate_per_s=1, burst=1, max_sources=2)
    assert [limiter.allow(0.0, host) for host in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3")] == [
        True,
        True,
        False,
        True,
    ]
    assert len(limiter) == 2
    assert not limiter.allow(0.0, "192.0.2.1")
    assert limiter.allow(0.0, "192.0.2.2")


@pytest.mark.parametrize("options", [{"rate_per_s": 0}, {"burst": 0.5}, {"max_sources": 0}])
def test_a_limit_that_makes_no_sense_is_refused(options: dict[str, float]) -> None:
    """A limit of 0 would be a server that answers nobody."""
    with pytest.raises(ValueError):
        stun.RateLimiter(**({"rate_per_s": 1, "burst": 1, "max_sources": 1} | options))  # type: ignore[arg-type]
