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
from typing import NamedTuple, Protocol

from iceagent.core.ice.checks.pacer import Pacer
from iceagent.core.ice.checks.scheduler import Scheduler
from iceagent.core.ice.facts import SessionFacts
from iceagent.core.ice.membership import Membership
from iceagent.core.ice.model.checklist import Checklist
from iceagent.core.ice.roles import RoleKeeper


class SetMember(Protocol):
    """What the set asks of a component, and reports to it."""

    def current_facts(self) -> SessionFacts:
        """Return the facts of the session that candidates and credentials belong to."""
        ...

    def schedules(self) -> tuple[tuple[SessionFacts, Scheduler], ...]:
        """Return the facts and the scheduler of each session that may have a check to send."""
        ...

    def note_slot_used(self, next_slot_at: float) -> None:
        """Take note that some component has sent a check, and when the next may go."""
        ...

    def settle_alone(self, now: float) -> None:
        """Let every session do what the new facts call for."""
        ...


class _Checker(NamedTuple):
    """One session of one component, as far as its checks are concerned."""

    membership: Membership
    facts: SessionFacts
    scheduler: Scheduler

    def may_check(self) -> bool:
        """Whether ordinary checks are to be sent."""
        facts = self.facts
        return facts.checks_by_itself and not facts.concluded and facts.checklist.started


class ChecklistSet:
    """The checklists of all components, in the order of streams and, within them, of component ids.

    Args:
        roles: our role, one for all.
        ta_s: between two checks, seconds.
        pacer: paces the checks of all agents of the machine, or None.
    """

    def __init__(self, roles: RoleKeeper, ta_s: float, pacer: Pacer | None) -> None:
        self.roles = roles
        self.members: dict[Membership, SetMember] = {}  # those given up are no more in it
        self._ta_s = ta_s
        self._pacer = pacer
        self._generation = roles.generation
        self._next_slot_at = float("-inf")
        self._reserved_at: float | None = None
        self._next_stream = 0
        self._number = 0
        self._settling = False

    # What the checklists ask and report.

    def checklists(self) -> list[Checklist]:
        """Return the current checklists of all components."""
        return [agent.current_facts().checklist for _, agent in self.members.items()]

    def undecided(self) -> list[Checklist]:
        """Return those that are being checked: begun, neither failed nor with a selected pair that answers."""
        all_facts = (agent.current_facts() for _, agent in self.members.items())
        return [facts.checklist for facts in all_facts if facts.running and not facts.concluded]

    def turns(self, stream: int) -> int:
        """Return how many turns there are until a component of a stream has the next one, if all go on checking.

        The streams take turns, and within its stream the components that have checks do (RFC 8445 section 6.1.4.2).
        """
        streams = {membership.stream for membership, _ in self.members.items()} - {stream}
        others = sum(self._first_of(self._checkers(other)) is not None for other in streams)
        own = sum(self._first_of([checker]) is not None for checker in self._checkers(stream))
        return (others + 1) * max(1, own)

    def draw_number(self) -> int:
        """Return the number of a triggered check, in the order of their coming."""
        self._number += 1
        return self._number

    def note_changed(self, checklist: Checklist) -> None:
        """Take note that a list was changed for the sake of another, so that its events are drained, too."""
        for membership, agent in self.members.items():
            if agent.current_facts().checklist is checklist:
                membership.touched = True

    # After each change of one component.

    def settle(self, now: float) -> None:
        """Let all components know of a new role, and send the check that is due."""
        if self._settling:
            return
        self._settling = True
        if self._generation != self.roles.generation:
            self._generation = self.roles.generation
            for membership, agent in self.members.items():
                agent.settle_alone(now)
                membership.touched = True
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

    def _checkers(self, stream: int) -> list[_Checker]:
        return [
            _Checker(membership, facts, scheduler)
            for membership, agent in self.members.items()
            if membership.stream == stream
            for facts, scheduler in agent.schedules()
            if facts.running
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
        stream = chosen.membership.stream
        self._thaw(self._checkers(stream))
        membership, facts, scheduler = self._first_of(self._checkers(stream)) or chosen
        self._next_stream = stream + 1
        scheduler.send_next(now)
        self._next_slot_at = now + max(self._ta_s, facts.ta_s)
        membership.touched = True
        for agent in self.members.values():
            agent.note_slot_used(self._next_slot_at)

    def _assign_slot(self) -> None:
        """Let the component whose turn is next ask for the time of its check; its shell may have to wake earlier."""
        chosen = self._choose()
        slot_at = self._next_slot_at if self._reserved_at is None else self._reserved_at
        for membership in self.members:
            at = slot_at if chosen is not None and membership is chosen.membership else None
            if at != membership.slot_at:
                membership.slot_at = at
                membership.touched = True

    def _choose(self) -> _Checker | None:
        """Return whose check is next: the streams have a check each in turn (RFC 8445 section 6.1.4.2)."""
        streams = sorted({membership.stream for membership, _ in self.members.items()})
        later = [stream for stream in streams if stream >= self._next_stream]
        for stream in (*later, *streams):
            chosen = self._first_of(self._checkers(stream))
            if chosen is not None:
                return chosen
        return None

    def _first_of(self, checkers: list[_Checker]) -> _Checker | None:
        """Return which component of a stream has its next check."""
        triggered = [
            (pair.triggered_as, checker)
            for checker in checkers
            if (pair := next(iter(checker.facts.checklist.triggered), None))
        ]
        if triggered:
            return min(triggered, key=lambda one: one[0])[1]
        ready = [checker for checker in checkers if checker.may_check()]
        waiting = [(pair.check_order, checker) for checker in ready if (pair := checker.facts.checklist.best_waiting())]
        if waiting:
            return max(waiting, key=lambda one: one[0])[1]  # of equals the first, that is the lowest component
        return next((checker for checker in ready if checker.facts.checklist.has_ordinary()), None)

    def _thaw(self, checkers: list[_Checker]) -> None:
        """Thaw the free foundations of a stream in which nothing waits (RFC 8445 section 6.1.4.2 step 2)."""
        ready = [
            checker.facts.checklist for checker in checkers if checker.may_check() and checker.facts.checklist.in_set
        ]
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
