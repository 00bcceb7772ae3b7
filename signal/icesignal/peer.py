"""One client of the relay: its frames in, its frames out, its budgets."""

from __future__ import annotations

import logging
import math
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import trio
from msgspec import UNSET

from icesignal import wire
from icesignal.access import OwnersMeetings
from icesignal.engines import Engine
from icesignal.logs import FewLines
from icesignal.outcomes import Outcomes
from icesignal.sources import Levels, Limits, Party
from icesignal.toll import Claims, Pressure, Toll
from icesignal.transport import ABNORMAL, ConnectionEnded, OutboxFull
from icesignal.websocket import ServedWebsocket
from icesignal.wire import CloseCode, RelayErrorCode

logger = logging.getLogger("icesignal.server.clients")  # limited: each of them can cause its lines
logger.addFilter(FewLines())
RELAY_NAME = "icesignal"
COPY_COST = 1 / 8  # of a message that goes to several, beside the first: what it takes of a processor
_ENTRIES = (wire.Allocate, wire.Join, wire.Meet, wire.Enter)
_WITH_SESSION = (*_ENTRIES, wire.Resume)
_KNOWN_CODES = frozenset({*map(int, CloseCode), ABNORMAL})


class Encoder:
    """Encodes frames; one that goes to many, one after the other, is encoded once."""

    def __init__(self) -> None:
        self._frame: wire.Frame | None = None
        self._message = b""

    def encode(self, frame: wire.Frame) -> bytes:
        """Return the websocket message of a frame."""
        if frame is not self._frame:
            self._frame, self._message = frame, wire.encode(frame)
        return self._message


@dataclass(frozen=True, slots=True)
class Host:
    """What all peers of a relay share.

    Attributes:
        engine: where the rooms are.
        limits: what a client may ask for.
        counters, outcomes: what became of what was asked.
        encode: gives the websocket message of a frame.
        ice_servers: returns what a member is told, given its source.
        pseudonym: returns the name of a source in logs.
        meetings: those of the relay's owner, which others may come to; None where everybody may make rooms.
        claims: who has paid for those that nobody has confirmed yet.
        is_draining: returns whether the relay goes away: it makes no rooms any more.
        pressure: returns how hard the relay is pressed.
    """

    engine: Engine
    limits: Limits
    counters: Counter[str]
    outcomes: Outcomes
    encode: Callable[[wire.Frame], bytes]
    ice_servers: Callable[[str], list[wire.RTCIceServer]]
    pseudonym: Callable[[str], str]
    meetings: OwnersMeetings | None
    claims: Claims
    is_draining: Callable[[], bool]
    pressure: Callable[[], Pressure]


