"""TCP between relayed address and peer. RFC 6062."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Final

import trio

from iceagent.core.address import TransportAddress, make_address
from iceagent.core.turn.server import PeerConnection, RelayedAddress
from iceagent.core.turn.server.limits import CONNECT_TIMEOUT_S

if TYPE_CHECKING:
    from iceagent.servers.turn import TurnService

COPY_BYTES: Final = 65536
THROTTLE_S: Final = 0.02
BACKLOG: Final = 32


class TcpRelays:
    """Listening sockets of TCP relays, and the connections to peers.

    Args:
        service: the server.
    """

    def __init__(self, service: TurnService) -> None:
        self._service = service
        self._scopes: dict[RelayedAddress, trio.CancelScope] = {}
        self._peers: dict[PeerConnection, trio.SocketStream] = {}
        self._carrying: dict[PeerConnection, trio.CancelScope] = {}

    # -- relayed addresses

    async def run(self, relay: RelayedAddress) -> None:
        """Listen at a relayed address until it is closed."""
        core = self._service.core
        try:
            sock = await _bound_socket(relay.bind)
            sock.listen(BACKLOG)
        except OSError:
            core.relay_failed(trio.current_time(), relay)
            self._service.settle()
            return
        with sock, trio.CancelScope() as scope:
            self._scopes[relay] = scope
            if not core.relay_opened(trio.current_time(), relay):
                return
            self._service.settle()
            await self._accept(relay, sock)
        self._scopes.pop(relay, None)

    def close(self, relay: RelayedAddress) -> None:
        """Close a relayed address, if it is open."""
        scope = self._scopes.pop(relay, None)
        if scope is not None:
            scope.cancel()

    async def _accept(self, relay: RelayedAddress, sock: trio.socket.SocketType) -> None:
        while True:
            try:
                accepted, source = await sock.accept()
            except OSError:
                self._service.counters["accept_failed"] += 1
                await trio.sleep(THROTTLE_S)
                continue
            remote = make_address(source[0].partition("%")[0], source[1])
            remote = self._service.announced(remote)
            connection = self._service.core.peer_arrived(trio.current_time(), relay, remote)
            if connection is None:
                accepted.close()
            else:
                self._peers[connection] = trio.SocketStream(accepted)
            self._service.settle()

    # -- connections

    async def connect(self, connection: PeerConnection) -> None:
        """Connect from a relayed address to a peer and report the result to the core."""
        core = self._service.core
        stream: trio.SocketStream | None = None
        with trio.move_on_after(CONNECT_TIMEOUT_S):
            with contextlib.suppress(OSError):
                stream = await _connect(connection.relay.bind, self._service.bound(connection.peer))
        if stream is None:
            core.peer_failed(trio.current_time(), connection)
        elif core.peer_connected(trio.current_time(), connection):
            self._peers[connection] = stream
        else:
            await trio.aclose_forcefully(stream)
        self._service.settle()

    def close_connection(self, connection: PeerConnection) -> None:
        """Close a peer's side, and stop carrying."""
        scope = self._carrying.get(connection)
        if scope is not None:
            scope.cancel()
        peer = self._peers.pop(connection, None)
        if peer is not None:
            peer.socket.close()

    def close_all(self) -> None:
        """Close what nobody carries when the server ends."""
        for connection in list(self._peers):
            self.close_connection(connection)

    async def carry(self, connection: PeerConnection, client: trio.abc.Stream, first: bytes) -> None:
        """Copy bytes both ways between a client's data connection and its peer.

        Args:
            connection: joined.
            client: the data connection.
            first: what the client sent already.
        """
        peer = self._peers.get(connection)
        if peer is None:
            return
        try:
            with trio.CancelScope() as scope:
                self._carrying[connection] = scope
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._copy, connection, client, peer, first, "to_peer")
                    nursery.start_soon(self._copy, connection, peer, client, b"", "to_client")
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self._service.counters["data_connections_broken"] += 1
        finally:
            self._carrying.pop(connection, None)
            self._service.core.connection_closed(trio.current_time(), connection)
            self._service.settle()

    async def _copy(
        self, connection: PeerConnection, source: trio.abc.Stream, sink: trio.abc.Stream, first: bytes, way: str
    ) -> None:
        allocation = connection.allocation
        data = first or bytes(await source.receive_some(COPY_BYTES))
        while data:
            if allocation.meter is not None:
                await trio.sleep(allocation.meter.borrow(trio.current_time(), len(data)))
            await sink.send_all(data)
            allocation.traffic[f"bytes_{way}"] += len(data)
            data = bytes(await source.receive_some(COPY_BYTES))
        if isinstance(sink, trio.SocketStream):
            await sink.send_eof()
        else:
            await sink.aclose()  # TLS cannot be closed by halves


async def _bound_socket(bind: TransportAddress) -> trio.socket.SocketType:
    """Return a TCP socket bound to a relayed address, which listens and connects from one port.

    Raises:
        OSError: somebody else has that port.
    """
    family = socket.AF_INET6 if bind.family == 6 else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        await sock.bind((bind.host, bind.port))
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(bind: TransportAddress, peer: TransportAddress) -> trio.SocketStream:
    sock = await _bound_socket(bind)
    try:
        await sock.connect((peer.host, peer.port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)
