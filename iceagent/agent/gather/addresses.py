"""Which local addresses become host candidates, and in which order of preference."""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Final

from iceagent.agent.config import AgentConfig
from iceagent.net.api import InterfaceAddress

MAX_BASES: Final = 16  # ours: sockets per agent; more addresses only add pairs that the peer must check
MAX_HEAD_START: Final = 2  # ours: IPv6 addresses before each IPv4 one
BRIDGES: Final = (  # of containers and virtual machines: they lead into this machine, hardly ever to a peer
    *("docker*", "podman*", "br-????????????", "veth*", "virbr*", "lxcbr*", "lxdbr*", "cni*", "flannel*", "cali*"),
    *("vmnet*", "vboxnet*", "bridge1*", "vEthernet*"),
)
TUNNELS: Final = ("tun*", "tap*", "utun*", "wg*", "tailscale*", "zt*", "ppp*", "ipsec*", "nordlynx*")
_PRIVATE: Final = 1
_OBSOLETE: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "fec0::/10",  # site-local, RFC 3879
            "::/96",  # IPv4-compatible, RFC 4291 section 2.5.5.1
            "::ffff:0:0/96",  # IPv4-mapped, section 2.5.5.2
        ),
    )
)


def choose_addresses(interfaces: Sequence[InterfaceAddress], config: AgentConfig) -> list[InterfaceAddress]:
    """Return the addresses to bind, most preferred first, at most `MAX_BASES`.

    Loopback is used when asked for, or when there is nothing else. Link-local addresses are used when nothing else but
    loopback is there (two machines on one cable). Where an interface has temporary addresses, the lasting ones of the
    same prefix stay private. Deprecated addresses are used where a family has no other, site-local, IPv4-compatible and
    IPv4-mapped ones never. Families are intermingled, so that a broken one delays the other by at most two checks.

    Of more than `MAX_BASES`, those that the routing table uses are among the chosen, in whatever order the system
    lists them: without them there is no way out of this machine's networks.

    Source: RFC 8445 section 5.1.1.1, RFC 8421 section 4.
    """
    allowed = _hide_deprecated([entry for entry in interfaces if _is_allowed(entry, config)])
    real = [entry for entry in allowed if not entry.is_loopback]
    loopback = [entry for entry in allowed if entry.is_loopback]
    routable = _hide_lasting([entry for entry in real if not entry.is_link_local])
    chosen = routable or real
    if config.include_loopback or (config.include_loopback is None and not chosen):
        chosen = chosen + loopback
    return first_of_use(_interleave(chosen), MAX_BASES)


def first_of_use(entries: Sequence[InterfaceAddress], count: int) -> list[InterfaceAddress]:
    """Return so many of the addresses, in their order: those that the routing table uses, then the first others."""
    by_use = sorted(range(len(entries)), key=lambda at: (-entries[at].route_use, at))
    return [entries[at] for at in sorted(by_use[:count])]


def _is_allowed(entry: InterfaceAddress, config: AgentConfig) -> bool:
    family = 6 if ":" in entry.host else 4
    named = config.interfaces is None or any(fnmatchcase(entry.name, pattern) for pattern in config.interfaces)
    return named and family in config.families and not _is_obsolete(entry)


def _is_obsolete(entry: InterfaceAddress) -> bool:
    """Return whether an address is of a kind that is no candidate. Source: RFC 8445 section 5.1.1.1."""
    ip = ipaddress.ip_address(entry.host.partition("%")[0])
    return ip.version == 6 and not ip.is_loopback and any(ip in prefix for prefix in _OBSOLETE)


def _hide_deprecated(entries: list[InterfaceAddress]) -> list[InterfaceAddress]:
    """Leave out deprecated addresses of a family and reach that has another. Source: RFC 4862 section 5.5.4."""
    better = {_reach(entry) for entry in entries if not entry.is_deprecated}
    return [entry for entry in entries if not entry.is_deprecated or _reach(entry) not in better]


def _reach(entry: InterfaceAddress) -> tuple[bool, bool, bool]:
    return (":" in entry.host, entry.is_link_local, entry.is_loopback)


def _hide_lasting(entries: list[InterfaceAddress]) -> list[InterfaceAddress]:
    """Leave out addresses that allow tracking where a temporary one of the same interface and prefix exists."""
    private = {(entry.name, _prefix(entry)) for entry in entries if entry.is_temporary}
    return [entry for entry in entries if entry.is_temporary or (entry.name, _prefix(entry)) not in private]


def _prefix(entry: InterfaceAddress) -> str:
    return str(ipaddress.ip_interface(f"{entry.host.partition('%')[0]}/{entry.prefix_length}").network)


def _interleave(entries: list[InterfaceAddress]) -> list[InterfaceAddress]:
    """Order by worth; families intermingled among real interfaces, then tunnels, bridges, link-local and loopback.

    Source: RFC 8421 section 5: "Candidates with IP addresses from an unreliable interface should be ordered at the end
    of the checklist, i.e., not intermingled".
    """
    ordered = sorted(entries, key=lambda entry: (_rank(entry), -entry.route_use))
    tiers = (tier for _, tier in groupby(ordered, key=lambda entry: max(_rank(entry), _PRIVATE)))
    return [entry for tier in tiers for entry in _intermingle(list(tier))]


def _intermingle(entries: list[InterfaceAddress]) -> list[InterfaceAddress]:
    """Put one or two IPv6 addresses before each IPv4 one.

    RFC 8421 section 4 would give IPv6 a head start of (N4 + N6) / N4 addresses. Deviation: never more than two, since
    where IPv6 is broken each of its addresses delays IPv4; see docs/timing.md.
    """
    six = deque(entry for entry in entries if ":" in entry.host)
    four = deque(entry for entry in entries if ":" not in entry.host)
    ahead = min(max(len(six) // len(four), 1), MAX_HEAD_START) if four else len(six)
    found: list[InterfaceAddress] = []
    while six or four:
        found += [six.popleft() for _ in range(min(ahead, len(six)))]
        if four:
            found.append(four.popleft())
    return found


def _rank(entry: InterfaceAddress) -> int:
    """Global before private before tunnels, bridges, link-local and loopback."""
    if entry.is_loopback:
        return _PRIVATE + 4
    if entry.is_link_local:
        return _PRIVATE + 3
    if any(fnmatchcase(entry.name, pattern) for pattern in BRIDGES):
        return _PRIVATE + 2
    if any(fnmatchcase(entry.name, pattern) for pattern in TUNNELS):
        return _PRIVATE + 1
    return 0 if ipaddress.ip_address(entry.host).is_global else _PRIVATE