class RelayPeer:
    """The relay's side of one websocket. An engine knows it as a `Subscriber`."""

    __slots__ = (
        "_challenge",
        "_connection",
        "_counters",
        "_enter_by",
        "_entering",
        "_host",
        "_is_in_room",
        "_malformed",
        "_may_make_rooms",
        "_on_entered",
        "_party",
        "_session",
        "_toll",
    )

    def __init__(
        self,
        connection: ServedWebsocket,
        host: Host,
        party: Party,
        on_entered: Callable[[], None],
        *,
        may_make_rooms: bool = True,
    ) -> None:
        """Make one.

        Args:
            connection: to the client.
            host: what it shares with the others.
            party: who is at the other end, and pays.
            on_entered: called once it is in a room.
            may_make_rooms: whether the client may.
        """
        self._connection = connection
        self._host = host
        self._party = party
        self._on_entered = on_entered
        self._may_make_rooms = may_make_rooms
        self._counters = host.counters
        self._toll = Toll(party, host.limits, host.pressure, host.counters)
        self._entering = b""  # the session that asks for a place
        self._session = b""  # the one that has it
        self._malformed = 0
        self._challenge = secrets.token_bytes(wire.CHALLENGE_BYTES)
        self._is_in_room = False
        self._enter_by = trio.current_time() + host.limits.first_frame_s
        connection.on_drained = self._tell_drained

    # -- what the engine calls

    @property
    def levels(self) -> Levels:
        """Who is connected."""
        return self._party.levels

    @property
    def challenge(self) -> bytes:
        """What our `welcome` has."""
        return self._challenge

    def deliver(self, frame: wire.Frame) -> None:
        """Send a frame; a client that does not take what it is sent is closed with a code that says resume."""
        if isinstance(frame, wire.Joined | wire.Entered):
            frame = msgspec.structs.replace(frame, ice_servers=self._ice_servers())
            self._enter_by, self._is_in_room, self._session = math.inf, True, self._entering
            self._on_entered()
        try:
            self._connection.send_nowait(self._host.encode(frame))
            self._counters["frames_out"] += 1
        except OutboxFull:
            self._note("slow_consumers", "takes its messages too slowly, and its connection is closed")
            self._connection.abort(CloseCode.TOO_SLOW, "you take your messages too slowly; resume")

    def close(self, code: CloseCode) -> None:
        """Close after what was delivered."""
        self._connection.close(code)

    def charge(self, copies: int, size: int) -> None:
        """Have the client pay for what went to several: an eighth of a message for each copy, and its bytes."""
        now = trio.current_time()
        self._party.charge("messages", now, copies * COPY_COST)
        self._party.charge("bytes", now, size)

    def confirm(self) -> None:
        """Give back what a claim costs that turned out to be no guess, to whoever paid: perhaps before a resumption."""
        toll = self._host.claims.take(self._session) or self._toll
        self._host.engine.give_back(toll.levels, toll.give_back(trio.current_time()))

    def _tell_drained(self) -> None:
        self._host.engine.drained(self)

    def _ice_servers(self) -> list[wire.RTCIceServer]:
        return self._host.ice_servers(self._party.name)

    # -- the connection's task

    async def run(self) -> None:
        """Serve the client until its connection ends."""
        hung_up = False
        offers = [
            wire.OFFERS_SERVERS,
            wire.OFFERS_OUTCOMES,
            *([wire.OFFERS_ROOMS] if self._may_make_rooms else []),
            *([wire.OFFERS_TURN] if self._has_turn() else []),
        ]
        work = self._toll.puzzle(trio.current_time()) or UNSET
        welcome = wire.Welcome(
            versions=[wire.VERSION], relay=RELAY_NAME, offers=offers, challenge=self._challenge, work=work
        )
        self.deliver(welcome)
        try:
            while (message := await self._receive()) is not None:
                await self._handle_message(message)
            self._counters["idle"] += 1
            self.close(CloseCode.IDLE)
        except ConnectionEnded as ended:
            hung_up = ended.hung_up
            self._counters[f"ended_{ended.code}" if ended.code in _KNOWN_CODES else "ended_other"] += 1
        except trio.Cancelled:
            self.close(CloseCode.GOING_AWAY)  # the relay ends, perhaps here first; the session need not
            raise
        finally:
            with trio.CancelScope(shield=True):  # bounded by the engine; the memory engine does not wait at all
                await self._host.engine.disconnect(self, hung_up=hung_up)

    def _has_turn(self) -> bool:
        """Return whether members get a TURN server: who needs one must know before it uses somebody's code up."""
        return any(url.startswith(("turn:", "turns:")) for server in self._ice_servers() for url in server.urls)

    async def _receive(self) -> bytes | str | None:
        """Return the next message; None when the client is in no room though it had the time."""
        if self._is_in_room:
            return await self._connection.receive()
        with trio.move_on_at(self._enter_by):
            return await self._connection.receive()
        return None

    async def _handle_message(self, message: bytes | str) -> None:
        now = trio.current_time()
        self._counters["frames_in"] += 1
        if not self._party.take("messages", now):
            self._note("messages_over_limit", "sends too many frames, and its connection is closed")
            self._connection.abort(CloseCode.TOO_FAST, "too many messages; resume after a pause")
            return
        try:
            frame = wire.decode_client_untrusted(message)
        except wire.BadFrame as error:
            self._refuse(error)
            return
        if isinstance(frame, wire.AskServers):
            self._give_servers()
        elif isinstance(frame, wire.Outcome):
            self._take_outcome(frame)
        elif isinstance(frame, wire.Allocate | wire.Meet | wire.Enter) and not self._may_make(frame):
            self._counters["rooms_forbidden"] += 1
            self.deliver(wire.Error(code=RelayErrorCode.FORBIDDEN, message="this relay makes rooms for its owner only"))
        elif isinstance(frame, wire.Allocate | wire.Meet | wire.Enter) and self._host.is_draining():
            self._counters["rooms_while_draining"] += 1
            self.deliver(wire.Error(code=RelayErrorCode.BUSY, message="this relay goes away; use another one"))
        elif not self._is_in_room and isinstance(frame, _ENTRIES) and (refusal := await self._pay(now, frame)):
            if refusal.code == RelayErrorCode.RATE:
                self._note("joins_over_limit", "tries too many codes, and is refused")
            self.deliver(refusal)
        else:
            if isinstance(frame, _WITH_SESSION) and not self._is_in_room:
                self._entering = frame.session
            await self._host.engine.handle_frame(self, frame)

    def _may_make(self, entry: wire.Allocate | wire.Meet | wire.Enter) -> bool:
        """Return whether the client may make the room it asks for, or the relay's owner has made it."""
        meetings = self._host.meetings
        if not self._may_make_rooms:
            return isinstance(entry, wire.Meet) and meetings is not None and entry.name in meetings
        if isinstance(entry, wire.Meet) and meetings is not None:
            meetings.note(entry.name)
        return True

    async def _pay(self, now: float, frame: wire.Allocate | wire.Join | wire.Meet | wire.Enter) -> wire.Error | None:
        """Take what an entry costs, here and of what all nodes share; return what is said where it is refused."""
        refusal = self._toll.take(now, frame)
        if refusal is None:
            balance = await self._host.engine.pay(self._party.levels, self._toll.charges)
            refusal = self._toll.settle(trio.current_time(), frame, balance)
        if refusal is None and isinstance(frame, wire.Join):
            self._host.claims.note(frame.session, self._toll)
        return refusal

    def _note(self, event: str, text: str) -> None:
        """Count what a client did wrong, and log it, its address as today's pseudonym."""
        self._counters[event] += 1
        source = self._host.pseudonym(self._party.name)
        logger.info("%s %s", source, text, extra={"event": event, "source": source})

    def _take_outcome(self, frame: wire.Outcome) -> None:
        """Count how the connection of a member turned out: once for each session."""
        if self._is_in_room and self._host.outcomes.note(self._session, frame):
            return
        self._counters["outcomes_left_out"] += 1

    def _give_servers(self) -> None:
        """Make credentials anew for a member, as for one that joins; its connection ends with its room."""
        if self._is_in_room:
            self._counters["servers_given"] += 1
            self.deliver(wire.Servers(ice_servers=self._ice_servers()))
        else:
            self.deliver(wire.Error(code=RelayErrorCode.NOT_JOINED, message="enter a room first"))

    def _refuse(self, error: wire.BadFrame) -> None:
        self._counters[f"frames_{error.reason.value}"] += 1
        self.deliver(wire.Error(code=error.reason.value, message=str(error)[:256]))
        if error.reason is wire.BadFrameReason.VERSION:
            self.close(CloseCode.VERSION)
        elif error.reason is wire.BadFrameReason.MALFORMED:
            self._malformed += 1
            if self._malformed >= self._host.limits.malformed_frames:
                self.close(CloseCode.PROTOCOL_ERROR)
