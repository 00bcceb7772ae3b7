"""Whether there is a direct path, whether both sides have settled on one, and waiting for either."""

from __future__ import annotations

import math
from typing import Final

import trio

from iceagent.agent.driver import Driver
from iceagent.core import ice

SIGNALLED_S: Final = 10.0  # ours: a candidate whose checks arrive has been signalled by then


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


async def wait_certain(driver: Driver) -> bool:
    """Wait until a path that looks direct is known to be so, or not to be; return which.

    Checks from the peer's relay may come before its relayed candidate does. Until then they look like those of any
    other peer-reflexive candidate.
    """
    core = driver.ice
    with trio.move_on_after(SIGNALLED_S):
        while is_direct(core) and not core.remote_candidates_ended and not _is_signalled(core):
            await driver.changed.park()
    return is_direct(core)


def _is_signalled(core: ice.IceAgent) -> bool:
    direct = (pair for pair in core.pairs if pair.valid and not pair.is_relayed)
    return any(pair.remote.type is not ice.CandidateType.PRFLX for pair in direct)


def has_agreed(core: ice.IceAgent) -> bool:
    """Return whether both sides have settled on a direct path: the controlling one has nominated it."""
    pair = core.selected_pair
    return pair is not None and not core.restarting and not pair.is_relayed


async def wait_agreed(driver: Driver) -> None:
    """Wait until both sides have settled on a direct path."""
    while not has_agreed(driver.ice):
        await driver.changed.park()
