"""Many sockets for a short while: a check of the peer is to arrive at one of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from iceagent.core.address import TransportAddress
from iceagent.core.hard_nat import is_target
from iceagent.net.api import LimitsHops, UdpSocket
from iceagent.net.batch import Batch

MAX_OPEN: Final = 512
"""Ours: sockets of all pools of a process; systems commonly grant a process 1,024 descriptors."""
MAX_HOPS: Final = 8  # ours: a home router, a carrier's NAT and what lies between are closer than that
TRACE_PORT: Final = 33434  # where traceroute's probes go: nobody listens, and the port identifies the TTL
TRACE_S: Final = 0.5  # ours: for the answers

_open_sockets: trio.lowlevel.RunVar[int] = trio.lowlevel.RunVar("iceagent.agent.hard_nat.sockets")

Strike = Callable[[UdpSocket, Batch], bool]
"""Called with what arrives at one of the sockets; returns whether the socket is taken over."""


class SocketPool:
    """Sockets that are closed with the pool, but for those taken over.

    Args:
        open_socket: binds one more; None when that fails.
        strike: called with what arrives.
    """

    def __init__(self, open_socket: Callable[[], Awaitable[UdpSocket | None]], strike: Strike) -> None:
        self._open_socket = open_socket
        self._strike = strike
        self._sockets: list[UdpSocket | None] = []
        self._counted = 0

    def __len__(self) -> int:
        """Return how many sockets were opened."""
        return len(self._sockets)

    async def open(self, count: int) -> None:
        """Open so many sockets, or fewer where the system or the process's share do not give them."""
        for _ in range(count):
            if _open_sockets.get(0) >= MAX_OPEN:
                return
            self._count(1)  # before it is open: other agents open theirs meanwhile
            sock = None
            try:
                sock = await self._open_socket()
            finally:
                if sock is None:
                    self._count(-1)
            if sock is None:
                return
            self._sockets.append(sock)

    async def receive(self) -> None:
        """Receive at all sockets until cancelled."""
        async with trio.open_nursery() as nursery:
            for slot, sock in enumerate(self._sockets):
                if sock is not None:
                    nursery.start_soon(self._receive_at, slot, sock)

    def first_port(self) -> int:
        """Return the local port of the first socket, or 0."""
        sock = self._sockets[0] if self._sockets else None
        return 0 if sock is None else sock.local_address.port

    def send(self, slot: int, data: bytes, remote: TransportAddress, ttl: int = 0) -> None:
        """Send from one of the sockets; a full buffer loses the packet. `ttl` 0 is the system's."""
        sock = self._sockets[slot] if slot < len(self._sockets) else None
        if sock is None:
            return  # taken over: the agent sends from it now
        if ttl and isinstance(sock, LimitsHops):
            sock.send_limited(data, remote, ttl)
        else:
            sock.send_nowait((data,), remote)

    def close(self) -> None:
        """Close what was not taken over. Idempotent."""
        for sock in self._sockets:
            if sock is not None:
                sock.close()
        self._sockets.clear()
        self._count(-self._counted)

    def _count(self, sockets: int) -> None:
        self._counted += sockets
        _open_sockets.set(_open_sockets.get(0) + sockets)

    async def _receive_at(self, slot: int, sock: UdpSocket) -> None:
        while True:
            for batch in await sock.receive():
                if self._sockets[slot] is None:
                    continue
                if self._strike(sock, batch):
                    self._sockets[slot] = None
                    return
            sock.take_errors()  # of routers where openers died, as they should


async def find_ttl(
    open_socket: Callable[[], Awaitable[UdpSocket | None]], host: str, pace: Callable[[], Awaitable[bool]]
) -> int:
    """Return the TTL with which packets pass our own NATs and end at the first public address behind them.

    As traceroute does it: each of a few packets dies one router further on, and those routers report their addresses.
    The way out is the same for all destinations as far as it matters here, so the packets need not go to the peer.

    Args:
        open_socket: binds a socket.
        host: where the packets are sent, some server on the internet.
        pace: waits until one more packet may be sent, and counts it; False if none may.

    Returns:
        The TTL, or 0 if it cannot be found: routers are silent, the system does not pass on what they report, or no
        public router lies on the way.
    """
    sock = await open_socket()
    if sock is None:
        return 0
    try:
        if not isinstance(sock, LimitsHops):
            return 0
        for ttl in range(1, MAX_HOPS + 1):
            if not await pace():
                return 0
            sock.send_limited(b"", TransportAddress(host, TRACE_PORT + ttl), ttl)
        reporters: dict[int, str] = {}
        with trio.move_on_after(TRACE_S):
            while not _is_told(reporters):
                await sock.receive()
                for error in sock.take_errors():
                    if error.reporter is not None:
                        reporters[error.remote.port - TRACE_PORT] = error.reporter
        public = [ttl for ttl, reporter in reporters.items() if is_target(TransportAddress(reporter, 1))]
        return min(public, default=0)
    finally:
        sock.close()


def _is_told(reporters: dict[int, str]) -> bool:
    """Return whether the nearest public router is known: all routers before it have answered, too."""
    for ttl in range(1, MAX_HOPS + 1):
        if ttl not in reporters:
            return False
        if is_target(TransportAddress(reporters[ttl], 1)):
            return True
    return False
