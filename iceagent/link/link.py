"""`open_link`: QUIC with peer authentication over anything that carries datagrams."""

from __future__ import annotations

import contextlib
import math
import secrets
from collections.abc import AsyncIterator

import trio
from msgspec import Struct

from iceagent.core.checked import check_bytes, checked
from iceagent.errors import IceError, LocalError, NetworkError
from iceagent.link.auth import LinkAuthenticator
from iceagent.link.backends import create_endpoint
from iceagent.link.config import MAX_NAME_SIZE, PACKET_SIZE, LinkConfig, LinkRole
from iceagent.link.credit import PROCESS_LEDGER, Ledger
from iceagent.link.errors import LinkCode, LinkLost, PeerRefused
from iceagent.link.identity import LinkIdentity
from iceagent.link.protocol import LinkProtocol, LinkState
from iceagent.link.quic import QuicEndpoint
from iceagent.link.stream import LinkStream
from iceagent.link.transport import DatagramTransport, KnowsPath, SendsEverywhere
from iceagent.net.tasks import open_background

_KEY_SIZE = 32
_TIMER_STEP_S = 0.001  # a timer that stays due after it was handled must not turn the driver into a busy loop
_DELIVERY_S = 120.0  # ours: 4 MiB, all that may be under way, at 35 kB/s; a peer that takes it by drops ends nothing
_CLOSE_COPIES = 3  # nobody acknowledges a CONNECTION_CLOSE


class LinkStatistics(Struct, frozen=True):
    """What a link has counted and measured; `counters` by name."""

    rtt_s: float | None
    congestion_window: int
    bytes_in_flight: int
    packets_lost: int
    invalid_datagrams: int
    datagrams_dropped: int
    counters: dict[str, int]


class QuicLink:
    """Streams and datagrams to one authenticated peer. Made by `open_link`.

    Attributes:
        path: what the link runs over, as whoever made it describes it; None if nobody did.
    """

    def __init__(self, protocol: LinkProtocol, parked: trio.lowlevel.ParkingLot, config: LinkConfig) -> None:
        self.path: object | None = None
        self._protocol = protocol
        self._parked = parked
        self._config = config

    @checked
    async def open_stream(self, name: str = "") -> LinkStream:
        """Open a stream; the peer's `accept_stream` returns it with this name.

        Waits only while the peer allows no further stream.

        Raises:
            LocalError: the name is longer than 1 KiB in UTF-8.
            trio.BrokenResourceError: the link has ended; the cause says why.
            trio.ClosedResourceError: the link was closed here.
        """
        header = name.encode()
        if len(header) > MAX_NAME_SIZE:
            raise LocalError(f"a stream's name has at most {MAX_NAME_SIZE} bytes in UTF-8, this one has {len(header)}")
        await trio.lowlevel.checkpoint()
        self._check()
        while not self._protocol.can_open_stream():
            await self._parked.park()
            self._check()
        return LinkStream(self._protocol, self._protocol.open_stream(name, header))

    @property
    def can_open_stream(self) -> bool:
        """Whether `open_stream` would not have to wait: the peer has fewer streams of ours than it allows (512)."""
        return self._protocol.state is LinkState.OPEN and self._protocol.endpoint.can_open_stream()

    async def accept_stream(self) -> LinkStream:
        """Wait for the next stream the peer opens.

        Raises: as `open_stream`.
        """
        await trio.lowlevel.checkpoint()
        while True:
            state = self._protocol.accept_stream()
            if state is not None:
                return LinkStream(self._protocol, state)
            self._check()
            await self._parked.park()

    @property
    def max_datagram_size(self) -> int:
        """The largest datagram in bytes. One that exceeds a packet travels in fragments, and is lost with any."""
        return self._protocol.datagrams.max_size

    async def send_datagram(self, data: bytes) -> None:
        """Send a datagram: at most once, in any order, perhaps never.

        While the network does not keep up, waits for room in a bounded queue, at most `datagram_patience_s`; then the
        oldest waiting datagram is dropped and counted.

        Raises:
            LocalError: larger than `max_datagram_size`.
            trio.BrokenResourceError, trio.ClosedResourceError: as `open_stream`.
        """
        protocol, data = self._protocol, check_bytes("a datagram", data)
        if len(data) > protocol.datagrams.max_size:
            raise LocalError(f"a datagram has at most {protocol.datagrams.max_size} bytes, this one has {len(data)}")
        await trio.lowlevel.checkpoint()
        self._check()
        if protocol.datagrams.pending.is_full:
            with trio.move_on_after(self._config.datagram_patience_s):
                while protocol.datagrams.pending.is_full:
                    await self._parked.park()
                    self._check()
        protocol.queue_datagram(data)

    async def receive_datagram(self) -> bytes:
        """Wait for the next datagram. The oldest of those waiting is dropped when there are too many.

        Raises: as `open_stream`.
        """
        await trio.lowlevel.checkpoint()
        queue = self._protocol.datagrams.received
        while not queue:
            self._check()
            await self._parked.park()
        return queue.pop()

    def notify_path_changed(self) -> None:
        """Take note that another path carries the datagrams now: transfers that stood still continue at once."""
        self._protocol.probe_path(trio.current_time())

    async def wait_closed(self) -> None:
        """Wait until the link has ended, for whatever reason: see `close_reason`."""
        await trio.lowlevel.checkpoint()
        while self._protocol.state is not LinkState.CLOSED:
            await self._parked.park()

    @property
    def close_reason(self) -> IceError | None:
        """Why the link has ended; None while it lives."""
        return self._protocol.error

    def statistics(self) -> LinkStatistics:
        """Return a snapshot."""
        protocol, endpoint = self._protocol, self._protocol.endpoint
        return LinkStatistics(
            rtt_s=endpoint.rtt_s,
            congestion_window=endpoint.congestion_window,
            bytes_in_flight=endpoint.bytes_in_flight,
            packets_lost=endpoint.packets_lost,
            invalid_datagrams=endpoint.invalid_datagrams,
            datagrams_dropped=protocol.datagrams.dropped,
            counters=dict(protocol.counters),
        )

    def _check(self) -> None:
        protocol = self._protocol
        if protocol.state is LinkState.CLOSED:
            if protocol.closed_here:
                raise trio.ClosedResourceError("the link is closed")
            raise trio.BrokenResourceError(f"the link has ended: {protocol.error}") from protocol.error


