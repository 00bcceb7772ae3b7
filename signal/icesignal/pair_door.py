"""Rooms of two: made and joined by a nameplate, or met in by a name that both know. Sans-IO.

Source: docs/relay-protocol.md sections 1 and 5.
"""

from __future__ import annotations

from icesignal import wire
from icesignal.registry import ConnectionAction, Registry
from icesignal.room import INVITER, JOINER, Member, RoomOfTwo
from icesignal.sources import Levels
from icesignal.wire import RelayErrorCode

CONFIRMED_AFTER = 2  # messages of the inviter: its own proof, and what it says upon the joiner's


class PairDoor:
    """Lets members into rooms of two, and tells which claims were no guesses."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def handle_allocate(self, now: float, connection: int, frame: wire.Allocate, levels: Levels) -> None:
        """Make a room, and let the inviter in."""
        if self._repeat_entry(now, connection, frame.session, INVITER, None):
            return
        if self._registry.is_full(connection, levels):
            return
        room = self._open_for_two(now, self._registry.nameplates.take(now), levels, is_rendezvous=False)
        self._registry.counters["allocated"] += 1
        self._enter_one_of_two(now, connection, room, INVITER, frame.session, frame.opening)

    def handle_join(self, now: float, connection: int, frame: wire.Join) -> None:
        """Let the joiner in, if nobody has tried before."""
        if self._repeat_entry(now, connection, frame.session, JOINER, frame.nameplate):
            return
        room = self._registry.rooms.get(frame.nameplate)
        if not isinstance(room, RoomOfTwo):
            known = self._registry.nameplates.is_resting(frame.nameplate)
            code = RelayErrorCode.EXPIRED_NAMEPLATE if known else RelayErrorCode.UNKNOWN_NAMEPLATE
            self._registry.nameplates.note_guess(now)
            self._registry.refuse(connection, code, "no room has this nameplate")
        elif room.claimed:
            self._registry.nameplates.note_guess(now)
            self._registry.refuse(connection, RelayErrorCode.CROWDED, "two peers have met under this nameplate")
        else:
            self._registry.counters["joined"] += 1
            self._registry.nameplates.claim(frame.nameplate)
            self._enter_one_of_two(now, connection, room, JOINER, frame.session, frame.opening)

    def handle_meet(self, now: float, connection: int, frame: wire.Meet, levels: Levels) -> None:
        """Let somebody in who knows the name."""
        name = frame.name.hex()
        if self._repeat_entry(now, connection, frame.session, frame.role, name):
            return
        room = self._registry.rooms.get(name)
        if room is not None and frame.role in room.members:
            if room.members[frame.role].connection is not None:
                self._registry.refuse(connection, RelayErrorCode.CROWDED, "this place is taken")
                return
            # The program behind the silent session was started anew: the old conversation cannot go on.
            self._registry.end(now, room, "replaced")
            room = None
        if not isinstance(room, RoomOfTwo):
            if self._registry.is_full(connection, levels):
                return
            room = self._open_for_two(now, name, levels, is_rendezvous=True)
        self._registry.counters["met"] += 1
        self._enter_one_of_two(now, connection, room, frame.role, frame.session, frame.opening)

    def _repeat_entry(self, now: float, connection: int, session: bytes, role: str, name: str | None) -> bool:
        """Answer an entry whose first answer was lost; return whether it was one."""
        member = self._registry.sessions.get(session)
        if member is None:
            return False
        if member.is_settled or member.place != role or name not in (None, member.room.key):
            self._registry.refuse(connection, RelayErrorCode.BAD_TOKEN, "this session exists; resume it with its token")
            return True
        self._registry.attach(connection, member)
        self._registry.welcome(now, connection, member, "joined")
        return True

    def _open_for_two(self, now: float, name: str, levels: Levels, *, is_rendezvous: bool) -> RoomOfTwo:
        room = RoomOfTwo(
            name, name, epoch=self._registry.epoch, created_at=now, is_rendezvous=is_rendezvous, levels=levels
        )
        self._registry.add(room)
        return room

    def _enter_one_of_two(
        self, now: float, connection: int, room: RoomOfTwo, role: str, session: bytes, opening: bytes
    ) -> None:
        room.claimed = room.claimed or role == JOINER or bool(room.members)
        token = self._registry.randbytes(wire.TOKEN_BYTES)
        self._registry.enter(now, connection, Member(room, role, session, opening, token))

    def confirm(self, room: RoomOfTwo, inviter_said: int) -> None:
        """Count what the inviter says to whom has joined.

        Its first message proves itself, its second one only follows upon the joiner's proof (section 7): so whoever
        claimed the nameplate knew the code.
        """
        room.inviter_said = inviter_said
        if room.is_rendezvous or room.is_confirmed or inviter_said < CONFIRMED_AFTER:
            return
        room.is_confirmed = True
        joiner = room.members.get(JOINER)
        if joiner is not None and joiner.connection is not None:
            self._registry.outputs.append(ConnectionAction(joiner.connection, is_confirmed=True))
