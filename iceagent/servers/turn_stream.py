"""Clients of the TURN server over TCP and TLS: framed messages, or one peer's bytes (RFC 6062)."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from iceagent.core.address import TransportAddress
from iceagent.core.stun.rate_limit import levels_of
from iceagent.core.turn.channel_data import CHANNEL_MAX_RFC5766, StreamFrames
from iceagent.core.turn.server import ClientPath, PeerConnection, PeerDatagrams
from iceagent.net.accepting import serve_connections
from iceagent.net.logs import limited_logger
from iceagent.net.tcp import bound_address, peer_address

if TYPE_CHECKING:
    from iceagent.servers.turn import TurnService

logger = limited_logger(__name__)

HANDSHAKE_S: Final = 10.0  # for TLS and DTLS
AUTHENTICATE_S: Final = 20.0  # until a connection has an allocation; it is closed else, and so long after losing it
STALLED_S: Final = 30.0  # a client that takes nothing for so long is gone
MAX_PENDING_BYTES: Final = 512 * 1024  # for one client; then relayed data is dropped, as on any congested link
READ_BYTES: Final = 65536
_STREAM_ERRORS: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError)

ClientStream = trio.abc.Stream


class Doorkeeper:
    """Counts connections, in all and by source, so that nobody takes all there are.

    Args:
        total: of all.
        per_source: of one IPv4 address or one IPv6 /64.
        counters: where those sent away are counted.
    """

    def __init__(self, total: int, per_source: int, counters: Counter[str]) -> None:
        self._total = total
        self._per_source = per_source
        self._counters = counters
        self._inside = 0
        self._by_source: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many are in."""
        return self._inside

    def enter(self, host: str) -> bool:
        """Return whether a connection from `host` may come in, and count it if so."""
        levels = levels_of(host)
        full = any(self._by_source[source] >= scale * self._per_source for source, scale in levels)
        if self._inside >= self._total or full:
            self._counters["connections_over_limit"] += 1
            return False
        self._inside += 1
        self._by_source.update(source for source, _ in levels)
        self._counters["connections"] += 1
        return True

    def leave(self, host: str) -> None:
        """Count one less."""
        self._inside -= 1
        for source, _ in levels_of(host):
            self._by_source[source] -= 1
            if self._by_source[source] <= 0:
                del self._by_source[source]


class ClientOutbox:
    """What waits to be written to one client. Never waits itself; drops what does not fit.

    Args:
        counters: where dropped messages are counted.
    """

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._pending: list[bytes] = []
        self._bytes = 0
        self._wake = trio.Event()
        self._closed = False

    def put(self, messages: list[bytes]) -> None:
        """Queue messages in order."""
        size = sum(map(len, messages))
        if self._closed or self._bytes + size > MAX_PENDING_BYTES:
            self._counters["client_buffer_full"] += len(messages)
            return
        self._pending += messages
        self._bytes += size
        self._wake.set()

    async def take(self) -> list[bytes]:
        """Wait for messages; return all there are, and none when there will be no more."""
        while not self._pending and not self._closed:
            self._wake = trio.Event()
            await self._wake.wait()
        messages, self._pending, self._bytes = self._pending, [], 0
        return messages

    def close(self) -> None:
        """Take no more messages."""
        self._closed = True
        self._wake.set()


