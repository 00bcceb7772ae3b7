"""docs/scale.md: its tables are what `make scale` prints, and the simulation behind them does what it says."""

from __future__ import annotations

import random
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "scale.md"


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["scale"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_what_is_printed(scale: ModuleType) -> None:
    """Whoever changes a figure or the pauses of the client sees here that the page is no longer true."""
    page = PAGE.read_text(encoding="utf-8")
    assert [table for table in scale.tables().split("\n\n") if table not in page] == []


def test_what_is_needed_grows_with_the_members(scale: ModuleType) -> None:
    """Twice the members want twice the processors, and no limit is left out."""
    numbers = []
    for members in (200_000, 400_000):
        assumed = scale.Assumed(members=members)
        busiest = scale.day(assumed, random.Random(1))
        numbers.append([max(part.by_limit.values()) for part in scale.needs(scale.MEASURED, assumed, busiest)])
    assert [large / small for small, large in zip(*numbers, strict=True)] == pytest.approx([2.0, 2.0, 2.0], rel=0.05)


def test_whoever_finds_a_node_free_is_back_after_one_pause(scale: ModuleType) -> None:
    """And with nodes that have time for 100 a second, 1,000 take 10 s: nobody gives up."""
    one = scale.Comeback(1, 0.001, 0.0001, random.Random(1)).run(iter([0.0]))
    assert one.attempts == 1
    assert 0.075 <= one.all_s - 0.001 * scale.STANDS_FOR <= 0.125
    many = scale.Comeback(1, 0.01, 0.001, random.Random(1)).run(iter([0.0] * 95))
    assert many.attempts == 1
    assert many.all_s == pytest.approx(95 * 0.01 * scale.STANDS_FOR, abs=0.2)


def test_everybody_comes_back_at_last_through_overload_and_an_absent_store(scale: ModuleType) -> None:
    """More than can be let in before they give up: they try again, and none is lost or counted twice."""
    back = scale.Comeback(2, 0.01, 0.003, random.Random(1), away_s=15.0).run(iter([0.0] * 1_000))
    assert back.number == 1_000 * scale.STANDS_FOR
    assert back.attempts > 1.5
    assert back.all_s > max(15.0, 1_000 * 0.01 * scale.STANDS_FOR / 2)


def test_a_rollout_moves_members_less_than_twice(scale: ModuleType) -> None:
    """Of two nodes started anew each member of the first is moved twice, of the second once."""
    assert scale.moves(2) == 1.5
    assert 1.5 < scale.moves(24) < 2.0
