"""From where a code can be used that carries the address of this machine's own relay: from facts, not from hope."""

from __future__ import annotations

import ipaddress
from typing import Literal, NamedTuple

_OTHERWISE = "name a relay that both sides reach, with --relay URL or ICEAGENT_RELAY (`iceagent serve` runs one)"


class Reach(NamedTuple):
    """Who can use a code.

    Attributes:
        where: `machine`: this one alone; `network`: whoever is in the same one; `anywhere`: whoever reaches its public
            address.
        text: the same in a sentence, with what to do otherwise.
    """

    where: Literal["machine", "network", "anywhere"]
    text: str


def reach_of(code: str) -> Reach | None:
    """Return from where a code can be used, None for one that carries no address of this machine's.

    Such a code belongs to a relay elsewhere: whoever reaches that can use it.
    """
    host, _, port = code.partition("@")[2].rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    if address.is_loopback:
        return Reach("machine", f"this code can be used only on this machine; for others, {_OTHERWISE}")
    if not address.is_global or address.is_multicast:
        return Reach("network", f"this code can be used only from this network ({host}); from elsewhere, {_OTHERWISE}")
    return Reach(
        "anywhere",
        f"this code can be used from anywhere that reaches {host}, TCP port {port}, through firewalls and routers on "
        f"the way; if they let nothing in, {_OTHERWISE}",
    )
