"""Every kind of NAT against every other, on real kernels."""

from __future__ import annotations

import pytest
from natlab_experiments import Outcome, Scenario, judge, matrix_scenarios


@pytest.mark.parametrize("scenario", matrix_scenarios(), ids=str)
def test_a_file_comes_through_every_pair_of_nats(scenario: Scenario, outcome: Outcome) -> None:
    """Direct wherever two NATs let a hole be punched: a relay costs its owner money and the user time."""
    judge(scenario, outcome)
