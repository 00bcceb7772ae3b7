"""The addresses of this host's interfaces."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import ifaddr

from iceagent.net.api import InterfaceAddress

_SIOCGIFFLAGS = 0x8913  # linux/sockios.h
_IFF_UP = 0x1
_IFF_RUNNING = 0x40
_IF_INET6 = Path("/proc/net/if_inet6")
_TEMPORARY = 0x01  # linux/if_addr.h: IFA_F_TEMPORARY
_DAD_FAILED = 0x08
_TENTATIVE = 0x40


def list_interfaces() -> list[InterfaceAddress]:
    """Return every usable address of every interface that is up, loopback included, in the system's order.

    An IPv6 address that duplicate address detection has not yet passed is left out: it cannot be bound.
    """
    flags = _ipv6_flags()
    return list(_usable(ifaddr.get_adapters(), flags))


def _usable(adapters: Iterable[ifaddr.Adapter], flags: dict[tuple[str, str], int]) -> Iterator[InterfaceAddress]:
    for adapter in adapters:
        if not _is_up(adapter.name):
            continue
        for entry in adapter.ips:
            host = entry.ip if isinstance(entry.ip, str) else entry.ip[0].partition("%")[0]
            with contextlib.suppress(ValueError):
                ip = ipaddress.ip_address(host)
                marks = flags.get((adapter.name, str(ip)), 0)
                if ip.is_unspecified or ip.is_multicast or marks & (_DAD_FAILED | _TENTATIVE):
                    continue
                zone = f"%{_zone(adapter, entry)}" if ip.version == 6 and ip.is_link_local else ""
                yield InterfaceAddress(
                    name=adapter.name,
                    host=f"{ip}{zone}",
                    prefix_length=entry.network_prefix,
                    is_loopback=ip.is_loopback,
                    is_link_local=ip.is_link_local,
                    is_temporary=bool(marks & _TEMPORARY),
                )


def _zone(adapter: ifaddr.Adapter, entry: ifaddr.IP) -> str:
    # Windows names its adapters by GUID; its zones are numbers.
    return str(entry.ip[2]) if sys.platform == "win32" else adapter.name


def _is_up(name: str) -> bool:
    """Return whether the interface is up and has a carrier; true where the system cannot be asked."""
    if sys.platform != "linux":
        return True
    import fcntl

    request = struct.pack("16sH14x", name.encode()[:15], 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, request)
        except OSError:
            return False
    flags: int = struct.unpack_from("16xH", answer)[0]
    return flags & _IFF_UP != 0 and flags & _IFF_RUNNING != 0


def _ipv6_flags() -> dict[tuple[str, str], int]:
    """Return the kernel's marks per (interface, address); empty where there is no such table."""
    try:
        lines = _IF_INET6.read_text().splitlines()
    except OSError:
        return {}
    return dict(_parse_if_inet6(lines))


def _parse_if_inet6(lines: Iterable[str]) -> Iterator[tuple[tuple[str, str], int]]:
    for line in lines:
        fields = line.split()
        if len(fields) == 6:
            with contextlib.suppress(ValueError):
                address = ipaddress.IPv6Address(bytes.fromhex(fields[0]))
                yield (fields[5], str(address)), int(fields[4], 16)
