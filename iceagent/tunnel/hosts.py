"""Hosts in one canonical form, for rules, for requests of the other side, and for connections.

A resolver reads more spellings of an address than a rule does: `10.0.0.1.`, `10.1`, `0x0a000001`, `::ffff:10.0.0.1` and
full-width digits all lead to 10.0.0.1. If only one side of a comparison, or only the connection, reads them so, a rule
can be bypassed. So each host is converted once, where it comes in, and only that form is used from then on. An address
is never resolved as a name, and a name never becomes an address by its spelling.
"""

from __future__ import annotations

import ipaddress
import re

from iceagent.net.sockaddr import zone_index

_HOST = re.compile(r"[^\s/\[\]\x00-\x20\x7f\ud800-\udfff]{1,253}")  # surrogates: bytes that are no UTF-8
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")  # the last label of a name is never so (RFC 3696 section 2)
_MAX_ZONE = 31  # characters; an interface's name has at most 15 on Linux


def canonical_host(text: str) -> str:
    """Return a host in its one form: an address as `ipaddress` writes it, or a name in lower case and ASCII.

    An IPv4-mapped address is the IPv4 one; the zone of an IPv6 address stays. Idempotent.

    Raises:
        ValueError: it is neither, or could be read as two.
    """
    if not _HOST.fullmatch(text):
        raise ValueError(f"{text!r} is not a host" if text else "a host is missing")
    if ":" in text:
        return _ipv6(text)
    name = _ascii(text).lower().removesuffix(".")
    if not _HOST.fullmatch(name) or "%" in name or ":" in name or name.endswith("."):
        raise ValueError(f"{text!r} is not a host")
    return _address(name, text) if _NUMERIC.fullmatch(name.rpartition(".")[2]) else name


def _ipv6(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv6 address") from None
    zone = address.scope_id or ""
    if not zone.isprintable() or len(zone) > _MAX_ZONE:
        raise ValueError(f"{zone[:_MAX_ZONE]!r} is not the zone of an IPv6 address, as in fe80::1%eth0")
    return str(address if address.ipv4_mapped is None else address.ipv4_mapped)


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    import idna

    try:
        return idna.encode(text, uts46=True).decode("ascii")  # as trio asks the resolver
    except (idna.IDNAError, UnicodeError):
        raise ValueError(f"{text!r} is not a host") from None


def _address(name: str, text: str) -> str:
    """Return the IPv4 address that the system's resolver reads in a host of numbers, which may be fewer than four."""
    values = []
    for part in name.split("."):
        if len(part) > 1 and part[0] == "0" and not part.startswith("0x"):
            raise ValueError(f"{text!r} could be decimal or octal; write the address without leading zeros")
        if not _NUMERIC.fullmatch(part) or part == "0x" or len(part) > 10:
            raise ValueError(f"{text!r} is neither an address nor a name")
        values.append(int(part, 16 if part.startswith("0x") else 10))
    *leading, last = values
    if len(values) > 4 or any(value > 255 for value in leading) or last >= 256 ** (4 - len(leading)):
        raise ValueError(f"{text!r} is neither an address nor a name")
    high = sum(value << (24 - 8 * at) for at, value in enumerate(leading))
    return str(ipaddress.IPv4Address(high + last))


def same_host(one: str, other: str) -> bool:
    """Return whether two hosts in their form are the same here: a zone may be an interface's name or its number."""
    return one == other or ("%" in one and "%" in other and _numbered(one) == _numbered(other))


def _numbered(host: str) -> tuple[str, int | str]:
    bare, _, zone = host.partition("%")
    try:
        return bare, zone_index(zone)
    except OSError:
        return bare, zone
