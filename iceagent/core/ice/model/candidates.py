"""The candidates of both sides: which addresses may be candidates, which two may be a pair, and tables of them."""

from __future__ import annotations

import ipaddress
from enum import Enum
from functools import lru_cache
from typing import Final

from iceagent.core.address import IPAddress, TransportAddress, is_private, without_zone
from iceagent.core.ice.events import DropReason
from iceagent.core.ice.model.candidate import Candidate
from iceagent.core.ice.model.pair import PathAddresses
from iceagent.core.ice.model.priority import CandidateType
from iceagent.core.ice.model.tcp import ACTIVE, COUNTERPART, FIRST_TCP_PORT, WEB_PORTS

_NO_HOST: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # RFC 1122 section 3.2.1.3: this host on this network; many systems take it for themselves
        "224.0.0.0/4",  # RFC 5771: groups
        "240.0.0.0/4",  # RFC 1112 section 4: reserved, and the limited broadcast address
        "::/128",  # RFC 4291 section 2.5.2: unspecified
        "::/96",  # RFC 4291 section 2.5.5.1: IPv4-compatible, RFC 8445 section 5.1.1.1 MUST NOT; but for ::1
        "::ffff:0:0/96",  # RFC 4291 section 2.5.5.2: IPv4-mapped; where it means IPv4 it has been unwrapped
        "fec0::/10",  # RFC 3879: site-local, RFC 8445 section 5.1.1.1 MUST NOT
        "ff00::/8",  # RFC 4291 section 2.7: groups
    )
)


@lru_cache(maxsize=4096)
def is_usable(host: str) -> bool:
    """Whether one host can have an address, so that it may be a candidate's: of ours, of the peer's or reflexive.

    Args:
        host: IP literal, perhaps with a zone.
    """
    ip = _parse(host)
    return ip.is_loopback or not any(ip in network for network in _NO_HOST if network.version == ip.version)


@lru_cache(maxsize=4096)
def can_reach(ours: str, theirs: str) -> bool:
    """Whether packets from one address may go to another: of one family, and of one scope.

    IPv6 link-local addresses are paired only with their kind (RFC 8445 section 6.1.2.2). So are IPv4 ones and loopback:
    a peer elsewhere could otherwise make us probe our own services, or those that clouds have at 169.254.169.254.

    Args:
        ours: IP literal of a base, perhaps with a zone.
        theirs: IP literal of a remote candidate, or of where a check came from.
    """
    here, there = _parse(ours), _parse(theirs)
    scopes = ((ip.version, ip.is_loopback, ip.is_link_local) for ip in (here, there))
    return len(set(scopes)) == 1


def _parse(host: str) -> IPAddress:
    return ipaddress.ip_address(host.partition("%")[0])


class Added(Enum):
    """What became of an offered candidate that is usable."""

    NEW = "new"
    UPGRADED = "upgraded"  # it took the place of its peer-reflexive twin


def unusable(candidate: Candidate, component: int) -> DropReason | None:
    """Say why a candidate can never be part of a pair of this component, or None."""
    is_tcp = candidate.transport == "tcp" and candidate.tcp_type in COUNTERPART
    if not (is_tcp or candidate.transport == "udp") or candidate.component != component:
        return DropReason.CANDIDATE_TRANSPORT
    try:
        usable = is_usable(candidate.address.host)
    except ValueError:
        return DropReason.CANDIDATE_UNRESOLVED
    # Nobody connects to an active candidate, so its port says nothing (RFC 6544 section 4.5).
    has_port = candidate.address.port != 0 or (is_tcp and candidate.tcp_type == ACTIVE)
    return None if has_port and usable else DropReason.CANDIDATE_UNUSABLE


def _is_service(candidate: Candidate) -> bool:
    """Whether a peer would have us connect to a well-known service, and say there what it may listen to; ours.

    Browsers draw the same line: the web's ports are allowed, but not on private networks, whose routers and printers
    listen there.
    """
    if candidate.transport != "tcp" or candidate.tcp_type == ACTIVE:
        return False
    host, port = candidate.address
    return port < FIRST_TCP_PORT and (port not in WEB_PORTS or is_private(host))


