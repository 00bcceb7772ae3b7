"""Two agents behind NATs, 30 % of all packets lost each way: nominated on both sides soon, whatever the seed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PATH = Path(__file__).parents[2] / "benchmarks" / "vnet_loss.py"


def test_thirty_percent_loss_each_way_delays_nomination_by_seconds():
    """`benchmarks/vnet_loss.py --seeds 500` has the whole distribution; docs/timing.md its figures."""
    spec = importlib.util.spec_from_file_location("vnet_loss", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["vnet_loss"] = module
    spec.loader.exec_module(module)
    times = module.times_of(range(1, 61), 0.3)
    assert sum(one <= 10 for one in times) >= 57
    assert times[-1] <= 40
