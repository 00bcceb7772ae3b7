"""The agent's events other than those of its core: gathering, and what the network reports."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final, TypeAlias

from msgspec import Struct

from iceagent.core import ice
from iceagent.core.address import TransportAddress


class ServerAnswered(Struct, frozen=True):
    """A STUN server reported the mapped address of one of our sockets; `rtt_s` counts from the first request, seconds.

    `server` is the address that answered, `transport` what it was asked over: `udp` or `tcp`.
    """

    url: str
    base: TransportAddress
    mapped: TransportAddress
    rtt_s: float
    server: TransportAddress
    transport: str = "udp"


class ServerFailed(Struct, frozen=True):
    """A server gave nothing; `base` is None when its name did not resolve."""

    url: str
    family: int
    base: TransportAddress | None
    reason: str


class RelayAllocated(Struct, frozen=True):
    """A TURN server relays for us at `address`; `transport` (`udp`, `tcp`, `tls`, `dtls`) is ours to it."""

    url: str
    address: TransportAddress
    mapped: TransportAddress
    transport: str
    via_proxy: bool = False


class RelayFailed(Struct, frozen=True):
    """A TURN server gave no relayed address; `code` is that of its error response, or None."""

    url: str
    transport: str
    reason: str
    code: int | None = None
    via_proxy: bool = False


class RelayLost(Struct, frozen=True):
    """A relayed address is gone: the server was restarted or cannot be reached. It is asked for another one."""

    url: str
    address: TransportAddress
    reason: str


class GatheringEnough(Struct, frozen=True):
    """The candidates that are likely to come have come; `missing` names what was silent (`srflx IPv6`, `relay`)."""

    candidates: int
    missing: tuple[str, ...] = ()


class GatheringFinished(Struct, frozen=True):
    """No local candidate follows."""

    candidates: int


class DestinationUnreachable(Struct, frozen=True):
    """An ICMP error arrived; it is about this one destination (`errno` as the system numbers it)."""

    base: TransportAddress
    remote: TransportAddress
    errno: int


class PortMapped(Struct, frozen=True):
    """The gateway maps `external` to one of our sockets; `protocol` is `pcp`, `nat-pmp` or `upnp`."""

    protocol: str
    base: TransportAddress
    external: TransportAddress


class PortMappingFailed(Struct, frozen=True):
    """The gateway maps nothing by this protocol."""

    protocol: str
    base: TransportAddress
    reason: str


class NetworkChanged(Struct, frozen=True):
    """The network of this machine is another one: `changes` of `addresses`, `routes` and `woke` (it has slept).

    `lost` and `gained` are the local addresses whose sockets were closed and opened.
    """

    changes: tuple[str, ...]
    lost: tuple[TransportAddress, ...] = ()
    gained: tuple[TransportAddress, ...] = ()


class Stopped(Struct, frozen=True):
    """The program did not run for a while: the machine slept, or the program was stopped.

    Attributes:
        seconds: how long.
    """

    seconds: float


class ServersChanged(Struct, frozen=True):
    """The agent was given other STUN and TURN servers, or other credentials, for what it gathers from now on."""

    urls: tuple[str, ...]


class ServersNotRenewed(Struct, frozen=True):
    """The credentials of TURN servers end, and no others are to be had: what is relayed now goes on, nothing new."""

    reason: str


class FreshPort(Struct, frozen=True):
    """No direct path was found from the usual port, so another one was signalled to the peer.

    Attributes:
        base: the socket at it.
        mapped: how the STUN server sees it.
        openers: how many addresses of the peer's were sent to beforehand, so that its checks come in.
        ttl: of those packets.
    """

    base: TransportAddress
    mapped: TransportAddress
    openers: int
    ttl: int


class NatSeen(Struct, frozen=True):
    """What our NAT does with ports, as far as `AgentConfig.hard_nat` has to know.

    Attributes:
        base: the socket in question.
        nat: `easy` (one port for all destinations), `predictable`, `hard`, or `unknown`.
        external: the address signalled to the peer.
        step: from one external port to the next, where they are counted.
    """

    base: TransportAddress
    nat: str
    external: TransportAddress
    step: int = 0


class HardNatBegun(Struct, frozen=True):
    """Packets are being sent to get through a hard NAT.

    Attributes:
        technique: `spray` (from one socket to many ports), `many-sockets` (from many sockets to one) or `both`.
        target: where they go; port 0 stands for many.
        sockets: that were opened.
        ttl: of the first packets of each; 0 for the usual.
    """

    technique: str
    target: TransportAddress
    sockets: int = 0
    ttl: int = 0


class HardNatEnded(Struct, frozen=True):
    """It is over: `result` is `direct`, `no-path`, `no-packets-left` or `hopeless` (nothing is known to help)."""

    result: str
    packets: int
    seconds: float


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
    | ice.PathUnanswered
    | ice.Restarted
    | ice.RestartFailed
    | ice.ControllerFailed
    | ice.Failed
    | ice.ChecklistStateChanged
    | ice.ComponentGivenUp
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
    | NetworkChanged
    | Stopped
    | ServersChanged
    | ServersNotRenewed
    | FreshPort
    | NatSeen
    | HardNatBegun
    | HardNatEnded
)
"""The members of this union, and no others, are on an agent's timeline."""


def matter_of(event: AgentEvent) -> Hashable | None:
    """Return what an event is about, where its latest word is worth remembering; None elsewhere."""
    key = _MATTERS.get(type(event))
    return None if key is None else (type(event), *key(event))


def path_kind(pair: ice.CandidatePair | None) -> str:
    """Return `direct`, `relayed`, or `none` for no pair."""
    if pair is None:
        return "none"
    return "relayed" if pair.is_relayed else "direct"


_MATTERS: Final[dict[type, Callable[[Any], tuple[Hashable, ...]]]] = {
    ServerAnswered: lambda event: (event.url, event.base, event.transport),
    ServerFailed: lambda event: (event.url, event.family, event.base),
    RelayAllocated: lambda event: (event.url, event.address),
    RelayFailed: lambda event: (event.url, event.transport, event.via_proxy),
    RelayLost: lambda event: (event.url, event.address),
    DestinationUnreachable: lambda event: (event.base, event.remote, event.errno),
    PortMapped: lambda event: (event.protocol, event.base),
    PortMappingFailed: lambda event: (event.protocol, event.base),
    NetworkChanged: lambda event: (),
    Stopped: lambda event: (),
    ServersChanged: lambda event: (),
    ServersNotRenewed: lambda event: (),
    FreshPort: lambda event: (event.base,),
    NatSeen: lambda event: (event.base,),
    HardNatBegun: lambda event: (event.technique,),
    HardNatEnded: lambda event: (),
    ice.StateChanged: lambda event: (event.new,),
    ice.SelectedPairChanged: lambda event: (path_kind(event.pair),),
    ice.ConsentLost: lambda event: (),
    ice.PathUnanswered: lambda event: (),
    ice.Restarted: lambda event: (event.by_peer,),
    ice.RestartFailed: lambda event: (),
    ice.RoleChanged: lambda event: (),
    ice.Failed: lambda event: (),
}
