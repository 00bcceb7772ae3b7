"""Socket options of a UDP socket: each is tried, none is required."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys

from iceagent.net.segmentation import SOL_UDP, UDP_GRO, UDP_SEGMENT

RECEIVE_BUFFER = 4 * 1024 * 1024
"""Bytes; what a sender at 1 Gbit/s delivers while this process does something else for 30 ms."""
SEND_BUFFER = 1024 * 1024
"""Bytes; some 16 GSO calls. More would only add delay on a slow uplink."""

_LINUX = sys.platform == "linux"
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h
_SO_RCVBUFFORCE = 33
_IP_MTU_DISCOVER = 10  # linux/in.h
_IPV6_MTU_DISCOVER = 23  # linux/in6.h
_PMTUDISC_DONT = 0
_PMTUDISC_PROBE = 3
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_IP_TTL = 2
_IPV6_HOPLIMIT = 52
IP_PKTINFO = {"linux": 8, "darwin": 26}.get(sys.platform)
"""linux/in.h and macOS' netinet/in.h, where it is IP_RECVPKTINFO, too; None where the system has none."""
_DARWIN_IP_DONTFRAG = 28
_DARWIN_IPV6_DONTFRAG = 62
_WINDOWS_IP_DONTFRAGMENT = 14


def configure(sock: socket.socket) -> None:
    """Set buffers, don't-fragment and error reporting as far as the system allows."""
    _set_buffers(sock)
    forbid_fragments(sock)
    if _LINUX:
        ipv6 = sock.family == socket.AF_INET6
        level, option = (socket.IPPROTO_IPV6, _IPV6_RECVERR) if ipv6 else (socket.IPPROTO_IP, _IP_RECVERR)
        _try(sock, level, option, 1)


def forbid_fragments(sock: socket.socket) -> None:
    """Have DF set in every packet.

    On Linux PROBE also ignores the kernel's idea of the path MTU, which anybody can lower with a forged ICMP message;
    sizes are probed end to end by the layer above (RFC 8899 section 4.1).
    """
    _set_fragmentation(sock, _PMTUDISC_PROBE, 1)


def allow_fragments(sock: socket.socket) -> None:
    """Undo `forbid_fragments`: for a test of fragments, and for relays, whose DF is not theirs to set."""
    _set_fragmentation(sock, _PMTUDISC_DONT, 0)


def _set_fragmentation(sock: socket.socket, on_linux: int, elsewhere: int) -> None:
    ipv6 = sock.family == socket.AF_INET6
    level = socket.IPPROTO_IPV6 if ipv6 else socket.IPPROTO_IP
    if _LINUX:
        _try(sock, level, _IPV6_MTU_DISCOVER if ipv6 else _IP_MTU_DISCOVER, on_linux)
    elif sys.platform == "darwin":
        _try(sock, level, _DARWIN_IPV6_DONTFRAG if ipv6 else _DARWIN_IP_DONTFRAG, elsewhere)
    elif sys.platform == "win32":
        _try(sock, level, _WINDOWS_IP_DONTFRAGMENT, elsewhere)


def send_with_ttl(sock: socket.socket, datagram: bytes, target: tuple[object, ...], ttl: int) -> None:
    """Send one datagram with a TTL (IPv4) or hop limit (IPv6) of its own.

    Raises:
        OSError: the system refuses it.
    """
    ipv6 = sock.family == socket.AF_INET6
    if _LINUX:
        level, kind = (socket.IPPROTO_IPV6, _IPV6_HOPLIMIT) if ipv6 else (socket.IPPROTO_IP, _IP_TTL)
        sock.sendmsg([datagram], [(level, kind, struct.pack("=i", ttl))], 0, target)
        return
    # Elsewhere the socket has one TTL for all; nothing else can be sent between these calls.
    level, option = (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS) if ipv6 else (socket.IPPROTO_IP, socket.IP_TTL)
    usual = sock.getsockopt(level, option)
    sock.setsockopt(level, option, ttl)
    try:
        sock.sendto(datagram, target)
    finally:
        sock.setsockopt(level, option, usual)


def enable_packet_info(sock: socket.socket) -> bool:
    """Ask for the address that each datagram came to; return whether the system will tell, and takes one to send from.

    Source: ip(7) IP_PKTINFO, RFC 3542 section 6.
    """
    if not hasattr(sock, "recvmsg"):  # Windows
        return False
    if sock.family == socket.AF_INET6:
        option = getattr(socket, "IPV6_RECVPKTINFO", None)
        return option is not None and _try(sock, socket.IPPROTO_IPV6, option, 1)
    return IP_PKTINFO is not None and _try(sock, socket.IPPROTO_IP, IP_PKTINFO, 1)


def enable_gso(sock: socket.socket) -> bool:
    """Return whether the kernel knows UDP_SEGMENT. Size 0 leaves the socket as it is; each call names its own."""
    return _LINUX and _try(sock, SOL_UDP, UDP_SEGMENT, 0)


def enable_gro(sock: socket.socket) -> bool:
    """Ask for merged buffers; return whether the kernel will deliver them."""
    return _LINUX and _try(sock, SOL_UDP, UDP_GRO, 1)


def _set_buffers(sock: socket.socket) -> None:
    for option, force, size in (
        (socket.SO_RCVBUF, _SO_RCVBUFFORCE, RECEIVE_BUFFER),
        (socket.SO_SNDBUF, _SO_SNDBUFFORCE, SEND_BUFFER),
    ):
        # The forced form passes the system-wide maximum and needs CAP_NET_ADMIN.
        if not (_LINUX and _try(sock, socket.SOL_SOCKET, force, size)):
            _try(sock, socket.SOL_SOCKET, option, size)


def _try(sock: socket.socket, level: int, option: int, value: int) -> bool:
    with contextlib.suppress(OSError):
        sock.setsockopt(level, option, value)
        return True
    return False
