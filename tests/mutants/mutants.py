"""Does every defence have a test that fails without it? Takes each one out, in a copy of the tree, and looks.

    python tests/mutants/mutants.py            all of tests/mutants/*.toml
    python tests/mutants/mutants.py --trap 47  those of one trap; may be given again

An entry names the trap of docs/security.md it belongs to, a text that occurs exactly once in a file, what stands there
instead, and the test that must fail upon it:

    [[mutant]]
    trap = 14
    what = "an unauthenticated response refreshes consent"
    file = "iceagent/core/ice/checks/responses.py"
    find = '''if not authenticated:'''
    replace = '''if False:'''
    test = "tests/core/test_ice_traps.py::test_trap_14_only_authenticated_responses_refresh_consent"

A mutant is *killed* when its test passes in the tree as it is and fails, in its own body, in the tree that was changed.
It *SURVIVED* when the test passes there too. It is *stale* when its text or its test is gone, and *broken* when what
failed was not the test: a file that no longer compiles or can be imported, a fixture, a timeout. Where a fixture or a
timeout is the very thing that notices, the entry says so: `by = "teardown"` or `by = "timeout"`.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2
PATIENCE_S = 300.0
"""For one test with one mutant; pytest's own limit ends it before."""
NOT_THE_TEST = ("NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "SyntaxError")
"""What a change that was made badly raises wherever it is: no test has noticed anything."""


@dataclass(frozen=True, slots=True)
class Mutant:
    trap: int
    what: str
    file: str
    find: str
    replace: str
    test: str
    by: Literal["call", "teardown", "timeout"] = "call"


class Fate(StrEnum):
    KILLED = "killed"
    SURVIVED = "SURVIVED"
    STALE = "stale"
    BROKEN = "broken"
    SKIPPED = "skipped"


GOOD = (Fate.KILLED, Fate.SKIPPED)


class Verdict(NamedTuple):
    fate: Fate
    why: str = ""
    seconds: float = 0.0


class Phase(NamedTuple):
    """How one phase (collect, setup, call, teardown) of one test ended."""

    test: str
    when: str
    outcome: str
    message: str


def read_mutants(folder: Path) -> list[Mutant]:
    """Return what the files in the folder list, by trap.

    Raises:
        ValueError: an entry lacks a key or has one too many; the message names the file.
    """
    mutants = []
    for path in sorted(folder.glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]:
            try:
                mutants.append(Mutant(**entry))
            except TypeError as error:
                raise ValueError(f"{path.name}: {error}") from None
    return sorted(mutants, key=lambda mutant: mutant.trap)


def apply(mutant: Mutant, root: Path) -> str:
    """Return the text of the mutant's file with the mutation in it.

    Raises:
        ValueError: it cannot be applied: its file, its text or its test is gone, or nothing would change.
    """
    path = root / mutant.file
    if not path.is_file():
        raise ValueError(f"there is no {mutant.file}")
    text = path.read_text(encoding="utf-8")
    if (times := text.count(mutant.find)) != 1:
        raise ValueError(f"its text occurs {times} times in {mutant.file}")
    if mutant.find == mutant.replace:
        raise ValueError("it changes nothing")
    module, _, name = mutant.test.partition("::")
    function = name.rpartition("::")[2].partition("[")[0]
    if not (root / module).is_file() or f"def {function}(" not in (root / module).read_text(encoding="utf-8"):
        raise ValueError(f"there is no {mutant.test}")
    return text.replace(mutant.find, mutant.replace)


@contextmanager
def applied(mutant: Mutant, root: Path) -> Iterator[None]:
    """Change the tree, and put it back. Times of change differ, so that no compiled file is taken for another."""
    path = root / mutant.file
    before, stat = path.read_bytes(), path.stat()
    path.write_text(apply(mutant, root), encoding="utf-8")
    os.utime(path, (stat.st_atime, stat.st_mtime + 3600))
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, (stat.st_atime, stat.st_mtime))


def copy_tree(source: Path, to: Path) -> None:
    """Copy what git knows, or would know."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=source,
        capture_output=True,
        check=True,
    ).stdout
    for name in listed.decode().split("\0"):
        if name and (source / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, to / name)


def run_tests(root: Path, tests: Sequence[str], *, keep_compiled: bool, patience_s: float) -> list[Phase] | None:
    """Run these tests of the tree at root; None if they did not end in time."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder) / "outcomes"
        outcomes.touch()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (root, root / "signal", Path(__file__).parent))),
            "MUTANTS_OUTCOMES": str(outcomes),
        }
        if not keep_compiled:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "outcomes", "-p", "no:cacheprovider", *tests]
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None
        return [Phase(**json.loads(line)) for line in outcomes.read_text(encoding="utf-8").splitlines()]


def without(phases: Sequence[Phase], test: str) -> Verdict | None:
    """Say what is wrong with a test in the tree as it is; None if it passes there."""
    own = [phase for phase in phases if phase.test == test or phase.test.startswith((test + "[", test + "::"))]
    module = test.partition("::")[0]
    unread = [phase for phase in phases if phase.when == "collect" and phase.test.partition("::")[0] == module]
    if bad := unread or [phase for phase in own if phase.outcome == "failed"]:
        return Verdict(Fate.BROKEN, f"its test fails in the tree as it is: {_short(bad[0].message)}")
    if any(phase.when == "call" and phase.outcome == "passed" for phase in own):
        return None
    skipped = [phase.message for phase in own if phase.outcome == "skipped"]
    return Verdict(Fate.SKIPPED, _short(skipped[0])) if skipped else Verdict(Fate.STALE, f"{test} does not run")


