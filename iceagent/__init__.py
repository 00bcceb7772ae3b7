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
    from iceagent.errors import IceError, LocalError, LocalIOError, NetworkError, RemoteError, WrongType
    from iceagent.files.errors import TransferFailed, TransferRefused
    from iceagent.files.progress import FileProgress
    from iceagent.files.receiver import FileOffer
    from iceagent.files.sender import Transferred
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
        IdentityError,
        NobodyCame,
        NoLink,
        NoPath,
        NotDirect,
        PeerLeft,
        PeerLost,
        PeerNotPinned,
        PeerTurnedAway,
        RelayError,
        RelayMissing,
        SessionError,
        UnknownPeer,
        VersionMismatch,
        WordsRefused,
    )
    from iceagent.session.pairing.identity import Identity
    from iceagent.session.pairing.pair import Pairing, pair
    from iceagent.session.pairing.store import PeerStore
    from iceagent.tunnel.errors import (
        BindError,
        FailedError,
        RefusedError,
        SpecError,
    )
    from iceagent.tunnel.joiners import serve_joiners
    from iceagent.tunnel.peer import Invitation, Link, invite, join, listen

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
    "FileOffer",
    "FileProgress",
    "HardNat",
    "IceError",
    "IceServer",
    "Identity",
    "IdentityError",
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
    "NotDirect",
    "Pairing",
    "PeerLeft",
    "PeerLost",
    "PeerNotPinned",
    "PeerRefused",
    "PeerStore",
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
    "TransferFailed",
    "TransferRefused",
    "Transferred",
    "UnknownPeer",
    "VersionMismatch",
    "WishRefused",
    "WordsRefused",
    "WrongType",
    "__version__",
    "invite",
    "join",
    "listen",
    "open_agent",
    "open_shared_port",
    "pair",
    "serve_joiners",
]

_HOMES = {
    **dict.fromkeys(
        ("IceError", "LocalError", "LocalIOError", "NetworkError", "RemoteError", "WrongType"), "iceagent.errors"
    ),
    **dict.fromkeys(("TransferFailed", "TransferRefused"), "iceagent.files.errors"),
    "FileOffer": "iceagent.files.receiver",
    "FileProgress": "iceagent.files.progress",
    "Transferred": "iceagent.files.sender",
    **dict.fromkeys(
        (
            "AuthenticationError",
            "LinkClosedByPeer",
            "LinkError",
            "LinkLost",
            "LinkUnanswered",
            "PeerRefused",
            "PeerStore",
            "StreamReset",
            "WishRefused",
        ),
        "iceagent.link.errors",
    ),
    **dict.fromkeys(
        (
            "CodeError",
            "IdentityError",
            "NoLink",
            "NoPath",
            "NotDirect",
            "NobodyCame",
            "PeerLeft",
            "PeerLost",
            "PeerNotPinned",
            "PeerTurnedAway",
            "RelayError",
            "RelayMissing",
            "SessionError",
            "UnknownPeer",
            "VersionMismatch",
            "WordsRefused",
        ),
        "iceagent.session.errors",
    ),
    **dict.fromkeys(
        (
            "BindError",
            "FailedError",
            "RefusedError",
            "SpecError",
        ),
        "iceagent.tunnel.errors",
    ),
    "Identity": "iceagent.session.pairing.identity",
    "PeerStore": "iceagent.session.pairing.store",
    **dict.fromkeys(("Pairing", "pair"), "iceagent.session.pairing.pair"),
    "serve_joiners": "iceagent.tunnel.joiners",
    **dict.fromkeys(("Invitation", "Link", "invite", "join", "listen"), "iceagent.tunnel.peer"),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'iceagent' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES.get(name, "iceagent.agent")), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
