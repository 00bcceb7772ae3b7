"""`make matrix`: all 9 by 9 pairs of NAT behaviours, and the places where users sit; see docs/vnet.md.

Prints the table, writes build/matrix.json, and fails where agents and oracle disagree.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from vnet_matrix import BEHAVIOURS, PLACES, Meeting, meet_at, meet_behind

from iceagent import vnet

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "build" / "matrix.json"
SEED = 1


def main() -> int:
    """Carry out all meetings; return 1 if the oracle disagrees with one."""
    start = time.process_time()
    cells = {}
    for left, right in product(BEHAVIOURS, BEHAVIOURS):
        cells[f"{left} to {right}"] = vnet.run(partial(meet_behind, vnet.Network(SEED), left, right), seed=SEED)
    places = {}
    for name, place in PLACES.items():
        places[name] = vnet.run(partial(meet_at, vnet.Network(SEED, families=place.families), place), seed=SEED)
    print("mapping/filtering of the one NAT (rows) and of the other (columns);")
    print(
        "EI: endpoint-independent, AD: address-dependent, APD: address-and-port-dependent; ms until both are connected"
    )
    print()
    for line in table(cells):
        print(line)
    print()
    for name, meeting in places.items():
        print(f"{name:37} {shown(meeting)}")
    print()
    every = [*cells.values(), *places.values()]
    direct = sum(meeting.is_direct for meeting in every)
    agreeing = sum(meeting.agrees for meeting in every)
    took_s = time.process_time() - start
    print(f"{len(every)} meetings, {direct} direct, {len(every) - direct} relayed, 0 failed; ", end="")
    print(f"the oracle agrees with {agreeing}; {took_s:.1f} s of CPU")
    write(cells, places)
    print(f"as JSON: {RESULT.relative_to(ROOT)}")
    return int(agreeing != len(every))


def table(cells: dict[str, Meeting]) -> Iterator[str]:
    """Give the lines of the 9 by 9 table."""
    width = max(map(len, (*BEHAVIOURS, *map(shown, cells.values()))))
    yield "  ".join([" " * 7, *(name.rjust(width) for name in BEHAVIOURS)])
    for left in BEHAVIOURS:
        texts = [shown(cells[f"{left} to {right}"]) for right in BEHAVIOURS]
        yield "  ".join([left.ljust(7), *(text.rjust(width) for text in texts)])


def shown(meeting: Meeting) -> str:
    """Return one cell."""
    kind = "direct" if meeting.is_direct else "relayed"
    return f"{kind} {1000 * meeting.connected_s:.0f}" + ("" if meeting.agrees else " ORACLE DISAGREES")


def write(cells: dict[str, Meeting], places: dict[str, Meeting]) -> None:
    """Write everything down."""
    RESULT.parent.mkdir(exist_ok=True)
    found = {"schema": 1, "seed": SEED, "matrix": entries(cells), "places": entries(places)}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


def entries(meetings: dict[str, Meeting]) -> dict[str, object]:
    """Return meetings as JSON."""
    return {
        name: {
            "result": "direct" if one.is_direct else "relayed",
            "candidates": sorted(one.kinds),
            "connected_ms": round(1000 * one.connected_s, 3),
            "oracle": "direct" if one.told.is_direct else "relayed" if one.told.is_possible else "none",
            "agrees": one.agrees,
        }
        for name, one in meetings.items()
    }


if __name__ == "__main__":
    sys.exit(main())
