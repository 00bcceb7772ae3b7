"""A member's state of its session, whatever kind of room it is in: its place, what arrived, what is unacknowledged.

Sans-IO. What the kinds of rooms do not share is in the classes derived from `MemberSession`.
Source: docs/relay-protocol.md section 4.
"""

from __future__ import annotations

import enum
import re
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

from icesignal import wire
from icesignal.errors import PeerLeft, ProtocolMismatch, RelayRefused, SessionLost, SignalError
from icesignal.wire import CloseCode, RelayErrorCode
from icesignal.work import ALGORITHM, Work

INBOX_MESSAGES = 512  # twice what a relay replays at most
MAX_UNACKNOWLEDGED = 64
MAX_UNACKNOWLEDGED_BYTES = 512 << 10  # all of it goes out at once after a resume, and must fit into the outbox
MAX_PUZZLES = 4  # of one entry: with the welcome, as the price has risen, and twice more
RESUME_S = 120.0  # until the relay says how long it keeps a session
_CODE = re.compile(r"[a-z-]{1,40}\Z")

M = TypeVar("M")


class Lost(enum.Enum):
    """Stands in the inbox where messages are missing."""

    LOST = enum.auto()


class Action(enum.Enum):
    """What the shell is to do about a frame."""

    NONE = enum.auto()
    RECONNECT = enum.auto()


