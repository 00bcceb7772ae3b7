"""A member's session in a room of two. Sans-IO.

Source: docs/relay-protocol.md sections 3 and 4.
"""

from __future__ import annotations

import msgspec

from icesignal import wire
from icesignal.errors import CodeExpired, CodeUnknown, CodeWrong, Crowded, PeerLeft, SignalError
from icesignal.member_session import MemberSession
from icesignal.wire import RelayErrorCode
from icesignal.work import Work

NEW_CODE = "Ask the other side for a new code."


class ClientSession(MemberSession[bytes]):
    """One session in a room of two: the other member is absent, present or away. It receives the payloads."""

    begin_again = "begin again, with a new code"

    def __init__(self, entry: wire.Allocate | wire.Join | wire.Meet) -> None:
        super().__init__(entry.session)
        self.entry = entry
        self.joined: wire.Joined | None = None
        self.peer: wire.PeerPresence = "absent"
        self.hung_up = False  # how the peer went that is away, see `wire.Peer`
        self.peer_opening = b""
        self._peer_seen = False

    @property
    def awaits_peer(self) -> bool:
        """Whether nobody has come yet."""
        return self.peer == "absent"

    @property
    def is_peer_away(self) -> bool:
        """Whether the relay says at this moment that the peer's connection is gone."""
        return self.over is None and self.is_live and self.peer == "away"

    def _entry(self, welcome: wire.Welcome | None) -> wire.Frame | None:
        if welcome is not None and welcome.work and isinstance(self.entry, wire.Join):
            self._take_puzzle(welcome.work)
            return None
        return self.entry

    @property
    def does_work(self) -> bool:
        """Whether it has a place for which work can be asked."""
        return not isinstance(self.entry, wire.Meet)

    def work_subject(self) -> bytes:
        """Return what a solution of `puzzle` is bound to: the session, and the nameplate if there is one."""
        return self.entry.session + (self.entry.nameplate.encode() if isinstance(self.entry, wire.Join) else b"")

    def solved(self, puzzle: Work, solution: bytes) -> wire.Frame | None:
        """Return what asks for the place with a solution; None where that is no longer wanted."""
        if self.puzzle is not puzzle or isinstance(self.entry, wire.Meet):
            return None
        self.puzzle = None
        return msgspec.structs.replace(self.entry, work=solution)

    def _may_be(self, frame: wire.Message) -> bool:
        # While nobody is there nobody can have said it. Nobody reads it either, and a full inbox keeps us from the
        # relay.
        return self._peer_seen

    def _hear(self, frame: wire.Message) -> None:
        self.inbox.append(frame.payload)

    def _handle_own(self, frame: wire.Frame) -> list[wire.Frame]:
        match frame:
            case wire.Joined() if not self._is_place_asked_for(frame):
                self._refuse_place()
            case wire.Joined() if not self.is_live:
                unaccepted = self._take_place(frame, _arrival_of(frame))
                self.joined = frame
                self._set_peer(frame.peer, frame.opening, hung_up=frame.hung_up)
                return unaccepted
            case wire.Peer():
                self._set_peer(frame.state, frame.opening, hung_up=frame.hung_up)
            case _:
                self.counters["unexpected_frames"] += 1
        return []

    def _is_place_asked_for(self, frame: wire.Joined) -> bool:
        """Return whether a place is the one that was asked for: its room is shown to people, as a part of the code."""
        if self.joined is not None:
            return (frame.room, frame.role) == (self.joined.room, self.joined.role)
        match self.entry:
            case wire.Allocate():
                return wire.is_nameplate(frame.room) and frame.role == "inviter"
            case wire.Join(nameplate=nameplate):
                return (frame.room, frame.role) == (nameplate, "joiner")
            case wire.Meet(name=name, role=role):
                return (frame.room, frame.role) == (name.hex(), role)

    def _set_peer(self, state: wire.PeerPresence, opening: bytes, *, hung_up: bool) -> None:
        self.peer = state
        self.hung_up = hung_up
        if state != "absent":
            self._peer_seen = True
            self.peer_opening = opening

    def _why_closed(self, reason: str) -> SignalError:
        match reason:
            case "code-wrong":
                return CodeWrong("somebody used this code with other words; the code is dead. Make a new one.")
            case "expired" if not self._peer_seen:
                return CodeExpired("nobody used the code in time. Make a new one.")
            case "expired":
                return PeerLeft("the other side stayed away for too long")
            case "done":
                return PeerLeft("the other side is done", said_goodbye=True, is_done=True)
            case "replaced":
                return PeerLeft("the other side has begun anew", is_dead=True)
            case _:
                return PeerLeft("the other side left", said_goodbye=True)

    def _entry_error(self, frame: wire.Error) -> SignalError:
        name = f"nameplate {self.entry.nameplate}" if isinstance(self.entry, wire.Join) else "this room"
        match frame.code:
            case RelayErrorCode.CROWDED:
                return Crowded(f"two peers have met under {name} already; there is no place for a third. {NEW_CODE}")
            case RelayErrorCode.UNKNOWN_NAMEPLATE:
                return CodeUnknown(f"the relay knows no {name}: mistyped, expired, or of another relay. {NEW_CODE}")
            case RelayErrorCode.EXPIRED_NAMEPLATE:
                return CodeExpired(f"{name} was used already or has expired. {NEW_CODE}")
            case _:
                return super()._entry_error(frame)


def _arrival_of(frame: wire.Joined) -> wire.Arrival:
    if isinstance(frame, wire.Resync):
        return "resync"
    return "resumed" if isinstance(frame, wire.Resumed) else "joined"
