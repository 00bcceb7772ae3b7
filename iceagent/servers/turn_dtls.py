"""Clients of the TURN server over DTLS. RFC 7350."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from iceagent.core.address import TransportAddress
from iceagent.core.turn.server import ClientPath
from iceagent.net.api import SetsFragments, UdpSocket
from iceagent.net.logs import limited_logger
from iceagent.net.options import bound_to
from iceagent.servers.turn_stream import AUTHENTICATE_S, HANDSHAKE_S, admitted

if TYPE_CHECKING:
    from OpenSSL import SSL

    from iceagent.net.dtls import DtlsConnection
    from iceagent.servers.turn import TurnService

logger = limited_logger(__name__)

MAX_WAITING: Final = 128
"""Messages of one client that may come between its handshake and its first turn."""


class DtlsListener:
    """One socket for all DTLS clients.

    Connections are told apart by both their ends, so that each is answered from the address that was asked, and one
    client may have connections to several addresses of this machine.

    Args:
        service: the server.
        sock: bound.
        context: with a certificate.
    """

    def __init__(self, service: TurnService, sock: UdpSocket, context: SSL.Context) -> None:
        from iceagent.net import dtls

        self._dtls = dtls
        self._service = service
        self._socket = sock
        self._door = dtls.DtlsDoor(context)
        self._clients: dict[tuple[TransportAddress, TransportAddress], DtlsClient] = {}
        if isinstance(sock, SetsFragments):
            sock.allow_fragments()  # a record adds to each message, which may then be too long for the way

    async def run(self) -> None:
        """Serve until cancelled."""
        bound = self._socket.local_address
        async with trio.open_nursery() as nursery:
            while True:
                for batch in await self._socket.receive():
                    path = ClientPath("dtls", bound_to(bound, batch.local), batch.remote)
                    for datagram in batch.datagrams():
                        try:
                            self._handle(nursery, path, datagram)
                        except Exception:
                            # One client must never end the server. The traceback names code, not what the client sent.
                            self._service.counters["internal_errors"] += 1
                            logger.exception("a datagram of a DTLS client was dropped")
                self._socket.take_errors()

    def send(self, path: ClientPath, datagrams: list[bytes]) -> None:
        """Send to a client what there is room for."""
        source = None if path.local == self._socket.local_address else path.local.host
        lost = len(datagrams) - self._socket.send_nowait(datagrams, path.remote, source=source)
        if lost:
            self._service.counters["client_buffer_full"] += lost

    def _handle(self, nursery: trio.Nursery, path: ClientPath, datagram: bytes) -> None:
        ends = path.local, path.remote
        client = self._clients.get(ends)
        if self._dtls.is_client_hello(datagram):
            handshake = self._dtls.handshake_of(datagram)
            if client is None or client.handshake != handshake:
                connection, answer = self._door.admit(datagram, ends)
                self.send(path, answer)
                if connection is not None:
                    if client is not None:
                        client.leave()  # whoever is at that address now has shown that it has begun anew
                    self._clients[ends] = entrant = DtlsClient(self._service, self, connection, path, handshake)
                    nursery.start_soon(self._serve, entrant)
                return
        if client is not None:
            client.handle_datagram(datagram)

    async def _serve(self, client: DtlsClient) -> None:
        try:
            async with admitted(self._service, client.path.remote, client) as may_enter:
                if may_enter:
                    await client.serve()
        except Exception:
            self._service.counters["internal_errors"] += 1
            logger.exception("a DTLS client was dropped")
        finally:
            ends = client.path.local, client.path.remote
            if self._clients.get(ends) is client:
                del self._clients[ends]


class DtlsClient(trio.abc.AsyncResource):
    """One DTLS client.

    Args:
        service: the server.
        listener: whose socket it has come to.
        connection: our end of the association.
        path: the 5-tuple.
        handshake: what tells its handshake from others.
    """

    def __init__(
        self,
        service: TurnService,
        listener: DtlsListener,
        connection: DtlsConnection,
        path: ClientPath,
        handshake: bytes,
    ) -> None:
        self.path = path
        self.handshake = handshake
        self._service = service
        self._listener = listener
        self._connection = connection
        self._has_place = False
        self._waiting: list[bytes] | None = []  # None from its first turn on
        self._patience = trio.CancelScope()
        self._changed = trio.Event()

    def handle_datagram(self, datagram: bytes) -> None:
        """Take what came from the client's address; before there is a place for it, nothing: it will say so again."""
        if not self._has_place:
            return
        messages = self._connection.handle_datagram(datagram)
        self._flush()
        if self._waiting is None:
            for message in messages:
                self._take(message)
        else:
            self._waiting += messages[: MAX_WAITING - len(self._waiting)]
        if self._waiting is not None or self._connection.ended is not None:
            self._changed.set()

    def send(self, messages: list[bytes]) -> None:
        """Send messages to the client."""
        datagrams: list[bytes] = []
        for message in messages:
            try:
                datagrams.append(self._connection.encrypt(message))
            except ValueError:
                self._service.counters["client_datagram_too_large"] += 1
            except OSError:
                self._service.counters["client_gone"] += 1
        if datagrams:
            self._listener.send(self.path, datagrams)

    def note_allocation(self, *, exists: bool) -> None:
        """An allocation makes a client worth keeping, and its end no longer."""
        self._patience.deadline = float("inf") if exists else trio.current_time() + AUTHENTICATE_S

    def leave(self) -> None:
        """End it; the client is told if it can still hear that."""
        self._connection.close()
        self._flush()
        self._changed.set()

    async def aclose(self) -> None:
        """End it."""
        self.leave()
        await trio.lowlevel.checkpoint()

    async def serve(self) -> None:
        """Serve until the client is gone or has no allocation for too long."""
        self._has_place = True
        if self._connection.ended is None:  # not if it has begun anew meanwhile
            self._connection.advance()  # only now: a handshake costs a signature
            self._flush()
        with trio.move_on_after(HANDSHAKE_S) as patience:
            await self._do_handshake()
        if patience.cancelled_caught:
            self._service.counters["connections_shed"] += 1
        elif self._connection.ended is not None:
            self._service.counters["handshakes_failed"] += 1
        else:
            await self._service.run_client(self.path, self.send, self, self._run)

    async def _do_handshake(self) -> None:
        connection = self._connection
        while not connection.is_open and connection.ended is None:
            wait_s = connection.timeout()
            with trio.move_on_after(float("inf") if wait_s is None else wait_s) as timer:
                await self._changed.wait()
                self._changed = trio.Event()
            if timer.cancelled_caught:
                connection.handle_timeout()
                self._flush()

    async def _run(self) -> None:
        waiting, self._waiting = self._waiting, None
        self._patience.deadline = trio.current_time() + AUTHENTICATE_S
        for message in waiting or ():
            self._take(message)
        with self._patience:
            while self._connection.ended is None:
                await self._changed.wait()
                self._changed = trio.Event()
        if self._patience.cancelled_caught:
            self._service.counters["connections_shed"] += 1

    def _take(self, message: bytes) -> None:
        service, core, path = self._service, self._service.core, self.path
        now = trio.current_time()
        if message[0] >= 0x40:
            allocation = core.allocations.get(path)
            if allocation is not None:
                service.forward(core.forward_to_peer(now, allocation, message, len(message)))
        elif message[:2] == b"\x00\x01":
            answer = service.binding.handle_datagram(now, path.local, path.remote, message)
            if answer is not None:
                self.send([answer])
        else:
            core.handle_message(now, path, message)
            service.settle()

    def _flush(self) -> None:
        datagrams = self._connection.take_datagrams()
        if datagrams:
            self._listener.send(self.path, datagrams)
