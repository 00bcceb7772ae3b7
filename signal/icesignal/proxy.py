"""The client's own address behind a configured proxy. Sans-IO.

`X-Forwarded-For`, `Forwarded` (RFC 7239) and the PROXY protocol, versions 1 and 2.

Call nothing of this for a connection that does not come from a configured proxy: its headers may be forged.
Source: haproxy's proxy-protocol.txt sections 2.1 and 2.2.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from icesignal.sources import IPNetwork, is_within

V1_PREFIX = b"PROXY "
V1_MAX_BYTES = 107
V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V2_HEADER_BYTES = 16
V2_MAX_BODY = 1_024
MAX_PORT = 0xFFFF
_PORT = r"(?::[0-9]{1,5})?"
_NODE = re.compile(
    rf"(?:\[(?P<bracketed>[0-9A-Fa-f:.]+)(?:%[^\]]*)?\]{_PORT}|(?P<v4>[0-9.]+){_PORT}|(?P<v6>[0-9A-Fa-f:.]+)(?:%.*)?)\Z"
)
_FOR = re.compile(rb"(?:^|;)\s*for\s*=\s*(\"[^\"]*\"|[^;\"]*)", re.IGNORECASE)  # RFC 7239 section 4


class ProxyHeaderError(Exception):
    """A configured proxy sent a PROXY header that is none."""


def begins_like_proxy_header(data: bytes) -> bool:
    """Return whether `data` (which may still grow) may be the begin of a PROXY header."""
    return any(data[: len(start)] == start[: len(data)] for start in (V1_PREFIX, V2_SIGNATURE))


Client = tuple[str, int]
"""The host and port that a proxy names."""


def parse_proxy_header_untrusted(data: bytes) -> tuple[Client | None, int] | None:
    """Return the client's address and port, and the header's length; None while bytes are missing.

    There is no client when the proxy speaks for itself (`UNKNOWN`, `LOCAL`).

    Raises:
        ProxyHeaderError: the header is malformed.
    """
    if data.startswith(V2_SIGNATURE):
        return _parse_v2(data)
    if data.startswith(V1_PREFIX):
        return _parse_v1(data)
    return None


def _parse_v1(data: bytes) -> tuple[Client | None, int] | None:
    line, end, _ = data[: V1_MAX_BYTES + 1].partition(b"\r\n")
    if not end:
        if len(data) >= V1_MAX_BYTES:
            raise ProxyHeaderError("a PROXY line without end")
        return None
    words = line.decode("ascii", "replace").split(" ")
    if words[1] == "UNKNOWN":
        return None, len(line) + 2
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ProxyHeaderError("a malformed PROXY line")
    if not (words[4].isascii() and words[4].isdecimal() and int(words[4]) <= MAX_PORT):
        raise ProxyHeaderError("a PROXY line without a port")
    try:
        return (str(ipaddress.ip_address(words[2])), int(words[4])), len(line) + 2
    except ValueError:
        raise ProxyHeaderError("a PROXY line without an address") from None


def _parse_v2(data: bytes) -> tuple[Client | None, int] | None:
    if len(data) < V2_HEADER_BYTES:
        return None
    version_command, family = data[12], data[13]
    size = int.from_bytes(data[14:16], "big")
    if version_command >> 4 != 2 or version_command & 15 > 1 or size > V2_MAX_BODY:
        raise ProxyHeaderError("a malformed PROXY header")
    if len(data) < V2_HEADER_BYTES + size:
        return None
    body = data[V2_HEADER_BYTES : V2_HEADER_BYTES + size]
    is_local = version_command & 15 == 0
    length = {0x11: 4, 0x21: 16}.get(family, 0)
    if is_local or not length:
        return None, V2_HEADER_BYTES + size
    if len(body) < 2 * length + 4:
        raise ProxyHeaderError("a PROXY header too short for its addresses")
    port = int.from_bytes(body[2 * length : 2 * length + 2], "big")
    return (str(ipaddress.ip_address(body[:length])), port), V2_HEADER_BYTES + size


def forwarded_for(peer: str, values: Sequence[bytes], proxies: Sequence[IPNetwork]) -> str:
    """Return the nearest address of the chain that is not a configured proxy.

    Args:
        peer: who is connected; believed as it is.
        values: of `X-Forwarded-For`, in order, each perhaps with a port; whatever is no address ends the chain.
        proxies: the configured ones.
    """
    current = peer
    for value in reversed(values):
        if not is_within(current, proxies):
            break
        address = address_untrusted(value.decode("ascii", "replace"))
        if address is None:
            break
        current = address
    return current


def forwarded_values(x_forwarded_for: Sequence[bytes], forwarded: Sequence[bytes]) -> list[bytes]:
    """Return the chain of a request: that of `X-Forwarded-For`, or without one the `for=` of `Forwarded`.

    A proxy appends to the one that it knows and lets the other through as the client made it up. So where both are
    there and end in different addresses, neither is believed, and the request counts as the proxy's own.

    Source: RFC 7239 sections 4 and 5.2.
    """
    named = [match[1] if (match := _FOR.search(element)) else b"" for element in forwarded]
    if not x_forwarded_for or not named:
        return list(x_forwarded_for) or named
    ours, theirs = (address_untrusted(values[-1].decode("ascii", "replace")) for values in (x_forwarded_for, named))
    return list(x_forwarded_for) if ours == theirs else []


def address_untrusted(text: str) -> str | None:
    """Return the address that a proxy names, in any of the ways there are; None for what is no address.

    `1.2.3.4`, `1.2.3.4:5678`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:5678`; quoted or not; a zone is left out.
    """
    match = _NODE.match(text.strip().strip('"').strip())
    if match is None:
        return None
    try:
        return str(ipaddress.ip_address(match["bracketed"] or match["v4"] or match["v6"]))
    except ValueError:
        return None
