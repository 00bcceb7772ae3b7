"""A relay that lies as it likes: nobody talks to it or a wrong peer, nothing is heard twice or under a wrong name."""

from __future__ import annotations

import pytest
from amount import amount
from malicious_relay import Liar

STRATEGIES = 10_000  # in parts, so that several workers have something of them
PARTS = 20
STEPS = 50


@pytest.mark.thorough
@pytest.mark.parametrize("part", range(PARTS))
def test_no_strategy_in_a_room_of_many_gets_anybody_to_be_wrong(part: int) -> None:
    """Each complaint is the world's own (`room_worlds`); and an honest relay is of use again afterwards."""
    for number in range(amount(STRATEGIES // PARTS, 2)):
        seed = part * STRATEGIES // PARTS + number
        liar = Liar(seed, size=2 + seed % 4)
        try:
            liar.run(STEPS)
            liar.make_good()
        except AssertionError as error:
            raise AssertionError(f"strategy {seed}: {error}") from error


def test_in_the_midst_of_lies_much_is_said_and_heard() -> None:
    """Else that nothing wrong was heard would show nothing."""
    heard = 0
    for seed in range(12):
        liar = Liar(seed, size=4)
        liar.run(STEPS)
        heard += sum(len(stay.heard) for stay in liar.world.stays)
    assert heard > 100
