"""Why an agent is where it is: one typed verdict, its evidence, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from iceagent.agent.config import AgentConfig
from iceagent.agent.driver import Driver
from iceagent.agent.events import DestinationUnreachable, ServerAnswered, ServerFailed
from iceagent.agent.gather import Gatherer
from iceagent.core import ice

_MAX_EVIDENCE = 12


class VerdictKind(Enum):
    """What can be said of an agent, most telling first."""

    CLOSED = "closed"
    CONNECTED = "connected"
    SILENT = "silent"
    CONSENT_LOST = "consent-lost"
    NO_LOCAL_ADDRESS = "no-local-address"
    FILTERED_BY_POLICY = "filtered-by-policy"
    WAITING_FOR_CREDENTIALS = "waiting-for-credentials"
    WAITING_FOR_CANDIDATES = "waiting-for-candidates"
    NO_COMMON_FAMILY = "no-common-family"
    WRONG_CREDENTIALS = "wrong-credentials"
    PEER_NEVER_CHECKED = "peer-never-checked"
    NO_UDP_EGRESS = "no-udp-egress"
    NO_PATH = "no-path"
    CHECKING = "checking"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One conclusion about an agent.

    Attributes:
        kind: for programs.
        summary: one sentence for people.
        evidence: the facts it rests on.
        remedy: what to do, or "" when nothing has to be done.
    """

    kind: VerdictKind
    summary: str
    evidence: tuple[str, ...] = ()
    remedy: str = ""

    def __str__(self) -> str:
        lines = [self.summary, *(f"  - {fact}" for fact in self.evidence)]
        return "\n".join([*lines, self.remedy] if self.remedy else lines)


def explain(driver: Driver, gatherer: Gatherer, config: AgentConfig) -> Verdict:
    """Return the verdict on an agent as it is now."""
    state = driver.ice.state
    if state is ice.AgentState.CLOSED:
        return Verdict(VerdictKind.CLOSED, "The agent is closed.")
    if state in (ice.AgentState.CONNECTED, ice.AgentState.COMPLETED):
        return _connected(driver)
    if state is ice.AgentState.DISCONNECTED:
        return Verdict(
            VerdictKind.SILENT,
            "The path in use has gone silent; it recovers with the next answer, or is given up after 30 s.",
            _facts(driver),
            "Check that both machines are awake and online.",
        )
    if state is ice.AgentState.FAILED and any(isinstance(event, ice.ConsentLost) for event in _events(driver)):
        return Verdict(
            VerdictKind.CONSENT_LOST,
            "The peer was connected and then stopped answering for 30 s.",
            _facts(driver),
            "Connect again; if it keeps happening, the peer's machine sleeps or its network changes.",
        )
    return _local_cause(driver, gatherer, config) or _signaling_cause(driver) or _network_cause(driver)


def _connected(driver: Driver) -> Verdict:
    pair = driver.ice.selected_pair
    if pair is None:
        return Verdict(VerdictKind.CONNECTED, "A path to the peer works; the best is being chosen.", _facts(driver))
    kinds = f"{pair.local.type.value} to {pair.remote.type.value}"
    rtt = "" if pair.rtt_s is None else f", round trip {pair.rtt_s * 1000:.1f} ms"
    family = f"IPv{pair.remote.address.family}"
    return Verdict(VerdictKind.CONNECTED, f"Connected directly over {family}, {kinds}{rtt}.", _facts(driver))


def _local_cause(driver: Driver, gatherer: Gatherer, config: AgentConfig) -> Verdict | None:
    if gatherer.bases:
        return None
    if gatherer.addresses_seen:
        return Verdict(
            VerdictKind.FILTERED_BY_POLICY,
            "No address of this machine may be used.",
            (
                f"{gatherer.addresses_seen} addresses found",
                f"interfaces={config.interfaces!r}, families={config.families!r}",
            ),
            "Widen AgentConfig.interfaces or AgentConfig.families.",
        )
    return Verdict(
        VerdictKind.NO_LOCAL_ADDRESS, "This machine has no network address.", (), "Connect it to a network, then retry."
    )


