"""The checklist: pairs formed, pruned, limited, frozen and thawed, and the triggered-check queue.

RFC 8445 sections 6.1.2 and 6.1.4, RFC 8838 sections 10 to 12 for pairs that come late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from iceagent.core.address import TransportAddress
from iceagent.core.ice.candidate import Candidate
from iceagent.core.ice.pair import CheckPair, PairState, Path
from iceagent.core.ice.tcp import checks_by_itself


def path_of(local: Candidate, remote: Candidate) -> Path | None:
    """Return the path between two candidates, or None when they must not be paired.

    Only addresses of one family are paired, and IPv6 link-local ones only with their kind (RFC 8445 section 6.1.2.2).
    Loopback is treated alike: a peer elsewhere could otherwise make us probe our own services. The zone of a
    link-local path is the local one, since a signalled address has none.
    """
    base, remote_address = local.path_base, remote.address
    if local.transport != remote.transport or local.component != remote.component:
        return None
    if base.family != remote_address.family:
        return None
    ours, theirs = base.ip, remote_address.ip
    if ours.is_loopback != theirs.is_loopback:
        return None
    if base.family == 6:
        if ours.is_link_local != theirs.is_link_local:
            return None
        _, percent, zone = base.host.partition("%")
        if percent and "%" not in remote_address.host:
            remote_address = TransportAddress(f"{remote_address.host}%{zone}", remote_address.port)
    return (base, remote_address)


class Checklist:
    """All pairs of the one component, one per path."""

    def __init__(self, max_pairs: int, on_state: Callable[[CheckPair], None]) -> None:
        self._max_pairs = max_pairs
        self._on_state = on_state
        self._triggered: deque[CheckPair] = deque()
        self._started = False
        self.pairs: dict[Path, CheckPair] = {}

    def __iter__(self) -> Iterator[CheckPair]:
        return iter(self.pairs.values())

    def set_state(self, pair: CheckPair, state: PairState) -> None:
        """Move a pair to a state and tell."""
        if pair.state is not state:
            pair.set_state(state)
            self._on_state(pair)

    # Forming.

    def form(self, candidates: Iterable[tuple[Candidate, Candidate]], controlling: bool) -> bool:
        """Form pairs of (local, remote) candidates, best first; return False if the limit cost any pair.

        A reflexive local candidate stands for its base, so its pair is redundant wherever the base has its own
        (RFC 8445 section 6.1.2.4); the better local candidate gives the pair its priority.
        """
        fresh: list[CheckPair] = []
        for local, remote in candidates:
            path = path_of(local, remote) if checks_by_itself(local, remote) else None
            if path is None:
                continue
            known = self.pairs.get(path)
            if known is None:
                pair = CheckPair(local, remote, path[0], path[1], priority=0)
                pair.rank(controlling)
                fresh.append(pair)
            elif local.priority > known.local.priority:
                known.local = local
                known.rank(controlling)
        fresh.sort(key=lambda pair: pair.check_order, reverse=True)
        all_fit = True
        for pair in fresh:
            all_fit = self.insert(pair) and all_fit
        return all_fit

    def insert(self, pair: CheckPair, *, needed: bool = False) -> bool:
        """Insert a new pair, making room by discarding the lowest-priority one not in use (RFC 8445 section 6.1.2.5).

        Args:
            pair: a pair whose path is not in the list yet.
            needed: the peer's check asked for it, so a lower-ranked pair gives way even if its priority is higher.

        Returns:
            False if there is no room for it, or another pair had to go.
        """
        kept_all = True
        if len(self.pairs) >= self._max_pairs:
            kept_all = False
            busy = (PairState.IN_PROGRESS, PairState.SUCCEEDED)
            idle = [other for other in self if other.state not in busy and not other.consent_lost]
            worst = min(idle, key=lambda other: (other.state is not PairState.FAILED, other.check_order), default=None)
            if worst is None or (
                worst.state is not PairState.FAILED and worst.check_order >= pair.check_order and not needed
            ):
                return False
            self.forget(worst)
        self.pairs[pair.path] = pair
        if self._started:
            self._set_initial_state(pair)
        self._on_state(pair)
        return kept_all

    def start(self) -> None:
        """Set the initial states of all pairs: the best of each foundation waits, the others are frozen.

        Source: RFC 8445 section 6.1.2.6.
        """
        self._started = True
        self._thaw()

    def rank_all(self, controlling: bool) -> None:
        """Compute all priorities anew."""
        for pair in self:
            pair.rank(controlling)

    def forget(self, pair: CheckPair) -> None:
        """Take a pair out of the list."""
        del self.pairs[pair.path]
        self.untrigger(pair)

    # Freezing and thawing.

    def _set_initial_state(self, pair: CheckPair) -> None:
        # RFC 8838 section 12: a late pair waits if its foundation has succeeded, or if none of it waits or is checked.
        same = [other for other in self if other is not pair and other.foundation == pair.foundation]
        succeeded = any(other.state is PairState.SUCCEEDED for other in same)
        if succeeded or not any(other.state in (PairState.WAITING, PairState.IN_PROGRESS) for other in same):
            pair.set_state(PairState.WAITING)

    def _held_foundations(self) -> set[tuple[str, str]]:
        # Deviation from RFC 8445 section 6.1.4.2 step 2, where an In-Progress pair holds its foundation back until its
        # transaction ends, 39.5 s after it began if nothing answers. Here only a check that has not been retransmitted
        # does: after one silent RTO the next pair of the group gets its turn.
        return {
            pair.foundation
            for pair in self
            if pair.state is PairState.WAITING
            or (pair.state is PairState.IN_PROGRESS and (pair.check is None or pair.check.sends <= 1))
        }

    def _thaw(self) -> None:
        """Let the best frozen pair of each foundation wait that is not held back."""
        held = self._held_foundations()
        for pair in sorted(self, key=lambda pair: pair.check_order, reverse=True):
            if pair.state is PairState.FROZEN and pair.foundation not in held:
                held.add(pair.foundation)
                self.set_state(pair, PairState.WAITING)

    def thaw_foundation(self, foundation: tuple[str, str]) -> None:
        """Let all frozen pairs of a foundation wait: one of them has succeeded (RFC 8445 section 7.2.5.3.3)."""
        for pair in self:
            if pair.state is PairState.FROZEN and pair.foundation == foundation:
                self.set_state(pair, PairState.WAITING)

    # Choosing.

    def trigger(self, pair: CheckPair) -> None:
        """Queue a triggered check, once (RFC 8445 section 6.1.4.1)."""
        if pair not in self._triggered:
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
        if (not found or found[0].is_tcp) and self._started:
            self._thaw()
            found = self._waiting()
        return found

    def has_ordinary(self) -> bool:
        """Whether `next_ordinary` would return a pair."""
        if not self._started:
            return False
        if any(pair.state is PairState.WAITING for pair in self):
            return True
        frozen = {pair.foundation for pair in self if pair.state is PairState.FROZEN}
        return bool(frozen) and not frozen <= self._held_foundations()

    def count(self, state: PairState) -> int:
        """Return how many pairs are in a state."""
        return sum(pair.state is state for pair in self)

    def _waiting(self) -> list[CheckPair]:
        waiting = [pair for pair in self if pair.state is PairState.WAITING]
        waiting.sort(key=lambda pair: pair.check_order, reverse=True)
        return waiting
