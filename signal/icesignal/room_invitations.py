"""Into a room of many by a code: whoever has the room's key gives a ticket to whoever proves to know the code.

Source: docs/relay-protocol.md section 14.6.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeVar

import msgspec
import trio

from icesignal import tickets, wire
from icesignal.channel import SealedChannel
from icesignal.client import Client
from icesignal.code import Code
from icesignal.errors import ChannelBroken, RelayRefused
from icesignal.expect import expect, expect_function
from icesignal.introductions import open_join
from icesignal.pauses import TIMEOUT_S
from icesignal.room_keys import BadStatement, MemberKey, read_statement_untrusted
from icesignal.room_session import read_own_ticket
from icesignal.tickets import KEY_BYTES, is_signed
from icesignal.url import parse_relay_urls

VERSION: Final = 1
MAX_REMOVALS: Final = 32  # the newest; the members tell of the others
MAX_RELAY_CHARACTERS: Final = 256  # of each URL
THANKS_S: Final = 150.0  # a session that is away is over after 120 s
_BINDING = "room invitation"
_INVITED_AS = b"icesignal/1 invited\0"

_T = TypeVar("_T")
_Key = Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
_Statement = Annotated[bytes, msgspec.Meta(max_length=1_280)]


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    key: _Key
    proof: wire.Proof


class _Thanks(msgspec.Struct, frozen=True, kw_only=True):
    pass


class _Admission(msgspec.Struct, frozen=True, kw_only=True):
    room: _Key
    ticket: wire.TicketBytes
    relays: Annotated[list[wire.Text], msgspec.Meta(min_length=1, max_length=8)]
    removals: Annotated[list[_Statement], msgspec.Meta(max_length=MAX_REMOVALS)] = []


@dataclass(frozen=True, slots=True)
class Admission:
    """What lets its owner into a room: the arguments of `open_room`.

    Attributes:
        room: the room's public key.
        ticket: for our key.
        relays: URLs, perhaps with passwords in them.
        removals: statements of removals that the inviter knew of.
    """

    room: bytes
    ticket: bytes = field(repr=False)
    relays: tuple[str, ...] = field(repr=False)
    removals: tuple[bytes, ...] = field(repr=False)


async def admit(
    channel: SealedChannel,
    vouch: Callable[[bytes], Awaitable[bytes | None]],
    *,
    relays: Sequence[str],
    removals: Sequence[bytes] = (),
) -> bytes | None:
    """Answer whoever has used our code with a ticket to a room; return its public key, None if it gets none.

    Returns when the other side has said that it has the ticket, and that it is of use to it.

    Args:
        channel: of `Invitation.wait_peer`.
        vouch: given the public half of a member's key, gives a ticket for it, as `RoomKey.ticket` does, or as one gets
            it from the room's owner; None to refuse.
        relays: URLs of the relays at which the room is, 8 at most.
        removals: statements of the removals that are known, as `Room.removals`.
    Raises:
        ChannelBroken: the other side asks for no ticket, or not for its own key, or does not say that it got it.
        ValueError: a relay's URL is none, or too long; `vouch` gave a ticket for another key.
        SignalError: the conversation is over; if that is before the other side's thanks, it may have no ticket.
    """
    expect(SealedChannel, channel=channel)
    expect_function(vouch=vouch)
    expect(list, tuple, relays=relays, removals=removals)
    _check_relays(relays)
    request = _read(await channel.receive(), "room-request", _Request)
    if not is_signed(request.key, request.proof, _asked(channel)):
        await channel.send({"type": "room-refusal", "v": VERSION, "reason": "the key is not yours"})
        raise ChannelBroken("the other side asks for a ticket for a key that it does not have")
    ticket = await vouch(request.key)
    if ticket is None:
        await channel.send({"type": "room-refusal", "v": VERSION, "reason": "the room's owner said no"})
        return None
    said = tickets.read_untrusted(ticket)
    if said.key != request.key:
        raise ValueError("vouch must give a ticket for the key that it is called with")
    await channel.send(
        {
            "type": "room-admission",
            "v": VERSION,
            "room": said.room,
            "ticket": ticket,
            "relays": list(relays),
            "removals": list(removals)[-MAX_REMOVALS:],
        }
    )
    with trio.move_on_after(THANKS_S) as scope:
        _read(await channel.receive(), "room-thanks", _Thanks)
    if scope.cancelled_caught:
        raise ChannelBroken("the other side does not say that it got the ticket; let it try again, with a new code")
    return request.key


async def ask_admission(
    channel: SealedChannel, member_key: MemberKey, wall_clock: Callable[[], float] = time.time
) -> Admission:
    """Ask whoever has invited us for a ticket to its room.

    Args:
        channel: of `open_join`.
        member_key: ours.
        wall_clock: gives Unix time, by which tickets expire.
    Raises:
        RelayRefused: the inviter said no.
        ChannelBroken: its answer is none, or its ticket is not for us.
        SignalError: the conversation is over.
    """
    expect(SealedChannel, channel=channel)
    expect(MemberKey, member_key=member_key)
    proof = member_key.sign(_asked(channel))
    await channel.send({"type": "room-request", "v": VERSION, "key": member_key.public, "proof": proof})
    answer = await channel.receive()
    if answer.get("type") == "room-refusal":
        raise RelayRefused("the other side does not let us into the room; ask its owner")
    admission = _read(answer, "room-admission", _Admission)
    try:
        _check_relays(admission.relays)
        ticket = read_own_ticket(admission.ticket, member_key)
        for statement in admission.removals:
            read_statement_untrusted(admission.room, statement)
    except (ValueError, BadStatement) as error:
        raise ChannelBroken(f"the other side's invitation is of no use: {error}") from None
    if ticket.room != admission.room:
        raise ChannelBroken("the other side's ticket is for another room than it says")
    if ticket.expires <= wall_clock():
        raise ChannelBroken("the other side's ticket has expired; compare the two machines' clocks")
    await channel.send({"type": "room-thanks", "v": VERSION})
    return Admission(admission.room, admission.ticket, tuple(admission.relays), tuple(admission.removals))


async def accept_invitation(
    relay: Client | str | None,
    code: Code | str,
    member_key: MemberKey,
    *,
    ssl_context: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Admission:
    """Use a code that invites to a room; return what `open_room` needs.

    Args:
        relay, code, ssl_context, timeout_s: as for `open_join`.
        member_key: ours; to be kept for as long as the ticket is.
    Raises:
        CodeError, RelayUnreachable, ProtocolMismatch, PeerLeft: as for `open_join`.
        RelayRefused, ChannelBroken: as for `ask_admission`.
    """
    expect(MemberKey, member_key=member_key)
    async with open_join(relay, code, ssl_context=ssl_context, timeout_s=timeout_s) as channel:
        admission = await ask_admission(channel, member_key)
        channel.close()
        return admission


def _check_relays(relays: Sequence[str]) -> None:
    """Refuse relays that nobody could use.

    Raises:
        ValueError: which says why.
    """
    parse_relay_urls(relays)
    if any(len(one) > MAX_RELAY_CHARACTERS for one in relays):
        raise ValueError(f"in an invitation a relay's URL has at most {MAX_RELAY_CHARACTERS} characters")


def _asked(channel: SealedChannel) -> bytes:
    """Return what whoever asks for a ticket signs: of use in this conversation alone."""
    return _INVITED_AS + channel.key(_BINDING)


def _read(message: dict[str, Any], name: str, kind: type[_T]) -> _T:
    """Return a map of the other side's as what it should be.

    Raises:
        ChannelBroken: it is something else.
    """
    if message.get("type") != name or message.get("v") != VERSION:
        raise ChannelBroken(f"the other side did not say {name}; it uses its code for something else than a room")
    try:
        return msgspec.convert(message, kind, builtin_types=(bytes,))
    except (msgspec.ValidationError, RecursionError, OverflowError):
        raise ChannelBroken(f"the other side's {name} is none") from None
