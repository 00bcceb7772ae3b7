"""The end of allocations: their entries leave all tables, their ports and sockets are freed."""

from __future__ import annotations

from iceagent.core.turn.server.allocation import (
    Allocation,
    AllocationState,
    ConnectionState,
    PeerConnection,
    RelayedAddress,
)
from iceagent.core.turn.server.state import AllocationChanged, CloseConnection, CloseRelay, ServerState


def close_allocation(state: ServerState, now: float, allocation: Allocation, what: str) -> None:
    """Close an allocation that is opening or active.

    Args:
        state: the server's.
        now: seconds.
        allocation: which.
        what: `expired`, `released`, `gone` or `failed`, for logs and counters.
    """
    for connection in list(allocation.connections.values()):
        close_connection(state, connection)
    for relay in allocation.relays:
        _give_back(state, now, relay)
    allocation.state = AllocationState.CLOSED
    state.deadlines.cancel(allocation.deadline)
    allocation.deadline = None
    allocation.permissions.clear()
    allocation.channels.clear()
    allocation.channel_of.clear()
    state.remove(allocation)
    state.counters[f"allocations_{what}"] += 1
    state.emit(AllocationChanged(allocation, what))


def close_relay(state: ServerState, now: float, relay: RelayedAddress) -> None:
    """Close one of an allocation's two relayed addresses, and what is bound to it. RFC 8656 section 8.2."""
    allocation = relay.allocation
    allocation.relays.remove(relay)
    for channel in [channel for channel in allocation.channels.values() if channel.relay is relay]:
        del allocation.channels[channel.number]
        del allocation.channel_of[channel.peer]
    for host in [host for host in allocation.permissions if (":" in host) == (relay.family == 6)]:
        del allocation.permissions[host]
    for connection in [one for one in allocation.connections.values() if one.relay is relay]:
        close_connection(state, connection)
    _give_back(state, now, relay)


def _give_back(state: ServerState, now: float, relay: RelayedAddress) -> None:
    if relay.is_open:
        del state.relays[relay.address]
        state.note_departed(now, relay.address)
        relay.is_open = False
    state.pools[relay.bind.host].release(now, relay.bind.port)
    state.emit(CloseRelay(relay))


def revoke(state: ServerState, allocation: Allocation, host: str) -> None:
    """Take back the permission of a host, and its channels, which need one."""
    del allocation.permissions[host]
    for channel in [channel for channel in allocation.channels.values() if channel.peer.host == host]:
        del allocation.channels[channel.number]
        del allocation.channel_of[channel.peer]
    state.counters["permissions_revoked"] += 1


def close_connection(state: ServerState, connection: PeerConnection) -> None:
    """Close a TCP connection to a peer, if it is not closed."""
    if connection.state is ConnectionState.CLOSED:
        return
    connection.state = ConnectionState.CLOSED
    state.deadlines.cancel(connection.deadline)
    connection.deadline = connection.request = None
    del state.connections[connection.number]
    del connection.allocation.connections[connection.number]
    if connection.path is not None:
        state.data_paths.pop(connection.path, None)
    state.emit(CloseConnection(connection))


def end_reservation(state: ServerState, token: bytes, now: float) -> None:
    """Give a reserved port back, if nobody has taken it."""
    reservation = state.reservations.pop(token, None)
    if reservation is not None:
        state.deadlines.cancel(reservation.deadline)
        state.pools[reservation.host].release(now, reservation.port)
