"""One room at one node: commands wait here, are made into a step, and are answered once the step is stored. Sans-IO.

Nothing that a command causes leaves the node before the store has it: a step that finds another version stored than it
was made from is thrown away with all that it would have said, and its commands run again on what is stored.
"""

from __future__ import annotations

import enum
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Protocol

import msgspec

from icesignal import wire
from icesignal.engines.shared.lineage import Lineage, lineage
from icesignal.engines.shared.news import news
from icesignal.engines.shared.replica import (
    ENTRIES,
    Command,
    DisconnectCommand,
    DrainedCommand,
    FrameCommand,
    LossCommand,
    RunResult,
    Surroundings,
    TimeoutCommand,
    TouchCommand,
    Windows,
    run,
)
from icesignal.engines.shared.requests import Answer, Load, Prepare, Request, Step, Unreadable
from icesignal.engines.shared.state import (
    EMPTY,
    Change,
    RoomState,
    count_of,
    difference,
    follow,
    next_version,
    node_of,
)
from icesignal.registry import ConnectionAction, RoomLimits
from icesignal.sources import Levels, ShareBook

BATCH: Final = 32  # commands in one step
EARLY: Final = 64  # changes that may overtake an answer; after more the room is loaded anew
GRACE_S: Final = 2.0  # what is due is done by one node; the others do it after so long
KEEP_S: Final = 1_800.0  # how long the store keeps a room that no node looks after: all nodes may have been away
TOUCH_S: Final = KEEP_S / 3
TAG_BYTES: Final = 8


class Hub(Protocol):
    """The node, as a room's desk sees it."""

    number: int
    randbytes: Callable[[int], bytes]
    limits: RoomLimits
    is_away: bool

    @property
    def shares(self) -> ShareBook:
        """What sources have on the node."""
        ...

    @property
    def log_bytes(self) -> int:
        """What all logs of the node take."""
        ...

    def ask(self, desk: Desk, request: Request) -> None:
        """Ask the store; the answer comes to the desk."""
        ...

    def retire(self, key: str, levels: Levels) -> None:
        """Have a room count to nobody any more."""
        ...

    def act(self, actions: Iterable[ConnectionAction]) -> None:
        """Have something done on connections of the node."""
        ...

    def finish(self, now: float, commands: Iterable[Command], outcome: RunResult) -> None:
        """Note that commands have been done."""
        ...

    def reroute(self, now: float, command: FrameCommand) -> None:
        """Find another room for a command, as this one is not the one it is for."""
        ...

    def settle(self, desk: Desk) -> None:
        """Note that a desk may have another state or other connections, or be needless."""
        ...

    def is_open(self, connection: int) -> bool:
        """Return whether a connection of the node is still there."""
        ...

    def has_place(self) -> bool:
        """Return whether the node takes another room."""
        ...


class Phase(enum.Enum):
    """What a desk waits for."""

    IDLE = "nothing"
    LOADING = "what is stored"
    PREPARING = "its sessions to be noted"
    STEPPING = "its step to be stored"


@dataclass(frozen=True, slots=True)
class Trial:
    """A step under way, and what is to be said once it is stored."""

    commands: tuple[Command, ...]
    outcome: RunResult
    change: Change
    is_restored: bool = False


class _Shares:
    """The node's shares as a room's logic sees them: counted once a step is stored, not while it is tried."""

    def __init__(self, shares: ShareBook, *, may_open: bool) -> None:
        self._shares = shares
        self._may_open = may_open

    def may_open(self, levels: Levels) -> bool:
        """Return what the store has said."""
        return self._may_open

    def may_store(self, levels: Levels, size: int) -> bool:
        """Return what the node says."""
        return self._shares.may_store(levels, size)

    def open(self, levels: Levels) -> None:
        """Do nothing."""

    def store(self, levels: Levels, size: int) -> None:
        """Do nothing."""

    def close(self, levels: Levels, log_bytes: int) -> None:
        """Do nothing."""


