"""A TURN server, sans-IO: `TurnServer` and what it is made of. RFC 8656, RFC 6062."""

from __future__ import annotations

from iceagent.core.turn.server.allocation import (
    Allocation,
    AllocationState,
    Channel,
    ClientPath,
    ConnectionState,
    PeerConnection,
    RelayedAddress,
)
from iceagent.core.turn.server.limits import TurnLimits
from iceagent.core.turn.server.policy import PeerPolicy, PolicyError, parse_networks
from iceagent.core.turn.server.ports import PortPool
from iceagent.core.turn.server.relaying import PeerDatagrams
from iceagent.core.turn.server.server import TurnServer, TurnServerConfig
from iceagent.core.turn.server.state import (
    AllocationChanged,
    CloseConnection,
    CloseRelay,
    ConnectPeer,
    Event,
    JoinConnection,
    OpenRelay,
    ServerTransmit,
    ToClient,
    ToPeer,
)
from iceagent.core.turn.server.users import Account, AnyUsers, SharedSecretUsers, StaticUsers, UserStore

__all__ = [
    "Account",
    "Allocation",
    "AllocationChanged",
    "AllocationState",
    "AnyUsers",
    "Channel",
    "ClientPath",
    "CloseConnection",
    "CloseRelay",
    "ConnectPeer",
    "ConnectionState",
    "Event",
    "JoinConnection",
    "OpenRelay",
    "PeerConnection",
    "PeerDatagrams",
    "PeerPolicy",
    "PolicyError",
    "PortPool",
    "RelayedAddress",
    "ServerTransmit",
    "SharedSecretUsers",
    "StaticUsers",
    "ToClient",
    "ToPeer",
    "TurnLimits",
    "TurnServer",
    "TurnServerConfig",
    "UserStore",
    "parse_networks",
]
