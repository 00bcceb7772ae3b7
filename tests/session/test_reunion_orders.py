"""Outages of both sides and restarts of the relay, in any order: transfers arrive whole, and go on soon afterwards."""

from __future__ import annotations

import random

import pytest
import trio
from amount import amount
from virtual_sessions import Change, VirtualSessions, endures

SOON_S = 10.0


def faults(seed: int) -> Change:
    """Each side is cut off once or twice, 20 to 400 s long; the relay forgets all up to three times meanwhile."""
    rng = random.Random(seed)
    cuts = [[(rng.uniform(0, 60), rng.uniform(20, 400)) for _ in range(rng.randint(1, 2))] for _ in range(2)]
    restarts = [rng.uniform(0, 400) for _ in range(rng.randint(0, 3))]

    async def change(lab: VirtualSessions) -> float:
        ended_at = [trio.current_time()]

        async def cut(side: int) -> None:
            for wait_s, length_s in cuts[side]:
                await trio.sleep(wait_s)
                lab.hosts[side].partition()
                await trio.sleep(length_s)
                lab.hosts[side].heal()
                ended_at.append(trio.current_time())

        async def restart(after_s: float) -> None:
            await trio.sleep(after_s)
            lab.relay.restart()
            ended_at.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for side in range(2):
                nursery.start_soon(cut, side)
            for after_s in restarts:
                nursery.start_soon(restart, after_s)
        return max(ended_at)

    return change


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(amount(40, 2)))
def test_outages_of_both_sides_and_of_the_relay_in_any_order(seed):
    endures(faults(seed), seed=seed, within_s=SOON_S)
