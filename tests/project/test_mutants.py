"""The runner of mutants: what it calls killed, and what it does not let pass."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants_runner", ROOT / "tests" / "mutants" / "mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


RUNNER = _runner()
FOLDER = ROOT / "tests" / "mutants"

CODE = """
def limit(asked):
    return min(asked, 10)
"""
TESTS = """
import pytest
from code_of_it import limit

def test_trap_1_a_limit_holds():
    assert limit(11) == 10

def test_trap_1_nothing_is_looked_at():
    limit(11)

@pytest.fixture
def watched():
    yield
    assert limit(11) == 10

def test_trap_1_a_fixture_looks(watched):
    pass

def test_trap_1_fails_anyway():
    assert False

@pytest.mark.skip(reason="not here")
def test_trap_1_is_skipped():
    pass
"""


# Each of the many processes starts without the plugins that its tests do not need.
PYTEST_INI = "[pytest]\naddopts = -p no:trio -p no:xdist -p no:iceagent_vnet -p no:hypothesispytest\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project of one module and its tests, in a repository of its own."""
    (tmp_path / "code_of_it.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "test_it.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(PYTEST_INI, encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def mutant(test: str, find: str = "min(asked, 10)", replace: str = "asked", by: str = "call") -> Any:
    return RUNNER.Mutant(1, test, "code_of_it.py", find, replace, f"test_it.py::{test}", by)


@pytest.mark.processes
def test_only_a_test_that_notices_kills(tree: Path) -> None:
    """A runner that takes any red for a success would call a defence tested that is not."""
    looks = "test_trap_1_a_limit_holds"
    expected = {
        mutant(looks): "killed",
        mutant("test_trap_1_nothing_is_looked_at"): "SURVIVED",
        mutant("test_trap_1_a_fixture_looks"): "broken",
        mutant("test_trap_1_fails_anyway"): "broken",
        mutant("test_trap_1_is_skipped"): "skipped",
        mutant("test_trap_1_that_was_renamed"): "stale",
        mutant(looks, find="max(asked, 10)"): "stale",
        mutant(looks, find="asked"): "stale",
        mutant(looks, replace="min(asked, 10"): "broken",
        mutant(looks, find="\ndef limit", replace="import no_such_module\ndef limit"): "broken",
    }
    found = {one: str(verdict.fate) for one, verdict in RUNNER.try_all(list(expected), tree)}
    assert found == expected
    assert (tree / "code_of_it.py").read_text(encoding="utf-8") == CODE, "only copies are changed"


TIMEOUT = "Failed: Timeout (>120.0s) from pytest-timeout."


@pytest.mark.parametrize(
    ("by", "when", "message", "fate"),
    [
        ("call", "call", "assert 11 == 10", "killed"),
        ("call", "call", "NameError: name 'x' is not defined", "broken"),
        ("call", "call", TIMEOUT, "broken"),
        ("timeout", "call", TIMEOUT, "killed"),
        ("call", "teardown", "AssertionError: sockets left open", "broken"),
        ("teardown", "teardown", "AssertionError: sockets left open", "killed"),
        ("teardown", "setup", "AssertionError: no relay", "broken"),
        ("teardown", "call", "assert 11 == 10", "broken"),
    ],
)
def test_what_notices_is_what_the_entry_says(by: str, when: str, message: str, fate: str) -> None:
    """A fixture or a timeout that fails says nothing about the defence, unless it is what looks after it."""
    phases = [RUNNER.Phase("test_it.py::test", when, "failed", message)]
    assert RUNNER.judge(mutant("test", by=by), phases).fate == fate


def test_a_test_that_does_not_end_notices_nothing_unless_that_is_its_subject() -> None:
    """Where the whole process hangs there are no outcomes to read."""
    assert RUNNER.judge(mutant("test"), None).fate == "broken"
    assert RUNNER.judge(mutant("test", by="timeout"), None).fate == "killed"


def test_every_mutant_can_be_tried() -> None:
    """Its text occurs once, its test exists, and what it leaves compiles: found here, before `make mutants` runs."""
    found = {one.what: RUNNER.stale(one, ROOT) for one in RUNNER.read_mutants(FOLDER)}
    assert {what: verdict.why for what, verdict in found.items() if verdict is not None} == {}


def test_every_mutant_is_tried_by_a_test_of_its_trap() -> None:
    """The name of a test is what ties it to the row of docs/security.md."""
    wrong = [
        one.test
        for one in RUNNER.read_mutants(FOLDER)
        if not one.test.rpartition("::")[2].startswith((f"test_trap_{one.trap}_", f"test_trap_{one.trap:02}_"))
    ]
    assert wrong == []
