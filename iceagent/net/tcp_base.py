"""A TCP candidate's end as a UDP socket: datagrams to and from many peers, each over a connection of its own.

RFC 6544: frames of RFC 4571 inside; connections are opened when something is to be sent (active, simultaneous open) or
come in (passive, simultaneous open). A connection that cannot be opened, or breaks, is reported as an ICMP error is.

Anybody may connect to the port: connections that are not authenticated are few per source, may send little, and are
closed within seconds.
"""

from __future__ import annotations

import errno
import ipaddress
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import trio

from iceagent.core.address import TransportAddress
from iceagent.net.accepting import accept_next
from iceagent.net.api import IcmpError, Network, SocketStatistics
from iceagent.net.batch import Batch, run_end
from iceagent.net.framing import MAX_FRAME, frame
from iceagent.net.queues import ReceiveQueue
from iceagent.net.tasks import run_contained
from iceagent.net.tcp import peer_address
from iceagent.net.tcp_peer import TcpPeer

RECEIVE_BUFFER: Final = 1024 * 1024
"""Bytes kept for a slow reader; then nothing more is read, and TCP slows the peers down."""
MAX_PEERS: Final = 64  # ours: connections of one base in all
MAX_STRANGERS: Final = 16  # ours: of these, accepted ones without an authenticated check
MAX_STRANGERS_PER_SOURCE: Final = 4  # ours: a source is an IPv4 address or an IPv6 /64
STRANGER_S: Final = 5.0  # ours: seconds within which an accepted connection has to show an authenticated check
_SWEEP_S: Final = 2.5

Listener = trio.abc.Listener[trio.abc.HalfCloseableStream]


