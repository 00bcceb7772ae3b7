"""Which addresses are this machine's own, at this moment: for decisions about whom a server may talk to.

These are more than `Network.interfaces()` returns, which is for candidates: the system accepts packets for an address
also while its interface has no carrier.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Callable

import ifaddr

from iceagent.net.api import Network, RealHost

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
