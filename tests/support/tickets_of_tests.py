"""Tickets for the rooms of many of the relay's tests."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from icesignal import tickets, wire
from icesignal.tickets import Ticket

OWNER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
ROOM = OWNER.public_key().public_bytes_raw()
LATER = 4_000_000_000  # the year 2096


def name_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def key_of(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))


def ticket(number: int, *, can=(), expires=LATER, owner=OWNER) -> bytes:
    return tickets.issue(
        owner,
        Ticket(
            room=owner.public_key().public_bytes_raw(),
            id=name_of(number),
            key=key_of(number).public_key().public_bytes_raw(),
            role="member",
            can=list(can),
            expires=expires,
        ),
    )


def enter(number: int, listener, data: bytes | None = None, *, session=None, key=None, **given) -> wire.Enter:
    data = ticket(number, **given) if data is None else data
    session = name_of(number) if session is None else session
    proof = tickets.prove(key or key_of(number), listener.challenge, session, data)
    return wire.Enter(session=session, ticket=data, proof=proof, opening=b"opening %d" % number)
