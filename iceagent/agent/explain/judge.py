"""The verdict on an agent: the first cause that fits, from the nearest to the farthest."""

from __future__ import annotations

from collections.abc import Iterable

from iceagent.agent.config import AgentConfig
from iceagent.agent.driver import Driver
from iceagent.agent.explain.facts import Facts
from iceagent.agent.explain.here import credentials_cause, local_cause, signaling_cause
from iceagent.agent.explain.network import network_cause
from iceagent.agent.explain.standing import lost_cause, standing_verdict
from iceagent.agent.explain.verdict import RELAY_CATALOGUE, Verdict, VerdictKind, verdict
from iceagent.agent.explain.why_relayed import why_relayed
from iceagent.agent.gather.gatherer import Gatherer
from iceagent.core import ice


def explain(
    driver: Driver, gatherer: Gatherer, config: AgentConfig, others: Iterable[tuple[Driver, Gatherer]] = ()
) -> Verdict:
    """Return the verdict on an agent as it is now; `others` are its other components."""
    state = driver.ice.state
    if state is ice.AgentState.CLOSED:
        return verdict(VerdictKind.CLOSED)
    facts = Facts(driver, gatherer, config, others)
    wrong = credentials_cause(facts)
    if wrong is not None:
        return wrong
    if state in (ice.AgentState.CONNECTED, ice.AgentState.COMPLETED):
        return standing_verdict(facts)
    found = lost_cause(facts) if facts.had_path else local_cause(facts) or signaling_cause(facts)
    return found or network_cause(facts)


def relayed_because(
    driver: Driver,
    gatherer: Gatherer,
    config: AgentConfig,
    pair: ice.CandidatePair,
    others: Iterable[tuple[Driver, Gatherer]] = (),
) -> tuple[str, str]:
    """Return why the data of a pair goes through a relay, in words, and what would help ("" for nothing)."""
    entry = RELAY_CATALOGUE[why_relayed(Facts(driver, gatherer, config, others), pair).reason]
    return entry.meaning, entry.remedy
