"""Which addresses of a TURN server's can be a relayed candidate: its word decides what we signal and where we listen.

A server that does not know its own address gives one that nobody can send to, as 0.0.0.0, or 127.0.0.1 from behind a
NAT. One with bad intent gives an address that we have already, and would then have what we send from there.
"""

from __future__ import annotations

from collections.abc import Container

from iceagent.core.address import TransportAddress
from iceagent.core.ice.model.candidates import is_usable


def why_useless(relayed: TransportAddress, place: TransportAddress | None, taken: Container[TransportAddress]) -> str:
    """Return why nobody could use a relayed address; "" for one that is good.

    Args:
        relayed: what the server says where it relays.
        place: where we reach the server: only who is at loopback himself, or on the link, relays there. None behind a
            proxy: it may be anywhere.
        taken: the addresses of the sockets and relays that there are.
    """
    confined = relayed.ip.is_loopback or relayed.ip.is_link_local
    is_there = place is None or (place.ip.is_loopback, place.ip.is_link_local) == (
        relayed.ip.is_loopback,
        relayed.ip.is_link_local,
    )
    if not relayed.port or not is_usable(relayed.host) or (confined and not is_there):
        return f"it relays at {relayed}, where nobody can send to: it has to be told its external address"
    return f"it relays at {relayed}, an address that is in use here" if relayed in taken else ""
