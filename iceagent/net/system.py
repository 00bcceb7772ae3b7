"""The real network of this machine."""

from __future__ import annotations

from typing import TypeVar

import trio

from iceagent.core.address import TransportAddress
from iceagent.net.api import InterfaceAddress
from iceagent.net.gateway import Gateway, system_gateways
from iceagent.net.host_names import resolve
from iceagent.net.interfaces import list_interfaces
from iceagent.net.multicast import open_multicast_socket
from iceagent.net.tasks import PerRun
from iceagent.net.tcp import connect_tcp, listen_tcp
from iceagent.net.udp import SystemUdpSocket, open_udp_socket

T = TypeVar("T")


class SystemNetwork:
    """The machine's own interfaces, sockets and resolver; implements `iceagent.net.api.Network`.

    Args:
        segmentation: False keeps all UDP sockets to the plain path (no GSO, no GRO).
    """

    def __init__(self, *, segmentation: bool = True) -> None:
        self._segmentation = segmentation

    def shared(self, value: PerRun[T]) -> T:
        """Return what all agents of this machine have in common."""
        return value.get()

    def interfaces(self) -> list[InterfaceAddress]:
        """Return the addresses of all interfaces that are up, loopback included."""
        return list_interfaces()

    async def gateways(self) -> list[Gateway]:
        """Return the default gateways, the preferred ones first."""
        return await system_gateways()

    async def open_udp(self, host: str, port: int = 0) -> SystemUdpSocket:
        """Bind a UDP socket.

        Raises:
            OSError: the address is not ours or the port is taken.
        """
        await trio.lowlevel.checkpoint()
        return open_udp_socket(host, port, segmentation=self._segmentation)

    async def resolve(self, host: str, port: int, *, family: int | None = None) -> list[TransportAddress]:
        """Return the addresses of a name or literal, best first.

        Raises:
            OSError: the name has none.
        """
        return await resolve(host, port, family=family)

    async def open_multicast(self, group: str, port: int, host: str) -> SystemUdpSocket:
        """Join a multicast group on the link of one of our addresses, sharing the port.

        Raises:
            OSError: the address is not ours, or the system refuses.
        """
        await trio.lowlevel.checkpoint()
        return open_multicast_socket(group, port, host)

    async def connect_tcp(
        self, remote: TransportAddress, *, local_host: str | None = None, local_port: int = 0
    ) -> trio.SocketStream:
        """Connect a TCP stream, with TCP_NODELAY set; a given `local_port` may be shared.

        Raises:
            OSError: nobody listens there, or no way leads there.
        """
        return await connect_tcp(remote, local_host=local_host, local_port=local_port)

    async def listen_tcp(self, host: str, port: int = 0, *, share_port: bool = False) -> trio.SocketListener:
        """Listen for TCP connections; with `share_port` the port may also be connected from.

        Raises:
            OSError: the address is not ours or the port is taken.
        """
        return await listen_tcp(host, port, share_port=share_port)
