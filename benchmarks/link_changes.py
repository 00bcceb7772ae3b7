"""How long a session's data stands still when the network changes under it: median and worst over seeds, virtual time.

    link_changes.py [--seeds 20] [--smoke]

Two sessions behind home NATs, lines of 20 ms and 4 Mbit/s, a transfer of 512 KiB each way; when a third of it has come,
something happens. `gap` is the longest pause of either direction, `after` the time from the moment the network works
again until data has come both ways. The yardstick is what docs/vnet.md promises; every byte is compared.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from virtual_sessions import SCENARIOS, Figures, Scenario, measure


def main() -> int:
    """Run all scenarios; return 1 if one takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="one seed, every fourth scenario")
    options = parser.parse_args()
    seeds = 1 if options.smoke else options.seeds
    start = time.process_time()
    print(f"{'seconds of virtual time':32}  gap median  worst   after median  worst   allowed")
    is_late = False
    for name, scenario in list(SCENARIOS.items())[:: 4 if options.smoke else 1]:
        figures = [measure(seed, scenario.change, **scenario.options) for seed in range(seeds)]
        is_late |= show(name, scenario, figures)
    print(f"{seeds} seeds each, {time.process_time() - start:.0f} s of CPU, no byte lost")
    return int(is_late)


def show(name: str, scenario: Scenario, figures: list[Figures]) -> bool:
    """Print one line; return whether a limit was exceeded."""
    gaps = sorted(one.gap_s for one in figures)
    afters = sorted(one.after_s for one in figures if one.after_s is not None)
    is_late = scenario.gap_s is not None and gaps[-1] >= scenario.gap_s
    is_late |= scenario.after_s is not None and afters[-1] >= scenario.after_s
    after = f"{_median(afters):12.2f} {afters[-1]:6.2f}" if scenario.after_s is not None else " " * 19
    allowed = [f"gap {scenario.gap_s:.1f}"] if scenario.gap_s is not None else []
    allowed += [f"after {scenario.after_s:.2f}"] if scenario.after_s is not None else []
    words = ", ".join(allowed) + ("  EXCEEDED" if is_late else "")
    print(f"{name:32}  {_median(gaps):10.2f} {gaps[-1]:6.2f}   {after}   {words}", flush=True)
    return is_late


def _median(values: list[float]) -> float:
    return values[len(values) // 2]


if __name__ == "__main__":
    sys.exit(main())
