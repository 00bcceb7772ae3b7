"""What speaks against an agent that has no path yet getting one: nobody need wait for what cannot come any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from iceagent.agent.driver import Driver
from iceagent.agent.gather.gatherer import Gatherer
from iceagent.core.address import TransportAddress

if TYPE_CHECKING:
    from iceagent.agent.agent import Agent


async def wait_hopeless(agent: Agent) -> None:
    """Wait until an agent cannot get a path any more, whatever comes; while it can, or has one, for ever.

    `Agent.explain()` then says why. The agent itself goes on, and fails when RFC 8863 lets it.
    """
    driver, gatherer = agent._driver, agent._gatherer  # noqa: SLF001 - of this room
    await trio.lowlevel.checkpoint()
    while not is_hopeless(driver, gatherer):
        await driver.changed.park()


def heard_at(agent: Agent) -> float:
    """Return when anything of the peer came last, a check or an answer, Trio's time; 0.0 if nothing ever has."""
    driver = agent._driver  # noqa: SLF001 - of this room
    return max(driver.ice.heard_at, driver.checked_at)


def is_hopeless(driver: Driver, gatherer: Gatherer) -> bool:
    """Return whether gathering is over and no candidate of ours fits, or could fit, one of the peer's.

    Whoever has no candidate sends nothing and takes nothing, whatever the peer has yet to tell. Whoever has some that
    lead nowhere but to this machine, or to its own cable, has to hear what the peer has first. RFC 8863 has us wait
    beyond that, for checks that come from where no candidate has been told; none of them can come from another scope.
    They can come from another family, by a NAT64 that the peer alone knows of, so families are not compared.
    """
    core = driver.ice
    if driver.closed or not gatherer.finished or core.pairs or core.selected_pair is not None:
        return False
    ours = core.local_candidates
    if not ours:
        return True
    theirs = core.remote_candidates
    if not (theirs and core.remote_candidates_ended):
        return False
    scopes = {_scope(candidate.address) for candidate in theirs}
    return scopes.isdisjoint({_scope(candidate.path_base) for candidate in ours})


def _scope(address: TransportAddress) -> tuple[bool, bool]:
    return address.ip.is_loopback, address.ip.is_link_local
