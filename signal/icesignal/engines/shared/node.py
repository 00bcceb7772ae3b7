"""A node of a relay whose rooms are shared: it finds the room of each frame and has its desk do it. Sans-IO.

Inputs are what clients do, answers of the store, changes that other nodes have stored, and time; outputs are requests
to the store and actions on connections. A node keeps nothing that another one could not find in the store, but for what
its connections have been given.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from icesignal import tickets, wire
from icesignal.engines.shared.desk import Desk
from icesignal.engines.shared.replica import (
    ENTRIES,
    Command,
    DisconnectCommand,
    DrainedCommand,
    FrameCommand,
    NodeGoneCommand,
    RunResult,
    Surroundings,
    run,
)
from icesignal.engines.shared.requests import Answer, Beat, Lookup, Pulse, Request, Retire
from icesignal.engines.shared.state import EMPTY, PAIR, Change, connection_of
from icesignal.nameplates import MAX_DIGITS, Guesses, sparse_digits
from icesignal.registry import ConnectionAction, RoomLimits
from icesignal.sources import Levels, Shares
from icesignal.ticket_door import MANY
from icesignal.toll import Pressure

BEAT_S: Final = 2.5
NODE_S: Final = 10.0
"""How long a node counts as alive after a sign of life: four beats, so that a busy one is not taken for gone."""
COLLISIONS: Final = 3  # in a row, after which numbers are a digit longer
SHORTER_S: Final = 60.0  # after so long without that they are tried a digit shorter


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to the store, and the number under which its answer is taken."""

    number: int
    request: Request


@dataclass(slots=True)
class _Held:
    """What is counted of a desk's room."""

    levels: Levels = ()
    log_bytes: int = 0
    sessions: int = 0
    is_room: bool = False
    is_waiting: bool = False  # for somebody to come under its nameplate
    connections: frozenset[int] = frozenset()


