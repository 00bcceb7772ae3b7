"""A member's session in a room of many, from its entry to its end, and anew where the relay has forgotten it. Sans-IO.

Source: docs/relay-protocol.md sections 4, 13 and 14.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from icesignal import tickets, wire
from icesignal.circle import Circle
from icesignal.errors import RelayRefused, RoomOver, SignalError
from icesignal.member_session import INBOX_MESSAGES, Action, MemberSession
from icesignal.room_events import MemberWent, MessagesMissed, RoomEvent
from icesignal.room_keys import MemberKey
from icesignal.room_removals import MAX_STATEMENTS
from icesignal.tickets import Ticket
from icesignal.wire import CloseCode, RelayErrorCode

_ABOUT_TICKETS = {
    RelayErrorCode.BAD_TICKET: "it is not signed by the room's owner, or is for another key than ours",
    RelayErrorCode.EXPIRED_TICKET: "it has expired, or this machine's clock or the relay's is wrong",
}


class RoomSession(MemberSession[RoomEvent]):
    """One member's stay in a room of many.

    A relay that was started anew knows nothing of it: then it enters once more, with fresh keys, as nobody but the
    relay has lost anything.

    Attributes:
        circle: what we know of the others.
        ticket: ours; `ticket_data` as it came.
        renewal_refused: why the relay did not take a newer ticket.
        is_ending: whether we have said that the room ends for all, and the relay has not refused.
    """

    begin_again = "enter the room again"

    def __init__(
        self,
        ticket: bytes,
        key: MemberKey,
        *,
        randbytes: Callable[[int], bytes],
        wall_clock: Callable[[], float],
        removals: Iterable[bytes] = (),
    ) -> None:
        """Make one for a ticket; the other arguments are those of `Circle`.

        Raises:
            ValueError: it is no ticket, or for another key.
        """
        super().__init__(randbytes(wire.SESSION_BYTES))
        self.ticket = read_own_ticket(ticket, key)
        self.renewal_refused: SignalError | None = None
        self.ticket_data = ticket
        self.is_ending = False
        self._key = key
        self._randbytes = randbytes
        self._wall_clock = wall_clock
        self._is_renewed = False
        self._was_inside = False  # before the session that is being begun
        self._challenge = b""
        self._listed: set[bytes] = set()
        self._to_list = 0
        self._entries = 0  # how often this session has asked for its place
        self._when_listed: Callable[[], None] | None = None
        self._sent_away: dict[bytes, None] = {}
        self.circle = self._new_circle(removals)

    @property
    def awaits_peer(self) -> bool:
        """Nobody in particular is waited for."""
        return False

    @property
    def stays(self) -> bool:
        """Whether it belongs to the relay at which it is: also while it enters anew, as the others do so there."""
        return self.has_place or self._was_inside

    @property
    def has_outbox_room(self) -> bool:
        """Whether little enough waits to be sent for the application to say more."""
        return len(self.circle.outbox) < wire.MAX_MEMBERS

    def begin(self, welcome: wire.Welcome | None = None) -> wire.Frame | None:
        """Return what to say first on a new connection, which began with this welcome."""
        self._challenge = b"" if welcome is None else welcome.challenge
        self._to_list = 0
        self._entries += not self.has_place
        return super().begin(welcome)

    def handle_frame(self, frame: wire.Frame) -> tuple[list[wire.Frame], Action]:
        """Take a frame of the relay; return what to send and what to do."""
        if isinstance(frame, wire.Member) and len(self.inbox) >= INBOX_MESSAGES:
            self.counters["inbox_full"] += 1  # all members are told again after a resume
            return [], Action.RECONNECT
        is_forgotten = isinstance(frame, wire.Error) and self._is_forgotten(frame)
        frames, action = ([self._enter_anew()], Action.NONE) if is_forgotten else super().handle_frame(frame)
        return frames + self.flush(), action

    def flush(self) -> list[wire.Frame]:
        """Take over what the circle has to tell; return what it has to send, as far as the relay takes it now."""
        self.inbox.extend(self.circle.events)
        self.circle.events.clear()
        if self.circle.is_removed:
            self.finish(RoomOver("removed"))
        frames: list[wire.Frame] = []
        while self.is_live and self.may_send and self.circle.outbox:
            one = self.circle.outbox.popleft()
            frames.append(self.send(one.payload, None if one.to is None else [one.to]))
        return frames

    def renew(self, ticket: bytes) -> wire.Frame | None:
        """Take a newer ticket; return what shows it to the relay, None if that is said with the next connection.

        Raises:
            ValueError: it is none for this member, or not newer.
        """
        newer = read_own_ticket(ticket, self._key)
        if (newer.room, newer.id) != (self.ticket.room, self.ticket.id) or newer.expires <= self.ticket.expires:
            raise ValueError("a ticket is renewed by one for the same room and id, with a later end")
        self.ticket, self.ticket_data, self._is_renewed = newer, ticket, True
        self.renewal_refused = None
        return self._entry(None) if self.is_live else None

    def send_away(self, member: bytes) -> wire.Frame:
        """Return what has the relay send a member away; it is said again where the connection was lost meanwhile."""
        self._sent_away.pop(member, None)
        if len(self._sent_away) >= MAX_STATEMENTS:
            del self._sent_away[next(iter(self._sent_away))]
        self._sent_away[member] = None
        return _remove(member)

    def end(self) -> list[wire.Frame]:
        """End the room for all; return what says so to the relay, which is said again until it has done so."""
        if self.over is not None:
            return []
        self.is_ending = True
        return [*self.flush(), wire.Close(reason="done")] if self.is_live else []

    def handle_end(self, code: int) -> None:
        """Note that a connection ended: so the relay answers who has ended the room."""
        if self.is_ending and code == CloseCode.DONE:
            self.finish(RoomOver("done"))
        super().handle_end(code)

    # -- frames

    def _entry(self, welcome: wire.Welcome | None) -> wire.Frame:
        proof = self._key.prove(self._challenge, self._id, self.ticket_data)
        return wire.Enter(session=self._id, ticket=self.ticket_data, proof=proof, opening=self.circle.opening)

    def _may_be(self, frame: wire.Message) -> bool:
        return frame.sender not in (None, self.ticket.id)

    def _hear(self, frame: wire.Message) -> None:
        assert frame.sender is not None, "as `_may_be` has seen"
        self.circle.handle_message(frame.sender, frame.payload)

    def _handle_own(self, frame: wire.Frame) -> list[wire.Frame]:
        match frame:
            case wire.Entered() if (frame.room, frame.member) != (self.ticket.room.hex(), self.ticket.id):
                self._refuse_place()
            case wire.Entered() if not self.is_live:
                return self._handle_entered(frame)
            case wire.Member():
                self._handle_member(frame)
            case _:
                self.counters["unexpected_frames"] += 1
        return []

    def _handle_entered(self, frame: wire.Entered) -> list[wire.Frame]:
        if not self.has_place and self._entries > 1:  # the first answer was lost, and with it who said hello to us
            self._when_listed = self.circle.ask_again
        unaccepted = self._take_place(frame, frame.arrival)
        self._listed.clear()
        self._to_list = frame.members
        if not self._to_list:
            self._handle_all_listed()
        if self._is_renewed:  # the relay may know only the ticket that we came with
            unaccepted.append(self._entry(None))
        ends = [wire.Close(reason="done")] if self.is_ending else []
        return [*unaccepted, *map(_remove, self._sent_away), *ends]

    def _note_loss(self) -> None:
        self._when_listed = self.circle.handle_resync  # not before: who came while we were away is asked as well

    def _handle_all_listed(self) -> None:
        self.circle.handle_listed(self._listed)
        if self._when_listed is not None:
            self._when_listed()
        self._when_listed = None

    def _handle_member(self, frame: wire.Member) -> None:
        self.circle.handle_member(frame)
        if self._to_list:
            self._to_list -= 1
            self._listed.add(frame.member)
            if not self._to_list:
                self._handle_all_listed()

    def _handle_error(self, frame: wire.Error) -> Action:
        if self.has_place and frame.code in (*_ABOUT_TICKETS, RelayErrorCode.REMOVED):
            self.renewal_refused = self._entry_error(frame)
            return Action.NONE
        if self.has_place and frame.code == RelayErrorCode.FORBIDDEN:
            self.counters["errors"] += 1  # what only some may do; it has cost nothing else
            self.is_ending = False
            return Action.NONE
        if self._was_inside and not self.has_place:
            if frame.code in (RelayErrorCode.BUSY, RelayErrorCode.RATE):
                self.refused = self._entry_error(frame)  # it is asked again, until the time is over
                return Action.RECONNECT
            self.finish(self._entry_error(frame))
        return super()._handle_error(frame)

    def _entry_error(self, frame: wire.Error) -> SignalError:
        match frame.code:
            case RelayErrorCode.BAD_TICKET | RelayErrorCode.EXPIRED_TICKET:
                why = _ABOUT_TICKETS[RelayErrorCode(frame.code)]
                return RelayRefused(f"the relay does not take our ticket: {why}. Ask for a new one.", frame.code)
            case RelayErrorCode.REMOVED:
                return RoomOver("removed")
            case RelayErrorCode.CROWDED:
                return RelayRefused(f"the room is full: it has {wire.MAX_MEMBERS} members at most", frame.code)
            case RelayErrorCode.RATE:
                return RelayRefused("too many have entered rooms from this network; wait a minute", frame.code)
            case _:
                return super()._entry_error(frame)

    def _why_closed(self, reason: str) -> SignalError:
        return RoomOver(reason)

    # -- a relay that has forgotten us

    def _is_forgotten(self, frame: wire.Error) -> bool:
        """Return whether the relay knows nothing of a session that it is asked to resume."""
        lost = (RelayErrorCode.UNKNOWN_SESSION, RelayErrorCode.BAD_TOKEN)
        return self.has_place and not self.is_live and self.over is None and frame.code in lost

    def _enter_anew(self) -> wire.Frame:
        """Begin a new session in the same room; what was under way of the former one is lost."""
        self.counters["entered_anew"] += 1
        self._was_inside = True
        self.inbox.extend(MemberWent(member) for member in self.circle.members)
        self.inbox.append(MessagesMissed(None, None))
        self._id, self.has_place, self._position, self._client_seq = (
            self._randbytes(wire.SESSION_BYTES),
            False,
            (0, 0),
            0,
        )
        self._pending.clear()
        self._pending_bytes = 0
        self._entries, self._when_listed = 1, None
        self.circle = self._new_circle(self.circle.removals.statements)
        return self._entry(None)

    def _new_circle(self, removals: Iterable[bytes]) -> Circle:
        return Circle(self.ticket, self._key, randbytes=self._randbytes, wall_clock=self._wall_clock, removals=removals)


def _remove(member: bytes) -> wire.Frame:
    return wire.Remove(member=member)


def read_own_ticket(data: bytes, key: MemberKey) -> Ticket:
    """Return what a ticket of ours says.

    Raises:
        ValueError: it is none, or for another key.
    """
    try:
        ticket = tickets.read_untrusted(data)
    except tickets.BadTicket as error:
        raise ValueError(f"this is no ticket to a room: {error}") from None
    if ticket.key != key.public:
        raise ValueError("this ticket is for another member's key")
    return ticket
