"""Names to addresses: literals at once, the rest through the system's resolver, which also knows `/etc/hosts`."""

from __future__ import annotations

import socket

import trio

from iceagent.core.address import TransportAddress, make_address
from iceagent.net.sockaddr import zone_index, zone_name

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