class _Driver:
    """Moves datagrams between transport and protocol: one task receives, one sends and keeps time."""

    def __init__(
        self,
        transport: DatagramTransport,
        endpoint: QuicEndpoint,
        authenticator: LinkAuthenticator,
        config: LinkConfig,
        ledger: Ledger,
    ) -> None:
        self.parked = trio.lowlevel.ParkingLot()  # whoever waits for anything but one stream's bytes
        path_works = (lambda: transport.is_answering) if isinstance(transport, KnowsPath) else None
        self.protocol = LinkProtocol(
            endpoint, authenticator, config, ledger, self.parked.unpark_all, self.wake, path_works
        )
        self._transport = transport
        self.in_hand: list[bytes] = []  # what a cancelled send may not have sent: perhaps the link's final messages
        self._wake = trio.Event()

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Run until the link has ended and its final messages are sent."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            await self._transmit()
            nursery.cancel_scope.cancel()

    async def _receive(self) -> None:
        try:
            while True:
                batches = await self._transport.receive_batches()
                self.protocol.receive_untrusted(batches, trio.current_time())
                self._wake.set()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._lose(exc)

    async def _transmit(self) -> None:
        protocol = self.protocol
        try:
            while True:
                self._wake = trio.Event() if self._wake.is_set() else self._wake
                now = trio.current_time()
                timer = protocol.timer()
                if timer is not None and timer <= now:
                    protocol.handle_timer(now)
                    timer = protocol.timer()
                self.in_hand = protocol.datagrams_to_send(now)
                if self.in_hand:
                    await self._transport.send_many(self.in_hand)
                    self.in_hand = []
                elif protocol.state is LinkState.CLOSED:
                    return
                else:
                    timer = protocol.timer()
                    deadline = float("inf") if timer is None else max(timer, now + _TIMER_STEP_S)
                    with trio.move_on_at(deadline):
                        await self._wake.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._lose(exc)

    def _lose(self, cause: Exception) -> None:
        why = str(cause.__cause__ or cause)
        error = LinkLost(f"the path under the link is gone{why and f': {why}'}")
        error.__cause__ = cause.__cause__ or cause
        self.protocol.fail(error)
        self._wake.set()


