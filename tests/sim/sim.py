"""`make sim SEEDS=N`: worlds drawn from seeds, and in each what must hold of two agents; see docs/vnet.md.

A seed that fails prints one line with the command that repeats it. With --verbose, or a single seed, all is shown.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from sim_run import Outcome, run_seed

CHUNK = 8
PROGRESS = 200  # seeds between two lines that say how far it is


def main() -> int:
    """Run the seeds; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first one")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--verbose", action="store_true", help="show every seed")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    print(f"sim: {len(seeds)} seeds from {options.first}", flush=True)
    start = time.perf_counter()
    outcomes = []
    for outcome in _run(seeds, options.jobs):
        outcomes.append(outcome)
        _show(outcome, verbose=options.verbose or len(seeds) == 1)
        if len(outcomes) % PROGRESS == 0 and len(outcomes) < len(seeds):
            print(f"sim: {len(outcomes)} done, {sum(bool(one.failure) for one in outcomes)} failed", flush=True)
    _summarise(outcomes, time.perf_counter() - start)
    return int(any(outcome.failure for outcome in outcomes))


def _run(seeds: range, jobs: int):
    if jobs == 1 or len(seeds) == 1:
        yield from map(run_seed, seeds)
        return
    with ProcessPoolExecutor(jobs, initializer=_collect_seldom) as pool:
        yield from pool.map(run_seed, seeds, chunksize=CHUNK)


def _collect_seldom() -> None:
    """Leave alone what lives as long as the process, and look seldom at what a world keeps until its end: its trace."""
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def _show(outcome: Outcome, *, verbose: bool) -> None:
    if outcome.failure:
        print(f"FAILED make sim FIRST={outcome.seed} SEEDS=1  # {outcome.failure} [{outcome.words}]", flush=True)
    elif verbose:
        took = "" if outcome.connected_after_s is None else f" after {outcome.connected_after_s:.3f} s"
        luck = " (lucky)" if outcome.is_lucky else " (direct was possible)" if outcome.is_settled_for_less else ""
        print(f"seed {outcome.seed}: {outcome.found}{took}, {outcome.packets} packets{luck} [{outcome.words}]")


def _summarise(outcomes: list[Outcome], seconds: float) -> None:
    kinds = Counter(outcome.found for outcome in outcomes if not outcome.failure)
    times = sorted(o.connected_after_s for o in outcomes if o.connected_after_s is not None)
    lucky = sum(outcome.is_lucky for outcome in outcomes)
    less = sum(outcome.is_settled_for_less for outcome in outcomes)
    failed = sum(bool(outcome.failure) for outcome in outcomes)
    middle = f"{times[len(times) // 2]:.3f} s" if times else "-"
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(f"sim: {len(outcomes)} seeds in {seconds:.0f} s: {found}; connected after {middle} (median)")
    print(f"sim: {lucky} luckier than the oracle, {less} relayed although direct was possible; {failed} failed")


if __name__ == "__main__":
    sys.exit(main())