class Desk:
    """The work on one room. Each `handle_*` and `submit` goes on as far as it gets without the store.

    Attributes:
        key: the room's.
        state: the newest version that this node knows.
        windows: of the connections of this node that are at members.
    """

    def __init__(self, key: str, hub: Hub) -> None:
        self.key = key
        self.state = EMPTY
        self.windows: Windows = {}
        self._hub = hub
        self._queue: deque[Command] = deque()
        self._phase = Phase.IDLE
        self._is_known = False  # `state` is what was stored once
        self._is_current = False  # as far as we know it still is
        self._early: list[Change] = []
        self._trial: Trial | None = None
        self._unsure: Trial | None = None  # nobody knows whether it was stored
        self._may_open = True
        self._due_at = math.inf
        self._touched_at = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self._phase is Phase.IDLE and not self._queue and self._unsure is None

    @property
    def is_needless(self) -> bool:
        """Whether another node sees to the room, or nobody need: the last one that had a member of it goes on."""
        if not self.is_idle or self.windows:
            return False
        return self.state.founding is None or bool(self.state.nodes() - {self._hub.number})

    def submit(self, now: float, command: Command, *, first: bool = False) -> None:
        """Take a command."""
        if command in self._queue and not isinstance(command, FrameCommand):
            return
        if first:
            self._queue.appendleft(command)
        else:
            self._queue.append(command)
        self._advance(now)

    def withdraw(self, connection: int) -> None:
        """Forget the frames of a connection that have not been tried yet."""
        kept = [one for one in self._queue if not (isinstance(one, FrameCommand) and one.connection == connection)]
        self._queue = deque(kept)

    def handle_timeout(self, now: float) -> None:
        """Do what is due, and keep what is stored from being forgotten."""
        if not self._is_known or self.state.founding is None:
            return
        patience = 0.0 if self._is_steward() else GRACE_S
        if self._due_at + patience <= now:
            self.submit(now, TimeoutCommand())
        elif self._touched_at + TOUCH_S + patience <= now:
            self.submit(now, TouchCommand())

    def handle_stale(self, now: float) -> None:
        """Note that changes may have been missed."""
        self._is_current = False
        self._advance(now)

    def handle_change(self, now: float, change: Change) -> None:
        """Take what another node has stored."""
        if self._is_current and change.before == self.state.version:
            self._follow(now, change)
        elif self._phase is not Phase.IDLE:
            self._early.append(change)
            if len(self._early) > EARLY:
                self._early.clear()
                self._is_current = False
        elif count_of(change.after) > count_of(self.state.version):
            self._is_current = False
        self._advance(now)

    def handle_answer(self, now: float, answer: Answer) -> None:
        """Take the store's answer to what was asked last."""
        phase, self._phase = self._phase, Phase.IDLE
        if isinstance(answer, Unreadable):
            self._give_up(now)
            return
        match phase:
            case Phase.LOADING if isinstance(answer, RoomState):
                self._take_stored(now, answer)
            case Phase.PREPARING:
                self._go_on(now, may_open=bool(answer))
            case Phase.STEPPING:
                self._conclude(now, is_stored=bool(answer))
            case _:
                pass
        if self._phase is Phase.IDLE:
            self._catch_up(now)
        self._advance(now)

    def handle_failure(self) -> None:
        """Note that the store has not answered; what was asked may have been done or not."""
        phase, self._phase = self._phase, Phase.IDLE
        trial, self._trial = self._trial, None
        self._is_current = False
        self._early.clear()
        if trial is not None and phase is Phase.STEPPING:
            self._unsure = trial
        elif trial is not None:
            self._queue.extendleft(reversed(trial.commands))

    # Commands

    def _advance(self, now: float) -> None:
        while self._phase is Phase.IDLE and not self._hub.is_away:
            if not self._is_current:
                self._ask(Phase.LOADING, Load(self.key))
            elif commands := self._next(now):
                self._try(now, commands)
            elif not self._queue:
                break
        self._hub.settle(self)

    def _next(self, now: float) -> tuple[Command, ...]:
        """Take commands off the queue: messages together, as they change nothing but the log, anything else alone."""
        taken: list[Command] = []
        while self._queue and len(taken) < BATCH:
            command = self._queue[0]
            if taken and not _is_talk(command):
                break
            self._queue.popleft()
            if isinstance(command, FrameCommand) and self._is_elsewhere(command):
                self._hub.reroute(now, command)
                break
            taken.append(command)
            if not _is_talk(command):
                break
        return tuple(taken)

    def _is_elsewhere(self, command: FrameCommand) -> bool:
        frame = command.frame
        if command.is_found:
            has_parted = isinstance(frame, wire.Resume) and frame.session in dict(self.state.parted)  # which it is told
            return not isinstance(frame, ENTRIES) or (self.state.seat_of(frame.session) is None and not has_parted)
        is_taken = self.state.founding is not None or self.state.is_resting
        return isinstance(frame, wire.Allocate) and is_taken and command.connection not in self.windows

    def _try(self, now: float, commands: tuple[Command, ...]) -> None:
        hub = self._hub
        limits = hub.limits
        if self.state.founding is None and not hub.has_place():
            limits = replace(limits, max_rooms=0)
        if self._due_at + GRACE_S <= now and TimeoutCommand() not in commands:  # nobody has seen to it
            commands = (TimeoutCommand(), *commands)
        shares = _Shares(hub.shares, may_open=self._may_open)
        around = Surroundings(hub.number, hub.randbytes, limits, shares, hub.log_bytes)
        outcome = run(self.key, self.state, self.windows, commands, now, around)
        self._may_open = True
        if outcome.state == self.state and not any(isinstance(one, TouchCommand) for one in commands):
            self._release(now, commands, outcome)
            return
        after = next_version(self.state.version, hub.randbytes(TAG_BYTES))
        change = difference(self.key, self.state, outcome.state, after)
        self._trial = Trial(commands, outcome, change)
        new = outcome.state
        sessions = {seat.session for seat in new.seats.values()}
        if not any(isinstance(one, TouchCommand) for one in commands):
            sessions -= {seat.session for seat in self.state.seats.values()}
        if new.founding is not None and sessions:
            request = Prepare(self.key, tuple(sorted(sessions)), new.founding.levels, KEEP_S)
            self._ask(Phase.PREPARING, request)
        else:
            self._step()

    def _step(self) -> None:
        if self._trial is None:
            return
        old, new, hub = self.state, self._trial.outcome.state, self._hub
        nodes = tuple(sorted((old.nodes() | new.nodes()) - {hub.number}))
        rest = hub.limits.nameplate_rest_s if new.is_resting else hub.limits.log_s
        self._ask(Phase.STEPPING, Step(self._trial.change, nodes, KEEP_S if new.founding is not None else rest))

    def _go_on(self, now: float, *, may_open: bool) -> None:
        trial = self._trial
        if trial is None:
            return
        is_good = trial.is_restored or (may_open and trial.change.before == self.state.version)
        if is_good and self._is_current:
            self._step()
            return
        self._may_open = may_open
        self._trial = None
        self._queue.extendleft(reversed(trial.commands))

    def _conclude(self, now: float, *, is_stored: bool) -> None:
        trial, self._trial = self._trial, None
        if trial is None:
            return
        before, after = self.state.founding, trial.outcome.state.founding
        if is_stored:
            self._release(now, trial.commands, trial.outcome, trial.change.after)
            if before is not None and after is None:
                self._hub.retire(self.key, before.levels)
            return
        if before is None and after is not None:
            self._hub.retire(self.key, after.levels)  # somebody else's room has the key
        self._queue.extendleft(reversed(trial.commands))
        if trial.is_restored or trial.change.before == self.state.version:
            self._is_current = False

    def _release(
        self, now: float, commands: tuple[Command, ...], outcome: RunResult, version: str | None = None
    ) -> None:
        """Say what follows from commands, now that it is stored."""
        self.state = outcome.state if version is None else replace(outcome.state, version=version)
        self.windows = outcome.windows
        self._due_at = outcome.due_at
        if version is not None:
            self._touched_at = now
        self._hub.act(outcome.actions)
        self._hub.finish(now, commands, outcome)
        self._see_to_orphans()

    def _see_to_orphans(self) -> None:
        """See to connections of this node that were gone before their members were at them."""
        seen = {one.connection for one in self._queue if isinstance(one, DisconnectCommand)}
        for seat in self.state.seats.values():
            connection = seat.connection
            if connection is None or connection in seen or node_of(connection) != self._hub.number:
                continue
            if not self._hub.is_open(connection):
                self._queue.append(DisconnectCommand(connection))

    # What is stored

    def _take_stored(self, now: float, stored: RoomState) -> None:
        """Take what is stored for the truth, unless it is what the store has fallen back to."""
        self._is_current = True
        unsure, self._unsure = self._unsure, None
        if unsure is not None and stored.version == unsure.change.after:
            self._release(now, unsure.commands, unsure.outcome, unsure.change.after)
            return
        if unsure is not None:
            self._queue.extendleft(reversed(unsure.commands))
        match lineage(self.state, stored) if self._is_known else Lineage.NEWER:
            case Lineage.SAME:
                pass
            case Lineage.NEWER:
                self._adopt(now, stored)
            case Lineage.FORKED:
                self._adopt(now, stored)
                self._queue.appendleft(LossCommand())
            case Lineage.FALLEN_BACK:
                self._restore(stored)

    def _restore(self, stored: RoomState) -> None:
        """Store again what the store has lost: each of its parts was acknowledged."""
        after = next_version(self.state.version, self._hub.randbytes(TAG_BYTES))
        change = difference(self.key, stored, self.state, after, is_whole=True)
        kept = RunResult(self.state, self.windows, (), Counter(restored=1), 0, self._due_at)
        self._trial = Trial((), kept, change, is_restored=True)
        founding = self.state.founding
        sessions = tuple(sorted(seat.session for seat in self.state.seats.values()))
        self._ask(Phase.PREPARING, Prepare(self.key, sessions, founding.levels if founding else (), KEEP_S))

    def _adopt(self, now: float, new: RoomState) -> None:
        hub = self._hub
        around = Surroundings(hub.number, hub.randbytes, hub.limits, hub.shares, hub.log_bytes)
        told = news(self.key, self.state, new, self.windows, around)
        self.state, self.windows, self._due_at = new, told.windows, told.due_at
        self._is_known = True
        self._touched_at = now
        self._queue.extend(told.commands)
        hub.act(told.actions)
        self._see_to_orphans()

    def _catch_up(self, now: float) -> None:
        """Follow the changes that have overtaken an answer."""
        early, self._early = self._early, []
        for change in early:
            if self._is_current and change.before == self.state.version:
                self._follow(now, change)
            elif count_of(change.after) > count_of(self.state.version):
                self._is_current = False

    def _follow(self, now: float, change: Change) -> None:
        try:
            new = follow(self.state, change)
        except msgspec.DecodeError:
            self._is_current = False
        else:
            self._adopt(now, new)

    def _give_up(self, now: float) -> None:
        """Send away who is in the room or on the way into it, as nobody here can read what is stored of it."""
        trial = self._trial or self._unsure
        commands = (*(trial.commands if trial is not None else ()), *self._queue)
        drawn = [one for one in commands if isinstance(one, FrameCommand) and isinstance(one.frame, wire.Allocate)]
        commands = tuple(one for one in commands if one not in drawn)
        waiting = dict.fromkeys(one.connection for one in commands if isinstance(one, FrameCommand))
        self._queue.clear()
        self._early.clear()
        self._trial = self._unsure = None
        gone = tuple(ConnectionAction(one, close=wire.CloseCode.GOING_AWAY) for one in {**self.windows, **waiting})
        self.state, self.windows, self._due_at = EMPTY, {}, math.inf
        self._is_known, self._is_current = False, True
        self._hub.act(gone)
        self._hub.finish(now, commands, RunResult(EMPTY, {}, gone, Counter(unreadable=1), 0, math.inf))
        self._hub.settle(self)
        for command in drawn:  # another number does as well
            self._hub.reroute(now, command)

    def _is_steward(self) -> bool:
        connected = [seat.connection for seat in self.state.seats.values() if seat.connection is not None]
        return not connected or node_of(min(connected)) == self._hub.number

    def _ask(self, phase: Phase, request: Request) -> None:
        self._phase = phase
        self._hub.ask(self, request)


def _is_talk(command: Command) -> bool:
    return isinstance(command, DrainedCommand) or (
        isinstance(command, FrameCommand) and isinstance(command.frame, wire.Send)
    )
