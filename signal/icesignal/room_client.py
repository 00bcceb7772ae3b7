"""A member of a room of many: enters with a ticket, hears who is there, and speaks to all or to some.

Source: docs/relay-protocol.md sections 13 and 14.
"""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

import trio

from icesignal import tickets, wire
from icesignal.circle import MAX_TO_ALL_BYTES, MAX_TO_SOME_BYTES
from icesignal.dial import OpenStream
from icesignal.errors import RelayRefused, SignalError
from icesignal.expect import expect
from icesignal.keeper import Keeper, RelayState, open_keeper
from icesignal.member_client import MemberClient
from icesignal.pauses import TIMEOUT_S
from icesignal.race import Choice
from icesignal.room_events import RoomEnded, RoomEvent, RoomMember
from icesignal.room_keys import MemberKey, RoomKey, make_statement
from icesignal.room_removals import MAX_STATEMENTS
from icesignal.room_session import RoomSession, read_own_ticket


class Room(MemberClient[RoomSession]):
    """A place in a room of many. Made by `open_room`.

    Iterating gives what happens, each once: who comes and goes, what they say. Messages of one member are in its order;
    the last event is `RoomEnded`. Whoever reads slowly slows the relay down, and nothing is lost.
    """

    def __init__(self, keeper: Keeper, key: MemberKey) -> None:
        super().__init__(keeper)
        self._key = key
        self._has_ended = False

    @property
    def id(self) -> bytes:
        """Our own id."""
        return self._require_session().ticket.id

    @property
    def members(self) -> list[RoomMember]:
        """The others, as far as they have shown to be who their tickets say."""
        return self._require_session().circle.members

    @property
    def expires(self) -> int:
        """Until when our ticket is good, Unix time in seconds; see `renew`."""
        return self._require_session().ticket.expires

    @property
    def removals(self) -> list[bytes]:
        """The statements of all removals that we know of, to be handed to whoever is invited."""
        return self._require_session().circle.removals.statements

    async def send(self, payload: bytes, to: Collection[bytes] | None = None) -> frozenset[bytes]:
        """Say something to all other members, or to those with these ids; waits while too much is under way.

        Returns:
            The ids of those who were here, and will hear it if they stay: whoever comes later does not. If the relay is
            started anew they may not: see `MessagesMissed`.
        Raises:
            ValueError: the payload is longer than 61,343 bytes, or 61,414 to some.
            SignalError: the stay is over.
        """
        expect(bytes, bytearray, payload=payload)
        if to is not None:
            expect(list, tuple, set, frozenset, to=to)
        at_most = MAX_TO_ALL_BYTES if to is None else MAX_TO_SOME_BYTES
        if len(payload) > at_most:
            raise ValueError(f"a payload has at most {at_most} bytes, not {len(payload)}")
        session = await self._wait_outbox()
        if to is None:
            reached = session.circle.send_to_all(bytes(payload))
        else:
            reached = session.circle.send_to(to, bytes(payload))
        self._flush(session)
        return reached

    async def remove(self, member: bytes, by: RoomKey | None = None) -> None:
        """Remove the member with this id for good: it hears nothing more, and nobody brings it back.

        Args:
            member: its id, whether it is here or not.
            by: the room's key, if our own ticket has not the capability `remove`; the relay lets it go then only if it
                has, but members do not speak to it any more.
        Raises:
            ValueError: we may not, or `by` is another room's key.
            SignalError: the stay is over, or the room has had as many removals as its members remember.
        """
        expect(bytes, member=member)
        expect(RoomKey, None, by=by)
        session = await self._wait_outbox()
        if len(member) != wire.MEMBER_BYTES or member == session.ticket.id:
            raise ValueError("name another member by its id of 16 bytes; to leave, let the block of open_room end")
        may = tickets.REMOVE in session.ticket.can
        if by is None and not may:
            raise ValueError("our ticket does not let us remove members; ask the room's owner")
        if by is not None and by.public != session.ticket.room:
            raise ValueError("this is another room's key; use the one of which this room has its name")
        statement = make_statement(by or self._key, session.ticket.room, member, b"" if by else session.ticket_data)
        is_removed = session.circle.spread_removal(member, statement)
        self._flush(session)
        if not is_removed:
            raise SignalError(
                f"nobody was removed: members remember {MAX_STATEMENTS} removals, and this room has had them. "
                "Make another room, or remove with the room's key"
            )
        if may:
            self._transmit_live(session.send_away(member))

    async def end(self) -> None:
        """End the room for all; returns when the relay has done so, which waits for a connection that is away.

        Raises:
            ValueError: our ticket has not the capability `end`.
            SignalError: the stay was over before, or the relay does not let us.
        """
        session = self._require_session()
        if tickets.END not in session.ticket.can:
            raise ValueError("our ticket does not let us end the room; ask its owner")
        for frame in session.end():
            self._keeper.transmit(frame)
        await trio.lowlevel.checkpoint()
        while session.over is None and session.is_ending:
            await self.wait_change()
        if session.over is None:
            raise RelayRefused("the relay does not let us end the room; ask its owner for another ticket", "forbidden")
        if not session.is_ending:
            raise session.over

    def renew(self, ticket: bytes) -> None:
        """Show a newer ticket, for the same id and key with a later end; returns at once.

        Raises:
            ValueError: it is another one.
        """
        expect(bytes, ticket=ticket)
        frame = self._require_session().renew(ticket)
        if frame is not None:
            self._transmit_live(frame)

    def __aiter__(self) -> Room:
        return self

    async def __anext__(self) -> RoomEvent:
        if self._has_ended:
            raise StopAsyncIteration
        try:
            return await self._next(self._require_session())
        except SignalError as error:
            self._has_ended = True
            return RoomEnded(error)

    async def _wait_outbox(self) -> RoomSession:
        session = self._require_session()
        await trio.lowlevel.checkpoint()
        while session.over is None and not session.has_outbox_room:
            await self.wait_change()
        if session.over is not None:
            raise session.over
        return session

    def _flush(self, session: RoomSession) -> None:
        for frame in session.flush():
            self._transmit_live(frame)
        self._keeper.notify()

    async def enter(self, session: RoomSession) -> None:
        """Take the place; once, by `open_room`."""
        await self._enter(session)


