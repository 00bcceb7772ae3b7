"""Host names and IP literals from users and URLs: checked, and converted to what resolvers and TLS accept."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Final

import trio

from iceagent.core.address import TransportAddress, make_address
from iceagent.net.sockaddr import zone_index, zone_name

_MAX_NAME: Final = 253  # RFC 1035 section 2.3.4, as text, without the final dot
_MAX_LABEL: Final = 63
_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?\Z")
_MDNS_NAME: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.local", re.ASCII)
_ZONE: Final = re.compile(r"[A-Za-z0-9_.:@-]{1,32}\Z")


def check_host(host: str, *, bracketed: bool = False) -> str:
    """Return the host of a URL: an IP literal, a zone as `%eth0` (RFC 6874 writes `%25eth0`), or a name in A-labels.

    Args:
        host: without brackets.
        bracketed: whether it stood in brackets, as IPv6 literals and nothing else do.

    Raises:
        ValueError: it is neither; the message repeats no more of it than a name's length.
    """
    bare, percent, zone = host.partition("%")
    if bracketed or percent:
        zone = zone.removeprefix("25") if percent and len(zone) > 2 else zone
        try:
            ipaddress.IPv6Address(bare)
        except ValueError:
            raise ValueError("brackets and zones are for IPv6 addresses only, as in [fe80::1%eth0]") from None
        if percent and not _ZONE.match(zone):
            raise ValueError("the zone of an address names an interface, as in [fe80::1%eth0]")
        return f"{bare}%{zone}" if percent else bare
    return host if _is_literal(host) else _name(host)


def without_final_dot(host: str) -> str:
    """Return a name as certificates and TLS name it: the dot that ends an absolute name is not part of it.

    Source: RFC 6066 section 3.
    """
    return host.removesuffix(".") if len(host) > 1 else host


def tls_name(host: str) -> str:
    """Return a host as TLS asks for it and certificates carry it: without final dot, an IP literal without its zone."""
    return without_final_dot(host.partition("%")[0])


def _name(host: str) -> str:
    try:
        name = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise ValueError("its host is no name that DNS can have") from None
    labels = without_final_dot(name).split(".")
    if len(name) > _MAX_NAME + 1 or any(len(label) > _MAX_LABEL for label in labels):
        raise ValueError(f"the name of its host is too long ({_MAX_NAME} characters, {_MAX_LABEL} between dots)")
    if not all(map(_LABEL.match, labels)):
        raise ValueError("its host may have letters, digits, hyphens and single dots only")
    return name


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_mdns_name(host: str) -> bool:
    """Return whether a host is a name that mDNS candidates may have: one label and `.local`.

    Source: draft-ietf-mmusic-mdns-ice-candidates section 3.2.1.
    """
    return _MDNS_NAME.fullmatch(host.lower()) is not None


MAX_ADDRESSES = 16
"""Addresses of one name that are looked at; a longer answer is cut."""

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6, None: socket.AF_UNSPEC}


async def resolve(host: str, port: int, *, family: int | None = None) -> list[TransportAddress]:
    """Return the addresses of a name or IP literal, best first (RFC 6724), without duplicates.

    The lookup runs in a thread and is left behind on cancellation, so a caller's deadline always holds.

    Args:
        host: a name, or an IP literal (no brackets), which is returned at once.
        port: 0 to 65535.
        family: 4, 6 or None for both.
    Raises:
        OSError: there is no such name, it has no address of that family, or its zone is no interface's.
        ValueError: `port` is out of range.
    """
    literal = _literal(host, port)
    if literal is not None:
        await trio.lowlevel.checkpoint()
        if family not in (None, literal.family):
            raise socket.gaierror(socket.EAI_NONAME, f"{host} is not an IPv{family} address")
        return [literal]
    try:
        answers = await trio.socket.getaddrinfo(host, port, _FAMILIES[family], socket.SOCK_DGRAM)
        found = dict.fromkeys(make_address(str(answer[4][0]), port) for answer in answers[:MAX_ADDRESSES])
    except ValueError as error:  # the IDNA codec's complaint about an impossible name, the system's about a zero byte
        raise socket.gaierror(socket.EAI_NONAME, f"{host[:80]!r} is not a host name") from error
    return list(found)


def _literal(host: str, port: int) -> TransportAddress | None:
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port} is not within 0 to 65535")
    try:
        literal = make_address(host, port)
    except ValueError:
        return None
    bare, percent, zone = literal.host.partition("%")
    # By name, as packets from there show it: a server named with `%2` answers from `%eth0`.
    return literal._replace(host=f"{bare}%{zone_name(zone_index(zone))}") if percent else literal
