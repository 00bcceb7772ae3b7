"""The signaling relay of iceagent and its client: two peers that share a code meet, and exchange sealed messages.

`serve` runs a relay, `open_client` connects to one, `open_invitation` and `open_join` turn a code into a
`SealedChannel`, `open_room` enters a room of many. Names are imported when they are first used: a client needs nothing
of a relay.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icesignal.access import OWNER
    from icesignal.channel import SealedChannel
    from icesignal.client import Client, open_client
    from icesignal.code import Code, parse_code
    from icesignal.dial import OpenStream
    from icesignal.engines import MemoryEngine
    from icesignal.errors import (
        ChannelBroken,
        CodeError,
        CodeExpired,
        CodeMalformed,
        CodeUnknown,
        CodeWrong,
        Crowded,
        MessagesLost,
        PeerLeft,
        ProtocolMismatch,
        RelayRefused,
        RelayUnreachable,
        RoomOver,
        SessionLost,
        SignalError,
    )
    from icesignal.introductions import Invitation, open_invitation, open_join, open_rendezvous
    from icesignal.keeper import RelayState
    from icesignal.pake import Rendezvous
    from icesignal.pauses import BACK_S
    from icesignal.room_client import Room, open_room
    from icesignal.room_events import (
        MemberAway,
        MemberBack,
        MemberCame,
        MemberRemoved,
        MemberWent,
        MessagesMissed,
        RoomEnded,
        RoomEvent,
        RoomMember,
        RoomMessage,
    )
    from icesignal.room_invitations import Admission, accept_invitation, admit, ask_admission
    from icesignal.room_keys import MemberKey, RoomKey
    from icesignal.rooms import RoomLimits
    from icesignal.server import Server, serve
    from icesignal.sources import Limits, Rate
    from icesignal.url import RelayUrl, parse_relay_url, parse_relay_urls

__all__ = [
    "BACK_S",
    "OWNER",
    "Admission",
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
    "MemberAway",
    "MemberBack",
    "MemberCame",
    "MemberKey",
    "MemberRemoved",
    "MemberWent",
    "MemoryEngine",
    "MessagesLost",
    "MessagesMissed",
    "OpenStream",
    "PeerLeft",
    "ProtocolMismatch",
    "Rate",
    "RelayRefused",
    "RelayState",
    "RelayUnreachable",
    "RelayUrl",
    "Rendezvous",
    "Room",
    "RoomEnded",
    "RoomEvent",
    "RoomKey",
    "RoomLimits",
    "RoomMember",
    "RoomMessage",
    "RoomOver",
    "SealedChannel",
    "Server",
    "SessionLost",
    "SignalError",
    "accept_invitation",
    "admit",
    "ask_admission",
    "open_client",
    "open_invitation",
    "open_join",
    "open_rendezvous",
    "open_room",
    "parse_code",
    "parse_relay_url",
    "parse_relay_urls",
    "serve",
]

_NAMES_OF = {
    "access": ("OWNER",),
    "channel": ("SealedChannel",),
    "client": ("Client", "open_client"),
    "keeper": ("RelayState",),
    "code": ("Code", "parse_code"),
    "dial": ("OpenStream",),
    "engines": ("MemoryEngine",),
    "errors": (
        "ChannelBroken",
        "CodeError",
        "CodeExpired",
        "CodeMalformed",
        "CodeUnknown",
        "CodeWrong",
        "Crowded",
        "MessagesLost",
        "PeerLeft",
        "ProtocolMismatch",
        "RelayRefused",
        "RelayUnreachable",
        "RoomOver",
        "SessionLost",
        "SignalError",
    ),
    "introductions": ("Invitation", "open_invitation", "open_join", "open_rendezvous"),
    "pake": ("Rendezvous",),
    "pauses": ("BACK_S",),
    "room_client": (
        "Room",
        "open_room",
    ),
    "room_events": (
        "MemberAway",
        "MemberBack",
        "MemberCame",
        "MemberRemoved",
        "MemberWent",
        "MessagesMissed",
        "RoomEnded",
        "RoomEvent",
        "RoomMember",
        "RoomMessage",
    ),
    "room_invitations": (
        "Admission",
        "accept_invitation",
        "admit",
        "ask_admission",
    ),
    "room_keys": (
        "MemberKey",
        "RoomKey",
    ),
    "rooms": ("RoomLimits",),
    "server": ("Server", "serve"),
    "sources": ("Limits", "Rate"),
    "url": ("RelayUrl", "parse_relay_url", "parse_relay_urls"),
}
_HOMES = {name: module for module, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'icesignal' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"icesignal.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