@checked
@contextlib.asynccontextmanager
async def open_link(
    transport: DatagramTransport,
    *,
    role: LinkRole,
    identity: LinkIdentity,
    peer_fingerprint: bytes,
    session_key: bytes,
    config: LinkConfig | None = None,
    backend: str = "qh3",
    ledger: Ledger = PROCESS_LEDGER,
) -> AsyncIterator[QuicLink]:
    """Open an authenticated link to the peer at the other end of `transport`.

    When the block ends, what was written is handed over for as long as the peer goes on taking it (`close_timeout_s`),
    and the peer is informed.

    Args:
        transport: what carries the datagrams; it stays open.
        role: one end is the client, the other the server.
        identity: this end's certificate and key.
        peer_fingerprint: SHA-256 of the peer's certificate, 32 bytes, as signaling announced it.
        session_key: 32 secret bytes that both ends share.
        config: limits; the defaults suit a tunnel.
        backend: the QUIC library, "qh3" or "aioquic".
        ledger: counts the memory of several links together.
    Raises:
        LocalError: an argument is wrong.
        AuthenticationError: the peer is not the announced one.
        RemoteError, NetworkError: the link could not be opened.
    """
    config = config or LinkConfig()
    _check_arguments(transport, peer_fingerprint, session_key)
    authenticator = LinkAuthenticator(
        role,
        session_key,
        own_fingerprint=identity.fingerprint,
        peer_fingerprint=peer_fingerprint,
        randbytes=secrets.token_bytes,
    )
    endpoint = create_endpoint(backend, role, identity, peer_fingerprint, config)
    driver = _Driver(transport, endpoint, authenticator, config, ledger)
    failure: BaseException | None = None
    try:
        async with open_background() as nursery:
            driver.protocol.start(trio.current_time())
            nursery.start_soon(driver.run)
            try:
                await _wait_open(driver, config)
                yield QuicLink(driver.protocol, driver.parked, config)
                await _deliver(driver, config)
            except BaseException as error:
                failure = error
                raise
    finally:
        await _close(driver, transport, config, failure)  # noqa: ASYNC102


def _check_arguments(transport: DatagramTransport, peer_fingerprint: bytes, session_key: bytes) -> None:
    if len(peer_fingerprint) != _KEY_SIZE or len(session_key) != _KEY_SIZE:
        raise LocalError("peer_fingerprint and session_key have 32 bytes each")
    if transport.max_datagram_size < PACKET_SIZE:
        raise LocalError(f"the transport carries less than the {PACKET_SIZE} bytes that QUIC needs")


async def _deliver(driver: _Driver, config: LinkConfig) -> None:
    """Wait until the peer has all that was written, for as long as it goes on taking it, within reason."""
    protocol, least = driver.protocol, math.inf
    with trio.move_on_after(max(_DELIVERY_S, config.close_timeout_s)):
        while protocol.state is LinkState.OPEN and (left := protocol.undelivered()) and left < least:
            least = left
            with trio.move_on_after(config.close_timeout_s):
                while protocol.state is LinkState.OPEN and protocol.undelivered():
                    await driver.parked.park()


async def _wait_open(driver: _Driver, config: LinkConfig) -> None:
    """Wait for the proofs of both ends."""
    protocol = driver.protocol
    with trio.move_on_after(config.handshake_timeout_s) as scope:
        while protocol.state not in (LinkState.OPEN, LinkState.CLOSED):
            await driver.parked.park()
    if scope.cancelled_caught:
        raise NetworkError(f"the other side did not open the link within {config.handshake_timeout_s:g} s")
    if protocol.error is not None:
        raise protocol.error


def _farewell(failure: BaseException | None) -> tuple[LinkCode, str]:
    """Return what is sent to the peer of how the body ended. Never the text of an error, which is this side's own."""
    match failure:
        case None:
            return LinkCode.CLOSED, "done"
        case PeerRefused():
            return LinkCode.REFUSED, failure.wish
        case Exception():
            return LinkCode.FAILED, "its application failed"
    return LinkCode.CANCELLED, ""


async def _close(
    driver: _Driver, transport: DatagramTransport, config: LinkConfig, failure: BaseException | None
) -> None:
    """Inform the peer, bounded and shielded."""
    protocol = driver.protocol
    protocol.close(*_farewell(failure))
    datagrams = driver.in_hand + protocol.datagrams_to_send(trio.current_time())
    protocol.detach()
    if datagrams:
        with (
            trio.CancelScope(shield=True, deadline=trio.current_time() + config.close_timeout_s),
            contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):
            # The peer may not have followed to a path that was taken just now, or have left it already.
            send = transport.send_everywhere if isinstance(transport, SendsEverywhere) else transport.send_many
            await send(datagrams + datagrams[-1:] * (_CLOSE_COPIES - 1))