def judge(mutant: Mutant, phases: Sequence[Phase] | None) -> Verdict:
    """Say what became of a mutant."""
    if phases is None:
        return Verdict(Fate.KILLED) if mutant.by == "timeout" else Verdict(Fate.BROKEN, "the test does not end")
    failed = [phase for phase in phases if phase.outcome == "failed"]
    if not failed:
        ran = any(phase.when == "call" for phase in phases)
        return Verdict(Fate.SURVIVED, mutant.test) if ran else Verdict(Fate.BROKEN, "the test did not run")
    for phase in failed:
        way = "timeout" if "from pytest-timeout" in phase.message else phase.when
        if way == mutant.by and not any(name in phase.message.partition("\n")[0] for name in NOT_THE_TEST):
            return Verdict(Fate.KILLED)
    return Verdict(Fate.BROKEN, f"{failed[0].when}: {_short(failed[0].message)}")


def _short(text: str) -> str:
    return " ".join(text.split())[:160]


class Laboratory:
    """Copies of the tree, one per worker, in which mutants are tried."""

    def __init__(self, source: Path, folder: Path, workers: int = WORKERS) -> None:
        self.trees = [folder / f"tree-{number}" for number in range(workers)]
        for tree in self.trees:
            copy_tree(source, tree)
        self._lock = threading.Lock()

    def in_turn(self, jobs: Sequence[tuple[Mutant, Verdict | None]]) -> Iterator[tuple[Mutant, Verdict]]:
        """Give each mutant with what became of it, as soon as it is known."""
        todo: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Mutant, Verdict]] = queue.SimpleQueue()
        for mutant, verdict in jobs:
            if verdict is None:
                todo.put(mutant)
            else:
                done.put((mutant, verdict))
        threads = [threading.Thread(target=self._work, args=(tree, todo, done), daemon=True) for tree in self.trees]
        for thread in threads:
            thread.start()
        for _ in jobs:
            yield done.get()

    def _work(
        self,
        tree: Path,
        todo: queue.SimpleQueue[Mutant],
        done: queue.SimpleQueue[tuple[Mutant, Verdict]],
    ) -> None:
        while True:
            try:
                mutant = todo.get_nowait()
            except queue.Empty:
                return
            started = time.monotonic()
            try:
                with applied(mutant, tree):
                    phases = run_tests(tree, [mutant.test], keep_compiled=False, patience_s=PATIENCE_S)
                verdict = judge(mutant, phases)
            except Exception as error:  # the other mutants go on, and this one is no success
                verdict = Verdict(Fate.BROKEN, repr(error))
            done.put((mutant, verdict._replace(seconds=time.monotonic() - started)))

    def as_it_is(self, tests: Sequence[str]) -> list[Phase]:
        """Run these tests in the trees as they are, shared among them; this also compiles the trees."""
        found: list[Phase] = []

        def run(tree: Path, share: Sequence[str]) -> None:
            phases = run_tests(tree, share, keep_compiled=True, patience_s=PATIENCE_S * max(1, len(share)))
            with self._lock:
                found.extend(phases or [])

        shares = [tests[number :: len(self.trees)] for number in range(len(self.trees))]
        threads = [threading.Thread(target=run, args=both) for both in zip(self.trees, shares, strict=True) if both[1]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


def stale(mutant: Mutant, root: Path) -> Verdict | None:
    """Say why a mutant cannot even be tried; None if it can."""
    try:
        text = apply(mutant, root)
    except ValueError as error:
        return Verdict(Fate.STALE, str(error))
    if mutant.file.endswith(".py"):
        try:
            compile(text, mutant.file, "exec")
        except SyntaxError as error:
            return Verdict(Fate.BROKEN, f"what it leaves does not compile: {error}")
    return None


def try_all(mutants: Sequence[Mutant], source: Path) -> Iterator[tuple[Mutant, Verdict]]:
    """Give each mutant with what became of it, as soon as it is known."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        laboratory = Laboratory(source, Path(folder))
        early = {mutant: stale(mutant, source) for mutant in mutants}
        tests = sorted({mutant.test for mutant in mutants if early[mutant] is None})
        phases = laboratory.as_it_is(tests) if tests else []
        yield from laboratory.in_turn([(m, early[m] or without(phases, m.test)) for m in mutants])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trap", type=int, action="append", help="only this trap's mutants; may be given again")
    options = parser.parse_args(arguments)
    mutants = read_mutants(ROOT / "tests" / "mutants")
    chosen = [mutant for mutant in mutants if not options.trap or mutant.trap in options.trap]
    counts = dict.fromkeys(Fate, 0)
    print(f"{'trap':>4}  {'fate':8}  {'seconds':>7}  the defence that was taken out")
    for mutant, verdict in try_all(chosen, ROOT):
        counts[verdict.fate] += 1
        why = f": {verdict.why}" if verdict.why else ""
        print(f"{mutant.trap:>4}  {verdict.fate:8}  {verdict.seconds:>7.1f}  {mutant.what}{why}", flush=True)
    print(", ".join(f"{count} {fate}" for fate, count in counts.items() if count) or "no mutants")
    return 0 if chosen and all(fate in GOOD for fate, count in counts.items() if count) else 1


if __name__ == "__main__":
    sys.exit(main())
