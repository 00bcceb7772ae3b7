"""What an entry costs at a relay: of the budgets of its source, and while there is guessing proof of work. Sans-IO.

Source: docs/relay-protocol.md sections 10 and 10.1.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from icesignal import wire
from icesignal.sources import Balance, Charge, Kind, Levels, Limits, Party, Rate
from icesignal.wire import RelayErrorCode
from icesignal.work import Work, is_solved, make_puzzle

STEPS: Final = 3  # from a quarter of the price to all of it
WRONG_COST: Final = 10.0  # frames: what a wrong solution costs to look at, some 0.1 ms, is bounded by that
MOST_DOUBLINGS: Final = 2
Entry = wire.Allocate | wire.Join | wire.Meet | wire.Enter


@dataclass(frozen=True, slots=True)
class Pressure:
    """How hard a relay is pressed.

    Attributes:
        guesses: of late, at all nodes, see `nameplates.Guesses`.
        load: which share of its rooms or connections it has, from 0 to 1.
    """

    guesses: float = 0.0
    load: float = 0.0


def tries_for_claim(limits: Limits, pressure: Pressure) -> int:
    """Return how many hashes the claim of a nameplate costs now; 0 for none.

    A quarter of the price from `work_from_guesses` on, half at twice as many, all of it at four times as many.
    """
    if limits.work_from_guesses <= 0:
        return limits.work_tries
    if pressure.guesses >= limits.work_from_guesses:
        return _stepped(limits.work_tries, math.log2(pressure.guesses / limits.work_from_guesses))
    return tries_for_room(limits, pressure)


def tries_for_room(limits: Limits, pressure: Pressure) -> int:
    """Return how many hashes a new nameplate costs now: more the fuller the relay is, 0 while it has place."""
    if pressure.load < limits.work_from_load:
        return 0
    return _stepped(limits.work_tries, STEPS * (pressure.load - limits.work_from_load) / (1.01 - limits.work_from_load))


def _stepped(tries: int, steps: float) -> int:
    return tries >> max(0, STEPS - 1 - int(steps))


class Toll:
    """What one connection pays for its entries."""

    __slots__ = ("_counters", "_limits", "_party", "_pressure", "_puzzle", "charges")

    def __init__(self, party: Party, limits: Limits, pressure: Callable[[], Pressure], counters: Counter[str]) -> None:
        self.charges: tuple[Charge, ...] = ()
        self._party = party
        self._limits = limits
        self._pressure = pressure
        self._counters = counters
        self._puzzle: Work | None = None

    def puzzle(self, now: float) -> Work | None:
        """Return what a client of now may begin to solve at once; None while a claim costs no work."""
        tries = self._tries_for_claim(now)
        return self._new_puzzle(tries) if tries else None

    def take(self, now: float, frame: Entry) -> wire.Error | None:
        """Take what an entry costs; return what is said where it is refused. A refusal for want of work costs little.

        Each claim of a nameplate may be a guess, and kills the code if it is. So it is paid for as one, until the
        engine says otherwise: whoever is refused, leaves or is found wrong gets nothing back.
        """
        limits, party = self._limits, self._party
        if not isinstance(frame, wire.Join):
            if not party.has("joins", now):
                return _too_many()
            if isinstance(frame, wire.Allocate):
                tries = tries_for_room(limits, self._pressure())
                if tries and not self._is_worked(now, frame, tries):
                    return self._ask(RelayErrorCode.WORK, tries)
            self._pay(now, [self._charge("joins", 1.0)])
            return None
        is_within = party.has("joins", now, limits.failed_join_cost) and party.has("claims", now)
        tries = self._tries_for_claim(now)
        if not is_within:
            # Work instead of waiting: who shares the address of a guesser is not locked out as long as that one likes.
            if not limits.dear_tries or not party.has("dear_claims", now):
                return _too_many()
            tries = max(tries, limits.dear_tries)
        if tries and not self._is_worked(now, frame, tries):
            return self._ask(RelayErrorCode.WORK if is_within else RelayErrorCode.RATE, tries)
        if is_within:
            joins = self._charge("joins", limits.failed_join_cost)
            # Doubts have no debts: two are forgotten after two minutes.
            self._pay(now, [joins, self._charge("claims", 1.0), self._charge("doubts", 1.0, is_needed=False)])
        else:
            self._counters["claims_beyond_budget"] += 1
            self._pay(now, [self._charge("dear_claims", 1.0)])
        return None

    def settle(self, now: float, frame: Entry, balance: Balance | None) -> wire.Error | None:
        """Take what all nodes together say of the charges that were paid here, None for nothing; return as `take`."""
        if balance is None:
            return None
        if not balance.is_paid:
            self._undo(now)
        self._party.adopt(now, self.charges, balance)
        if balance.is_paid:
            return None
        refusal = self.take(now, frame)
        if refusal is None:  # it could be paid here again: the clocks are apart
            self._undo(now)
            refusal = _too_many()
        return refusal

    @property
    def levels(self) -> Levels:
        """Who has paid."""
        return self._party.levels

    def _undo(self, now: float) -> None:
        """Take back what was paid here and nowhere else."""
        for one in self.charges:
            self._party.charge(one.kind, now, -one.cost)

    def give_back(self, now: float) -> tuple[Charge, ...]:
        """Give back what a claim has cost beside an entry, as it was no guess; return what that was."""
        back = [replace(one, cost=-one.cost + (one.kind == "joins"), is_needed=False) for one in self.charges]
        for one in back:
            self._party.charge(one.kind, now, one.cost)
        self.charges = ()
        return tuple(back)

    def _charge(self, kind: Kind, cost: float, *, is_needed: bool = True) -> Charge:
        rate: Rate = getattr(self._limits, kind)
        return Charge(kind, cost, rate, is_needed)

    def _pay(self, now: float, charges: Sequence[Charge]) -> None:
        for one in charges:
            self._party.take(one.kind, now, one.cost)
        self.charges = tuple(charges)

    def _tries_for_claim(self, now: float) -> int:
        """Return what a claim costs our source now: twice as much for each of its own that was not confirmed."""
        tries = tries_for_claim(self._limits, self._pressure())
        doubts = math.ceil(self._party.used("doubts", now))
        return min(tries << min(MOST_DOUBLINGS, doubts), max(tries, self._limits.dear_tries))

    def _is_worked(self, now: float, frame: wire.Allocate | wire.Join, tries: int) -> bool:
        """Return whether an entry brings the solution of our last puzzle, if that is worth what is asked now.

        Half of it will do: the price may have risen since the puzzle was given.
        """
        solution = frame.work or b""
        puzzle, self._puzzle = self._puzzle, None  # good for one entry
        if not solution or puzzle is None or 2 * puzzle.tries < make_puzzle(tries, bytes).tries:
            return False
        if is_solved(puzzle, subject_of(frame), solution):
            self._counters["work_done"] += 1
            return True
        self._counters["work_wrong"] += 1
        self._party.charge("messages", now, WRONG_COST)
        return False

    def _ask(self, code: RelayErrorCode, tries: int) -> wire.Error:
        text = "proof of work is asked for" if code is RelayErrorCode.WORK else "too many codes from your network"
        return wire.Error(code=code, message=f"{text}; solve this, or wait", work=self._new_puzzle(tries))

    def _new_puzzle(self, tries: int) -> Work:
        self._counters["work_asked"] += 1
        self._puzzle = make_puzzle(tries, secrets.token_bytes)
        return self._puzzle


class Claims:
    """Who has paid for the claims that nobody has confirmed yet, by their sessions; the latest `MOST` of them."""

    MOST: Final = 4_096

    def __init__(self) -> None:
        self._tolls: OrderedDict[bytes, Toll] = OrderedDict()

    def note(self, session: bytes, toll: Toll) -> None:
        """Note that a session's claim was paid for."""
        self._tolls[session] = toll
        if len(self._tolls) > self.MOST:
            self._tolls.popitem(last=False)

    def take(self, session: bytes) -> Toll | None:
        """Return who has paid for a session, and forget it."""
        return self._tolls.pop(session, None)


def subject_of(frame: wire.Allocate | wire.Join) -> bytes:
    """Return what a solution is bound to: the session, and the nameplate if there is one yet."""
    return frame.session + (frame.nameplate.encode() if isinstance(frame, wire.Join) else b"")


def _too_many() -> wire.Error:
    return wire.Error(code=RelayErrorCode.RATE, message="too many codes from your network; wait a minute")