class StreamClient:
    """One connection of a client.

    Args:
        service: the server.
        stream: ready to be read.
        path: the 5-tuple.
        settle: called as the connection gets an allocation.
    """

    def __init__(
        self,
        service: TurnService,
        stream: ClientStream,
        path: ClientPath,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self._settle = settle
        self._service = service
        self._stream = stream
        self._path = path
        self._frames = StreamFrames(CHANNEL_MAX_RFC5766)
        self._outbox = ClientOutbox(service.counters)
        self._patience = trio.CancelScope(deadline=trio.current_time() + AUTHENTICATE_S)
        self._joined: PeerConnection | None = None

    def send(self, messages: list[bytes]) -> None:
        """Queue messages for the client."""
        self._outbox.put(messages)

    def note_allocation(self, *, exists: bool) -> None:
        """An allocation makes a connection worth keeping, and its end no longer."""
        self._patience.deadline = float("inf") if exists else trio.current_time() + AUTHENTICATE_S
        if exists:
            self._settle()

    def join(self, connection: PeerConnection) -> None:
        """From the next byte on this is the data connection to a peer."""
        self._joined = connection
        self._patience.deadline = float("inf")
        self._settle()

    async def run(self) -> None:
        """Serve until either side ends it."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, nursery.cancel_scope)
                with self._patience:
                    await self._read()
                if self._patience.cancelled_caught:
                    self._service.counters["connections_shed"] += 1
                if self._joined is None:
                    nursery.cancel_scope.cancel()
                self._outbox.close()  # the writer ends when it has written all
            if self._joined is not None:
                await self._carry(self._joined)
        except* _STREAM_ERRORS:
            self._service.counters["connections_broken"] += 1

    async def _read(self) -> None:
        service, core, path = self._service, self._service.core, self._path
        while self._joined is None:
            data = bytes(await self._stream.receive_some(READ_BYTES))
            if not data:
                return
            now = trio.current_time()
            forwards: list[PeerDatagrams] = []
            for frame in self._frames.feed(data):
                if frame[0] < 0x40:
                    service.forward(forwards)  # in order: a Refresh may close the relay that these go through
                    forwards = []
                    self._take_stun(now, frame)
                    if self._joined is not None:
                        break
                    continue
                allocation = core.allocations.get(path)
                if allocation is not None:
                    _merge(forwards, core.forward_to_peer(now, allocation, frame, len(frame)))
            service.forward(forwards)
            if self._frames.broken:
                service.counters["stream_broken"] += 1
                return

    def _take_stun(self, now: float, frame: bytes) -> None:
        service, path = self._service, self._path
        if frame[:2] == b"\x00\x01":
            answer = service.binding.handle_datagram(now, path.local, path.remote, frame)
            if answer is not None:
                self.send([answer])
        else:
            service.core.handle_message(now, path, frame)
            service.settle()

    async def _write(self, scope: trio.CancelScope) -> None:
        while messages := await self._outbox.take():
            with trio.move_on_after(STALLED_S) as patience:
                await self._stream.send_all(b"".join(messages))
            if patience.cancelled_caught:
                self._service.counters["connections_stalled"] += 1
                scope.cancel()

    async def _carry(self, connection: PeerConnection) -> None:
        """Copy bytes both ways until both directions have ended. RFC 6062 sections 4.4 and 5.5."""
        await self._service.tcp_relays.carry(connection, self._stream, self._frames.take_rest())


def _merge(forwards: list[PeerDatagrams], more: list[PeerDatagrams]) -> None:
    """Append, so that what goes to one peer goes in one call."""
    for forward in more:
        if forwards and forwards[-1].relay is forward.relay and forwards[-1].peer == forward.peer:
            forwards[-1].datagrams.extend(forward.datagrams)
        else:
            forwards.append(forward)


class StreamListener:
    """Accepts clients over TCP or TLS.

    Args:
        service: the server.
        listener: bound.
        context: for TLS; None for TCP.
    """

    def __init__(
        self,
        service: TurnService,
        listener: trio.abc.Listener[trio.abc.HalfCloseableStream],
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._service = service
        self._listener = listener
        self._context = context

    async def run(self) -> None:
        """Serve until cancelled, whatever the system says of a single connection."""
        await serve_connections(self._listener, self._serve, self._note_failed)

    def _note_failed(self, error: OSError) -> None:
        self._service.counters["accept_failed"] += 1

    async def _serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        try:
            local, remote = bound_address(stream), peer_address(stream)
        except (OSError, ValueError):
            await trio.aclose_forcefully(stream)
            return
        try:
            async with admitted(self._service, remote, stream) as may_enter:
                if may_enter:
                    await self._admit(stream, local, remote)
        except Exception:
            # One client must never end the server. The traceback names code, not what the client sent.
            self._service.counters["internal_errors"] += 1
            logger.exception("a client was dropped")

    async def _admit(
        self, stream: trio.abc.HalfCloseableStream, local: TransportAddress, remote: TransportAddress
    ) -> None:
        ready: ClientStream = stream
        transport = "tcp"
        if self._context is not None:
            transport = "tls"
            tls = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
            with trio.move_on_after(HANDSHAKE_S) as patience:
                try:
                    await tls.do_handshake()
                except (trio.BrokenResourceError, ssl.SSLError, OSError):
                    self._service.counters["handshakes_failed"] += 1
                    return
            if patience.cancelled_caught:
                self._service.counters["connections_shed"] += 1
                return
            ready = tls
        path = ClientPath(transport, local, remote)
        client = StreamClient(self._service, ready, path)
        await self._service.run_client(path, client.send, client, client.run)


@asynccontextmanager
async def admitted(
    service: TurnService, remote: TransportAddress, stream: trio.abc.AsyncResource
) -> AsyncGenerator[bool, None]:
    """Yield whether a connection may come in; close it at the end of the block, whatever happens."""
    may_enter = service.doorkeeper.enter(remote.host)
    try:
        yield may_enter
    finally:
        if may_enter:
            service.doorkeeper.leave(remote.host)
        await trio.aclose_forcefully(stream)


async def serve_stream(
    service: TurnService,
    stream: ClientStream,
    local: TransportAddress,
    remote: TransportAddress,
    settle: Callable[[], None],
) -> None:
    """Serve a client that another server on the same port has accepted, and decrypted, until either side ends it.

    Args:
        service: the server.
        stream: ready to be read; closed at the end.
        local, remote: of the connection.
        settle: called as it gets an allocation.
    """
    path = ClientPath("tls", local, remote)
    async with admitted(service, remote, stream) as may_enter:
        if may_enter:
            client = StreamClient(service, stream, path, settle)
            await service.run_client(path, client.send, client, client.run)
