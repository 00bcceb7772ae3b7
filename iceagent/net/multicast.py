"""Sockets in a multicast group, whose port they share with other programs on this machine."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from contextlib import suppress

from iceagent.net.interfaces import list_interfaces
from iceagent.net.udp import SystemUdpSocket

_TTL = 255  # RFC 6762 section 11
_IP_MULTICAST_ALL = 49  # linux/in.h
_IPV6_MULTICAST_ALL = 29  # linux/in6.h


def open_multicast_socket(group: str, port: int, host: str) -> SystemUdpSocket:
    """Join a group on the link of one of our addresses; see `iceagent.net.api.OpensMulticast`.

    Raises:
        OSError: the address is not ours, or the system refuses.
    """
    name = next((entry.name for entry in list_interfaces() if entry.host == host), None)
    if name is None:
        raise OSError(errno.EADDRNOTAVAIL, f"{os.strerror(errno.EADDRNOTAVAIL)}: {host}")
    family = socket.AF_INET6 if ":" in group else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            with suppress(OSError):  # REUSEADDR alone does on some systems
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            _join6(sock, group, port, name)
        else:
            _join4(sock, group, port, host)
        return SystemUdpSocket(sock, segmentation=False)
    except BaseException:
        sock.close()
        raise


def _join4(sock: socket.socket, group: str, port: int, host: str) -> None:
    ours = socket.inet_aton(host)
    sock.bind(("", port))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + ours)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, ours)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _TTL)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
    if sys.platform == "linux":  # else what other sockets have joined elsewhere comes here, too
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)


def _join6(sock: socket.socket, group: str, port: int, name: str) -> None:
    index = socket.if_nametoindex(name)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("::", port))
    membership = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _TTL)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
    if sys.platform == "linux":
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
