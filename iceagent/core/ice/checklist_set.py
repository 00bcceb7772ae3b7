"""What the components of all data streams share: roles, foundations, slots of Ta, the limit of pairs.

RFC 8445 has one checklist per stream; all of them are the checklist set. Here each component is an `IceAgent` with a
checklist of its own, and this set couples them in the places where the RFC looks at more than one component:

- section 6.1.2.6, 7.2.5.3.3: one pair of each foundation waits in the whole set, and a success thaws the others;
- section 6.1.4.2: one check per Ta, the streams in turn, and within a stream triggered checks in the order of their
  coming, then the waiting pair of highest priority of all its components;
- section 6.1.2.5: the limit of pairs; section 14.3: the pairs that count for the RTO;
- section 7.3.1.1: one role and one tiebreaker.

A component that has its selected pair takes no part in freezing: by section 8.1.2 its other pairs are out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from iceagent.core.ice.checks.pacer import Pacer
from iceagent.core.ice.checks.scheduler import Scheduler
from iceagent.core.ice.context import Context
from iceagent.core.ice.model.checklist import Checklist
from iceagent.core.ice.roles import RoleKeeper

if TYPE_CHECKING:
    from iceagent.core.ice.agent import IceAgent


@dataclass(slots=True, eq=False)
class Seat:
    """The place of one component in the set.

    Attributes:
        company: the set.
        stream: index of its data stream, from 0.
        component: its id, from 1.
        agent: who sits there; None once the component is given up.
        slot_at: when the next check of the set is due, if it is this component's; else None.
        touched: whether something of its may wait to be drained though nobody called it.
    """

    company: ChecklistSet
    stream: int
    component: int
    agent: IceAgent | None = None
    slot_at: float | None = None
    touched: bool = False


class _Lane(NamedTuple):
    """One session of one component, as far as its checks are concerned."""

    seat: Seat
    context: Context
    scheduler: Scheduler

    def may_check(self) -> bool:
        """Whether ordinary checks are to be sent."""
        context = self.context
        return context.checks_by_itself and not context.concluded and context.checklist.started


class ChecklistSet:
    """The checklists of all components, in the order of streams and, within them, of component ids.

    Args:
        roles: our role, one for all.
        ta_s: between two checks, seconds.
        pacer: paces the checks of all agents of the machine, or None.
    """

    def __init__(self, roles: RoleKeeper, ta_s: float, pacer: Pacer | None) -> None:
        self.roles = roles
        self.seats: list[Seat] = []
        self._ta_s = ta_s
        self._pacer = pacer
        self._generation = roles.generation
        self._next_slot_at = float("-inf")
        self._reserved_at: float | None = None
        self._next_stream = 0
        self._number = 0
        self._settling = False

    # What the checklists ask and tell.

    def checklists(self) -> list[Checklist]:
        """Return the current checklists of all components."""
        return [agent.current_context().checklist for _, agent in self._occupied()]

    def undecided(self) -> list[Checklist]:
        """Return those that are being checked: begun, neither failed nor with a selected pair that answers."""
        contexts = (agent.current_context() for _, agent in self._occupied())
        return [context.checklist for context in contexts if context.running and not context.concluded]

    def turns(self, stream: int) -> int:
        """Return how many turns there are until a component of a stream has the next one, if all go on checking.

        The streams take turns, and within its stream the components that have checks do (RFC 8445 section 6.1.4.2).
        """
        streams = {seat.stream for seat, _ in self._occupied()} - {stream}
        others = sum(self._first_of(self._lanes(other)) is not None for other in streams)
        own = sum(self._first_of([lane]) is not None for lane in self._lanes(stream))
        return (others + 1) * max(1, own)

    def draw_number(self) -> int:
        """Return the number of a triggered check, in the order of their coming."""
        self._number += 1
        return self._number

    def note_changed(self, checklist: Checklist) -> None:
        """Take note that a list was changed for the sake of another, so that its events are drained, too."""
        for seat, agent in self._occupied():
            if agent.current_context().checklist is checklist:
                seat.touched = True

    # After each change of one component.

    def settle(self, now: float) -> None:
        """Let all components know of a new role, and send the check that is due."""
        if self._settling:
            return
        self._settling = True
        if self._generation != self.roles.generation:
            self._generation = self.roles.generation
            for seat, agent in self._occupied():
                agent.settle_alone(now)
                seat.touched = True
        self._send_due(now)
        self._assign_slot()
        self._settling = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let several components be changed before any of their checks is sent; `settle` is to follow."""
        self._settling = True
        try:
            yield
        finally:
            self._settling = False

    def _occupied(self) -> Iterator[tuple[Seat, IceAgent]]:
        return ((seat, seat.agent) for seat in self.seats if seat.agent is not None)

    def _lanes(self, stream: int) -> list[_Lane]:
        return [
            _Lane(seat, context, scheduler)
            for seat, agent in self._occupied()
            if seat.stream == stream
            for context, scheduler in agent.schedules()
            if context.running
        ]

    # Whose turn it is.

    def _send_due(self, now: float) -> None:
        if now < self._next_slot_at:
            return
        chosen = self._choose()
        if chosen is None:
            return
        if self._reserved_at is None:
            self._reserved_at = now if self._pacer is None else self._pacer.reserve(now)
        if now < self._reserved_at:
            return
        self._reserved_at = None
        stream = chosen.seat.stream
        self._thaw(self._lanes(stream))
        seat, context, scheduler = self._first_of(self._lanes(stream)) or chosen
        self._next_stream = stream + 1
        scheduler.send_next(now)
        self._next_slot_at = now + max(self._ta_s, context.ta_s)
        seat.touched = True
        for _, agent in self._occupied():
            agent.note_slot_used(self._next_slot_at)

    def _assign_slot(self) -> None:
        """Let the component whose turn is next ask for the time of its check; its shell may have to wake earlier."""
        chosen = self._choose()
        slot_at = self._next_slot_at if self._reserved_at is None else self._reserved_at
        for seat in self.seats:
            at = slot_at if chosen is not None and seat is chosen.seat else None
            if at != seat.slot_at:
                seat.slot_at = at
                seat.touched = True

    def _choose(self) -> _Lane | None:
        """Return whose check is next: the streams have a check each in turn (RFC 8445 section 6.1.4.2)."""
        streams = sorted({seat.stream for seat, _ in self._occupied()})
        later = [stream for stream in streams if stream >= self._next_stream]
        for stream in (*later, *streams):
            chosen = self._first_of(self._lanes(stream))
            if chosen is not None:
                return chosen
        return None

    def _first_of(self, lanes: list[_Lane]) -> _Lane | None:
        """Return which component of a stream has its next check."""
        triggered = [
            (pair.triggered_as, lane) for lane in lanes if (pair := next(iter(lane.context.checklist.triggered), None))
        ]
        if triggered:
            return min(triggered, key=lambda one: one[0])[1]
        ready = [lane for lane in lanes if lane.may_check()]
        waiting = [(pair.check_order, lane) for lane in ready if (pair := lane.context.checklist.best_waiting())]
        if waiting:
            return max(waiting, key=lambda one: one[0])[1]  # of equals the first, that is the lowest component
        return next((lane for lane in ready if lane.context.checklist.has_ordinary()), None)

    def _thaw(self, lanes: list[_Lane]) -> None:
        """Thaw the free foundations of a stream in which nothing waits (RFC 8445 section 6.1.4.2 step 2)."""
        ready = [lane.context.checklist for lane in lanes if lane.may_check() and lane.context.checklist.company]
        if not ready or any(map(_has_waiting, ready)) or any(one.triggered for one in ready):
            return
        held = ready[0].held_foundations()
        for checklist in ready:
            checklist.thaw(held)
            self.note_changed(checklist)


def _has_waiting(checklist: Checklist) -> bool:
    """Whether a pair waits; those over TCP come last, and keep no others frozen."""
    best = checklist.best_waiting()
    return best is not None and not best.is_tcp