class Node:
    """A node. One mutation (`handle_*`), then drain `poll_request`, `poll_action` and `poll_finished`."""

    def __init__(self, *, number: int, randbytes: Callable[[int], bytes], limits: RoomLimits) -> None:
        """Make one without connections.

        Args:
            number: below 2^31, that no other node of late has.
            randbytes: a cryptographic source.
            limits: the bounds; rooms and log bytes are those that this node works on.
        """
        self.number = number
        self.randbytes = randbytes
        self.limits = limits
        self.shares = Shares(limits.rooms_per_source, limits.log_bytes_per_source)
        self.counters: Counter[str] = Counter()
        self.log_bytes = 0
        self.room_count = 0
        self.session_count = 0
        self.waiting_count = 0
        self.is_away = True
        self._desks: dict[str, Desk] = {}
        self._held: dict[str, _Held] = {}
        self._open: set[int] = set()
        self._homes: dict[int, str] = {}
        self._requests: deque[Asked] = deque()
        self._askers: dict[int, tuple[Request, Desk | FrameCommand | None]] = {}
        self._waiting: list[FrameCommand] = []  # for the store to come back
        self._actions: deque[ConnectionAction] = deque()
        self._finished: deque[int] = deque()
        self._asked = 0
        self._beat_at = -math.inf
        self._guesses = Guesses()
        self._new_guesses = 0
        self._digits = limits.nameplate_digits
        self._waiting_elsewhere = 0
        self._collisions = 0
        self._shorter_at = math.inf

    # Outputs

    def poll_request(self) -> Asked | None:
        """Return the next thing to ask the store; None while there is nothing, or the store is away."""
        return self._requests.popleft() if self._requests else None

    def poll_action(self) -> ConnectionAction | None:
        """Return the next thing to do on a connection, in order."""
        return self._actions.popleft() if self._actions else None

    def poll_finished(self) -> int | None:
        """Return a connection of which one more frame has been dealt with."""
        return self._finished.popleft() if self._finished else None

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits for the store, its signs of life aside."""
        asked = any(not isinstance(request, Beat) for request, _ in self._askers.values())
        return not asked and not self._waiting and all(desk.is_idle for desk in self._desks.values())

    @property
    def versions(self) -> dict[str, str]:
        """The version that is known of each room, by key."""
        return {key: desk.state.version for key, desk in self._desks.items()}

    def connection(self, number: int) -> int:
        """Return what one of our connections is called at all nodes."""
        return connection_of(self.number, number)

    # Clients

    def handle_frame(
        self, now: float, connection: int, frame: wire.Frame, levels: Levels = (), challenge: bytes = b""
    ) -> None:
        """Take a frame; `poll_finished` gives the connection when all that follows has been said."""
        self._open.add(connection)
        command = FrameCommand(connection, frame, levels, challenge)
        home = self._homes.get(connection)
        if home is not None:
            self._desk(home).submit(now, command)
        elif isinstance(frame, ENTRIES):
            self._look_up(command)
        else:
            self._answer_alone(now, command)

    def handle_disconnect(self, now: float, connection: int, *, hung_up: bool = False) -> None:
        """Note that a connection is gone, and whether its client closed it without a goodbye."""
        self._open.discard(connection)
        self.withdraw(connection)
        home = self._homes.pop(connection, None)
        if home is not None:
            self._desk(home).submit(now, DisconnectCommand(connection, hung_up))

    def handle_drained(self, now: float, connection: int) -> None:
        """Note that a connection has written all that it was given, so that it takes more."""
        home = self._homes.get(connection)
        if home is not None:
            self._desk(home).submit(now, DrainedCommand(connection))

    def withdraw(self, connection: int) -> None:
        """Give a connection's frames up that wait for the store; what was tried may have been done."""
        for desk in self._desks.values():
            desk.withdraw(connection)
        self._waiting = [one for one in self._waiting if one.connection != connection]

    # The store, the other nodes, and time

    def handle_reply(self, now: float, number: int, answer: Answer) -> None:
        """Take the answer to a request."""
        request, asker = self._askers.pop(number)
        if isinstance(asker, Desk):
            asker.handle_answer(now, answer)
        elif isinstance(asker, FrameCommand):
            self._route(now, asker, answer if isinstance(answer, str) else None)
        elif isinstance(request, Beat) and isinstance(answer, Pulse):
            self._take_pulse(now, request, answer)

    def handle_failure(self, number: int) -> None:
        """Note that the store is away: it has done what was asked, or not. Nothing more is asked until it is back."""
        request, asker = self._askers.pop(number)
        self._be_away()
        if isinstance(asker, Desk):
            asker.handle_failure()
        elif isinstance(asker, FrameCommand):
            self._waiting.append(asker)
        elif isinstance(request, Beat):
            self._new_guesses += request.guesses

    def _be_away(self) -> None:
        if self.is_away:
            return
        self.is_away = True
        self.counters["store_losses"] += 1
        unsent = list(self._requests)
        self._requests.clear()
        for asked in unsent:
            self.handle_failure(asked.number)

    def handle_lost(self) -> None:
        """Note that nothing is heard of other nodes any more, nor can be asked."""
        self._be_away()

    def handle_back(self, now: float) -> None:
        """Go on, as the store is there again; what was published meanwhile has been missed."""
        self.is_away = False
        self._beat_at = -math.inf
        waiting, self._waiting = self._waiting, []
        for command in waiting:
            self._look_up(command)
        self.handle_gap(now)

    def handle_gap(self, now: float) -> None:
        """Note that changes may have been missed: each room is loaded anew."""
        for desk in list(self._desks.values()):
            desk.handle_stale(now)

    def handle_change(self, now: float, change: Change) -> None:
        """Take what another node has stored."""
        desk = self._desks.get(change.key)
        if desk is not None:
            desk.handle_change(now, change)

    def handle_timeout(self, now: float) -> None:
        """Do what is due: rooms, and this node's own sign of life."""
        for desk in list(self._desks.values()):
            desk.handle_timeout(now)
        if self._shorter_at <= now and self._digits > self.limits.nameplate_digits:
            self._digits -= 1
            self._shorter_at = now + SHORTER_S
        is_due = not now < self._beat_at <= now + BEAT_S  # the store's clock may have been set back
        if is_due and not self.is_away:
            self._beat_at = now + BEAT_S
            others = {node for desk in self._desks.values() for node in desk.state.nodes()} - {self.number}
            beat = Beat(self.number, tuple(sorted(others)), self._new_guesses, self.waiting_count)
            self._new_guesses = 0
            self._ask(beat, None)

    def _take_pulse(self, now: float, beat: Beat, pulse: Pulse) -> None:
        self._guesses.set(now, pulse.guesses)
        self._waiting_elsewhere = max(0, pulse.waiting - beat.waiting)
        if not pulse.is_known:  # it may have been emptied, or have thrown keys away: those of the others as well
            self.handle_gap(now)
            return
        for node in set(beat.others) - pulse.alive:
            for desk in list(self._desks.values()):
                if node in desk.state.nodes():
                    desk.submit(now, NodeGoneCommand(node))

    def first_beat(self) -> Beat:
        """Return a sign of life, for a node that has not been heard of yet or for a while."""
        return Beat(self.number, (), 0, self.waiting_count)

    # Finding a room

    def _look_up(self, command: FrameCommand) -> None:
        if isinstance(command.frame, ENTRIES):
            if self.is_away:
                self._waiting.append(command)
            else:
                self._ask(Lookup(command.frame.session), command)

    def _route(self, now: float, command: FrameCommand, found: str | None) -> None:
        """Have a frame dealt with where its session is; where it is nowhere, where it wants to be."""
        if command.connection not in self._open:
            self._finished.append(command.connection)
        elif found is not None:
            self._desk(found).submit(now, replace(command, is_found=True))
        else:
            key = self._wanted(now, command.frame)
            if key is None:
                self._answer_alone(now, command)
            else:
                self._desk(key).submit(now, command)

    def reroute(self, now: float, command: FrameCommand) -> None:
        """Find another room: the session is not where it was, or the number that was drawn is taken."""
        if not command.is_found:
            self._collisions += 1
            if self._collisions >= COLLISIONS:
                self._collisions = 0
                self._digits = min(MAX_DIGITS, self._digits + 1)
                self._shorter_at = now + SHORTER_S
        self._route(now, replace(command, is_found=False), None)

    def _wanted(self, now: float, frame: wire.Frame) -> str | None:
        """Return the key of the room that a frame names; None where it names none."""
        match frame:
            case wire.Allocate():
                return self._draw(now)
            case wire.Join():
                return frame.nameplate
            case wire.Meet():
                return frame.name.hex()
            case wire.Enter():
                try:
                    return MANY + tickets.read_untrusted(frame.ticket).room.hex()
                except tickets.BadTicket:
                    return None
            case _:
                return None

    def _draw(self, now: float) -> str:
        """Return a number, longer while there is guessing or where many are taken or wait to be claimed."""
        sparse = sparse_digits(self.waiting_count + self._waiting_elsewhere + 1)
        digits = min(MAX_DIGITS, max(self._digits, sparse) + self._guesses.digits(now))
        lowest = 10 ** (digits - 1)
        return str(lowest + int.from_bytes(self.randbytes(8), "big") % (9 * lowest))

    def _answer_alone(self, now: float, command: FrameCommand) -> None:
        """Answer what needs no room: it is refused."""
        around = Surroundings(self.number, self.randbytes, self.limits, self.shares, self.log_bytes)
        outcome = run("", EMPTY, {}, [command], now, around)
        self.act(outcome.actions)
        self.finish(now, [command], outcome)

    # What desks ask for

    def ask(self, desk: Desk, request: Request) -> None:
        """Ask the store for a desk."""
        self._ask(request, desk)

    def _ask(self, request: Request, asker: Desk | FrameCommand | None) -> None:
        self._asked += 1
        self._askers[self._asked] = (request, asker)
        self._requests.append(Asked(self._asked, request))

    def retire(self, key: str, levels: Levels) -> None:
        """Have a room count to nobody any more."""
        self._ask(Retire(key, levels), None)

    def act(self, actions: Iterable[ConnectionAction]) -> None:
        """Have something done on our connections."""
        self._actions.extend(actions)

    def finish(self, now: float, commands: Iterable[Command], outcome: RunResult) -> None:
        """Note that commands have been done."""
        self.counters.update(outcome.counters)
        self._new_guesses += outcome.guesses
        for _ in range(outcome.guesses):
            self._guesses.note(now)
        self._finished.extend(one.connection for one in commands if isinstance(one, FrameCommand))
        if outcome.counters["allocated"]:
            self._collisions = 0

    def is_open(self, connection: int) -> bool:
        """Return whether a connection of ours is still there."""
        return connection in self._open

    def pressure(self, now: float) -> Pressure:
        """Return how much guessing there is, and which share of its rooms this node has."""
        return Pressure(self._guesses.amount(now), self.room_count / max(1, self.limits.max_rooms))

    def has_place(self) -> bool:
        """Return whether another room may be worked on here."""
        return self.room_count < self.limits.max_rooms

    def settle(self, desk: Desk) -> None:
        """Count what a desk has now; put it away if nobody needs it."""
        held = self._held.pop(desk.key, _Held())
        now = _Held() if desk.is_needless else _held_by(desk, self.limits.entry_bytes)
        if held.is_room:
            self.shares.close(held.levels, held.log_bytes)
        if now.is_room:
            self.shares.open(now.levels)
            self.shares.store(now.levels, now.log_bytes)
        self.room_count += now.is_room - held.is_room
        self.log_bytes += now.log_bytes - held.log_bytes
        self.session_count += now.sessions - held.sessions
        self.waiting_count += now.is_waiting - held.is_waiting
        for connection in held.connections - now.connections:
            self._homes.pop(connection, None)
        for connection in now.connections:
            if connection in self._open:
                self._homes[connection] = desk.key
        if desk.is_needless:
            self._desks.pop(desk.key, None)
        else:
            self._held[desk.key] = now

    def _desk(self, key: str) -> Desk:
        desk = self._desks.get(key)
        if desk is None:
            desk = self._desks[key] = Desk(key, self)
        return desk


def _held_by(desk: Desk, entry_bytes: int) -> _Held:
    state = desk.state
    connections = frozenset(desk.windows)
    if state.founding is None:
        return _Held(connections=connections)
    size = sum(len(entry.payload) + entry_bytes for entry in state.log)
    is_waiting = state.founding.kind == PAIR and not state.course.claimed
    return _Held(
        state.founding.levels,
        size,
        len(state.seats),
        is_room=True,
        is_waiting=is_waiting,
        connections=connections,
    )
