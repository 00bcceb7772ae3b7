"""How much is tried: a fixed part of it in `make test`, all of it in `make thorough`, which CI runs besides.

What has many examples of one kind, seeds, mutants or pairs of behaviours, and takes long with all of them, says both
numbers. Every test that does is marked `thorough`, so that `make thorough` runs it again, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import settings

T = TypeVar("T")
THOROUGH = bool(os.environ.get("ICEAGENT_THOROUGH"))


def amount(whole: int, part: int) -> int:
    """Return how many to try here and now."""
    return whole if THOROUGH else part


def spread(cases: Sequence[T], part: int) -> Sequence[T]:
    """Return all cases, or a part of them, always the same, at even distances from the first to the last."""
    if THOROUGH or part >= len(cases):
        return cases
    return [cases[number * (len(cases) - 1) // (part - 1)] for number in range(part)]


def examples(whole: int, part: int, **options: Any) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorate a test of Hypothesis: so many examples, or a part of them; `options` are further settings."""

    def decorate(test: Callable[..., T]) -> Callable[..., T]:
        tried = settings(max_examples=amount(whole, part), **options)(test)
        return pytest.mark.thorough(tried)

    return decorate
