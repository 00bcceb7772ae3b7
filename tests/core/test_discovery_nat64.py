"""RFC 6052's table of addresses, and RFC 7050's way to a prefix."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceagent.core.discovery.nat64 import PREFIX_LENGTHS, extract, find_prefix, synthesize


@pytest.mark.parametrize(
    ("prefix", "address"),
    [
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
    ],
)
def test_addresses_of_rfc_6052_section_2_4(prefix: str, address: str) -> None:
    """Both ways, as the table has them."""
    network = ipaddress.IPv6Network(prefix)
    assert synthesize(network, "192.0.2.33") == str(ipaddress.IPv6Address(address))
    assert str(extract(network, ipaddress.IPv6Address(address))) == "192.0.2.33"


@given(st.sampled_from(PREFIX_LENGTHS), st.binary(min_size=16, max_size=16))
def test_the_prefix_is_found_whatever_its_length(length: int, octets: bytes) -> None:
    """From either of the well-known addresses."""
    octets = b"\x20" + octets[1:8] + b"\x00" + octets[9:]
    prefix = ipaddress.IPv6Network((octets, length), strict=False)
    for host in ("192.0.0.170", "192.0.0.171"):
        assert find_prefix([str(synthesize(prefix, host))]) == prefix


def test_no_prefix_where_there_is_none() -> None:
    """Other answers, and other families, are passed over."""
    assert find_prefix([]) is None
    assert find_prefix(["192.0.0.170", "2001:db8::1", "nonsense"]) is None
    assert find_prefix(["2001:db8::1", "64:ff9b::c000:ab"]) == ipaddress.IPv6Network("64:ff9b::/96")


@pytest.mark.parametrize("start", ["::ffff:0:0", "::", "fe80::", "ff02::", "::ffff:0:0:0", "100::"])
def test_a_resolver_that_lies_is_not_believed_the_impossible(start: str) -> None:
    """Mapped addresses would be IPv4 once more and be disguised without end, multicast would reach everybody."""
    told = str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(start)) | int(ipaddress.IPv4Address("192.0.0.170"))))
    assert find_prefix([told]) is None
    assert find_prefix([told, "2001:db8::192.0.0.170"]) == ipaddress.IPv6Network("2001:db8::/96")


@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.1.1", "224.0.0.251", "10.0.0.1", "192.168.1.1"])
def test_what_no_nat64_may_forward_is_not_disguised(host: str) -> None:
    """RFC 6052 section 3.1; a network's own prefix may lead to its private addresses."""
    assert synthesize(ipaddress.IPv6Network("64:ff9b::/96"), host) is None
    own = synthesize(ipaddress.IPv6Network("2001:db8:64::/96"), host)
    assert (own is not None) is host.startswith(("10.", "192.168."))
