"""The client's state of its session: its room, and what it has sent that is not yet acknowledged. Sans-IO.

Source: docs/relay-protocol.md section 4.
"""

from __future__ import annotations

import enum
import re
from collections import Counter, deque

import msgspec

from icesignal import wire
from icesignal.errors import (
    CodeExpired,
    CodeUnknown,
    CodeWrong,
    Crowded,
    PeerLeft,
    ProtocolMismatch,
    RelayRefused,
    SessionLost,
    SignalError,
)
from icesignal.wire import CloseCode, RelayErrorCode

INBOX_MESSAGES = 512  # twice what a relay replays at most
MAX_UNACKNOWLEDGED = 64
MAX_UNACKNOWLEDGED_BYTES = 512 << 10  # all of it goes out at once after a resume, and must fit into the outbox
NEW_CODE = "Ask the other side for a new code."
_CODE = re.compile(r"[a-z-]{1,40}\Z")


class RelayState(enum.Enum):
    """How a client stands with its relay."""

    DIALLING = "dialling"  # for the first time, or again after a connection that nobody needed
    CONNECTED = "connected"
    LOST = "lost"  # an open session has no connection; it is being dialled again and again


class Lost(enum.Enum):
    """Stands in the inbox where messages are missing."""

    LOST = enum.auto()


class Action(enum.Enum):
    """What the shell is to do about a frame."""

    NONE = enum.auto()
    RECONNECT = enum.auto()


class ClientSession:
    """One session, from its entry to its end, over any number of connections."""

    def __init__(self, entry: wire.Allocate | wire.Join | wire.Meet) -> None:
        self.entry = entry
        self.joined: wire.Joined | None = None
        self.peer: wire.PeerPresence = "absent"
        self.hung_up = False  # how the peer went that is away, see `wire.Peer`
        self.peer_opening = b""
        self.refused: SignalError | None = None
        self.over: SignalError | None = None
        self.inbox: deque[bytes | Lost] = deque()
        self.is_live = False
        self.resumed_here = False
        self.servers_given = 0  # how often the relay has named its ICE servers
        self.counters: Counter[str] = Counter()
        self._token = b""
        self._position = (0, 0)
        self._client_seq = 0
        self._pending: deque[wire.Send] = deque()
        self._pending_bytes = 0
        self._peer_seen = False

    @property
    def may_send(self) -> bool:
        """Whether another message has place among the unacknowledged ones."""
        return len(self._pending) < MAX_UNACKNOWLEDGED and self._pending_bytes < MAX_UNACKNOWLEDGED_BYTES

    @property
    def is_peer_away(self) -> bool:
        """Whether the relay says at this moment that the peer's connection is gone."""
        return self.over is None and self.is_live and self.peer == "away"

    @property
    def has_room(self) -> bool:
        """Whether the inbox takes a whole replay."""
        return len(self.inbox) < INBOX_MESSAGES // 2

    def begin(self) -> wire.Frame:
        """Return what to say first on a new connection."""
        self.is_live = self.resumed_here = False
        if self.joined is None:
            return self.entry
        epoch, seq = self._position
        return wire.Resume(session=self.entry.session, token=self._token, epoch=epoch, seq=seq)

    def send(self, payload: bytes) -> wire.Send:
        """Number a message and keep it until it is acknowledged; the shell sends it if `is_live`."""
        self._client_seq += 1
        frame = wire.Send(client_seq=self._client_seq, payload=payload)
        self._pending.append(frame)
        self._pending_bytes += len(payload)
        return frame

    def handle_frame(self, frame: wire.Frame) -> tuple[list[wire.Frame], Action]:
        """Take a frame of the relay; return what to send and what to do."""
        match frame:
            case wire.Joined() if not self._is_place_asked_for(frame):
                self._refuse_place()
            case wire.Joined():
                return self._handle_joined(frame), Action.NONE
            case wire.Servers():
                if self.joined is not None:
                    self.joined = msgspec.structs.replace(self.joined, ice_servers=frame.ice_servers)
                    self.servers_given += 1
            case wire.Message():
                return [], self._handle_message(frame)
            case wire.Ack():
                self._acknowledge(frame.client_seq)
            case wire.Peer():
                self._set_peer(frame.state, frame.opening, hung_up=frame.hung_up)
            case wire.Closed():
                self.finish(self._why_closed(frame.reason))
            case wire.Error():
                return [], self._handle_error(frame)
            case _:
                self.counters["unexpected_frames"] += 1
        return [], Action.NONE

    def handle_bad_answer(self, error: SignalError) -> None:
        """Note that the relay said what is no frame: while an answer to our entry is due, that was it.

        Whoever asks again gets it again, until the time is over. An open session goes on with another connection.
        """
        if self.joined is None:
            self.refused = error

    def handle_end(self, code: int) -> None:
        """Note that a connection ended; after some codes the session is over."""
        self.is_live = False
        if self.over is not None or code not in wire.FINAL_CLOSE_CODES:
            return
        match code:
            case CloseCode.FENCED:
                self.finish(SessionLost("another connection has taken over this session; begin again, with a new code"))
            case CloseCode.VERSION:
                self.finish(ProtocolMismatch("the relay does not speak this protocol version; update the older one"))
            case CloseCode.PROTOCOL_ERROR | CloseCode.TOO_BIG:
                self.finish(RelayRefused(f"the relay ended the session with close code {code}"))
            case _:
                self.finish(PeerLeft("the relay ended the conversation"))

    def finish(self, error: SignalError) -> None:
        """Note that the session is over; the first reason counts."""
        self.is_live = False
        if self.over is None:
            self.over = error

    # -- frames

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

    def _refuse_place(self) -> None:
        error = RelayRefused("the relay gave us another place than the one we asked for; use another relay")
        if self.joined is None:
            self.refused = error
        else:
            self.finish(error)

    def _handle_joined(self, frame: wire.Joined) -> list[wire.Frame]:
        if self.joined is None or isinstance(frame, wire.Resync):
            if isinstance(frame, wire.Resync):
                self.counters["resyncs"] += 1
                self.inbox.append(Lost.LOST)
            self._position = (frame.epoch, frame.seq)
        elif isinstance(frame, wire.Resumed):
            self.counters["resumes"] += 1
        self.joined = frame
        self.servers_given += 1
        self.is_live = self.resumed_here = True
        self._token = frame.token
        self._set_peer(frame.peer, frame.opening, hung_up=frame.hung_up)
        self._acknowledge(frame.client_seq)
        return list(self._pending)

    def _handle_message(self, frame: wire.Message) -> Action:
        if not self._peer_seen:
            # Nobody can have said it. Nobody reads it either, and a full inbox keeps us from the relay.
            self.counters["unexpected_frames"] += 1
            return Action.NONE
        if (frame.epoch, frame.seq) <= self._position:
            self.counters["duplicates"] += 1
            return Action.NONE
        if len(self.inbox) >= INBOX_MESSAGES:
            # Not taken, so the position stays and the relay replays it once the application has caught up.
            self.counters["inbox_full"] += 1
            return Action.RECONNECT
        self._position = (frame.epoch, frame.seq)
        self.inbox.append(frame.payload)
        return Action.NONE

    def _acknowledge(self, client_seq: int) -> None:
        while self._pending and self._pending[0].client_seq <= client_seq:
            self._pending_bytes -= len(self._pending.popleft().payload)

    def _set_peer(self, state: wire.PeerPresence, opening: bytes, *, hung_up: bool) -> None:
        self.peer = state
        self.hung_up = hung_up
        if state != "absent":
            self._peer_seen = True
            self.peer_opening = opening

    def _handle_error(self, frame: wire.Error) -> Action:
        self.counters["errors"] += 1
        if self.joined is None:
            self.refused = _entry_error(frame, self.entry)
        elif frame.code in (RelayErrorCode.UNKNOWN_SESSION, RelayErrorCode.BAD_TOKEN):
            self.finish(
                SessionLost(
                    "the relay no longer knows this session (it was restarted, the other side has left, or we were "
                    "away too long); begin again, with a new code"
                )
            )
        elif frame.code in (RelayErrorCode.BUSY, RelayErrorCode.GAP, RelayErrorCode.RATE):
            return Action.RECONNECT  # what was refused is still pending and goes out again after the pause
        else:
            self.finish(RelayRefused(f"the relay refused a message: {_shown_code(frame.code)}", frame.code))
        return Action.NONE

    def _why_closed(self, reason: str) -> SignalError:
        match reason:
            case "code-wrong":
                return CodeWrong("somebody used this code with other words; the code is dead. Make a new one.")
            case "expired" if not self._peer_seen:
                return CodeExpired("nobody used the code in time. Make a new one.")
            case "expired":
                return PeerLeft("the other side stayed away for too long")
            case "done":
                return PeerLeft("the other side is done", said_goodbye=True)
            case _:
                return PeerLeft("the other side left", said_goodbye=True)


