"""A UDP socket without ceremony: everything at hand per wake-up, and no error of one datagram stops the rest.

Not the agent's `UdpSocket`: that one sets DF and never fragments, while a forward must carry whatever the
application's own socket would have carried.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

import trio

MAX_DATAGRAM = 65535  # bytes, more than a UDP payload can have
BURST = 64  # datagrams taken per wake-up, so that one busy socket does not starve the others
SOCKET_BUFFER = 4 * 1024 * 1024  # bytes asked of the system for bursts; it gives what its limits allow

SocketAddress = Any  # as the socket module has it: 2 or 4 items by family


class PlainUdpSocket:
    """A bound or a connected UDP socket."""

    def __init__(self, family: int) -> None:
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)

    def bind(self, address: SocketAddress) -> None:
        """Bind; raises OSError."""
        self._socket.bind(address)

    def connect(self, address: SocketAddress) -> None:
        """Send to, and hear from, this address only; raises OSError."""
        self._socket.connect(address)

    @property
    def address(self) -> SocketAddress:
        """The bound address."""
        return self._socket.getsockname()

    async def receive(self) -> list[tuple[bytes, SocketAddress]]:
        """Wait, then return the datagrams at hand with their sources, oldest first, at most `BURST`."""
        await trio.lowlevel.wait_readable(self._socket)
        received: list[tuple[bytes, SocketAddress]] = []
        for _ in range(BURST):
            try:
                received.append(self._socket.recvfrom(MAX_DATAGRAM))
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error about something sent earlier: no reason to stop
        return received

    def send(self, data: bytes, address: SocketAddress | None = None) -> bool:
        """Send one datagram; False if the system would not take it, as UDP allows."""
        try:
            if address is None:
                self._socket.send(data)
            else:
                self._socket.sendto(data, address)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close."""
        self._socket.close()


async def resolve_udp(host: str, port: int, *, passive: bool = False) -> tuple[int, SocketAddress]:
    """Return family and socket address of the first address of a host; "" is every interface when passive.

    Raises:
        OSError: it has none.
    """
    flags = socket.AI_PASSIVE if passive else 0
    found = await trio.socket.getaddrinfo(host or None, port, type=socket.SOCK_DGRAM, flags=flags)
    family, _, _, _, address = found[0]
    return family, address