@asynccontextmanager
async def open_room(
    relays: str | Sequence[str],
    ticket: bytes,
    member_key: MemberKey,
    *,
    removals: Sequence[bytes] = (),
    ssl_context: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
    randbytes: Callable[[int], bytes] = secrets.token_bytes,
    wall_clock: Callable[[], float] = time.time,
    open_stream: OpenStream | Sequence[OpenStream | None] | None = None,
    on_state: Callable[[RelayState], None] = lambda state: None,
) -> AsyncGenerator[Room, None]:
    """Enter a room of many. When the block ends, the room is left, and nothing stays behind.

    If the connection is away then, nobody hears that we left: for the others we are away, and gone after 120 s.

    Args:
        relays: URL of the relay, or of several that share their state, of which the first that works serves: each is
            tried when the one before has failed, within `timeout_s`. Members at relays that share nothing do not meet.
        ticket: from whoever owns the room's key, see `RoomKey.ticket` and `accept_invitation`.
        member_key: the key that the ticket is for.
        removals: statements of removals that are known already, from an invitation or an earlier stay.
        wall_clock: gives Unix time, by which tickets expire.
        ssl_context, timeout_s, randbytes, open_stream, on_state: as for `open_client`.
    Raises:
        ValueError: the URL or the ticket is none.
        RelayRefused: the relay has no rooms of many, does not take the ticket, or the room is full.
        RoomOver: this member was removed.
        RelayUnreachable, ProtocolMismatch: as for `open_client`.
    """
    expect(bytes, ticket=ticket)
    expect(MemberKey, member_key=member_key)
    expect(list, tuple, removals=removals)
    read_own_ticket(ticket, member_key)
    async with open_keeper(
        relays,
        ssl_context=ssl_context,
        timeout_s=timeout_s,
        randbytes=randbytes,
        open_stream=open_stream,
        on_state=on_state,
        choice=Choice(in_turn=True, needs=wire.OFFERS_ROOMS),
    ) as keeper:
        room = Room(keeper, member_key)
        session = RoomSession(ticket, member_key, randbytes=randbytes, wall_clock=wall_clock, removals=removals)
        await room.enter(session)
        yield room
