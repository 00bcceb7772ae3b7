"""TCP between client and peer: Connect, ConnectionAttempt, ConnectionBind. RFC 6062 section 5."""

from __future__ import annotations

from functools import partial

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.turn.server.allocation import (
    Allocation,
    AllocationState,
    ClientPath,
    ConnectionState,
    PeerConnection,
    RelayedAddress,
    Signing,
)
from iceagent.core.turn.server.auth import Authenticated
from iceagent.core.turn.server.closing import close_connection
from iceagent.core.turn.server.limits import BIND_TIMEOUT_S, CONNECT_TIMEOUT_S
from iceagent.core.turn.server.refresh import allocation_for
from iceagent.core.turn.server.state import ConnectPeer, JoinConnection, ServerState, ToClient


def handle_connect(state: ServerState, now: float, path: ClientPath, request: stun.Message, who: Authenticated) -> None:
    """Have a connection made to a peer; the answer follows when it stands."""
    allocation = allocation_for(state, path, request, who)
    if allocation is None:
        return
    signing = Signing(who.key, who.integrity)
    if _is_connecting(allocation, request):
        return  # a retransmission: the answer is on its way
    peer = request.get(stun.XorPeerAddress)
    code = stun.Code.BAD_REQUEST if peer is None else _refusal(state, allocation, peer.address)
    if peer is None or code is not None:
        state.refuse(path, request, signing, code or stun.Code.BAD_REQUEST)
        return
    relay = allocation.relay_for(peer.address)
    assert relay is not None, "the family was checked"
    connection = _add(state, now, relay, peer.address, ConnectionState.CONNECTING, CONNECT_TIMEOUT_S)
    connection.request, connection.signing = request, signing
    state.emit(ConnectPeer(connection))


def _is_connecting(allocation: Allocation, request: stun.Message) -> bool:
    return any(
        one.request is not None and one.request.transaction_id == request.transaction_id
        for one in allocation.connections.values()
    )


def _refusal(state: ServerState, allocation: Allocation, peer: TransportAddress) -> stun.Code | None:
    if not allocation.is_tcp:
        return stun.Code.ALLOCATION_MISMATCH
    if not state.policy.allows(peer, state.is_relayed) or peer.port == 0:
        state.counters["peers_denied"] += 1
        return stun.Code.FORBIDDEN
    if allocation.relay_for(peer) is None:
        return stun.Code.PEER_ADDRESS_FAMILY_MISMATCH
    if any(one.peer == peer for one in allocation.connections.values()):
        return stun.Code.CONNECTION_ALREADY_EXISTS
    if len(allocation.connections) >= state.limits.connections:
        return stun.Code.INSUFFICIENT_CAPACITY
    return None


def _add(
    state: ServerState,
    now: float,
    relay: RelayedAddress,
    peer: TransportAddress,
    how: ConnectionState,
    patience_s: float,
) -> PeerConnection:
    number = int.from_bytes(state.randbytes(4), "big")
    while number in state.connections:
        number = int.from_bytes(state.randbytes(4), "big")
    connection = PeerConnection(number, relay.allocation, relay, peer, how, now + patience_s)
    state.connections[number] = connection
    relay.allocation.connections[number] = connection
    connection.deadline = state.deadlines.call_at(connection.expires_at, partial(_give_up, state, connection))
    return connection


def _give_up(state: ServerState, connection: PeerConnection, now: float) -> None:
    del now
    if connection.state is ConnectionState.CONNECTING:
        peer_failed(state, connection)
    else:
        close_connection(state, connection)


def peer_connected(state: ServerState, now: float, connection: PeerConnection) -> bool:
    """Note that a peer took our connection. False: it is no longer wanted, close it."""
    if connection.state is not ConnectionState.CONNECTING:
        return False
    request, signing = connection.request, connection.signing
    assert request is not None
    assert signing is not None
    connection.state = ConnectionState.WAITING
    connection.expires_at = now + BIND_TIMEOUT_S
    connection.request = None
    state.deadlines.cancel(connection.deadline)
    connection.deadline = state.deadlines.call_at(connection.expires_at, partial(_give_up, state, connection))
    answer = stun.success(request, stun.ConnectionId(connection.number))
    state.reply(connection.allocation.path, answer, signing)
    return True


def peer_failed(state: ServerState, connection: PeerConnection) -> None:
    """Note that a peer did not take our connection."""
    if connection.state is not ConnectionState.CONNECTING:
        return
    request, signing, path = connection.request, connection.signing, connection.allocation.path
    assert request is not None
    assert signing is not None
    close_connection(state, connection)
    state.refuse(path, request, signing, stun.Code.CONNECTION_TIMEOUT_OR_FAILURE)


def peer_arrived(
    state: ServerState, now: float, relay: RelayedAddress, peer: TransportAddress
) -> PeerConnection | None:
    """Take a peer's connection to a relayed address and inform the client; None: it may not, close it."""
    allocation = relay.allocation
    if (
        allocation.state is not AllocationState.ACTIVE
        or allocation.permissions.get(peer.host, 0.0) <= now
        or (state.policy.is_own(peer.host) and not state.is_relayed(peer))
        or len(allocation.connections) >= state.limits.connections
        or any(one.peer == peer for one in allocation.connections.values())
    ):
        state.counters["peer_without_permission"] += 1
        return None
    connection = _add(state, now, relay, peer, ConnectionState.WAITING, BIND_TIMEOUT_S)
    attributes = (stun.ConnectionId(connection.number), stun.XorPeerAddress(peer))
    indication = stun.Message(
        stun.MessageClass.INDICATION, stun.Method.CONNECTION_ATTEMPT, state.randbytes(12), attributes
    )
    state.send(ToClient(allocation.path, stun.encode(indication, fingerprint=False)))
    return connection


def handle_connection_bind(
    state: ServerState, now: float, path: ClientPath, request: stun.Message, who: Authenticated
) -> None:
    """Make the connection that a request came on the data connection to a peer."""
    signing = Signing(who.key, who.integrity)
    number = request.get(stun.ConnectionId)
    connection = None if number is None else state.connections.get(number.value)
    if (
        connection is None
        or not path.is_stream
        or path in state.allocations
        or path in state.data_paths
        or connection.state is not ConnectionState.WAITING
        or connection.expires_at <= now
        or connection.allocation.user != who.account.user
    ):
        state.refuse(path, request, signing, stun.Code.BAD_REQUEST)
        return
    connection.state = ConnectionState.BOUND
    state.deadlines.cancel(connection.deadline)
    connection.deadline = None
    connection.path = path
    state.data_paths[path] = connection
    assert number is not None
    state.reply(path, stun.success(request, number), signing)
    state.emit(JoinConnection(connection))
