"""Runs the experiments of all selected tests side by side, and shows the matrix at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from natlab import NatKind, why_not
from natlab_experiments import WORKERS, Outcome, Scenario, carry_out

RESULT = Path(__file__).resolve().parents[2] / "build" / "natlab.json"
OUTCOMES = pytest.StashKey[dict[Scenario, "Future[Outcome]"]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.processes)


@pytest.fixture(autouse=True, scope="session")
def laboratory() -> None:
    """Skip all where no laboratory can be built."""
    if reason := why_not():
        pytest.skip(f"no laboratory here: {reason}")


@pytest.fixture(scope="session")
def experiments(request: pytest.FixtureRequest, laboratory: None) -> Iterator[dict[Scenario, Future[Outcome]]]:
    """The outcomes to come of every scenario that a selected test names."""
    selected = [getattr(item, "callspec", None) for item in request.session.items]
    found = [spec.params["scenario"] for spec in selected if spec is not None and "scenario" in spec.params]
    with ThreadPoolExecutor(WORKERS) as pool:
        begun = {one: pool.submit(carry_out, one) for one in dict.fromkeys(found)}
        request.session.stash[OUTCOMES] = begun
        yield begun
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def outcome(scenario: Scenario, experiments: dict[Scenario, Future[Outcome]]) -> Outcome:
    """What came of the scenario."""
    return experiments[scenario].result()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the matrix, and write it down."""
    session = getattr(terminalreporter, "_session", None)
    begun = {} if session is None else session.stash.get(OUTCOMES, {})
    done = {one.name: future.result() for one, future in begun.items() if future.done() and not future.exception()}
    cells = {f"{a.value} to {b.value}" for a in NatKind for b in NatKind}
    if not cells & done.keys():
        return
    terminalreporter.section("NAT of the one home (rows) and of the other (columns)")
    for line in table(lambda a, b: done.get(f"{a.value} to {b.value}")):
        terminalreporter.write_line(line)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(
        json.dumps({"schema": 1, "experiments": {name: entry(one) for name, one in done.items()}}, indent=1)
    )
    terminalreporter.write_line(f"as JSON: {RESULT.relative_to(config.rootpath)}")


def table(outcome_of: Callable[[NatKind, NatKind], Outcome | None]) -> Iterator[str]:
    """Give the lines of the matrix: how each pair got through, and the seconds from typing to the whole file."""
    width = max(len(kind.value) for kind in NatKind)
    yield "  ".join([" " * width, *(kind.value.rjust(width) for kind in NatKind)])
    for a in NatKind:
        outcomes = [outcome_of(a, b) for b in NatKind]
        shown = ["-" if one is None else f"{one.kind} {one.seconds:.1f}" for one in outcomes]
        yield "  ".join([a.value.ljust(width), *(text.rjust(width) for text in shown)])


def entry(outcome: Outcome) -> dict[str, object]:
    """Return an outcome as JSON."""
    return {
        "result": outcome.kind,
        "seconds": round(outcome.seconds, 3),
        "path": outcome.path,
        "error": outcome.error,
        "exits": outcome.exits,
    }
