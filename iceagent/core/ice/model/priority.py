"""Priorities and foundations of candidates, priorities of pairs: RFC 8445 sections 5.1.1.3, 5.1.2 and 6.1.2.3."""

from __future__ import annotations

from enum import Enum
from typing import Final
from zlib import crc32


class CandidateType(Enum):
    """How a candidate was learned; the value is its token in SDP (RFC 8839 section 5.1)."""

    HOST = "host"
    SRFLX = "srflx"
    PRFLX = "prflx"
    RELAY = "relay"


TYPE_PREFERENCE: Final = {  # RFC 8445 section 5.1.2.2
    CandidateType.HOST: 126,
    CandidateType.PRFLX: 110,
    CandidateType.SRFLX: 100,
    CandidateType.RELAY: 0,
}
TCP_TYPE_PREFERENCE: Final = {
    # RFC 6544 section 4.2 lets UDP be preferred: all of these lie below UDP's direct types, and above relays, since a
    # slower direct path still costs no third party.
    CandidateType.HOST: 90,
    CandidateType.PRFLX: 80,
    CandidateType.SRFLX: 70,
    CandidateType.RELAY: 0,
}
MAX_PRIORITY: Final = 2**31 - 1


def candidate_priority(
    kind: CandidateType, local_preference: int, component: int = 1, *, transport: str = "udp"
) -> int:
    """Return the priority of a candidate, 1 to 2**31 - 1.

    Args:
        kind: the candidate's type.
        local_preference: 0 to 65535, unique per address of this agent; higher is better.
        component: 1 to 256.
        transport: "udp" or "tcp".

    Raises:
        ValueError: an argument is out of range.

    Source: RFC 8445 section 5.1.2.1.
    """
    if not 0 <= local_preference <= 0xFFFF:
        raise ValueError(f"local preference {local_preference} is not within 0 to 65535")
    if not 1 <= component <= 256:
        raise ValueError(f"component {component} is not within 1 to 256")
    return (_type_preference(kind, transport) << 24) | (local_preference << 8) | (256 - component)


def _type_preference(kind: CandidateType, transport: str) -> int:
    return (TCP_TYPE_PREFERENCE if transport == "tcp" else TYPE_PREFERENCE)[kind]


def as_peer_reflexive(priority: int, transport: str = "udp") -> int:
    """Return what `priority` would be were its candidate peer-reflexive: the PRIORITY attribute of its checks.

    Source: RFC 8445 section 7.1.1.
    """
    return (_type_preference(CandidateType.PRFLX, transport) << 24) | (priority & 0xFFFFFF)


def pair_priority(controlling: int, controlled: int) -> int:
    """Return the 64-bit priority of a pair from the priorities of the two agents' candidates.

    Source: RFC 8445 section 6.1.2.3.
    """
    low, high = (controlling, controlled) if controlling < controlled else (controlled, controlling)
    return (low << 32) + 2 * high + (1 if controlling > controlled else 0)


def foundation(kind: CandidateType, base_host: str, server_host: str = "", transport: str = "udp") -> str:
    """Return the foundation of a candidate: equal exactly when type, base address, server and transport are.

    Args:
        kind: the candidate's type.
        base_host: IP address of the base, port left out on purpose.
        server_host: IP address of the STUN or TURN server; empty for host candidates.
        transport: "udp" or "tcp".

    Returns:
        1 to 10 digits. A checksum and not a counter, so that equal candidates of later gatherings get equal
        foundations without a table; a collision merely freezes a pair until its group thaws.

    Source: RFC 8445 section 5.1.1.3.
    """
    return str(crc32(f"{kind.value} {base_host} {server_host} {transport}".encode()))
