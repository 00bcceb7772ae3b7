"""What an agent without a working path may still hope for: whether a path can come at all, what it tries, how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from iceagent.agent.direct import SIGNALLED_S
from iceagent.agent.driver import Driver
from iceagent.agent.gather.gatherer import Gatherer
from iceagent.agent.stops import stopped_since
from iceagent.core import ice
from iceagent.core.address import TransportAddress
from iceagent.core.ice import DropReason

if TYPE_CHECKING:
    from iceagent.agent.agent import Agent


async def wait_hopeless(agent: Agent) -> None:
    """Wait until an agent cannot get a path any more, whatever comes; while it can, or has one, for ever.

    `Agent.explain()` then says why. The agent itself goes on, and fails when RFC 8863 lets it.
    """
    first = agent.stream().component()
    await trio.lowlevel.checkpoint()
    while not is_hopeless(first.driver, first.gatherer):
        await first.driver.changed.park()


def heard_at(agent: Agent) -> float:
    """Return when anything of the peer came last, a check or an answer, Trio's time; 0.0 if nothing ever has."""
    driver = agent.stream().component().driver
    return max(driver.ice.heard_at, driver.checked_at)


def is_hopeless(driver: Driver, gatherer: Gatherer) -> bool:
    """Return whether gathering is over and no candidate of ours fits, or could fit, one of the peer's.

    An agent without candidates sends nothing and accepts nothing, whatever the peer signals later. An agent whose
    candidates reach only this machine, or only its own link, waits for the peer's candidates first. RFC 8863 has it
    wait longer, for checks from addresses that were not signalled; none of those can come from another scope, nor from
    where the configuration allows nothing.
    """
    core = driver.ice
    if driver.closed or not gatherer.finished or core.pairs or core.selected_pair is not None:
        return False
    ours = core.local_candidates
    if not ours:
        return True
    if not core.remote_candidates_ended:
        return False
    if not any(_may_hear(driver, gatherer, family) for family in {one.path_base.family for one in ours}):
        return True
    theirs = core.remote_candidates
    scopes = {_scope(candidate.address) for candidate in theirs}
    return bool(theirs) and scopes.isdisjoint({_scope(candidate.path_base) for candidate in ours})


def _may_hear(driver: Driver, gatherer: Gatherer, family: int) -> bool:
    """Return whether a check of the peer may yet come to a candidate of ours of this IP version, and be taken.

    Over IPv4 it may, even if the peer has signalled IPv6 alone: there may be a NAT64 that the peer knows of. Over IPv6
    it comes from a machine with IPv6, which would have signalled such a candidate; but it may be behind a name that
    could not be resolved, and behind a NAT64 of our own an IPv4 peer looks like one.
    """
    if driver.policy.refuses_unknown(family):
        return False
    signalled = driver.policy.signalled_families
    is_known = signalled and not driver.ice.counters[DropReason.CANDIDATE_UNRESOLVED] and gatherer.nat64.is_settled
    return family == 4 or family in signalled or not is_known


def _scope(address: TransportAddress) -> tuple[bool, bool]:
    return address.ip.is_loopback, address.ip.is_link_local


def refuses_relays(agent: Agent) -> bool:
    """Return whether the peer has signalled relayed candidates, and the configuration allows none."""
    return agent.stream().component().driver.policy.has_refused_relays


async def wait_surely_direct(agent: Agent) -> bool:
    """Wait until the path in use is known to lead through no relay of the peer's; False where none such comes.

    For agents that take no relayed candidates, once they are connected. The peer's checks from its relay may come
    before its relayed candidate does.
    """
    driver = agent.stream().component().driver
    await trio.lowlevel.checkpoint()
    with trio.move_on_after(SIGNALLED_S):
        while not _is_known(driver):
            await driver.changed.park()
    pair = driver.ice.selected_pair
    return pair is not None and not pair.is_relayed and driver.policy.permits(pair.remote.address)


def _is_known(driver: Driver) -> bool:
    pair = driver.ice.selected_pair
    if driver.closed or pair is None:
        return driver.closed
    is_signalled = pair.remote.type is not ice.CandidateType.PRFLX or driver.ice.remote_candidates_ended
    return is_signalled and driver.policy.permits(pair.remote.address)


def what_is_tried(agent: Agent) -> str:
    """Return what a connected agent does to hear of the peer again."""
    core = agent.stream().component().driver.ice
    if not core.restarting:
        return "asking on the path there was"
    if core.remote_credentials is None:
        return "asking the other side for other paths, through the relay, and on the path there was"
    number = sum(pair.state in (ice.PairState.WAITING, ice.PairState.IN_PROGRESS) for pair in core.pairs)
    return f"trying {number} paths" if number != 1 else "trying 1 path"


def gives_up_in(agent: Agent) -> float | None:
    """Return in how many seconds a connected agent gives up if nothing answers; None where that cannot be known."""
    seconds = agent.stream().component().driver.ice.gives_up_at - trio.current_time()
    return seconds if seconds > 0 else None


def was_stopped(agent: Agent) -> float:
    """Return how long this program did not run, seconds, if the peer has not answered since; else 0.0."""
    driver = agent.stream().component().driver
    return stopped_since(driver.ice.heard_at, driver.timeline)
