"""The addresses of this host's interfaces.

A machine has more addresses of its own than its candidates come from: the system accepts packets for an address also
while its interface has no carrier. `own_addresses` has all, for decisions about whom a server may talk to.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import ifaddr

from iceagent.net.api import GATEWAY, INTERNET, InterfaceAddress, Network, RealHost
from iceagent.net.sockaddr import zone_name

logger = logging.getLogger("iceagent.net")

_SIOCGIFFLAGS = 0x8913  # linux/sockios.h
_IFF_UP = 0x1
_IFF_RUNNING = 0x40
_IF_INET6 = Path("/proc/net/if_inet6")
_TEMPORARY = 0x01  # linux/if_addr.h: IFA_F_TEMPORARY
_DAD_FAILED = 0x08
_DEPRECATED = 0x20
_TENTATIVE = 0x40
_ROUTE4 = Path("/proc/net/route")
_ROUTE6 = Path("/proc/net/ipv6_route")
_RTF_UP_GATEWAY = 0x1 | 0x2  # linux/route.h: RTF_UP, RTF_GATEWAY
_OUTSIDE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))  # RFC 5737 and 3849: nobody's
_DISCARD_PORT = 9
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_LOOPBACK_NAME = "lo"
_LOOPBACK = (("127.0.0.1", 8), ("::1", 128))


def list_interfaces() -> list[InterfaceAddress]:
    """Return every usable address of every interface that is up, loopback included, in the system's order.

    An IPv6 address that duplicate address detection has not yet passed is left out: it cannot be bound. Where the
    system does not let interfaces be listed (no netlink: systemd's `RestrictAddressFamilies`, Android), the addresses
    are those that the routing table chooses.

    Raises:
        OSError: descriptors or memory have run out, so that nothing can be said of the addresses now.
    """
    routed = routed_hosts()
    try:
        adapters = list(ifaddr.get_adapters())
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise
        logger.debug("interfaces cannot be listed: %s", error)
        return _without_list(routed)
    return list(_usable(adapters, _ipv6_flags(), routed, _gateway_interfaces()))


def routed_hosts() -> list[str]:
    """Return the addresses packets to the internet leave from, by the routing table: one of each IP version at most.

    A UDP socket that is connected sends nothing; it only has the route looked up.
    """
    found = []
    for family, outside in _OUTSIDE:
        with contextlib.suppress(OSError, ValueError):  # no IPv6 in this kernel, no descriptor, no route
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((outside, _DISCARD_PORT))
                name = probe.getsockname()
            ip = ipaddress.ip_address(name[0].partition("%")[0])
            zone = f"%{zone_name(name[3])}" if ip.version == 6 and ip.is_link_local and name[3] else ""
            if not ip.is_unspecified:
                found.append(f"{ip}{zone}")
    return found


def _without_list(routed: list[str]) -> list[InterfaceAddress]:
    """Return what can be known of addresses without a list of interfaces; their names cannot."""
    found = [InterfaceAddress(_LOOPBACK_NAME, host, size, is_loopback=True) for host, size in _LOOPBACK]
    found = [entry for entry in found if _can_bind(entry.host)]
    for host in routed:
        ip = ipaddress.ip_address(host)
        if not ip.is_loopback:
            size = 64 if ip.version == 6 else 24  # the usual ones; who is on this link cannot be known better
            found.append(InterfaceAddress("", host, size, is_link_local=ip.is_link_local, route_use=INTERNET))
    return found


def _can_bind(host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise
        return False
    return True


def _usable(
    adapters: Iterable[ifaddr.Adapter], flags: dict[tuple[str, str], int], routed: list[str], gateways: set[str]
) -> Iterator[InterfaceAddress]:
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
                leads = adapter.name in gateways and not ip.is_loopback and not ip.is_link_local
                zone = f"%{_zone(adapter, entry)}" if ip.version == 6 and ip.is_link_local else ""
                yield InterfaceAddress(
                    name=adapter.name,
                    host=f"{ip}{zone}",
                    prefix_length=entry.network_prefix,
                    is_loopback=ip.is_loopback,
                    is_link_local=ip.is_link_local,
                    is_temporary=bool(marks & _TEMPORARY),
                    is_deprecated=bool(marks & _DEPRECATED),
                    route_use=INTERNET if f"{ip}{zone}" in routed else leads and GATEWAY,
                )


def _gateway_interfaces() -> set[str]:
    """Return the interfaces through which some network beyond a gateway is reached."""
    try:
        return gateway_interfaces(_ROUTE4.read_text(), _ROUTE6.read_text() if _ROUTE6.exists() else "")
    except OSError:
        return set()


def gateway_interfaces(route4: str, route6: str) -> set[str]:
    """Return the interfaces of `/proc/net/route` and `/proc/net/ipv6_route` that have a route with a gateway."""
    found = set()
    rows = [(line.split(), 0, 3, 8) for line in route4.splitlines()[1:]]
    rows += [(line.split(), 9, 8, 10) for line in route6.splitlines()]
    for fields, name_at, flags_at, count in rows:
        with contextlib.suppress(ValueError):
            if len(fields) >= count and int(fields[flags_at], 16) & _RTF_UP_GATEWAY == _RTF_UP_GATEWAY:
                found.add(fields[name_at])
    return found


def _zone(adapter: ifaddr.Adapter, entry: ifaddr.IP) -> str:
    # Windows names its adapters by GUID; its zones are numbers.
    return str(entry.ip[2]) if sys.platform == "win32" else adapter.name


def _is_up(name: str) -> bool:
    """Return whether the interface is up and has a carrier; true where the system cannot be asked."""
    if sys.platform != "linux":
        return True
    import fcntl

    request = struct.pack("16sH14x", name.encode()[:15], 0)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, request)
    except OSError as error:
        return error.errno != errno.ENODEV  # it has gone meanwhile; else the system cannot be asked
    flags: int = struct.unpack_from("16xH", answer)[0]
    return flags & _IFF_UP != 0 and flags & _IFF_RUNNING != 0


def _ipv6_flags() -> dict[tuple[str, str], int]:
    """Return the kernel's marks per (interface, address); empty where there is no such table."""
    try:
        lines = _IF_INET6.read_text().splitlines()
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise  # without the marks an address that hides behind a temporary one would show itself
        return {}
    return dict(_parse_if_inet6(lines))


def _parse_if_inet6(lines: Iterable[str]) -> Iterator[tuple[tuple[str, str], int]]:
    for line in lines:
        fields = line.split()
        if len(fields) == 6:
            with contextlib.suppress(ValueError):
                address = ipaddress.IPv6Address(bytes.fromhex(fields[0]))
                yield (fields[5], str(address)), int(fields[4], 16)


_NOBODYS = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}  # RFC 5737, RFC 3849: for documentation
_NOT_OURS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def own_hosts(network: Network) -> frozenset[str]:
    """Return all addresses of a machine, without zones: those of interfaces that are down, too.

    Raises:
        OSError: the system does not report them.
    """
    hosts = {one.host.partition("%")[0] for one in network.interfaces()}
    if isinstance(network, RealHost):
        with contextlib.suppress(OSError):  # no netlink here: `ownership` knows
            for adapter in ifaddr.get_adapters():
                for entry in adapter.ips:
                    text = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
                    hosts.add(str(ipaddress.ip_address(text.partition("%")[0])))
    return frozenset(hosts)


def ownership(network: Network) -> Callable[[str], bool]:
    """Return a function that says whether an IP literal is an address of the machine at this moment.

    The system is asked by binding a socket, some microseconds; it knows at once, also where it reports no changes,
    and also of whole prefixes that are routed to itself (`ip route add local`). A system that binds to what is not its
    own (`ip_nonlocal_bind`) cannot be asked so; then this says no, and the list of addresses decides.
    """
    if not isinstance(network, RealHost):
        return lambda host: any(one.host.partition("%")[0] == host for one in network.interfaces())
    families = {family for family, nobodys in _NOBODYS.items() if _binds(family, nobodys) is False}
    return lambda host: (family := _family(host)) in families and _binds(family, host) is True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _binds(family: socket.AddressFamily, host: str) -> bool | None:
    """Return whether the system lets a socket be bound to an address; None where something else is in the way."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((host.partition("%")[0], 0))
    except OSError as error:
        return False if error.errno in _NOT_OURS else None
    return True
