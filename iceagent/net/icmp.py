"""The error queue of a Linux UDP socket: which destination an ICMP error is about, never the whole socket."""

from __future__ import annotations

import socket
import struct
import sys

from iceagent.core.address import TransportAddress
from iceagent.net.api import IcmpError
from iceagent.net.sockaddr import AddressBook

MAX_ERRORS_PER_DRAIN = 64

_HAS_ERROR_QUEUE = sys.platform == "linux"
_MSG_ERRQUEUE = 0x2000  # linux/socket.h
_IP_RECVERR = 11
_IPV6_RECVERR = 25
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