class TcpBase:
    """The base of one TCP candidate; an `iceagent.net.api.UdpSocket`. `run` has to run for as long as it is used.

    Args:
        network: where connections are opened.
        address: names the base: that of the listener, or of an active candidate (host, 9).
        listener: accepts connections; None for an active candidate. Closed with the base.
        connects: whether connections are opened, too.
        is_known: returns whether an authenticated check came from an address, or one of ours is under way to it.
        permits: whose connections are accepted at all.
        max_buffer: bytes kept for a slow reader.

    Attributes:
        refused: how many connections were refused or given up, by reason.
    """

    def __init__(
        self,
        network: Network,
        address: TransportAddress,
        listener: Listener | None,
        *,
        connects: bool,
        is_known: Callable[[TransportAddress], bool],
        permits: Callable[[TransportAddress], bool] = lambda remote: True,
        max_buffer: int = RECEIVE_BUFFER,
    ) -> None:
        self.refused: Counter[str] = Counter()
        self._network = network
        self._address = address
        self._listener = listener
        self._connects = connects
        self._is_known = is_known
        self._permits = permits
        self._peers: dict[TransportAddress, TcpPeer] = {}
        self._came = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None
        self._statistics = SocketStatistics()
        self._received = ReceiveQueue(max_buffer, self._statistics, "this TCP base is closed")

    @property
    def local_address(self) -> TransportAddress:
        """What names this base in paths."""
        return self._address

    @property
    def peers(self) -> int:
        """How many connections there are, those being opened included."""
        return len(self._peers)

    def statistics(self) -> SocketStatistics:
        """Return the live counters; they count datagrams, not frames or segments."""
        return self._statistics

    async def run(self) -> None:
        """Accept, open, read and write connections until the base is closed."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if not self._received.closed:
                    self._begin(nursery)
        finally:
            self._nursery = None
            if self._listener is not None:
                _close_now(self._listener)

    def _begin(self, nursery: trio.Nursery) -> None:
        if self._listener is not None:
            nursery.start_soon(self._accept, self._listener)
        nursery.start_soon(self._sweep)
        for peer in self._peers.values():
            nursery.start_soon(run_contained, "a TCP connection", self._serve, peer)

    # Receiving

    async def receive(self) -> list[Batch]:
        """Wait for datagrams or errors; return all at hand, oldest first.

        Raises:
            trio.ClosedResourceError: the base was closed.
        """
        return await self._received.receive()

    def take_errors(self) -> list[IcmpError]:
        """Return and forget what is known of connections that broke or could not be opened."""
        return self._received.take_errors()

    async def take_frames(self, remote: TransportAddress, frames: Sequence[bytes]) -> None:
        """Take what a connection delivered; waits while the reader is behind, so that the connection is not read."""
        at = 0
        while at < len(frames):
            end = run_end(frames, at)
            self._received.put(Batch(remote, b"".join(frames[at:end]), len(frames[at])))
            at = end
        await self._received.wait_room()

    # Sending

    def send_nowait(self, datagrams: Sequence[bytes], remote: TransportAddress, *, source: str | None = None) -> int:
        """Queue what there is room for; return how many. Opens a connection where there is none and we may.

        Raises:
            trio.ClosedResourceError: the base was closed.
        """
        del source  # a base has one address
        self._received.check_open()
        peer = self._peer_for(remote)
        if peer is None:
            self._statistics.send_errors += len(datagrams)
            return len(datagrams)
        frames = self._frames(datagrams)
        taken = peer.send_nowait(trio.current_time(), frames)
        self._count_sent(frames[:taken])
        return len(datagrams) if taken == len(frames) else taken

    async def send(self, datagrams: Sequence[bytes], remote: TransportAddress, *, source: str | None = None) -> None:
        """Send all, in order, waiting until the system has taken them. Lost with the connection if that breaks.

        Raises:
            trio.ClosedResourceError: the base was closed.
        """
        del source  # a base has one address
        await trio.lowlevel.checkpoint()
        self._received.check_open()
        peer = self._peer_for(remote)
        if peer is None:
            self._statistics.send_errors += len(datagrams)
            return
        frames = self._frames(datagrams)
        try:
            await peer.send(trio.current_time(), frames)
        except trio.ClosedResourceError:
            self._received.check_open()
            self._statistics.send_errors += len(frames)
        else:
            self._count_sent(frames)

    def close(self) -> None:
        """Close at once, connections included; whoever waits gets `trio.ClosedResourceError`. Idempotent."""
        if self._received.closed:
            return
        self._received.close()
        for peer in self._peers.values():
            peer.close()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        elif self._listener is not None:
            _close_now(self._listener)
        if trio.lowlevel.in_trio_run():
            self._came.unpark_all()

    # Connections

    def _peer_for(self, remote: TransportAddress) -> TcpPeer | None:
        peer = self._peers.get(remote)
        if peer is not None and self._connects and peer.is_stalled(trio.current_time()):
            self._forget(peer, "stalled")
            if self._listener is not None:  # the next connection leaves from the same port
                peer.reset()
            peer = None
        if peer is not None:
            return peer
        if not self._connects:
            self._put_error(remote, errno.ENOTCONN)
            return None
        if len(self._peers) >= MAX_PEERS:
            self.refused["too many connections"] += 1
            self._put_error(remote, errno.ENOBUFS)
            return None
        host, percent, zone = self._address.host.partition("%")
        del host
        target = (
            TransportAddress(f"{remote.host}%{zone}", remote.port) if percent and "%" not in remote.host else remote
        )
        port = 0 if self._listener is None else self._address.port

        async def connect() -> trio.abc.HalfCloseableStream:
            return await self._network.connect_tcp(target, local_host=self._address.host, local_port=port)

        peer = TcpPeer(trio.current_time(), remote, connect=connect, insists=self._listener is not None)
        self._add(peer)
        return peer

    def _add(self, peer: TcpPeer) -> None:
        self._peers[peer.remote] = peer
        self._came.unpark_all()
        if self._nursery is not None:
            self._nursery.start_soon(run_contained, "a TCP connection", self._serve, peer)

    async def _serve(self, peer: TcpPeer) -> None:
        code = errno.EIO
        try:
            code = await peer.run(self)
        finally:
            self._ended(peer, code)

    def _ended(self, peer: TcpPeer, code: int) -> None:
        if self._peers.get(peer.remote) is peer:
            del self._peers[peer.remote]
            if code and not self._received.closed:
                self._put_error(peer.remote, code)

    async def _accept(self, listener: Listener) -> None:
        while True:
            try:
                stream = await accept_next(listener, self._note_failed)
            except trio.ClosedResourceError:
                return
            try:
                remote = self._zoned(peer_address(stream))
            except OSError:
                remote = None  # gone already
            if remote is None or not self._admit(remote, stream):
                await trio.aclose_forcefully(stream)

    def _note_failed(self, error: OSError) -> None:
        self.refused["accept failed"] += 1

    def _admit(self, remote: TransportAddress, stream: trio.abc.HalfCloseableStream) -> bool:
        known = self._peers.get(remote)
        if known is not None and known.adopt(stream):
            return True  # we were connecting there, too
        if known is not None:
            self._forget(known, "replaced")
        reason = self._why_not(remote)
        if reason is not None:
            self.refused[reason] += 1
            return False
        self._add(TcpPeer(trio.current_time(), remote, stream=stream))
        return True

    def _why_not(self, remote: TransportAddress) -> str | None:
        if not self._permits(remote):
            return "forbidden address"
        strangers = [peer for peer in self._peers.values() if peer.was_accepted and not self.knows(peer)]
        source = _source(remote)
        if len(self._peers) >= MAX_PEERS or len(strangers) >= MAX_STRANGERS:
            return "too many connections"
        if sum(_source(peer.remote) == source for peer in strangers) >= MAX_STRANGERS_PER_SOURCE:
            return "too many connections of one source"
        return None

    def knows(self, peer: TcpPeer) -> bool:
        """Whether a peer has shown that it has our credentials; once it has, it need not be asked again."""
        if not peer.is_known and self._is_known(peer.remote):
            peer.is_known = True
        return peer.is_known

    async def _sweep(self) -> None:
        """Close what nobody uses: strangers, and connections of pairs that are no more."""
        while True:
            if not self._peers:
                await self._came.park()
            await trio.sleep(_SWEEP_S)
            now = trio.current_time()
            for peer in list(self._peers.values()):
                if peer.is_open and now >= peer.opened_at + STRANGER_S and not self._is_known(peer.remote):
                    self._forget(peer, "no check" if peer.was_accepted and not peer.is_known else "unused")

    def _forget(self, peer: TcpPeer, reason: str) -> None:
        self.refused[reason] += 1
        if self._peers.get(peer.remote) is peer:
            del self._peers[peer.remote]
        peer.close()

    # Small things

    def _frames(self, datagrams: Sequence[bytes]) -> list[bytes]:
        fitting = [frame(datagram) for datagram in datagrams if 0 < len(datagram) <= MAX_FRAME]
        self._statistics.send_errors += len(datagrams) - len(fitting)
        return fitting

    def _count_sent(self, frames: Sequence[bytes]) -> None:
        self._statistics.send_calls += 1
        self._statistics.datagrams_sent += len(frames)
        self._statistics.bytes_sent += sum(map(len, frames)) - 2 * len(frames)

    def _put_error(self, remote: TransportAddress, code: int) -> None:
        self._received.put_error(IcmpError(remote, code))

    def _zoned(self, remote: TransportAddress) -> TransportAddress:
        _, percent, zone = self._address.host.partition("%")
        return TransportAddress(f"{remote.host}%{zone}", remote.port) if percent else remote


def _source(address: TransportAddress) -> str:
    host = address.host.partition("%")[0]
    return host if address.family == 4 else str(ipaddress.ip_network(f"{host}/64", strict=False))


def _close_now(listener: Listener) -> None:
    """Close a listener without waiting, also outside of Trio."""
    if isinstance(listener, trio.SocketListener):
        listener.socket.close()
        return
    close = getattr(listener, "close", None)
    if close is not None:
        with suppress(OSError):
            close()
