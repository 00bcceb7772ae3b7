"""Clients of the TURN server over DTLS. RFC 7350."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Final

import trio

from iceagent.core.address import TransportAddress, make_address
from iceagent.core.turn.server import ClientPath
from iceagent.net.sockaddr import bind_sockaddr
from iceagent.servers.turn_stream import AUTHENTICATE_S, HANDSHAKE_S, Outbox, admitted

if TYPE_CHECKING:
    from OpenSSL import SSL

    from iceagent.servers.turn import TurnService

logger = logging.getLogger(__name__)

INCOMING_PACKETS: Final = 128  # of one client, until it is read
_ERRORS: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class DtlsListener:
    """One socket for all DTLS clients.

    Args:
        service: the server.
        sock: bound.
        local: its address.
        context: with a certificate.
    """

    def __init__(
        self, service: TurnService, sock: trio.socket.SocketType, local: TransportAddress, context: SSL.Context
    ) -> None:
        self._service = service
        self._socket = sock
        self._local = local
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
        host, port = channel.peer_address[:2]
        remote = make_address(host.partition("%")[0], port)
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
            path = ClientPath("dtls", self._local, remote)
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
        self._outbox = Outbox(service.counters)
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


async def bind_dtls(address: TransportAddress) -> tuple[trio.socket.SocketType, TransportAddress]:
    """Return a bound UDP socket for `trio.DTLSEndpoint`, and its address.

    Raises:
        OSError: the address is not ours or the port is taken.
    """
    family, target = bind_sockaddr(address.host, address.port)
    sock = trio.socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind(target)
    except BaseException:
        sock.close()
        raise
    return sock, TransportAddress(address.host, sock.getsockname()[1])
