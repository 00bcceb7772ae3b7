"""The signaling relay of iceagent and its client: two peers that share a code find each other and talk, sealed.

`serve` runs a relay, `open_client` connects to one, `open_invitation` and `open_join` turn a code into a
`SealedChannel`.
"""

from __future__ import annotations

from icesignal.channel import (
    Invitation,
    Rendezvous,
    SealedChannel,
    open_invitation,
    open_join,
    open_rendezvous,
)
from icesignal.client import Client, MessagesLost, open_client
from icesignal.code import Code, parse_code
from icesignal.errors import (
    ChannelBroken,
    CodeError,
    CodeExpired,
    CodeMalformed,
    CodeUnknown,
    CodeWrong,
    Crowded,
    PeerLeft,
    ProtocolMismatch,
    RelayRefused,
    RelayUnreachable,
    SessionLost,
    SignalError,
)
from icesignal.rooms import RoomLimits
from icesignal.server import Server, serve
from icesignal.sources import Limits, Rate

__all__ = [
    "ChannelBroken",
    "Client",
    "Code",
    "CodeError",
    "CodeExpired",
    "CodeMalformed",
    "CodeUnknown",
    "CodeWrong",
    "Crowded",
    "Invitation",
    "Limits",
    "MessagesLost",
    "PeerLeft",
    "ProtocolMismatch",
    "Rate",
    "RelayRefused",
    "RelayUnreachable",
    "Rendezvous",
    "RoomLimits",
    "SealedChannel",
    "Server",
    "SessionLost",
    "SignalError",
    "open_client",
    "open_invitation",
    "open_join",
    "open_rendezvous",
    "parse_code",
    "serve",
]
