"""Whether there is a direct path, and waiting for one."""

from __future__ import annotations

import math

import trio

from iceagent.agent.driver import Driver
from iceagent.core import ice


def is_direct(core: ice.IceAgent) -> bool:
    """Return whether some valid pair goes through no relay."""
    return any(pair.valid and ice.CandidateType.RELAY not in (pair.local.type, pair.remote.type) for pair in core.pairs)


async def wait_direct(driver: Driver, seconds: float = math.inf) -> bool:
    """Wait for a direct path, for as long as is given; return whether there is one."""
    with trio.move_on_after(seconds):
        while not is_direct(driver.ice):
            await driver.changed.park()
    return is_direct(driver.ice)
