"""What a NAT does, as values, and how observations show it. RFC 4787 sections 4 to 6, RFC 5780 section 4.

How long an idle mapping lives is found with several idle sockets, each tested after a different time (RFC 5780 section
4.6). A binary search, as in the RFC, would take the sum of all times tried; this takes only the longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations

from iceagent.core.address import TransportAddress


class MappingBehaviour(Enum):
    """What the external address and port of a socket depend on."""

    NO_NAT = "none"
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"
    DESTINATION_DEPENDENT = "destination-dependent"  # on the address or on both: the servers could not show which
    UNKNOWN = "unknown"

    @property
    def is_predictable(self) -> bool:
        """Whether the address a server sees is the one that a peer will see."""
        return self in (MappingBehaviour.NO_NAT, MappingBehaviour.ENDPOINT_INDEPENDENT)


class Filtering(Enum):
    """Who may send to the external address, once something was sent from it."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class MappingLifetime:
    """How long an idle mapping lives: at least `at_least_s`, less than `below_s` (None: longer than was looked)."""

    at_least_s: float
    below_s: float | None


@dataclass(frozen=True, slots=True)
class ServerReport:
    """How one STUN server did.

    Attributes:
        server: whom was asked.
        mapped: how it sees the socket; None where it did not report it.
        rtt_s: round trip; None where there was no answer, or only to a repeated request.
        other: its alternate address, if it has one.
        failure: why it reported nothing; empty where it did.
    """

    server: TransportAddress
    mapped: TransportAddress | None = None
    rtt_s: float | None = None
    other: TransportAddress | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class NatBehaviour:
    """What was found out from one local address.

    Attributes:
        local: the socket the mapping was observed of.
        mapping: see `MappingBehaviour`.
        filtering: see `Filtering`; without a NAT, that of a firewall.
        mapped: the external addresses seen, in order, without repetition.
        hairpin: whether two hosts behind the NAT meet at their external addresses; None: not found out.
        fragments: whether fragmented datagrams pass both ways; None: not found out.
        preserves_port: whether the external port is the internal one; None: nothing was seen.
        lifetime: of idle mappings; None: not found out.
        servers: each server's report, in the order they were given.
    """

    local: TransportAddress
    mapping: MappingBehaviour = MappingBehaviour.UNKNOWN
    filtering: Filtering = Filtering.UNKNOWN
    mapped: tuple[TransportAddress, ...] = ()
    hairpin: bool | None = None
    fragments: bool | None = None
    preserves_port: bool | None = None
    lifetime: MappingLifetime | None = None
    servers: tuple[ServerReport, ...] = ()

    @property
    def udp_works(self) -> bool:
        """Whether any server answered."""
        return bool(self.mapped)


def classify_mapping(local: TransportAddress, seen: Mapping[TransportAddress, TransportAddress]) -> MappingBehaviour:
    """Return what mapping the observations show.

    Args:
        local: the socket that sent.
        seen: for each server address, how it saw that socket.

    Source: RFC 5780 section 4.3. One server with two addresses or several servers with one each, it is the same:
    two answers that agree from different hosts show independence; answers that differ show the contrary, and which
    part of the destination matters if some servers share a host.
    """
    if not seen:
        return MappingBehaviour.UNKNOWN
    external = set(seen.values())
    if external == {local}:
        return MappingBehaviour.NO_NAT
    if len(external) == 1:
        hosts = {server.host for server in seen}
        return MappingBehaviour.ENDPOINT_INDEPENDENT if len(hosts) > 1 else MappingBehaviour.UNKNOWN
    same_host = [seen[one] == seen[two] for one, two in combinations(seen, 2) if one.host == two.host]
    if not all(same_host):
        return MappingBehaviour.ADDRESS_AND_PORT_DEPENDENT
    return MappingBehaviour.ADDRESS_DEPENDENT if same_host else MappingBehaviour.DESTINATION_DEPENDENT


def classify_filtering(
    *, from_elsewhere: bool | None, from_other_port: bool | None, alternate_lives: bool
) -> Filtering:
    """Return what filtering the answers to CHANGE-REQUEST show. RFC 5780 section 4.4.

    Args:
        from_elsewhere: whether an answer from the other address and port arrived; None: the server refused.
        from_other_port: likewise from the same address and the other port.
        alternate_lives: whether the server's alternate address is known to work: else silence shows nothing.
    """
    if from_elsewhere:
        return Filtering.ENDPOINT_INDEPENDENT
    if from_elsewhere is None or from_other_port is None or not alternate_lives:
        return Filtering.UNKNOWN
    return Filtering.ADDRESS_DEPENDENT if from_other_port else Filtering.ADDRESS_AND_PORT_DEPENDENT


class LifetimeTest:
    """Remembers when which idle socket is to be tested, and the results.

    Args:
        lifetimes_s: idle times, one per socket.
    """

    def __init__(self, lifetimes_s: Sequence[float]) -> None:
        self._lifetimes_s = lifetimes_s
        self._due: dict[int, tuple[float, int]] = {}
        self._alive: dict[float, bool] = {}

    def opened(self, now: float, index: int, port: int) -> None:
        """Take note that a socket got its mapping, with this external port, and is idle from now on."""
        self._due[index] = (now + self._lifetimes_s[index], port)

    def due(self, now: float) -> list[tuple[int, int]]:
        """Return and forget the sockets, with their external ports, that are to be asked for now."""
        found = [(index, port) for index, (at, port) in self._due.items() if at <= now]
        for index, _ in found:
            del self._due[index]
        return found

    def next_timeout(self) -> float | None:
        """Return when the next one is due, or None."""
        return min((at for at, _ in self._due.values()), default=None)

    def concluded(self, index: int, *, alive: bool) -> None:
        """Take note whether the mapping still led to its socket."""
        self._alive[self._lifetimes_s[index]] = alive

    def result(self) -> MappingLifetime | None:
        """Return what is known: dead at one age is dead at all later ones, whatever a lost packet made of those."""
        if not self._alive:
            return None
        below_s = min((age for age, alive in self._alive.items() if not alive), default=None)
        living = [age for age, alive in self._alive.items() if alive and (below_s is None or age < below_s)]
        return MappingLifetime(max(living, default=0.0), below_s)