def _entry_error(frame: wire.Error, entry: wire.Frame) -> SignalError:
    name = f"nameplate {entry.nameplate}" if isinstance(entry, wire.Join) else "this room"
    match frame.code:
        case RelayErrorCode.CROWDED:
            return Crowded(f"two peers have met under {name} already; there is no place for a third. {NEW_CODE}")
        case RelayErrorCode.UNKNOWN_NAMEPLATE:
            return CodeUnknown(f"the relay knows no {name}: mistyped, expired, or of another relay. {NEW_CODE}")
        case RelayErrorCode.EXPIRED_NAMEPLATE:
            return CodeExpired(f"{name} was used already or has expired. {NEW_CODE}")
        case RelayErrorCode.VERSION:
            return ProtocolMismatch("the relay does not speak this protocol version; update the older one")
        case RelayErrorCode.RATE:
            return RelayRefused("too many codes were made or tried from this network; wait a minute", frame.code)
        case RelayErrorCode.FORBIDDEN:
            return RelayRefused(
                "this relay belongs to one command of somebody else and makes no rooms for others; use another relay",
                frame.code,
            )
        case RelayErrorCode.BUSY:
            return RelayRefused("the relay is full; try again later or use another one", frame.code)
        case _:
            return RelayRefused(f"the relay refused: {_shown_code(frame.code)}", frame.code)


def _shown_code(code: str) -> str:
    """Return the code of an error for people, unless it is not even a word."""
    return code if _CODE.match(code) else "with a code that is none"
