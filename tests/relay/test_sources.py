"""Who a connection counts as, and what its budget allows."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icesignal.proxy import (
    V2_SIGNATURE,
    ProxyHeaderError,
    begins_like_proxy_header,
    forwarded_for,
    parse_proxy_header_untrusted,
)
from icesignal.sources import Limits, Rate, SourceTable, parse_networks, source_of


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("not an address", "unknown"),
    ],
)
def test_a_source_is_an_ipv4_address_or_an_ipv6_64(host: str, source: str) -> None:
    """One subscriber has 2^64 IPv6 addresses; they share one budget."""
    assert source_of(host) == source


def test_a_bucket_pays_out_its_burst_then_its_rate() -> None:
    """Refusals cost nothing, so that a patient client gets its turn."""
    bucket = Rate(3, 0.5).bucket(0.0)
    assert [bucket.take(0.0) for _ in range(5)] == [True, True, True, False, False]
    assert not bucket.take(1.0)
    assert bucket.take(2.0)
    assert [bucket.take(1_000.0) for _ in range(4)] == [True, True, True, False]


def test_a_debt_is_bounded() -> None:
    """A source that shares its address with a guesser is not locked out for ever."""
    bucket = Rate(4, 1).bucket(0.0)
    bucket.charge(0.0, 1_000.0)
    assert not bucket.take(4.5)
    assert bucket.take(5.0)


def test_the_table_forgets_the_idle_and_never_the_connected() -> None:
    """Bounded memory, and no fresh budget by crowding oneself out."""
    table = SourceTable(Limits(max_sources=3))
    held = table.get(0.0, "held")
    held.open_connections += 1
    for number in range(10):
        table.get(0.0, f"{number}")
    assert len(table) == 3
    assert table.get(0.0, "held") is held


PROXIES = parse_networks(["10.0.0.0/8", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("peer", "values", "source"),
    [
        ("192.0.2.1", [b"198.51.100.7"], "192.0.2.1"),  # from anybody else it is only a claim
        ("10.0.0.1", [b"198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", [b"203.0.113.9", b"198.51.100.7"], "198.51.100.7"),  # what the client itself put in front
        ("10.0.0.1", [b"198.51.100.7", b"10.0.0.2"], "198.51.100.7"),  # two proxies in a row
        ("10.0.0.1", [b"198.51.100.7", b"garbage"], "10.0.0.1"),
        ("10.0.0.1", [b"[2001:db8::7]", b"10.0.0.9"], "2001:db8::7"),
        ("::ffff:10.0.0.1", [b"198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", [], "10.0.0.1"),
    ],
)
def test_trap_42_forwarded_for_counts_only_from_configured_proxies(peer: str, values: list[bytes], source: str) -> None:
    """Otherwise anybody chooses his own source, and has as many budgets as he likes."""
    assert forwarded_for(peer, values, PROXIES) == source


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 80\r\n", ("198.51.100.7", 5000)),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 5000 80\r\n", ("2001:db8::7", 5000)),
        (b"PROXY UNKNOWN\r\n", None),
        (V2_SIGNATURE + b"\x21\x11\x00\x0c" + bytes([198, 51, 100, 7, 192, 0, 2, 1, 0, 1, 0, 2]), ("198.51.100.7", 1)),
        (
            V2_SIGNATURE + b"\x21\x21\x00\x24" + b"\x20\x01\x0d\xb8" + bytes(11) + b"\x07" + bytes(20),
            ("2001:db8::7", 0),
        ),
        (V2_SIGNATURE + b"\x20\x11\x00\x0c" + bytes(12), None),  # LOCAL: the proxy's own health check
        (V2_SIGNATURE + b"\x21\x31\x00\x02ab", None),  # a Unix socket
    ],
)
def test_proxy_headers_are_read_whole(header: bytes, client: tuple[str, int] | None) -> None:
    """Both versions, wherever TCP cuts them."""
    assert parse_proxy_header_untrusted(header + b"GET /") == (client, len(header))
    for size in range(len(header)):
        assert begins_like_proxy_header(header[:size])
        assert parse_proxy_header_untrusted(header[:size]) is None


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 nonsense 192.0.2.1 1 2\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4 192.0.2.2 192.0.2.1 x 2\r\n",
        b"PROXY TCP4 192.0.2.2 192.0.2.1 65536 2\r\n",
        b"PROXY TCP4 1.2.3.4\r\n",
        b"PROXY " + b"x" * 200,
        V2_SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
        V2_SIGNATURE + b"\x21\x11\xff\xff" + bytes(12),
        V2_SIGNATURE + b"\x21\x11\x00\x04" + bytes(4),
    ],
)
def test_malformed_proxy_headers_are_refused(header: bytes) -> None:
    """A proxy that is configured and speaks nonsense is a mistake to be seen."""
    with pytest.raises(ProxyHeaderError):
        parse_proxy_header_untrusted(header)


@given(st.binary(max_size=60), st.sampled_from([b"", b"PROXY ", V2_SIGNATURE]))
@settings(deadline=None)
def test_any_bytes_are_a_header_incomplete_or_refused(data: bytes, start: bytes) -> None:
    """Nothing but `ProxyHeaderError` escapes."""
    with contextlib.suppress(ProxyHeaderError):
        parse_proxy_header_untrusted(start + data)


def test_a_malformed_proxy_network_stops_the_start() -> None:
    """A rule that is silently dropped is the opposite of what was asked."""
    with pytest.raises(ValueError):
        parse_networks(["10.0.0.0/8", "10.0.0.1/8"])
