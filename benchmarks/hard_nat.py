"""How long hard NATs take, and how many packets: each pair with many seeds, in the virtual network.

    python benchmarks/hard_nat.py [SEEDS]     20 unless given; --smoke: one

Prints for each pair how many of the runs had a direct path within 10 s and within 25 s, and of those the median, the
90th percentile and the maximum of seconds and of packets sent by both sides together.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from hard_homes import ROWS, play_all


def line(values: list[float]) -> str:
    """Return median, 90th percentile and maximum."""
    ranked = sorted(values)
    at = [ranked[len(ranked) // 2], ranked[len(ranked) * 9 // 10], ranked[-1]]
    return " ".join(f"{value:7.1f}" for value in at)


def main() -> None:
    """Play each pair and print a line."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else "20"
    seeds = range(1, 1 + (1 if wanted == "--smoke" else int(wanted)))
    print(f"{'':52} in 10 s, 25 s     seconds                 packets")
    for left, right in ROWS:
        stories = play_all(left, right, seeds, patience_s=25.0)
        times = [one.connected_s for one in stories if one.connected_s is not None]
        packets = [float(sum(one.packets)) for one in stories if one.connected_s is not None]
        in_time = sum(one <= 10.0 for one in times)
        if not times:
            print(f"{f'{left} to {right}':52} none of {len(stories)}", flush=True)
            continue
        print(f"{f'{left} to {right}':52} {in_time:4} {len(times):4}  {line(times)}  {line(packets)}", flush=True)


if __name__ == "__main__":
    main()
