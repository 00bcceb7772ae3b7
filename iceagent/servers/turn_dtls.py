"""Clients of the TURN server over DTLS. RFC 7350."""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from iceagent.core.address import TransportAddress
from iceagent.core.turn.server import ClientPath
from iceagent.net.api import SetsFragments, UdpSocket
from iceagent.net.logs import limited_logger
from iceagent.net.options import bound_to
from iceagent.servers.turn_stream import AUTHENTICATE_S, HANDSHAKE_S, ClientOutbox, admitted

if TYPE_CHECKING:
    from OpenSSL import SSL

    from iceagent.servers.turn import TurnService

logger = limited_logger(__name__)

INCOMING_PACKETS: Final = 128  # of one client, until it is read
_ERRORS: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class DtlsListener:
    """One socket for all DTLS clients.

    Args:
        service: the server.
        sock: bound.
        context: with a certificate.
    """

    def __init__(self, service: TurnService, sock: UdpSocket, context: SSL.Context) -> None:
        self._service = service
        self._socket = DtlsSocket(sock)
        self._context = context

    async def run(self) -> None:
        """Serve until cancelled."""
        with trio.DTLSEndpoint(self._socket, incoming_packets_buffer=INCOMING_PACKETS) as endpoint:
            await endpoint.serve(self._context, self._serve)

    async def _serve(self, channel: trio.DTLSChannel) -> None:
        try:
            await self._admit(channel)
        except Exception:
            # One client must never end the server. The traceback names code, not what the client sent.
            self._service.counters["internal_errors"] += 1
            logger.exception("a DTLS client was dropped")

    async def _admit(self, channel: trio.DTLSChannel) -> None:
        local, remote = _ends(channel.peer_address)
        async with admitted(self._service, remote, channel) as may_enter:
            if not may_enter:
                return
            with trio.move_on_after(HANDSHAKE_S) as patience:
                try:
                    await channel.do_handshake()
                except Exception:  # pyOpenSSL's errors have no common base that can be named without it
                    self._service.counters["handshakes_failed"] += 1
                    return
            if patience.cancelled_caught:
                self._service.counters["connections_shed"] += 1
                return
            path = ClientPath("dtls", local, remote)
            client = DtlsClient(self._service, channel, path)
            await self._service.run_client(path, client.send, client, client.run)


class DtlsClient:
    """One DTLS client.

    Args:
        service: the server.
        channel: after its handshake.
        path: the 5-tuple.
    """

    def __init__(self, service: TurnService, channel: trio.DTLSChannel, path: ClientPath) -> None:
        self._service = service
        self._channel = channel
        self._path = path
        self._outbox = ClientOutbox(service.counters)
        self._patience = trio.CancelScope(deadline=trio.current_time() + AUTHENTICATE_S)

    def send(self, messages: list[bytes]) -> None:
        """Queue messages for the client."""
        self._outbox.put(messages)

    def note_allocation(self, *, exists: bool) -> None:
        """An allocation makes a client worth keeping, and its end no longer."""
        self._patience.deadline = float("inf") if exists else trio.current_time() + AUTHENTICATE_S

    async def run(self) -> None:
        """Serve until the client is gone or has no allocation for too long."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                with self._patience:
                    await self._read()
                if self._patience.cancelled_caught:
                    self._service.counters["connections_shed"] += 1
                nursery.cancel_scope.cancel()
        except* _ERRORS:
            self._service.counters["connections_broken"] += 1

    async def _read(self) -> None:
        service, core, path = self._service, self._service.core, self._path
        while True:
            data = await self._channel.receive()
            if not data:
                return
            now = trio.current_time()
            if data[0] >= 0x40:
                allocation = core.allocations.get(path)
                if allocation is not None:
                    service.forward(core.forward_to_peer(now, allocation, data, len(data)))
            elif data[:2] == b"\x00\x01":
                answer = service.binding.handle_datagram(now, path.local, path.remote, data)
                if answer is not None:
                    self.send([answer])
            else:
                core.handle_message(now, path, data)
                service.settle()

    async def _write(self) -> None:
        while True:
            for message in await self._outbox.take():
                try:
                    await self._channel.send(message)
                except ValueError:
                    self._service.counters["client_datagram_too_large"] += 1


class DtlsSocket(trio.socket.SocketType):
    """Our UDP socket as `trio.DTLSEndpoint` wants one.

    That distinguishes connections by what `recvfrom` calls an address: here both ends of a connection, so that each is
    answered from the address that was asked, and one client may have connections to several addresses of this machine.

    Args:
        sock: bound; owned from now on.
    """

    def __init__(self, sock: UdpSocket) -> None:
        self._sock = sock
        self._received: deque[tuple[bytes, tuple[TransportAddress, TransportAddress]]] = deque()
        if isinstance(sock, SetsFragments):
            sock.allow_fragments()  # a certificate chain may be longer than a packet: OpenSSL guesses its size

    @property
    def type(self) -> socket.SocketKind:
        """Datagrams."""
        return socket.SOCK_DGRAM

    @property
    def family(self) -> socket.AddressFamily:
        """Of the bound address."""
        return socket.AF_INET6 if self._sock.local_address.family == 6 else socket.AF_INET

    def getsockname(self) -> tuple[str, int]:
        """Return the bound address."""
        return self._sock.local_address

    async def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, tuple[TransportAddress, TransportAddress]]:
        """Return a datagram and both ends of its connection, ours first."""
        del bufsize, flags
        while not self._received:
            for batch in await self._sock.receive():
                ends = bound_to(self._sock.local_address, batch.local), batch.remote
                self._received.extend((data, ends) for data in batch.datagrams())
            self._sock.take_errors()
        return self._received.popleft()

    async def sendto(self, *args: object) -> int:
        """Send from one end to the other, the last argument; what finds no room is lost, and DTLS sends it again."""
        await trio.lowlevel.checkpoint()
        data, (local, remote) = args[0], _ends(args[-1])
        assert isinstance(data, bytes | bytearray | memoryview)
        source = None if local == self._sock.local_address else local.host
        self._sock.send_nowait((bytes(data),), remote, source=source)
        return len(data)

    def close(self) -> None:
        """Close it."""
        self._sock.close()


def _ends(address: object) -> tuple[TransportAddress, TransportAddress]:
    """Return both ends of a connection, from what `DtlsSocket.recvfrom` called its address."""
    match address:
        case (TransportAddress() as local, TransportAddress() as remote):
            return local, remote
    raise TypeError(f"no address of a DtlsSocket: {address!r}")
