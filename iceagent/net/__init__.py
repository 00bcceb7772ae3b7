"""Sockets, interfaces and names, on Trio.

`SystemNetwork` is this machine; the protocols are what another network, such as a virtual one, implements.
"""

from __future__ import annotations

from iceagent.net.api import IcmpError, InterfaceAddress, Network, SocketStatistics, UdpSocket
from iceagent.net.batch import Batch
from iceagent.net.system import SystemNetwork
from iceagent.net.udp import SystemUdpSocket, open_udp_socket

__all__ = [
    "Batch",
    "IcmpError",
    "InterfaceAddress",
    "Network",
    "SocketStatistics",
    "SystemNetwork",
    "SystemUdpSocket",
    "UdpSocket",
    "open_udp_socket",
]
