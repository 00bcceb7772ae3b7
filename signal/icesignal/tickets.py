"""Tickets: who may enter a room of many, signed by whoever owns the room's key. Pure functions.

A room of many is named by a public key. Its tickets are signed with the private half, so a relay can tell a good one
without ever having heard of the room, and members can tell who is who without trusting the relay.
Source: docs/relay-protocol.md section 13.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final

import msgpack
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from icesignal import wire

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
MAX_CAPABILITIES: Final = 16
END, REMOVE = "end", "remove"
"""Capabilities that a relay knows: to end the room for all, to remove members. Others are the application's."""

_SIGNED_AS = b"icesignal/1 ticket\0"
_PROVED_AS = b"icesignal/1 enter\0"

_Key = Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
_Word = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What a ticket says.

    Attributes:
        room: the room's public key, ed25519.
        id: the member's, 16 bytes; who enters with the same id takes its own place again.
        key: the member's public key, ed25519: whoever enters shows that he has the private half.
        role: any word of the application's.
        can: capabilities, see `END` and `REMOVE`; others are the application's.
        expires: Unix time, seconds. Until then it is good, and whoever is inside goes then.
    """

    room: _Key
    id: wire.MemberId
    key: _Key
    role: _Word
    can: Annotated[list[_Word], msgspec.Meta(max_length=MAX_CAPABILITIES)] = []
    expires: wire.Count


class BadTicket(ValueError):
    """Bytes that are no ticket, or that nobody who owns the room has signed."""


def issue(room_key: Ed25519PrivateKey, ticket: Ticket) -> bytes:
    """Return a ticket as it is handed over: what it says as msgpack, then the signature.

    Raises:
        ValueError: it is for another room than that of the key, or too long.
    """
    if room_key.public_key().public_bytes_raw() != ticket.room:
        raise ValueError("a ticket is signed with the key of its own room")
    body = bytes(msgpack.packb(msgspec.to_builtins(ticket, builtin_types=(bytes,)), use_bin_type=True) or b"")
    if len(body) + SIGNATURE_BYTES > wire.MAX_TICKET_BYTES:
        raise ValueError(f"a ticket has at most {wire.MAX_TICKET_BYTES} bytes; give it fewer capabilities")
    return body + room_key.sign(_SIGNED_AS + body)


def read_untrusted(data: bytes) -> Ticket:
    """Return what a ticket says, its signature checked. Whether it has expired is for the reader to say.

    Raises:
        BadTicket: it is none.
    """
    body, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    try:
        fields: dict[str, Any] = wire.unpack_map_untrusted(body)
        ticket = msgspec.convert(fields, Ticket, builtin_types=(bytes,))
    except (wire.BadFrame, msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise BadTicket(f"no ticket: {error}"[:200]) from None
    if not is_signed(ticket.room, signature, _SIGNED_AS + body):
        raise BadTicket("its signature is not that of the room's owner")
    return ticket


def prove(member_key: Ed25519PrivateKey, challenge: bytes, session: bytes, ticket: bytes) -> bytes:
    """Return what shows a relay that the ticket is ours: a signature over the challenge of its `welcome`."""
    return member_key.sign(_proved(challenge, session, ticket))


def is_proved(ticket: Ticket, proof: bytes, challenge: bytes, session: bytes, data: bytes) -> bool:
    """Return whether who shows a ticket (`data`, which says `ticket`) has the key that it is for."""
    return is_signed(ticket.key, proof, _proved(challenge, session, data))


def _proved(challenge: bytes, session: bytes, ticket: bytes) -> bytes:
    return _PROVED_AS + challenge + session + hashlib.sha256(ticket).digest()


def is_signed(key: bytes, signature: bytes, data: bytes) -> bool:
    """Return whether a signature of some bytes was made with the private half of a key."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True
