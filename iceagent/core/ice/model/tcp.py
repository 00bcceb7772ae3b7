"""Candidates over TCP: their types, which of them pair up, their priorities. RFC 6544.

A TCP candidate is *active* (it connects; its port means nothing, so 9 is signalled), *passive* (it listens), or of
*simultaneous open* (it does both from one port, so that two NATs see each side's SYN leave before the other's comes).

All later steps are as with UDP: a path is (base, remote address), a check is a datagram on it. The
shell opens, frames and closes the connections (`iceagent.net.tcp_base`).
"""

from __future__ import annotations

from typing import Final

from iceagent.core.address import TransportAddress
from iceagent.core.ice.model.candidate import Candidate
from iceagent.core.ice.model.priority import CandidateType, candidate_priority, foundation

ACTIVE: Final = "active"
PASSIVE: Final = "passive"
SIMULTANEOUS_OPEN: Final = "so"

ACTIVE_PORT: Final = 9  # RFC 6544 section 4.5: the discard port, where a candidate only ever connects

FIRST_TCP_PORT: Final = 1024  # ours: no connections to the ports below, as browsers have it,
WEB_PORTS: Final = (80, 443)  # but to these, which firewalls let pass

CHECKED_AGAINST: Final = {ACTIVE: PASSIVE, SIMULTANEOUS_OPEN: SIMULTANEOUS_OPEN}
"""Which remote type each local type checks (RFC 6544 section 6.2).

Passive is absent: section 6.2 has those pairs pruned, and they come to be when the peer's check comes in over its
connection (section 7.2)."""

COUNTERPART: Final = {ACTIVE: PASSIVE, PASSIVE: ACTIVE, SIMULTANEOUS_OPEN: SIMULTANEOUS_OPEN}

MAX_OTHER_PREFERENCE: Final = 8191  # RFC 6544 section 4.2: 13 bits

# RFC 6544 section 4.2: a connection that we open ourselves is the likelier one where nothing hides us, and one that
# both open the only one through two NATs.
_DIRECTION_PREFERENCE: Final = {
    CandidateType.HOST: {ACTIVE: 6, PASSIVE: 4, SIMULTANEOUS_OPEN: 2},
    CandidateType.RELAY: {ACTIVE: 6, PASSIVE: 4, SIMULTANEOUS_OPEN: 2},
    CandidateType.SRFLX: {SIMULTANEOUS_OPEN: 6, ACTIVE: 4, PASSIVE: 2},
    CandidateType.PRFLX: {SIMULTANEOUS_OPEN: 6, ACTIVE: 4, PASSIVE: 2},
}


def tcp_priority(kind: CandidateType, tcp_type: str, other_preference: int, component: int = 1) -> int:
    """Return the priority of a TCP candidate; every direct one ranks below direct UDP and above all relays.

    Args:
        kind: the candidate's type.
        tcp_type: "active", "passive" or "so".
        other_preference: 0 to 8191, unique per address of this agent; higher is better.
        component: 1 to 256.

    Raises:
        ValueError: a number is out of range.

    Source: RFC 6544 section 4.2.
    """
    if not 0 <= other_preference <= MAX_OTHER_PREFERENCE:
        raise ValueError(f"preference {other_preference} is not within 0 to {MAX_OTHER_PREFERENCE}")
    local_preference = (_DIRECTION_PREFERENCE[kind][tcp_type] << 13) | other_preference
    return candidate_priority(kind, local_preference, component, transport="tcp")


def tcp_host_candidate(
    base: TransportAddress, tcp_type: str, other_preference: int = MAX_OTHER_PREFERENCE, component: int = 1
) -> Candidate:
    """Return a host candidate over TCP.

    Args:
        base: where connections are accepted and, for "so", also opened from. Of an active candidate it names no socket:
            each of its connections has a port of its own; (host, 9) by convention.
        tcp_type: "active", "passive" or "so".
        other_preference: 0 to 8191, unique per address.
        component: 1 to 256.
    """
    kind = CandidateType.HOST
    return Candidate(
        foundation=foundation(kind, base.host, transport="tcp"),
        component=component,
        transport="tcp",
        priority=tcp_priority(kind, tcp_type, other_preference, component),
        address=base,
        type=kind,
        base=base,
        tcp_type=tcp_type,
    )


def tcp_srflx_candidate(
    address: TransportAddress,
    base: TransportAddress,
    server_host: str,
    tcp_type: str = SIMULTANEOUS_OPEN,
    other_preference: int = MAX_OTHER_PREFERENCE,
    component: int = 1,
) -> Candidate:
    """Return the server-reflexive candidate that a STUN server over TCP has seen of `base` (RFC 6544 section 5.2)."""
    kind = CandidateType.SRFLX
    return Candidate(
        foundation=foundation(kind, base.host, server_host, transport="tcp"),
        component=component,
        transport="tcp",
        priority=tcp_priority(kind, tcp_type, other_preference, component),
        address=address,
        type=kind,
        base=base,
        related_address=base,
        tcp_type=tcp_type,
    )


def checks_by_itself(local: Candidate, remote: Candidate) -> bool:
    """Return whether a pair belongs into the checklist without a check of the peer's: always over UDP.

    Source: RFC 6544 section 6.2.
    """
    if local.transport != "tcp":
        return True
    return CHECKED_AGAINST.get(local.tcp_type or "") == remote.tcp_type
