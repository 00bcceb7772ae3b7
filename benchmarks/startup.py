"""How long commands take to start, beside `python -c pass`: the list of verbs, what a link imports, a verb's module.

    startup.py [--runs 20] [--smoke]

Each line is a median over processes of their own, interleaved, so that a busy moment is everybody's. Compiled modules
are kept, as where a package is installed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

CASES = {
    "python -c pass": ("-c", "pass"),
    "import trio": ("-c", "import trio"),
    "iceagent --help": ("-m", "iceagent", "--help"),
    "iceagent forward --help": ("-m", "iceagent", "forward", "--help"),
    "import of a link": ("-c", "import iceagent; iceagent.join"),
}
TARGETS_MS = {"iceagent --help": 150.0, "import of a link": 300.0}
"""On a quiet machine of two cores; the ratio is what can be compared between machines."""


def milliseconds(arguments: tuple[str, ...]) -> float:
    """Return how long a process takes from start to end."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    began_at = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=environment, check=True)
    return 1000 * (time.perf_counter() - began_at)


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for arguments in CASES.values():
        milliseconds(arguments)  # compiles what is not compiled yet
    for _ in range(2 if options.smoke else options.runs):
        for name, arguments in CASES.items():
            times[name].append(milliseconds(arguments))
    yardstick = statistics.median(times["python -c pass"])
    for name, values in times.items():
        median = statistics.median(values)
        target = f", target {TARGETS_MS[name]:.0f} ms" if name in TARGETS_MS else ""
        ratio = f"{median / yardstick:5.1f} times `pass`, least {min(values):6.1f}"
        print(f"{name:24} median {median:6.1f} ms, {ratio}{target}")


if __name__ == "__main__":
    main()
