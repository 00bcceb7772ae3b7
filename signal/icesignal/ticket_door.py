"""Rooms of many: entered with a ticket of the room's owner, left one by one. Sans-IO.

Source: docs/relay-protocol.md section 13.
"""

from __future__ import annotations

from collections.abc import Callable

from icesignal import tickets, wire
from icesignal.registry import Registry
from icesignal.room import Member, RoomOfMany
from icesignal.sources import Levels
from icesignal.wire import RelayErrorCode

MANY = "many "  # before the names of rooms of many: nobody can be met there by that name


class TicketDoor:
    """Lets members into rooms of many, and out again.

    Args:
        registry: where the rooms are.
        wall_clock: gives Unix time, by which tickets expire.
    """

    def __init__(self, registry: Registry, wall_clock: Callable[[], float]) -> None:
        self._registry = registry
        self._wall_clock = wall_clock

    def handle_enter(
        self,
        now: float,
        connection: int,
        member: Member | None,
        frame: wire.Enter,
        levels: Levels,
        challenge: bytes,
    ) -> None:
        """Let somebody in who has a ticket; or, of who is inside, take a newer one."""
        ticket = self._good_ticket(connection, frame, challenge)
        if ticket is None:
            return
        known = member or self._registry.sessions.get(frame.session)
        if known is None:
            room = self._room(now, connection, ticket, levels)
            if room is not None:
                self._enter(now, connection, room, frame, ticket)
        elif known.key != ticket.key and _is_of(known, frame, ticket):
            self._refuse_key(connection)
        elif not _is_of(known, frame, ticket) or (known.is_settled and known.connection != connection):
            why = "this session exists; resume it with its token"
            self._registry.refuse(connection, RelayErrorCode.BAD_TOKEN, why)
        else:
            self._show(now, known, frame, ticket)
            if known.connection == connection:
                self._registry.notify_others(known)
            else:  # its first answer was lost
                self._registry.attach(connection, known)
                self._registry.welcome(now, connection, known, "joined")

    def _room(self, now: float, connection: int, ticket: tickets.Ticket, levels: Levels) -> RoomOfMany | None:
        """Return the ticket's room, made if need be; None if there is no place, which its owner is told."""
        registry, place = self._registry, ticket.id.hex()
        room = registry.rooms.get(MANY + ticket.room.hex())
        if not isinstance(room, RoomOfMany):
            if registry.is_full(connection, levels):
                return None
            name = ticket.room.hex()
            room = RoomOfMany(MANY + name, name, epoch=registry.epoch, created_at=now, levels=levels)
            registry.add(room)
        elif place in room.members and room.members[place].key != ticket.key:
            self._refuse_key(connection)
            return None
        elif place in room.barred:
            registry.refuse(connection, RelayErrorCode.REMOVED, "this member was removed from the room")
            return None
        elif place not in room.members and len(room.members) >= registry.limits.members:
            registry.refuse(connection, RelayErrorCode.CROWDED, f"the room has its {len(room.members)} members")
            return None
        return room

    def _enter(self, now: float, connection: int, room: RoomOfMany, frame: wire.Enter, ticket: tickets.Ticket) -> None:
        registry, place = self._registry, ticket.id.hex()
        registry.counters["entered"] += 1
        former = room.members.get(place)
        if former is not None:  # the program was started anew: what it has not heard, it cannot make sense of
            self._part(now, room, former, "replaced")
        room.lost_seq[place] = room.seq
        member = Member(room, place, frame.session, frame.opening, registry.randbytes(wire.TOKEN_BYTES))
        self._show(now, member, frame, ticket)
        registry.enter(now, connection, member)

    def _show(self, now: float, member: Member, frame: wire.Enter, ticket: tickets.Ticket) -> None:
        """Note what a member's ticket lets it do, and until when."""
        member.ticket, member.key, member.can = frame.ticket, ticket.key, frozenset(ticket.can)
        member.until = now + ticket.expires - self._wall_clock()

    def _refuse_key(self, connection: int) -> None:
        why = "the member of this name has another key, and is here"
        self._registry.refuse(connection, RelayErrorCode.BAD_TICKET, why)

    def _good_ticket(self, connection: int, frame: wire.Enter, challenge: bytes) -> tickets.Ticket | None:
        """Return what a ticket says if it is good and shown by whom it is for; else refuse."""
        try:
            ticket = tickets.read_untrusted(frame.ticket)
        except tickets.BadTicket as error:
            self._registry.refuse(connection, RelayErrorCode.BAD_TICKET, str(error))
            return None
        if ticket.expires <= self._wall_clock():
            self._registry.refuse(connection, RelayErrorCode.EXPIRED_TICKET, "this ticket has expired")
            return None
        if not challenge or not tickets.is_proved(ticket, frame.proof, challenge, frame.session, frame.ticket):
            self._registry.refuse(connection, RelayErrorCode.BAD_TICKET, "this ticket is for the owner of another key")
            return None
        return ticket

    def handle_remove(self, now: float, connection: int, member: Member | None, frame: wire.Remove) -> None:
        """Send a member away, and keep its tickets out for as long as the room lasts."""
        registry = self._registry
        if member is None or not isinstance(member.room, RoomOfMany):
            registry.refuse(connection, RelayErrorCode.NOT_JOINED, "enter a room of many first")
        elif tickets.REMOVE not in member.can:
            registry.refuse(connection, RelayErrorCode.FORBIDDEN, "this ticket does not let you remove members")
        else:
            registry.counters["removed"] += 1
            room, place = member.room, frame.member.hex()
            room.bar(place, registry.limits.barred)
            removed = room.members.get(place)
            if removed is not None:
                self.leave(now, room, removed, "removed")

    def leave(self, now: float, room: RoomOfMany, member: Member, reason: str) -> None:
        """Let a member go, and tell the others; with the last one the room ends."""
        self._part(now, room, member, reason)
        if not room.members:
            self._registry.end(now, room, reason)

    def _part(self, now: float, room: RoomOfMany, member: Member, reason: str) -> None:
        self._registry.dismiss(now, member, reason)
        del room.members[member.place]
        room.lost_seq.pop(member.place, None)
        self._registry.notify_others(member)


def _is_of(member: Member, frame: wire.Enter, ticket: tickets.Ticket) -> bool:
    """Return whether a session that is there is the one that an entry is for."""
    same_room = member.room.key == MANY + ticket.room.hex()
    return same_room and (member.place, member.session) == (ticket.id.hex(), frame.session)
