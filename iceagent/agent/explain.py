"""Why an agent is where it is: one typed verdict, its evidence, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from iceagent.agent.config import AgentConfig
from iceagent.agent.driver import Driver
from iceagent.agent.events import (
    DestinationUnreachable,
    RelayAllocated,
    RelayFailed,
    RelayLost,
    ServerAnswered,
    ServerFailed,
)
from iceagent.agent.gather import Gatherer
from iceagent.core import ice

_MAX_EVIDENCE = 12


class VerdictKind(Enum):
    """What can be said of an agent, most telling first."""

    CLOSED = "closed"
    CONNECTED = "connected"
    RELAYED = "relayed"
    SILENT = "silent"
    CONSENT_LOST = "consent-lost"
    NO_LOCAL_ADDRESS = "no-local-address"
    FILTERED_BY_POLICY = "filtered-by-policy"
    WAITING_FOR_CREDENTIALS = "waiting-for-credentials"
    WAITING_FOR_CANDIDATES = "waiting-for-candidates"
    NO_COMMON_FAMILY = "no-common-family"
    WRONG_CREDENTIALS = "wrong-credentials"
    RELAY_REFUSED = "relay-refused"
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

    def as_dict(self) -> dict[str, object]:
        """Return the verdict as values that JSON has."""
        evidence = list(self.evidence)
        return {"kind": self.kind.value, "summary": self.summary, "evidence": evidence, "remedy": self.remedy}

    def __str__(self) -> str:
        lines = [self.summary, *(f"  - {fact}" for fact in self.evidence)]
        return "\n".join([*lines, self.remedy] if self.remedy else lines)


def explain(driver: Driver, gatherer: Gatherer, config: AgentConfig) -> Verdict:
    """Return the verdict on an agent as it is now."""
    state = driver.ice.state
    if state is ice.AgentState.CLOSED:
        return Verdict(VerdictKind.CLOSED, "The agent is closed.")
    if state in (ice.AgentState.CONNECTED, ice.AgentState.COMPLETED):
        return _connected(driver, config)
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


def _connected(driver: Driver, config: AgentConfig) -> Verdict:
    pair = driver.ice.selected_pair
    if pair is None:
        return Verdict(VerdictKind.CONNECTED, "A path to the peer works; the best is being chosen.", _facts(driver))
    kinds = f"{pair.local.type.value} to {pair.remote.type.value}"
    rtt = "" if pair.rtt_s is None else f", round trip {pair.rtt_s * 1000:.1f} ms"
    family = f"IPv{pair.remote.address.family}"
    if ice.CandidateType.RELAY in (pair.local.type, pair.remote.type):
        because, remedy = relayed_because(driver, config, pair)
        by = driver.relay_transports.get(pair.local.path_base)
        ours = "the peer's relay" if by is None else f"our relay, reached over {by.upper()}"
        return Verdict(
            VerdictKind.RELAYED, f"Relayed over {family} by {ours}, because {because}{rtt}.", _facts(driver), remedy
        )
    return Verdict(VerdictKind.CONNECTED, f"Connected directly over {family}, {kinds}{rtt}.", _facts(driver))


def relayed_because(driver: Driver, config: AgentConfig, pair: ice.CandidatePair) -> tuple[str, str]:
    """Return why the data of a pair goes through a relay, in words, and what would help ("" for nothing)."""
    if config.transport_policy == "relay":
        return "the policy here allows nothing else", ""
    theirs = {remote.type for remote in driver.ice.remote_candidates} - {ice.CandidateType.PRFLX}
    if theirs == {ice.CandidateType.RELAY}:
        return "the peer offers relayed addresses only", ""
    events = _events(driver)
    answered = any(isinstance(event, ServerAnswered) for event in events)
    silent = any(isinstance(event, ServerFailed) and event.base is not None for event in events)
    transport = driver.relay_transports.get(pair.local.path_base)
    if silent and not answered:
        return "no UDP server answers this network", "Allow outbound UDP in the firewall for a direct path."
    if transport in ("tcp", "tls"):
        return "UDP does not get through here", "Allow outbound UDP in the firewall for a direct path."
    ours = {local.address.family for local in driver.ice.local_candidates if local.type is not ice.CandidateType.RELAY}
    others = {remote.address.family for remote in driver.ice.remote_candidates}
    if not ours & others:
        return "the two machines have no IP version in common", "Enable the missing IP version on one side."
    if ice.CandidateType.SRFLX not in theirs | {local.type for local in driver.ice.local_candidates}:
        return "no direct path answered, and neither side knows its public address", "Add a STUN server on both sides."
    mapped = "both NATs map per destination, or a firewall stands in between"
    return f"no direct path answered: {mapped}", "Forward a UDP port or enable port mapping on one of the routers."


def _relay_refusal(driver: Driver) -> Verdict | None:
    """The relay that could have helped said no."""
    refused = [event for event in _events(driver) if isinstance(event, RelayFailed) and event.code is not None]
    if not refused or any(isinstance(event, RelayAllocated) for event in _events(driver)):
        return None
    code = refused[-1].code
    remedies = {
        401: "Check user name and password; short-lived ones may have expired, or the clocks differ.",
        441: "Check user name and password; short-lived ones may have expired, or the clocks differ.",
        403: "The server's policy forbids it; ask who runs it.",
        486: "Close other sessions of this user, or raise the server's quota.",
        508: "The server is full; try another one, or later.",
    }
    summary = f"No direct path works, and the TURN server refuses to relay ({code})."
    remedy = remedies.get(code or 0, "Look into the server's log.")
    return Verdict(VerdictKind.RELAY_REFUSED, summary, _facts(driver), remedy)


def _relay_cause(driver: Driver) -> Verdict | None:
    """Relay-only, and no relay."""
    failed = [event for event in _events(driver) if isinstance(event, RelayFailed)]
    if not failed:
        return None
    refusal = _relay_refusal(driver)
    if refusal is not None:
        return refusal
    return Verdict(
        VerdictKind.NO_LOCAL_ADDRESS,
        "Only relayed addresses are allowed, and no TURN server gives one.",
        _facts(driver),
        "Check that the TURN server runs and that a firewall lets one of its transports pass.",
    )


def _via(proxy: bool) -> str:
    return " through the proxy" if proxy else ""


def _local_cause(driver: Driver, gatherer: Gatherer, config: AgentConfig) -> Verdict | None:
    if gatherer.bases or gatherer.relays.allocations:
        return None
    if config.transport_policy == "relay":
        return _relay_cause(driver)
    if gatherer.addresses_seen:
        return Verdict(
            VerdictKind.FILTERED_BY_POLICY,
            "No address of this machine may be used.",
            (
                f"{gatherer.addresses_seen} addresses found",
                *driver.policy.facts(),
            ),
            "Widen what these fields of AgentConfig allow.",
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
    if not core.remote_candidates and driver.policy.has_refused_candidates:
        return Verdict(
            VerdictKind.FILTERED_BY_POLICY,
            "No address of the peer's may be used.",
            (*driver.policy.facts(), *_facts(driver)),
            "Widen what these fields of AgentConfig allow, on this side.",
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
    if driver.ice.state is ice.AgentState.FAILED:
        refused = _relay_refusal(driver)
        if refused is not None:
            return refused
    else:
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
        elif isinstance(event, RelayAllocated):
            facts.append(
                f"{event.url} relays at {event.address}, reached over {event.transport}{_via(event.via_proxy)}"
            )
        elif isinstance(event, RelayFailed):
            facts.append(f"{event.url} over {event.transport}{_via(event.via_proxy)}: {event.reason}")
        elif isinstance(event, RelayLost):
            facts.append(f"{event.url} relayed at {event.address} until {event.reason}")
        elif isinstance(event, DestinationUnreachable):
            facts.append(f"{event.remote} is unreachable (errno {event.errno})")
    facts += driver.policy.facts()
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
