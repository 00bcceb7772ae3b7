"""What a member of a room of many hears: who comes and goes, and what they say.

Source: docs/relay-protocol.md section 14.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from icesignal.errors import SignalError
from icesignal.wire import Present


@dataclass(frozen=True, slots=True)
class RoomMember:
    """A member that has shown to be who its ticket says.

    Attributes:
        id: 16 bytes that name it.
        role: the word in its ticket.
        can: the capabilities in its ticket.
        public_key: its `MemberKey`'s public half.
        expires: Unix time, seconds: until when its ticket is good.
        presence: what the relay says: `present`, or `away` while its connection is gone.
    """

    id: bytes
    role: str
    can: frozenset[str]
    public_key: bytes
    expires: int
    presence: Present


@dataclass(frozen=True, slots=True)
class MemberCame:
    """Somebody is here."""

    member: RoomMember


@dataclass(frozen=True, slots=True)
class MemberWent:
    """Somebody is not here any more: left, was away for too long, or its ticket has expired. It may come anew."""

    member: RoomMember


@dataclass(frozen=True, slots=True)
class MemberAway:
    """A member's connection is gone; it may come back, and hears then what was said meanwhile."""

    member: RoomMember


@dataclass(frozen=True, slots=True)
class MemberBack:
    """A member that was away is back."""

    member: RoomMember


@dataclass(frozen=True, slots=True)
class MemberRemoved:
    """A member was removed for good. `member` is its id, `by` that of who did it, None for the room's owner."""

    member: bytes
    by: bytes | None


@dataclass(frozen=True, slots=True)
class RoomMessage:
    """A member says something: to all, or (`to_all` is false) to us."""

    sender: bytes
    payload: bytes = field(repr=False)
    to_all: bool


@dataclass(frozen=True, slots=True)
class MessagesMissed:
    """At this place messages of a member are missing for good.

    `sender` None: some may be missing, of any member; what comes after tells how many. After `MemberWent` of all who
    were here it is that the relay was started anew: then nobody may have heard what we said last, either.
    """

    sender: bytes | None
    count: int | None


@dataclass(frozen=True, slots=True)
class RoomEnded:
    """The last event: the stay is over, and why."""

    why: SignalError


RoomEvent = MemberCame | MemberWent | MemberAway | MemberBack | MemberRemoved | RoomMessage | MessagesMissed | RoomEnded
