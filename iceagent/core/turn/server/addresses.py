"""The server's own addresses change while it runs: what follows for relays and permissions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from iceagent.core.address import TransportAddress
from iceagent.core.turn.server.allocation import AllocationState
from iceagent.core.turn.server.closing import (
    close_allocation,
    close_connection,
    close_relay,
    end_reservation,
    revoke,
)
from iceagent.core.turn.server.ports import PortPool
from iceagent.core.turn.server.state import ServerState

ANY_PORT = 0  # of a permission, which is for a host


def set_own_addresses(state: ServerState, own: Iterable[str]) -> None:
    """Take note of all addresses this machine has now; take back permissions that would not be given any more."""
    new = state.policy.set_own(own)
    for allocation in state.allocations.values():
        for host in [host for host in allocation.permissions if not _may_stay(state, host, new)]:
            revoke(state, allocation, host)
        for connection in list(allocation.connections.values()):
            if not _may_stay(state, connection.peer.host, new):
                close_connection(state, connection)


def _may_stay(state: ServerState, host: str, new: frozenset[str]) -> bool:
    if host in new:
        return False
    return state.policy.is_own(host) or state.policy.still_allows(TransportAddress(host, ANY_PORT), lambda _: True)


def set_relay_hosts(state: ServerState, now: float, hosts: Mapping[str, str]) -> None:
    """Bind new relays to these addresses; what was bound to others, which this machine has lost, ends.

    Args:
        state: the server's.
        now: seconds.
        hosts: IP literal to bind: IP literal to announce, of each family the preferred one first.
    """
    for host in [host for host in hosts if host not in state.pools]:
        state.pools[host] = PortPool(state.randbytes, *state.ports)
    state.hosts = dict(hosts)
    for host in [host for host in state.pools if host not in hosts]:
        _leave(state, now, host)
        del state.pools[host]


def _leave(state: ServerState, now: float, host: str) -> None:
    """End what is at an address that is gone: its client then asks for another, and learns the new address so."""
    for token in [token for token, one in state.reservations.items() if one.host == host]:
        end_reservation(state, token, now)
    for allocation in list(state.allocations.values()):
        gone = [relay for relay in allocation.relays if relay.bind.host == host]
        if gone and (allocation.state is AllocationState.OPENING or len(gone) == len(allocation.relays)):
            close_allocation(state, now, allocation, "address_gone")
        else:
            for relay in gone:
                close_relay(state, now, relay)