class CandidateTable:
    """Local candidates by (address, base), remote ones by transport and address.

    UDP and TCP number their ports apart, so a peer may well use one number for both. Our own bases are unique over
    both transports: the shell sees to that, since paths are named by them.
    """

    def __init__(self, max_local: int, max_remote: int, component: int = 1) -> None:
        self._max_local = max_local
        self._max_remote = max_remote
        self.component = component
        self.local: dict[PathAddresses, Candidate] = {}
        self.remote: dict[tuple[str, TransportAddress], Candidate] = {}
        self.local_ended = False
        self.remote_ended = False

    @property
    def complete(self) -> bool:
        """Whether both sides have signalled end-of-candidates."""
        return self.local_ended and self.remote_ended

    def add_local(self, candidate: Candidate) -> Added | DropReason:
        """Add a local candidate; redundant ones are refused (RFC 8445 section 5.1.3)."""
        reason = unusable(candidate, self.component)
        if reason is not None:
            return reason
        key = (candidate.address, candidate.path_base)
        twin = self.local.get(key)
        if twin is not None and not (twin.type is CandidateType.PRFLX and candidate.type is not CandidateType.PRFLX):
            return DropReason.CANDIDATE_DUPLICATE
        if twin is None and len(self.local) >= self._max_local:
            return DropReason.CANDIDATE_LIMIT
        self.local[key] = candidate
        return Added.NEW if twin is None else Added.UPGRADED

    def add_remote(self, candidate: Candidate) -> Added | DropReason:
        """Add a remote candidate; a signalled one takes the place of its peer-reflexive twin."""
        reason = unusable(candidate, self.component)
        if reason is None and _is_service(candidate):
            reason = DropReason.CANDIDATE_UNUSABLE
        if reason is not None:
            return reason
        key = (candidate.transport, candidate.address)
        twin = self.remote.get(key)
        if twin is not None and (twin.type is not CandidateType.PRFLX or candidate.type is CandidateType.PRFLX):
            return DropReason.CANDIDATE_DUPLICATE
        if twin is None and len(self.remote) >= self._max_remote:
            return DropReason.CANDIDATE_LIMIT
        self.remote[key] = candidate
        return Added.NEW if twin is None else Added.UPGRADED

    def forget_base(self, base: TransportAddress) -> None:
        """Forget the local candidates of a socket that is gone."""
        for key in [key for key in self.local if key[1] == base]:
            del self.local[key]

    def find_remote(self, address: TransportAddress, transport: str = "udp") -> Candidate | None:
        """Return the candidate a datagram came from; signalled link-local addresses have no zone, received ones do."""
        return self.remote.get((transport, address)) or self.remote.get((transport, without_zone(address)))

    def forget_remote(self, candidate: Candidate) -> None:
        """Forget a candidate of the peer."""
        self.remote.pop((candidate.transport, candidate.address), None)

    def transport_of(self, base: TransportAddress) -> str:
        """Return what a socket of ours speaks: "udp" or "tcp"."""
        local = self.local_at(base)
        return "udp" if local is None else local.transport

    def local_at(self, base: TransportAddress) -> Candidate | None:
        """Return the best candidate of a base: the host or relayed one where there is one."""
        own = self.local.get((base, base))
        if own is not None:
            return own
        same = [candidate for candidate in self.local.values() if candidate.path_base == base]
        return max(same, key=lambda candidate: candidate.priority, default=None)

    def local_seen_as(self, mapped: TransportAddress, base: TransportAddress) -> Candidate | None:
        """Return the local candidate of `base` that the peer sees as `mapped`."""
        known = self.local.get((mapped, base))
        own = self.local.get((base, base))
        if known is None and own is not None and _is_seen_as(own, mapped):
            known = own
        return known


def _is_seen_as(own: Candidate, mapped: TransportAddress) -> bool:
    """Whether there is no NAT in between; the port of an active TCP candidate is another with each connection."""
    address = without_zone(own.address)
    return address.host == mapped.host if own.tcp_type == ACTIVE else address == mapped
