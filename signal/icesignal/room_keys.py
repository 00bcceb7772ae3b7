"""The keys of rooms of many, and what is signed with them: tickets, openings, removals. Pure functions but for chance.

Source: docs/relay-protocol.md sections 13 and 14.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

import msgpack
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from icesignal import tickets, wire
from icesignal.expect import expect
from icesignal.tickets import KEY_BYTES, SIGNATURE_BYTES, Ticket, is_signed

OPENING_BYTES: Final = KEY_BYTES + SIGNATURE_BYTES
MAX_STATEMENT_BYTES: Final = 1_280  # a ticket, which is the most of it, and 256 bytes
TICKET_LIFE_S: Final = 12 * 3600  # bounds what a removed member and a relay that lies can do together
_OPENED_AS = b"icesignal/1 opening\0"
_REMOVED_AS = b"icesignal/1 removal\0"


class _SigningKey:
    """An ed25519 key pair whose private half nothing shows."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        """Return a fresh one."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_private_bytes(cls, private: bytes) -> Self:
        """Return the one whose private half was kept.

        Raises:
            ValueError: these are not 32 bytes.
        """
        expect(bytes, private=private)
        if len(private) != KEY_BYTES:
            raise ValueError(f"a private key has {KEY_BYTES} bytes, not {len(private)}; generate() makes one")
        return cls(Ed25519PrivateKey.from_private_bytes(private))

    def private_bytes(self) -> bytes:
        """Return the private half, 32 bytes, to be kept where nobody else reads."""
        return self._private.private_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """Return the signature of some bytes, 64 bytes."""
        return self._private.sign(data)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(public={self.public.hex()})"


class RoomKey(_SigningKey):
    """The key of a room of many: its public half names the room, and with the private half one lets others in.

    Attributes:
        public: the room's name, 32 bytes.
    """

    def ticket(
        self,
        member: bytes,
        *,
        member_id: bytes | None = None,
        role: str = "member",
        can: Collection[str] = (),
        life_s: float = TICKET_LIFE_S,
    ) -> bytes:
        """Return a ticket for the owner of a `MemberKey`.

        Args:
            member: the public half of that key.
            member_id: 16 bytes that name the member; fresh ones by default. The same again renews a ticket.
            role: any word of the application's.
            can: capabilities: `"remove"` (send others away), `"end"` (end the room), and the application's own.
            life_s: how long it is good, seconds.
        Raises:
            ValueError: something of it is too long, or no key.
            TypeError: something is of another type, such as one word for `can`.
        """
        expect(bytes, member=member)
        expect(bytes, None, member_id=member_id)
        expect(str, role=role)
        expect(list, tuple, set, frozenset, can=can)
        expect(float, life_s=life_s)
        fields = {
            "room": self.public,
            "id": secrets.token_bytes(wire.MEMBER_BYTES) if member_id is None else member_id,
            "key": member,
            "role": role,
            "can": sorted(can),
            "expires": int(time.time() + life_s),
        }
        try:
            ticket = msgspec.convert(fields, Ticket, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise ValueError(f"no ticket can say this: {error}") from None
        return tickets.issue(self._private, ticket)


class MemberKey(_SigningKey):
    """A member's own key; rooms of many know a member by its public half."""

    def prove(self, challenge: bytes, session: bytes, ticket: bytes) -> bytes:
        """Return what shows a relay that a ticket is ours."""
        return tickets.prove(self._private, challenge, session, ticket)


# -- openings


def make_opening(member: MemberKey, room: bytes, member_id: bytes, private: X25519PrivateKey) -> bytes:
    """Return what the other members get of us as we enter: a fresh public key, signed."""
    public = private.public_key().public_bytes_raw()
    return public + member.sign(_OPENED_AS + room + member_id + public)


def is_opening_of(ticket: Ticket, opening_untrusted: bytes) -> bool:
    """Return whether an opening was made by whom the ticket is for."""
    public, signature = opening_untrusted[:KEY_BYTES], opening_untrusted[KEY_BYTES:]
    return is_signed(ticket.key, signature, _OPENED_AS + ticket.room + ticket.id + public)


# -- removals


class _Removal(msgspec.Struct, frozen=True, kw_only=True):
    room: Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
    member: wire.MemberId
    ticket: Annotated[bytes, msgspec.Meta(max_length=wire.MAX_TICKET_BYTES)]


class BadStatement(ValueError):
    """Bytes that are no removal, or that nobody who may remove has signed."""


@dataclass(frozen=True, slots=True)
class Statement:
    """That a member is removed for good. `by` is who says so, its id; None for the room's owner."""

    member: bytes
    by: bytes | None
    data: bytes


def make_statement(signer: RoomKey | MemberKey, room: bytes, member_id: bytes, ticket: bytes = b"") -> bytes:
    """Return the statement that a member is removed; `ticket` is the signer's, empty if it is the room's key."""
    fields = {"room": room, "member": member_id, "ticket": ticket}
    body = bytes(msgpack.packb(fields, use_bin_type=True) or b"")
    return body + signer.sign(_REMOVED_AS + body)


def read_statement_untrusted(room: bytes, data: bytes) -> Statement:
    """Return what a statement says, if whoever signed it may remove members of this room.

    Raises:
        BadStatement: it is none.
    """
    if len(data) > MAX_STATEMENT_BYTES:
        raise BadStatement("too long for a removal")
    body, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    try:
        fields: dict[str, Any] = wire.unpack_map_untrusted(body)
        removal = msgspec.convert(fields, _Removal, builtin_types=(bytes,))
        remover = tickets.read_untrusted(removal.ticket) if removal.ticket else None
    except (wire.BadFrame, msgspec.ValidationError, tickets.BadTicket, RecursionError, OverflowError) as error:
        raise BadStatement(f"no removal: {error}"[:200]) from None
    if removal.room != room or (remover is not None and remover.room != room):
        raise BadStatement("a removal from another room")
    if remover is not None and tickets.REMOVE not in remover.can:
        raise BadStatement("the ticket of whoever says it does not let it remove members")
    key, by = (room, None) if remover is None else (remover.key, remover.id)
    if not is_signed(key, signature, _REMOVED_AS + body):
        raise BadStatement("its signature is not that of whoever is said to say it")
    return Statement(removal.member, by, data)
