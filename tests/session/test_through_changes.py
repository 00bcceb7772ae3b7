"""Whole sessions with transfers both ways, and a network that changes under them: no byte is lost, little time is.

`benchmarks/link_changes.py` prints the figures over many seeds.
"""

from __future__ import annotations

import pytest
import trio
from amount import amount
from virtual_sessions import SCENARIOS, SIZE, carry, connected, measure

from iceagent import vnet

pytestmark = pytest.mark.thorough

BYTES = SIZE // amount(2, 4)


@pytest.mark.parametrize("name", SCENARIOS)
def test_streams_lose_no_byte_and_go_on_in_time(name):
    """`carry` compares checksums; with a backup pair a second is the limit, without 2 RTT + 2 s from its return."""
    scenario = SCENARIOS[name]
    figures = measure(1, scenario.change, size=BYTES, **scenario.options)
    if scenario.gap_s is not None:
        assert figures.gap_s < scenario.gap_s
    if scenario.after_s is not None:
        assert figures.after_s is not None
        assert figures.after_s < scenario.after_s


@pytest.mark.parametrize("name", ["path dies, backup", "cable out 10 s", "new address"])
def test_streams_lose_no_byte_on_lossy_lines_either(name):
    """What is lost besides must not confuse who looks for the end of a path."""
    scenario = SCENARIOS[name]
    figures = measure(3, scenario.change, size=BYTES, loss=0.01, **scenario.options)
    assert figures.seconds < 40


def test_many_changes_in_one_session():
    """A day with a laptop: each change finds the session as the one before has left it."""
    names = ["new address", "cable out 3 s", "another network", "asleep 8 s", "interface off 10 s", "new address"]

    async def main():
        with trio.fail_after(600):
            async with connected(4) as lab:
                for name in names:
                    await carry(lab, SCENARIOS[name].change, size=SIZE // 8)
                    await trio.sleep(20)
                assert all(session.path is not None for session in lab.sessions)

    vnet.run(main, seed=4)