def _signaling_cause(driver: Driver) -> Verdict | None:
    """What signaling has not brought, or brought wrong."""
    core = driver.ice
    if core.remote_credentials is None:
        return Verdict(
            VerdictKind.WAITING_FOR_CREDENTIALS,
            "The peer's credentials are not known yet.",
            _facts(driver),
            "Carry agent.credentials to the peer and its own back to set_remote_credentials.",
        )
    wrong = core.counters.get(ice.DropReason.STUN_BAD_INTEGRITY, 0)
    wrong += core.counters.get(ice.DropReason.STUN_WRONG_USERNAME, 0)
    if wrong and not any(pair.valid for pair in core.pairs):
        return Verdict(
            VerdictKind.WRONG_CREDENTIALS,
            "Checks arrive that are not keyed with our credentials.",
            (f"{wrong} checks refused", *_facts(driver)),
            "One side holds an old or mixed-up description: exchange both anew.",
        )
    if not core.remote_candidates:
        return Verdict(
            VerdictKind.WAITING_FOR_CANDIDATES,
            "The peer has sent no candidate that can be used.",
            (*_facts(driver), *_refused_candidates(driver)),
            "Carry each of the peer's local_candidates() to add_remote_candidate.",
        )
    ours = {candidate.path_base.family for candidate in core.local_candidates}
    theirs = {candidate.address.family for candidate in core.remote_candidates}
    if not ours & theirs:
        return Verdict(
            VerdictKind.NO_COMMON_FAMILY,
            f"We have {_versions(ours)} addresses, the peer only {_versions(theirs)}.",
            _facts(driver),
            "Enable the missing IP version on one side.",
        )
    return None


def _network_cause(driver: Driver) -> Verdict:
    events = _events(driver)
    answered = any(isinstance(event, ServerAnswered) for event in events)
    silent = sum(isinstance(event, ServerFailed) and event.base is not None for event in events)
    facts = _facts(driver)
    if driver.ice.state is not ice.AgentState.FAILED:
        return Verdict(VerdictKind.CHECKING, "The paths to the peer are being tried.", facts)
    if silent and not answered:
        return Verdict(
            VerdictKind.NO_UDP_EGRESS,
            "Neither the peer nor any STUN server answers: UDP does not leave this network.",
            facts,
            "Allow outbound UDP in the firewall, or use another network.",
        )
    if not driver.checks_received:
        return Verdict(
            VerdictKind.PEER_NEVER_CHECKED,
            "Not one check of the peer reached us.",
            facts,
            "See that the peer got our description and runs; else a firewall or two strict NATs stand in between.",
        )
    return Verdict(
        VerdictKind.NO_PATH,
        "Every path to the peer was tried and none works both ways.",
        facts,
        "Add a STUN server on both sides; if both NATs map per destination, only a relay helps.",
    )


def _facts(driver: Driver) -> tuple[str, ...]:
    core = driver.ice
    facts = [
        f"state {core.state.value}, role {core.role.value}",
        f"{_count(core.local_candidates)} local and {_count(core.remote_candidates)} remote candidates",
    ]
    facts.append(f"{core.checks_sent} checks sent, {driver.checks_received} received")
    if core.pairs:
        states = [pair.state.value for pair in core.pairs]
        facts.append("pairs: " + ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))))
    for event in _events(driver):
        if isinstance(event, ServerAnswered):
            facts.append(f"{event.url} answered over IPv{event.base.family} in {event.rtt_s * 1000:.0f} ms")
        elif isinstance(event, ServerFailed):
            facts.append(f"{event.url} over IPv{event.family}: {event.reason}")
        elif isinstance(event, DestinationUnreachable):
            facts.append(f"{event.remote} is unreachable (errno {event.errno})")
    if driver.failure:
        facts.append(driver.failure)
    return tuple(dict.fromkeys(facts))[:_MAX_EVIDENCE]


def _refused_candidates(driver: Driver) -> list[str]:
    refused = [(reason, count) for reason, count in driver.ice.counters.items() if reason.startswith("candidate-")]
    return [f"{count} times {reason}" for reason, count in refused if count]


def _events(driver: Driver) -> list[object]:
    return [event for _, event in driver.timeline.entries()]


def _count(candidates: Iterable[ice.Candidate]) -> str:
    kinds = [candidate.type.value for candidate in candidates]
    return f"{len(kinds)} ({', '.join(f'{kinds.count(kind)} {kind}' for kind in sorted(set(kinds)))})" if kinds else "0"


def _versions(families: set[int]) -> str:
    return " and ".join(f"IPv{family}" for family in sorted(families)) or "no"
