"""The checklist: pairs formed, pruned, limited, frozen and thawed, and the triggered-check queue.

RFC 8445 sections 6.1.2 and 6.1.4, RFC 8838 sections 10 to 12 for pairs that come late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from iceagent.core.address import TransportAddress
from iceagent.core.ice.model.candidate import Candidate
from iceagent.core.ice.model.candidates import can_reach
from iceagent.core.ice.model.likelihood import Likelihood, likelihood
from iceagent.core.ice.model.pair import CheckPair, PairState, PathAddresses
from iceagent.core.ice.model.priority import CandidateType
from iceagent.core.ice.model.tcp import checks_by_itself


class OtherChecklists(Protocol):
    """What a checklist asks of its set, and reports to it."""

    def checklists(self) -> Sequence[Checklist]:
        """Return the current checklists of all components."""
        ...

    def undecided(self) -> Sequence[Checklist]:
        """Return those that are being checked: begun, neither failed nor with a selected pair that answers."""
        ...

    def draw_number(self) -> int:
        """Return the number of a triggered check, in the order of their coming."""
        ...

    def note_changed(self, checklist: Checklist) -> None:
        """Take note that a list was changed for the sake of another."""
        ...


def path_of(local: Candidate, remote: Candidate) -> PathAddresses | None:
    """Return the path between two candidates, or None when they must not be paired.

    Only addresses of one family and one scope are paired (`usable.can_reach`). The zone of a link-local path is the
    local one, since a signalled address has none. A relay does not learn addresses that the peer hides behind mDNS
    names (draft-ietf-mmusic-mdns-ice-candidates section 3.3.2).
    """
    base, remote_address = local.path_base, remote.address
    if local.transport != remote.transport or local.component != remote.component:
        return None
    if remote.name is not None and local.type is CandidateType.RELAY:
        return None
    if not can_reach(base.host, remote_address.host):
        return None
    if base.family == 6:
        _, percent, zone = base.host.partition("%")
        if percent and "%" not in remote_address.host:
            remote_address = TransportAddress(f"{remote_address.host}%{zone}", remote_address.port)
    return (base, remote_address)


def _worth(pair: CheckPair) -> tuple[object, ...]:
    # Deviation from RFC 8445 section 6.1.2.5, by which the pairs of lowest priority are discarded: those are the
    # reflexive and relayed ones, so that ten container bridges on each side would leave only pairs between them.
    return (Likelihood.NEAR if pair.heard else likelihood(pair.base.host, pair.destination.host), *pair.check_order)


class Checklist:
    """All pairs of one component, one per path.

    RFC 8445 has one checklist per data stream. Here each component has its own, and `checklist_set` does what takes
    more than one of them; `in_set` is that set, or None for an agent of one component, or a list no longer current.
    """

    def __init__(self, max_pairs: int, on_state: Callable[[CheckPair], None]) -> None:
        self._max_pairs = max_pairs
        self._on_state = on_state
        self._triggered: deque[CheckPair] = deque()
        self.started = False
        self.in_set: OtherChecklists | None = None
        self.pairs: dict[PathAddresses, CheckPair] = {}

    def __iter__(self) -> Iterator[CheckPair]:
        return iter(self.pairs.values())

    def set_state(self, pair: CheckPair, state: PairState) -> None:
        """Move a pair to a state and report it."""
        if pair.state is not state:
            pair.set_state(state)
            self._on_state(pair)

    # Forming.

    def form(self, candidates: Iterable[tuple[Candidate, Candidate]], controlling: bool) -> bool:
        """Form pairs of (local, remote) candidates, best first; return False if the limit cost any pair.

        A reflexive local candidate stands for its base, so its pair is redundant wherever the base has its own
        (RFC 8445 section 6.1.2.4); the better local candidate gives the pair its priority.
        """
        fresh: dict[PathAddresses, CheckPair] = {}
        for local, remote in candidates:
            path = path_of(local, remote) if checks_by_itself(local, remote) else None
            if path is None:
                continue
            known = self.pairs.get(path) or fresh.get(path)
            if known is None:
                fresh[path] = CheckPair(local, remote, path[0], path[1], priority=0)
                fresh[path].rank(controlling)
            elif local.priority > known.local.priority:
                known.local = local
                known.rank(controlling)
        all_fit = True
        for pair in sorted(fresh.values(), key=_worth, reverse=True):
            all_fit = self.insert(pair) and all_fit
        return all_fit

    def insert(self, pair: CheckPair, *, needed: bool = False) -> bool:
        """Insert a new pair, making room by discarding the least likely one not in use (RFC 8445 section 6.1.2.5).

        Args:
            pair: a pair whose path is not in the list yet.
            needed: the peer's check asked for it, so a lower-ranked pair gives way even if its priority is higher.

        Returns:
            False if there is no room for it, or another pair had to go.
        """
        kept_all = True
        if sum(len(one.pairs) for one in self._everywhere()) >= self._max_pairs:
            kept_all = False
            if not self._make_room(pair, needed):
                return False
        self.pairs[pair.path] = pair
        if self.started:
            self._set_initial_state(pair)
        self._on_state(pair)
        return kept_all

    def worst_idle(self) -> CheckPair | None:
        """Return the pair that is missed least: of those not in use a failed one, or the lowest."""
        busy = (PairState.IN_PROGRESS, PairState.SUCCEEDED)
        idle = [pair for pair in self if pair.state not in busy and not pair.consent_lost]
        return min(idle, key=lambda pair: (pair.state is not PairState.FAILED, _worth(pair)), default=None)

    def _make_room(self, pair: CheckPair, needed: bool) -> bool:
        """Discard one pair for the sake of another: of a longer list of the set first, so that all shrink evenly."""
        longer = max(self._everywhere(), key=lambda one: len(one.pairs))
        if len(longer.pairs) > len(self.pairs) and (theirs := longer.worst_idle()) is not None:
            longer.forget(theirs)
            longer.note_changed()
            return True
        worst = self.worst_idle()
        if worst is None or (worst.state is not PairState.FAILED and _worth(worst) >= _worth(pair) and not needed):
            return False
        self.forget(worst)
        return True

    def note_changed(self) -> None:
        """Take note that this list was changed for the sake of another, or by it."""
        if self.in_set is not None:
            self.in_set.note_changed(self)

    def start(self) -> None:
        """Set the initial states of all pairs: the best of each foundation waits, the others are frozen.

        In a checklist set one pair of each foundation waits, that of the list which starts first; lists are started in
        the order of their streams and components.

        Source: RFC 8445 section 6.1.2.6.
        """
        self.started = True
        self.thaw(self.held_foundations())

    def rank_all(self, controlling: bool) -> None:
        """Compute all priorities anew."""
        for pair in self:
            pair.rank(controlling)

    def forget(self, pair: CheckPair) -> None:
        """Take a pair out of the list."""
        del self.pairs[pair.path]
        self.untrigger(pair)

    # Freezing and thawing.

    def _everywhere(self) -> Sequence[Checklist]:
        return (self,) if self.in_set is None else self.in_set.checklists()

    def _undecided(self) -> Sequence[Checklist]:
        return (self,) if self.in_set is None else self.in_set.undecided()

    def _set_initial_state(self, pair: CheckPair) -> None:
        # RFC 8838 section 12: a late pair waits if its foundation has succeeded, or if none of it waits or is checked.
        busy = (PairState.WAITING, PairState.IN_PROGRESS)
        if any(one.has_other(pair, (PairState.SUCCEEDED,)) for one in self._everywhere()) or not any(
            one.has_other(pair, busy) for one in self._undecided()
        ):
            pair.set_state(PairState.WAITING)

    def has_other(self, pair: CheckPair, states: tuple[PairState, ...]) -> bool:
        """Whether another pair of the same foundation is in one of the states."""
        foundation = pair.foundation
        return any(one.state in states and one is not pair and one.foundation == foundation for one in self)

    def held_foundations(self) -> set[tuple[str, str]]:
        """Return the foundations of which no further pair is to thaw for now, those of the whole set."""
        # Deviation from RFC 8445 section 6.1.4.2 step 2, where an In-Progress pair holds its foundation back until its
        # transaction ends, 39.5 s after it began if nothing answers. Here only a check that has neither been
        # retransmitted nor answered from elsewhere does: after one silent RTO the next pair of the group gets its turn.
        return {
            pair.foundation
            for one in self._undecided()
            for pair in one
            if pair.state is PairState.WAITING
            or (pair.state is PairState.IN_PROGRESS and (pair.check is None or pair.check.is_first_try))
        }

    def thaw(self, held: set[tuple[str, str]]) -> None:
        """Let the best frozen pair of each foundation wait that is not in `held`, and add it there."""
        for pair in sorted(self, key=lambda pair: pair.check_order, reverse=True):
            if pair.state is PairState.FROZEN and pair.foundation not in held:
                held.add(pair.foundation)
                self.set_state(pair, PairState.WAITING)

    def thaw_foundation(self, foundation: tuple[str, str]) -> None:
        """Let all frozen pairs of a foundation wait: one of them has succeeded (RFC 8445 section 7.2.5.3.3).

        In a checklist set those of all its lists that have begun.
        """
        for one in self._everywhere():
            for pair in one if one.started else ():
                if pair.state is PairState.FROZEN and pair.foundation == foundation:
                    one.set_state(pair, PairState.WAITING)
                    one.note_changed()

    # Choosing.

    def trigger(self, pair: CheckPair) -> None:
        """Queue a triggered check, once (RFC 8445 section 6.1.4.1)."""
        if pair not in self._triggered:
            if self.in_set is not None:
                pair.triggered_as = self.in_set.draw_number()
            self._triggered.append(pair)

    def untrigger(self, pair: CheckPair) -> None:
        """Take a pair out of the triggered-check queue."""
        if pair in self._triggered:
            self._triggered.remove(pair)

    @property
    def triggered(self) -> tuple[CheckPair, ...]:
        """The triggered-check queue, first come first."""
        return tuple(self._triggered)

    def waiting(self) -> list[CheckPair]:
        """Return the waiting pairs in the order of `check_order`, thawing foundations if none but TCP's waits.

        Source: RFC 8445 section 6.1.4.2.
        """
        found = self._waiting()
        if (not found or found[0].is_tcp) and self.started:
            self.thaw(self.held_foundations())
            found = self._waiting()
        return found

    def has_ordinary(self) -> bool:
        """Whether `waiting` would return any."""
        if not self.started:
            return False
        if any(pair.state is PairState.WAITING for pair in self):
            return True
        frozen = self.frozen_foundations()
        return bool(frozen) and not frozen <= self.held_foundations()

    def frozen_foundations(self) -> set[tuple[str, str]]:
        """Return the foundations of the frozen pairs."""
        return {pair.foundation for pair in self if pair.state is PairState.FROZEN}

    def count(self, state: PairState) -> int:
        """Return how many pairs are in a state."""
        return sum(pair.state is state for pair in self)

    def best_waiting(self) -> CheckPair | None:
        """Return the waiting pair of highest priority."""
        return next(iter(self._waiting()), None)

    def _waiting(self) -> list[CheckPair]:
        waiting = [pair for pair in self if pair.state is PairState.WAITING]
        waiting.sort(key=lambda pair: pair.check_order, reverse=True)
        return waiting
