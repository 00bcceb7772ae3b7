"""What the agent tells beside the events of its core: gathering and the network's own words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from iceagent.core import ice
from iceagent.core.address import TransportAddress


@dataclass(frozen=True, slots=True)
class ServerAnswered:
    """A STUN server told how it sees one of our sockets; `rtt_s` counts from the first request, seconds."""

    url: str
    base: TransportAddress
    mapped: TransportAddress
    rtt_s: float


@dataclass(frozen=True, slots=True)
class ServerFailed:
    """A server gave nothing; `base` is None when its name did not resolve."""

    url: str
    family: int
    base: TransportAddress | None
    reason: str


@dataclass(frozen=True, slots=True)
class RelayAllocated:
    """A TURN server relays for us at `address`; `transport` (`udp`, `tcp`, `tls`, `dtls`) is ours to it."""

    url: str
    address: TransportAddress
    mapped: TransportAddress
    transport: str
    via_proxy: bool = False


@dataclass(frozen=True, slots=True)
class RelayFailed:
    """A TURN server gave no relayed address; `code` is that of its error response, or None."""

    url: str
    transport: str
    reason: str
    code: int | None = None
    via_proxy: bool = False


@dataclass(frozen=True, slots=True)
class RelayLost:
    """A relayed address is gone: the server was restarted or cannot be reached. It is asked for another one."""

    url: str
    address: TransportAddress
    reason: str


@dataclass(frozen=True, slots=True)
class GatheringEnough:
    """The candidates that are likely to come have come; `missing` names what was silent (`srflx IPv6`, `relay`)."""

    candidates: int
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GatheringFinished:
    """No local candidate follows."""

    candidates: int


@dataclass(frozen=True, slots=True)
class DestinationUnreachable:
    """An ICMP error arrived; it is about this one destination (`errno` as the system numbers it)."""

    base: TransportAddress
    remote: TransportAddress
    errno: int


@dataclass(frozen=True, slots=True)
class PortMapped:
    """The gateway maps `external` to one of our sockets; `protocol` is `pcp`, `nat-pmp` or `upnp`."""

    protocol: str
    base: TransportAddress
    external: TransportAddress


@dataclass(frozen=True, slots=True)
class PortMappingFailed:
    """The gateway maps nothing by this protocol."""

    protocol: str
    base: TransportAddress
    reason: str


AgentEvent: TypeAlias = (
    ice.StateChanged
    | ice.LocalCandidateAdded
    | ice.RemoteCandidateAdded
    | ice.PairStateChanged
    | ice.PairValidated
    | ice.PairNominated
    | ice.SelectedPairChanged
    | ice.RoleChanged
    | ice.ConsentLost
    | ice.Restarted
    | ice.RestartFailed
    | ice.ControllerFailed
    | ice.Failed
    | ServerAnswered
    | ServerFailed
    | RelayAllocated
    | RelayFailed
    | RelayLost
    | GatheringEnough
    | GatheringFinished
    | DestinationUnreachable
    | PortMapped
    | PortMappingFailed
)