class MemberSession(ABC, Generic[M]):
    """One session, from its entry to its end, over any number of connections. `M` is what an application receives."""

    begin_again: ClassVar[str] = "begin again"  # what to do when the relay has forgotten the session

    def __init__(self, session_id: bytes) -> None:
        self.has_place = False
        self.refused: SignalError | None = None  # why the relay did not let us in
        self.over: SignalError | None = None
        self.inbox: deque[M | Lost] = deque()
        self.is_live = False
        self.resumed_here = False
        self.resume_s: float = RESUME_S
        self.puzzle: Work | None = None  # what the relay wants to have solved before it lets us in
        self.ice_servers: Sequence[wire.RTCIceServer] = ()
        self.servers_given = 0  # how often the relay has named its ICE servers
        self.counters: Counter[str] = Counter()
        self._id = session_id
        self._token = b""
        self._position = (0, 0)
        self._client_seq = 0
        self._pending: deque[wire.Send] = deque()
        self._pending_bytes = 0
        self._puzzles = 0

    @property
    @abstractmethod
    def awaits_peer(self) -> bool:
        """Whether somebody is waited for who cannot come while the relay is away."""

    @abstractmethod
    def _entry(self, welcome: wire.Welcome | None) -> wire.Frame | None:
        """Return what asks for the place on a connection with this welcome; None while it takes work, see `puzzle`."""

    @abstractmethod
    def _may_be(self, frame: wire.Message) -> bool:
        """Return whether there is anybody who can have said this."""

    @abstractmethod
    def _hear(self, frame: wire.Message) -> None:
        """Take a message in its place in the order."""

    @abstractmethod
    def _handle_own(self, frame: wire.Frame) -> list[wire.Frame]:
        """Take a frame of this kind of room; return what to send."""

    @abstractmethod
    def _why_closed(self, reason: str) -> SignalError:
        """Return what a `closed` with this reason means."""

    @property
    def stays(self) -> bool:
        """Whether it belongs to the relay at which it is, even if there are others."""
        return self.has_place

    @property
    def may_send(self) -> bool:
        """Whether another message has place among the unacknowledged ones."""
        return len(self._pending) < MAX_UNACKNOWLEDGED and self._pending_bytes < MAX_UNACKNOWLEDGED_BYTES

    @property
    def has_room(self) -> bool:
        """Whether the inbox takes a whole replay."""
        return len(self.inbox) < INBOX_MESSAGES // 2

    def begin(self, welcome: wire.Welcome | None = None) -> wire.Frame | None:
        """Return what to say first on a new connection, which began with this welcome; None while it takes work."""
        self.is_live = self.resumed_here = False
        self.puzzle = None
        if not self.has_place:
            return self._entry(welcome)
        epoch, seq = self._position
        return wire.Resume(session=self._id, token=self._token, epoch=epoch, seq=seq)

    @property
    def does_work(self) -> bool:
        """Whether it has a place for which work can be asked."""
        return False

    def work_subject(self) -> bytes:
        """Return what a solution of `puzzle` is bound to."""
        return self._id

    def solved(self, puzzle: Work, solution: bytes) -> wire.Frame | None:
        """Return what asks for the place with a solution; None where that is no longer wanted."""
        return None

    def send(self, payload: bytes, to: list[bytes] | None = None) -> wire.Send:
        """Number a message and keep it until it is acknowledged; the shell sends it if `is_live`."""
        self._client_seq += 1
        frame = wire.Send(client_seq=self._client_seq, payload=payload, to=to)
        self._pending.append(frame)
        self._pending_bytes += len(payload)
        return frame

    def handle_frame(self, frame: wire.Frame) -> tuple[list[wire.Frame], Action]:
        """Take a frame of the relay; return what to send and what to do."""
        match frame:
            case wire.Servers():
                if self.has_place:
                    self._take_servers(frame.ice_servers)
            case wire.Message():
                return [], self._handle_message(frame)
            case wire.Ack():
                self._acknowledge(frame.client_seq)
            case wire.Closed():
                self.finish(self._why_closed(frame.reason))
            case wire.Error():
                return [], self._handle_error(frame)
            case _:
                return self._handle_own(frame), Action.NONE
        return [], Action.NONE

    def handle_bad_answer(self, error: SignalError) -> None:
        """Note that the relay said what is no frame: while an answer to our entry is due, that was it.

        Whoever asks again gets it again, until the time is over. An open session goes on with another connection.
        """
        if not self.has_place:
            self.refused = error

    def handle_end(self, code: int) -> None:
        """Note that a connection ended; after some codes the session is over."""
        self.is_live = False
        if self.over is not None or code not in wire.FINAL_CLOSE_CODES:
            return
        match code:
            case CloseCode.FENCED:
                self.finish(SessionLost(f"another connection has taken over this session; {self.begin_again}"))
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

    # -- for the kinds of rooms

    def _take_place(self, frame: wire.Joined | wire.Entered, arrival: wire.Arrival) -> list[wire.Frame]:
        """Note the place that the relay gives, for the first time or again; return what it has not accepted yet."""
        if arrival == "resync":
            self.counters["resyncs"] += 1
            self._note_loss()
        elif arrival == "resumed":
            self.counters["resumes"] += 1
        if arrival == "resync" or not self.has_place:
            self._position = (frame.epoch, frame.seq)
        self.has_place = self.is_live = self.resumed_here = True
        self.refused = None
        self.resume_s = frame.resume_s
        self._token = frame.token
        self._take_servers(frame.ice_servers)
        self._acknowledge(frame.client_seq)
        return list(self._pending)

    def _take_puzzle(self, work: Work) -> None:
        """Note what is to be solved. Too much and too often are refused: a relay may lie."""
        self._puzzles += 1
        if self._puzzles > MAX_PUZZLES or work.algorithm != ALGORITHM or not work.is_bearable:
            self.refused = RelayRefused(
                "the relay asks for more work, or another one, than this program does; use another relay, or update it"
            )
        else:
            self.puzzle = work

    def _note_loss(self) -> None:
        """Note that messages are missing at this place."""
        self.inbox.append(Lost.LOST)

    def _refuse_place(self) -> None:
        error = RelayRefused("the relay gave us another place than the one we asked for; use another relay")
        if self.has_place:
            self.finish(error)
        else:
            self.refused = error

    def _entry_error(self, frame: wire.Error) -> SignalError:
        """Return why the relay does not let us in."""
        match frame.code:
            case RelayErrorCode.VERSION:
                return ProtocolMismatch("the relay does not speak this protocol version; update the older one")
            case RelayErrorCode.RATE:
                return RelayRefused("too many codes were made or tried from this network; wait a minute", frame.code)
            case RelayErrorCode.WORK:
                return RelayRefused("the relay asks for work that this program cannot do; update it", frame.code)
            case RelayErrorCode.FORBIDDEN:
                return RelayRefused(
                    "this relay belongs to one command of somebody else and makes no rooms for others; "
                    "use another relay",
                    frame.code,
                )
            case RelayErrorCode.BUSY:
                return RelayRefused("the relay is full; try again later or use another one", frame.code)
            case _:
                return RelayRefused(f"the relay refused: {_shown_code(frame.code)}", frame.code)

    # -- frames

    def _take_servers(self, entries: Sequence[wire.RTCIceServer]) -> None:
        self.ice_servers = entries
        self.servers_given += 1

    def _handle_message(self, frame: wire.Message) -> Action:
        if not self._may_be(frame):
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
        self._hear(frame)
        return Action.NONE

    def _acknowledge(self, client_seq: int) -> None:
        while self._pending and self._pending[0].client_seq <= client_seq:
            self._pending_bytes -= len(self._pending.popleft().payload)

    def _handle_error(self, frame: wire.Error) -> Action:
        self.counters["errors"] += 1
        if not self.has_place:
            if frame.work and self.does_work:
                self._take_puzzle(frame.work)
            else:
                self.refused = self._entry_error(frame)
        elif frame.code in (RelayErrorCode.UNKNOWN_SESSION, RelayErrorCode.BAD_TOKEN):
            self.finish(
                SessionLost(
                    "the relay no longer knows this session (it was restarted, the other side has left, or we were "
                    f"away too long); {self.begin_again}"
                )
            )
        elif frame.code in (RelayErrorCode.BUSY, RelayErrorCode.GAP, RelayErrorCode.RATE):
            return Action.RECONNECT  # what was refused is still pending and goes out again after the pause
        else:
            self.finish(RelayRefused(f"the relay refused a message: {_shown_code(frame.code)}", frame.code))
        return Action.NONE


def _shown_code(code: str) -> str:
    """Return the code of an error for people, unless it is not even a word."""
    return code if _CODE.match(code) else "with a code that is none"
