"""TCP to and from peers through a TURN server: RFC 6062 on Trio."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final

import trio

from iceagent.core import turn
from iceagent.core.address import TransportAddress
from iceagent.net.api import Network
from iceagent.net.tasks import open_background
from iceagent.net.turn.allocation import TurnAllocation, TurnLogin, open_turn_socket
from iceagent.net.turn.connect import TurnConnectOptions, TurnServerAddress, open_stream

BIND_TIMEOUT_S: Final = 30.0  # RFC 6062 section 5.2: the server forgets a connection that is not bound by then
MAX_WAITING: Final = 64  # ours: peers' connections that wait to be accepted
_READ_SIZE: Final = 65536


class TurnTcpAllocation:
    """A relayed TCP address: connections to peers, and from them. Made by `open_turn_tcp`."""

    def __init__(
        self,
        network: Network,
        allocation: TurnAllocation,
        options: TurnConnectOptions,
        randbytes: Callable[[int], bytes],
    ) -> None:
        self.allocation = allocation
        self._network = network
        self._options = options
        self._randbytes = randbytes
        self._wanted: dict[TransportAddress, trio.MemorySendChannel[turn.Connected | turn.ConnectFailed]] = {}
        self._attempts, self._take = trio.open_memory_channel[turn.ConnectionAttempted](MAX_WAITING)

    @property
    def relayed_addresses(self) -> tuple[TransportAddress, ...]:
        """The addresses the server listens at for us."""
        return self.allocation.relayed_addresses

    def permit(self, hosts: Iterable[str]) -> None:
        """Let peers at these IP addresses connect to the relayed address."""
        self.allocation.permit(hosts)

    async def connect(self, peer: TransportAddress) -> trio.abc.HalfCloseableStream:
        """Let the server connect to a peer; return the stream to it.

        Raises:
            turn.TurnError: the server refuses, or does not reach the peer.
            OSError: the data connection to the server fails.
        """
        if peer in self._wanted:
            raise turn.TurnError(turn.EndReason.REFUSED, 446, "one connection to this peer is under way")
        answer, take = trio.open_memory_channel[turn.Connected | turn.ConnectFailed](1)
        self._wanted[peer] = answer
        try:
            self.allocation.connect(peer)
            found = await take.receive()
        except trio.EndOfChannel:
            raise turn.TurnError(turn.EndReason.CONNECTION_LOST) from None
        finally:
            self._wanted.pop(peer, None)
        if isinstance(found, turn.ConnectFailed):
            reason = turn.EndReason.FORBIDDEN if found.code == 403 else turn.EndReason.REFUSED
            raise turn.TurnError(reason, found.code, f"{peer} cannot be reached through the server")
        return await self._bind(found.connection_id)

    async def accept(self) -> tuple[TransportAddress, trio.abc.HalfCloseableStream]:
        """Wait for a peer to connect; return its address and the stream.

        Raises:
            trio.ClosedResourceError: the allocation has ended.
        """
        while True:
            try:
                attempt = await self._take.receive()
            except trio.EndOfChannel:
                raise trio.ClosedResourceError("the TURN allocation has ended") from None
            try:
                return attempt.peer, await self._bind(attempt.connection_id)
            except (OSError, turn.TurnError):
                continue  # the peer went away meanwhile

    async def run(self) -> None:
        """Hand out what the server reports, until the allocation ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hand_out)
            await self.allocation.lost.wait()
            nursery.cancel_scope.cancel()
        self._attempts.close()
        for waiting in self._wanted.values():
            waiting.close()

    async def _hand_out(self) -> None:
        async for event in self.allocation.connections:
            if isinstance(event, turn.ConnectionAttempted):
                try:
                    self._attempts.send_nowait(event)
                except trio.WouldBlock:
                    continue  # nobody accepts: the server closes it after 30 s
            elif isinstance(event, turn.Connected | turn.ConnectFailed):
                waiting = self._wanted.pop(event.peer, None)
                if waiting is not None:
                    waiting.send_nowait(event)

    async def _bind(self, connection_id: int) -> trio.abc.HalfCloseableStream:
        # To the very server that has the control connection: of one name's addresses, another one knows nothing of it.
        allocation = self.allocation
        stream, local, remote = await open_stream(self._network, allocation.server, self._options, allocation.place)
        binder = turn.ConnectionBinder(
            local, remote, self.allocation.client.authenticator, connection_id, self._randbytes
        )
        try:
            with trio.fail_after(BIND_TIMEOUT_S):
                binder.start(trio.current_time())
                while binder.outcome is None:
                    while (data := binder.poll_transmit()) is not None:
                        await stream.send_all(data)
                    received = await stream.receive_some(_READ_SIZE)
                    if not received:
                        raise turn.TurnError(turn.EndReason.CONNECTION_LOST)
                    binder.feed(trio.current_time(), bytes(received))
        except trio.TooSlowError:
            await trio.aclose_forcefully(stream)
            raise turn.TurnError(turn.EndReason.NO_ANSWER) from None
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(stream)
            raise turn.TurnError(turn.EndReason.CONNECTION_LOST) from error
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        if binder.outcome.response is None:
            await trio.aclose_forcefully(stream)
            raise turn.TurnError(turn.EndReason.REFUSED, binder.outcome.code, binder.outcome.detail)
        return _PeerStream(stream, binder.rest)


class _PeerStream(trio.abc.HalfCloseableStream):
    """The data connection, what came with the server's answer first."""

    def __init__(self, stream: trio.abc.Stream, rest: bytes) -> None:
        self._stream = stream
        self._rest = rest

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        else:
            await self._stream.aclose()  # TLS knows no half-close

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._rest:
            size = len(self._rest) if max_bytes is None else max_bytes
            data, self._rest = self._rest[:size], self._rest[size:]
            await trio.lowlevel.checkpoint()
            return data
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def open_turn_tcp(
    network: Network,
    server: TurnServerAddress,
    *,
    login: TurnLogin | None = None,
    options: TurnConnectOptions | None = None,
    family: int = 4,
    randbytes: Callable[[int], bytes] = secrets.token_bytes,
) -> AsyncIterator[TurnTcpAllocation]:
    """Allocate a relayed TCP address, and keep it while the body runs. RFC 6062.

    Args:
        network: where connections come from.
        server: over `tcp` or `tls`.
        login: where credentials come from.
        options: local address, proxy, certificates.
        family: IP version of the relayed address.
        randbytes: source of unpredictable bytes.

    Raises:
        turn.TurnError: the server gives no allocation.
        OSError: it cannot be reached.
        ValueError: the transport is not TCP or TLS.
    """
    if server.transport not in ("tcp", "tls"):
        raise ValueError("TCP allocations are made over TCP or TLS (RFC 6062 section 4.1)")
    options = options or TurnConnectOptions()
    request = turn.AllocationRequest(families=(6,) if family == 6 else (4,), tcp=True)
    async with open_turn_socket(
        network, server, login=login, request=request, options=options, randbytes=randbytes
    ) as allocation:
        relay = TurnTcpAllocation(network, allocation, options, randbytes)
        async with open_background() as nursery:
            nursery.start_soon(relay.run)
            yield relay
