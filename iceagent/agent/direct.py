"""Whether there is a direct path, whether both sides have settled on one, and waiting for either."""

from __future__ import annotations

import math

import trio

from iceagent.agent.driver import Driver
from iceagent.core import ice


def is_direct(core: ice.IceAgent) -> bool:
    """Return whether some valid pair goes through no relay.

    That of the session before a restart counts while it answers; once it is silent, what is left of its consent is no
    reason to do without another path.
    """
    pairs = core.current_pairs if core.restarting and core.path_is_silent else core.pairs
    return any(pair.valid and not pair.is_relayed for pair in pairs)


async def wait_direct(driver: Driver, seconds: float = math.inf) -> bool:
    """Wait for a direct path, for as long as is given; return whether there is one."""
    with trio.move_on_after(seconds):
        while not is_direct(driver.ice):
            await driver.changed.park()
    return is_direct(driver.ice)


def has_agreed(core: ice.IceAgent) -> bool:
    """Return whether both sides have settled on a direct path: the controlling one has nominated it."""
    pair = core.selected_pair
    return pair is not None and not core.restarting and not pair.is_relayed


async def wait_agreed(driver: Driver) -> None:
    """Wait until both sides have settled on a direct path."""
    while not has_agreed(driver.ice):
        await driver.changed.park()
