"""What kind a NAT is, concluded from connectivity checks where too few STUN servers could show it. Pure functions.

A check to a relayed address passes the same NAT as the request to the STUN server, with another destination. Its answer
shows from which address it arrived (RFC 8445 section 7.2.5.3.1), and the owner of the relayed address sees that address
as the source of the check (section 7.3.1.3). So both sides learn what the NAT of the sender does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from iceagent.core.address import TransportAddress
from iceagent.core.hard_nat.allocation import NatKind


class CheckSeen(NamedTuple):
    """A check to the host `destination` arrived there from `mapped`."""

    destination: str
    mapped: TransportAddress


class Shown(NamedTuple):
    """What checks have shown of both sides' NATs; UNKNOWN where they have not."""

    ours: NatKind = NatKind.UNKNOWN
    theirs: NatKind = NatKind.UNKNOWN


NOTHING_SHOWN: Final = Shown()


def kind_by_checks(mapped: TransportAddress, servers: Collection[str], checks: Iterable[CheckSeen]) -> NatKind:
    """Return the kind of a NAT, as far as checks of one socket behind it show: HARD, EASY or UNKNOWN.

    Args:
        mapped: how the STUN server sees that socket.
        servers: hosts of the STUN servers: to another port of the same host even a NAT that maps per address keeps the
            mapping, so that agreement there shows nothing.
        checks: those of the same socket.

    Where some agree and others do not, the mapping was held by something else, say an unasked packet that the gateway
    took for its own: that shows nothing, either.
    """
    seen = list(checks)
    differs = any(one.mapped != mapped for one in seen)
    agrees = any(one.mapped == mapped and one.destination not in servers for one in seen)
    if differs == agrees:
        return NatKind.UNKNOWN
    return NatKind.HARD if differs else NatKind.EASY
