"""iceagent: any socket of one machine, reachable from another, through any NAT.

Three levels, each useful alone: `open_agent` gives datagrams over the best path ICE finds; `invite` and `join` give
encrypted streams and datagrams to whoever knows a code; their `Link` forwards TCP, UDP and Unix sockets.

Names are imported when they are first used, so that `import iceagent` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iceagent.agent import (
        Agent,
        AgentConfig,
        AgentState,
        Candidate,
        CandidatePair,
        CandidateType,
        Credentials,
        Description,
        HardNat,
        IceServer,
        Role,
        SharedPort,
        open_agent,
        open_shared_port,
    )
    from iceagent.errors import IceError, LocalError, NetworkError, RemoteError, WrongType
    from iceagent.link.errors import (
        AuthenticationError,
        LinkClosedByPeer,
        LinkError,
        LinkLost,
        LinkUnanswered,
        PeerRefused,
        StreamReset,
        WishRefused,
    )
    from iceagent.session.errors import (
        CodeError,
        NobodyCame,
        NoLink,
        NoPath,
        PeerLeft,
        PeerLost,
        PeerTurnedAway,
        RelayError,
        RelayMissing,
        SessionError,
        VersionMismatch,
    )
    from iceagent.tunnel.errors import (
        BindError,
        FailedError,
        LocalIOError,
        RefusedError,
        SpecError,
    )
    from iceagent.tunnel.peer import Invitation, Link, invite, join

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AgentConfig",
    "AgentState",
    "AuthenticationError",
    "BindError",
    "Candidate",
    "CandidatePair",
    "CandidateType",
    "CodeError",
    "Credentials",
    "Description",
    "FailedError",
    "HardNat",
    "IceError",
    "IceServer",
    "Invitation",
    "Link",
    "LinkClosedByPeer",
    "LinkError",
    "LinkLost",
    "LinkUnanswered",
    "LocalError",
    "LocalIOError",
    "NetworkError",
    "NoLink",
    "NoPath",
    "NobodyCame",
    "PeerLeft",
    "PeerLost",
    "PeerRefused",
    "PeerTurnedAway",
    "RefusedError",
    "RelayError",
    "RelayMissing",
    "RemoteError",
    "Role",
    "SessionError",
    "SharedPort",
    "SpecError",
    "StreamReset",
    "VersionMismatch",
    "WishRefused",
    "WrongType",
    "__version__",
    "invite",
    "join",
    "open_agent",
    "open_shared_port",
]

_HOMES = {
    **dict.fromkeys(("IceError", "LocalError", "NetworkError", "RemoteError", "WrongType"), "iceagent.errors"),
    **dict.fromkeys(
        (
            "AuthenticationError",
            "LinkClosedByPeer",
            "LinkError",
            "LinkLost",
            "LinkUnanswered",
            "PeerRefused",
            "StreamReset",
            "WishRefused",
        ),
        "iceagent.link.errors",
    ),
    **dict.fromkeys(
        (
            "CodeError",
            "NoLink",
            "NoPath",
            "NobodyCame",
            "PeerLeft",
            "PeerLost",
            "PeerTurnedAway",
            "RelayError",
            "RelayMissing",
            "SessionError",
            "VersionMismatch",
        ),
        "iceagent.session.errors",
    ),
    **dict.fromkeys(
        (
            "BindError",
            "FailedError",
            "LocalIOError",
            "RefusedError",
            "SpecError",
        ),
        "iceagent.tunnel.errors",
    ),
    **dict.fromkeys(("Invitation", "Link", "invite", "join"), "iceagent.tunnel.peer"),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'iceagent' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES.get(name, "iceagent.agent")), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
