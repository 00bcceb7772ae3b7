"""Options of a UDP socket: each is tried, none is required. What they bring: ICMP errors, the address that was asked.

Without IP_PKTINFO (ip(7); RFC 3542 section 6 for IPv6) the system answers from the address it prefers, but a NAT lets
only answers of the address through that was asked. RFC 8085 section 3.1.5 asks for it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Sequence
from functools import lru_cache

from iceagent.core.address import TransportAddress
from iceagent.net.api import IcmpError
from iceagent.net.batch import SOL_UDP, UDP_GRO, UDP_SEGMENT
from iceagent.net.sockaddr import AddressBook, zone_index, zone_name

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
    """Ask for the address that each datagram came to; return whether the system reports it and takes one to send from.

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


MAX_ERRORS_PER_DRAIN = 64

_HAS_ERROR_QUEUE = sys.platform == "linux"
_MSG_ERRQUEUE = 0x2000  # linux/socket.h
_ORIGIN_ICMP = 2  # linux/errqueue.h
_ORIGIN_ICMP6 = 3
_EXTENDED_ERROR = struct.Struct("=IBBBBII")  # sock_extended_err: errno, origin, type, code, pad, info, data
_KINDS = {(socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)}
_ANCILLARY_SPACE = 256


def read_error_queue(sock: socket.socket, book: AddressBook) -> list[IcmpError]:
    """Return what the error queue holds now, oldest first, at most `MAX_ERRORS_PER_DRAIN`.

    Errors of our own making (a datagram larger than the interface takes) are read and left out: the send call that
    caused them has already been informed.
    """
    errors: list[IcmpError] = []
    if not _HAS_ERROR_QUEUE:
        return errors
    for _ in range(MAX_ERRORS_PER_DRAIN):
        try:
            _data, ancillary, _flags, destination = sock.recvmsg(0, _ANCILLARY_SPACE, _MSG_ERRQUEUE)
        except OSError:
            break
        errno = icmp_errno(ancillary)
        if errno is not None and destination:
            errors.append(IcmpError(_destination(book, destination), errno, icmp_reporter(ancillary)))
    return errors


def icmp_errno(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """Return the errno of an error that came from the network; None for one of our own host."""
    for level, kind, data in ancillary:
        if (level, kind) in _KINDS and len(data) >= _EXTENDED_ERROR.size:
            errno, origin, *_rest = _EXTENDED_ERROR.unpack_from(data)
            if origin in (_ORIGIN_ICMP, _ORIGIN_ICMP6):
                return int(errno)
    return None


def icmp_reporter(ancillary: list[tuple[int, int, bytes]]) -> str | None:
    """Return the address of who raised the error (SO_EE_OFFENDER, ip(7)), where the system reports it."""
    for level, kind, data in ancillary:
        offender = data[_EXTENDED_ERROR.size :]
        if (level, kind) not in _KINDS or len(offender) < 2:
            continue
        family = struct.unpack_from("=H", offender)[0]
        if family == socket.AF_INET and len(offender) >= 8:
            return socket.inet_ntop(socket.AF_INET, offender[4:8])  # after family and port
        if family == socket.AF_INET6 and len(offender) >= 24:
            return socket.inet_ntop(socket.AF_INET6, offender[8:24])  # after family, port and flow label
    return None


def _destination(book: AddressBook, destination: tuple[str, int] | tuple[str, int, int, int]) -> TransportAddress:
    return book.address(destination)


IPV6_PKTINFO = getattr(socket, "IPV6_PKTINFO", None)
MAX_REMEMBERED = 1024
"""Own addresses remembered; a machine may stand for a whole prefix, so that strangers choose among 2^64."""

_IPV4 = struct.Struct("=i4s4s")  # in_pktinfo: interface, local address, address in the header
_IPV6 = struct.Struct("=16sI")  # in6_pktinfo: address, interface
_SIZE = struct.Struct("=i")

Ancillary = tuple[int, int, bytes]


def read_ancillary(ancillary: Sequence[Ancillary], length: int) -> tuple[int, str | None]:
    """Return the segment size and the local address that came with a buffer of `length` bytes.

    Without the one it is a single datagram; the other is None where the system does not report it.
    """
    size, local = length or 1, None
    for level, kind, data in ancillary:
        if level == SOL_UDP and kind == UDP_GRO and len(data) >= _SIZE.size:
            size = _SIZE.unpack_from(data)[0] or size
        elif level == socket.IPPROTO_IP and kind == IP_PKTINFO and len(data) >= _IPV4.size:
            local = _ipv4_host(data)
        elif level == socket.IPPROTO_IPV6 and kind == IPV6_PKTINFO and len(data) >= _IPV6.size:
            local = _ipv6_host(data)
    return size, local


@lru_cache(maxsize=MAX_REMEMBERED)
def _ipv4_host(data: bytes) -> str | None:
    """Return the address of ours; for a broadcast or a group the one that the system answers it from."""
    _, local, _ = _IPV4.unpack_from(data)
    return socket.inet_ntop(socket.AF_INET, local) if any(local) else None


@lru_cache(maxsize=MAX_REMEMBERED)
def _ipv6_host(data: bytes) -> str | None:
    """Return the address of ours, with its zone if link-local; None for a group, which nobody can answer from."""
    packed, interface = _IPV6.unpack_from(data)
    if packed[0] == 0xFF or not any(packed):
        return None
    host = socket.inet_ntop(socket.AF_INET6, packed)
    return f"{host}%{zone_name(interface)}" if packed[0] == 0xFE and packed[1] & 0xC0 == 0x80 else host


@lru_cache(maxsize=MAX_REMEMBERED)
def source_cmsg(source: str) -> list[Ancillary]:
    """Return the ancillary data that sends a datagram from an address of ours, an IP literal.

    Raises:
        OSError: it is no IP literal, or its zone does not exist.
    """
    bare, _, zone = source.partition("%")
    if ":" in bare:
        assert IPV6_PKTINFO is not None, "only where the system reports it, too"
        packed = socket.inet_pton(socket.AF_INET6, bare)
        return [(socket.IPPROTO_IPV6, IPV6_PKTINFO, _IPV6.pack(packed, zone_index(zone) if zone else 0))]
    assert IP_PKTINFO is not None, "only where the system reports it, too"
    return [(socket.IPPROTO_IP, IP_PKTINFO, _IPV4.pack(0, socket.inet_pton(socket.AF_INET, bare), bytes(4)))]


def bound_to(local: TransportAddress, host: str | None) -> TransportAddress:
    """Return the address that was asked: `host` where a batch says so, else what the socket is bound to."""
    return local if host is None or host == local.host else TransportAddress(host, local.port)
