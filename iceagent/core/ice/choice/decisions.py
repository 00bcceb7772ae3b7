"""The mechanism's side of the controller: asks it, checks its answers, and tolerates bad ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from iceagent.core.ice.choice.controller import (
    CheckQuestion,
    Choice,
    Controller,
    DefaultController,
    FalterQuestion,
    NominationQuestion,
    Search,
    SearchQuestion,
    SwitchQuestion,
)
from iceagent.core.ice.events import ControllerFailed
from iceagent.core.ice.model.pair import Check, CheckPair, PairFacts, PathAddresses
from iceagent.core.ice.outbox import Outbox

T = TypeVar("T")


class Decisions:
    """Asks the controller. One that raises or names a foreign pair is reported once, and replaced by the default."""

    def __init__(self, controller: Controller, outbox: Outbox) -> None:
        self._controller = controller
        self._outbox = outbox

    def check(self, question: CheckQuestion, offered: Iterable[CheckPair]) -> CheckPair | None:
        """Return the pair to check in this slot, or None."""
        by_path = _by_path(offered)

        def ask(controller: Controller) -> CheckPair | None:
            answer = controller.choose_check(question)
            return None if answer is None else _named(answer, by_path)

        return self._ask("choose_check", ask)

    def nomination(self, question: NominationQuestion, offered: Iterable[CheckPair]) -> tuple[CheckPair, float] | None:
        """Return the pair to nominate and when, or None."""
        by_path = _by_path(offered)
        return self._ask(
            "choose_nomination", lambda controller: _chosen(controller.choose_nomination(question), by_path)
        )

    def switch(self, question: SwitchQuestion, offered: Iterable[CheckPair]) -> tuple[CheckPair, float] | None:
        """Return the pair to move data to and when, or None."""
        by_path = _by_path(offered)
        return self._ask("choose_switch", lambda controller: _chosen(controller.choose_switch(question), by_path))

    def search(self, question: SearchQuestion, offered: Iterable[CheckPair]) -> tuple[list[CheckPair], float] | None:
        """Return the pairs to check although one is selected and when, or None."""
        by_path = _by_path(offered)

        def ask(controller: Controller) -> tuple[list[CheckPair], float] | None:
            answer = controller.search_on(question)
            if answer is None:
                return None
            pairs, at = Search(*answer)
            return list(dict.fromkeys(_named(pair, by_path) for pair in pairs)), _time(at)

        return self._ask("search_on", ask)

    def gives_way_at(self, pair: CheckPair, probe: Check, is_lossy: float, now: float) -> float:
        """Return when the pair in use, which is probed, counts as faltering."""
        question = FalterQuestion(pair.facts(), probe.started_at, probe.gaps_s, is_lossy, now)
        return self._ask("gives_way_at", lambda controller: _time(controller.gives_way_at(question)))

    def _ask(self, name: str, ask: Callable[[Controller], T]) -> T:
        try:
            return ask(self._controller)
        except Exception as error:
            # A controller is the user's code, and runs while bytes of the network are dealt with: those never raise.
            self._outbox.emit(ControllerFailed(name, _what(error)))
            self._controller = DefaultController()
            return ask(self._controller)


def facts_of(pairs: Iterable[CheckPair]) -> tuple[PairFacts, ...]:
    """Return what a controller may know of some pairs."""
    return tuple(pair.facts() for pair in pairs)


def _by_path(pairs: Iterable[CheckPair]) -> dict[PathAddresses, CheckPair]:
    return {pair.path: pair for pair in pairs}


def _named(answer: PairFacts, offered: dict[PathAddresses, CheckPair]) -> CheckPair:
    pair = offered.get(answer.path)
    if pair is None:
        raise ValueError("it named a pair that was not in the question")
    return pair


def _chosen(answer: Choice | None, offered: dict[PathAddresses, CheckPair]) -> tuple[CheckPair, float] | None:
    if answer is None:
        return None
    pair, at = Choice(*answer)
    return _named(pair, offered), _time(at)


def _time(at: float) -> float:
    if math.isnan(at):
        raise ValueError("it answered with a time that is not a number")
    return float(at)


def _what(error: Exception) -> str:
    trace, place = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f" ({code.co_filename.replace(chr(92), '/').rpartition('/')[2]}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{place}"


def best_first(pairs: Iterable[CheckPair]) -> Sequence[CheckPair]:
    """Return pairs by priority, highest first."""
    return sorted(pairs, key=lambda pair: pair.priority, reverse=True)
