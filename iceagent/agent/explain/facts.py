"""What is known of an agent, read once for a verdict: each server's latest answer, what was sent and what came."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from iceagent.agent.config import AgentConfig
from iceagent.agent.driver import Driver
from iceagent.agent.gather.gatherer import Gatherer
from iceagent.agent.hard_nat.words import hard_nat_facts
from iceagent.agent.report.events import (
    DestinationUnreachable,
    NetworkChanged,
    PortMapped,
    PortMappingFailed,
    RelayAllocated,
    RelayFailed,
    RelayLost,
    ServerAnswered,
    ServerFailed,
)
from iceagent.core import ice
from iceagent.core.address import TransportAddress, is_private

E = TypeVar("E")


class Facts:
    """The facts of one moment.

    Attributes:
        answers: the latest answers of STUN servers, on sockets there are.
        fresh_answers: those of the network there is now, each with its time.
        silences: servers that were asked and gave nothing, if that is their latest word.
        unresolved: servers whose names led nowhere in a family.
        relays: the allocations that stand.
        relay_failures: the ways to TURN servers that failed, if none of the server's stands.
        relays_lost: relayed addresses that are gone.
        ours, theirs: the candidates of both sides, those of pairs of a session before a restart included.
        signalled: types of the candidates the peer has signalled.

    Args:
        driver: of the component that it is about.
        gatherer: that component's.
        config: the agent's.
        others: the agent's other components. What one of them hears, gets into this machine.
    """

    def __init__(
        self, driver: Driver, gatherer: Gatherer, config: AgentConfig, others: Iterable[tuple[Driver, Gatherer]] = ()
    ) -> None:
        self._others = others
        self.driver = driver
        self.core = driver.ice
        self.gatherer = gatherer
        self.config = config
        self.now = driver.timeline.now()
        self._read_servers()
        self._read_relays()
        self.unreachable = self.latest(DestinationUnreachable)
        self.mapped_ports = [
            event for event in self.latest(PortMapped) if event.base in {base.address for base in gatherer.bases}
        ]
        self.unmapped_ports = self.latest(PortMappingFailed)
        # During a restart the session before it, whose candidates the core no longer lists, carries the data.
        pairs = self.core.pairs
        self.ours = tuple(dict.fromkeys((*self.core.local_candidates, *(pair.local for pair in pairs))))
        self.theirs = tuple(dict.fromkeys((*self.core.remote_candidates, *(pair.remote for pair in pairs))))
        self.signalled = {one.type for one in self.theirs if one.type is not ice.CandidateType.PRFLX}

    def _read_servers(self) -> None:
        timeline = self.driver.timeline
        bases = {base.address for base in self.gatherer.bases}
        heard = [(at, event) for at, event in timeline.latest(ServerAnswered) if event.transport == "udp"]
        answered = {(event.url, event.base): at for at, event in heard}
        failed = {(event.url, event.base): at for at, event in timeline.latest(ServerFailed)}
        self.answers = [
            event for at, event in heard if event.base in bases and at >= failed.get((event.url, event.base), at)
        ]
        self.silences = [
            event
            for at, event in timeline.latest(ServerFailed)
            if event.base in bases and at > answered.get((event.url, event.base or _NOWHERE), -1.0)
        ]
        # What was signalled before the network changed may no longer hold.
        changed = self.last(NetworkChanged)
        since = -1.0 if changed is None else changed[0]
        self.fresh_answers = [(at, event) for at, event in heard if event in self.answers and at >= since]
        families = {(event.url, event.base.family) for event in self.answers}
        self.unresolved = [
            event
            for event in self.latest(ServerFailed)
            if event.base is None and (event.url, event.family) not in families
        ]

    def _read_relays(self) -> None:
        standing = {address for one in self.gatherer.relays.allocations for address in one.relayed_addresses}
        self.relays = [event for event in self.latest(RelayAllocated) if event.address in standing]
        working = {event.url for event in self.relays}
        self.relay_failures = [event for event in self.latest(RelayFailed) if event.url not in working]
        self.relays_lost = self.latest(RelayLost)

    # The past

    def latest(self, kind: type[E]) -> list[E]:
        """Return the latest events of a type on each matter, oldest first."""
        return [event for _, event in self.driver.timeline.latest(kind)]

    def last(self, kind: type[E]) -> tuple[float, E] | None:
        """Return the last event of a type and when it was, or None."""
        found = self.driver.timeline.latest(kind)
        return found[-1] if found else None

    def ago(self, at: float) -> str:
        """Return how long ago something was, in words."""
        seconds = max(0.0, self.now - at)
        return (
            f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
        )

    @property
    def network_changed(self) -> tuple[float, NetworkChanged] | None:
        """The last change of this machine's network, and when it was."""
        return self.last(NetworkChanged)

    @property
    def had_path(self) -> bool:
        """Whether the agent was ever connected."""
        connected = (ice.AgentState.CONNECTED, ice.AgentState.COMPLETED)
        return any(event.new in connected for event in self.latest(ice.StateChanged))

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.core.state is ice.AgentState.FAILED

    @property
    def restart_unanswered_since(self) -> float | None:
        """When the restart was begun that the peer has not answered, or None."""
        if self.core.remote_credentials is not None:
            return None
        begun = [(at, event) for at, event in self.driver.timeline.latest(ice.Restarted) if not event.by_peer]
        return begun[-1][0] if begun else None

    # Servers

    @property
    def asked(self) -> set[str]:
        """URLs of the servers that were asked over UDP, or that answered."""
        return {event.url for event in self.answers} | {event.url for event in self.silences}

    @property
    def udp_answers(self) -> bool:
        """Whether any component of the agent ever heard anything over UDP."""
        return any(one.hears_udp for one in self._components())

    def heard_udp_beside(self, relayed: TransportAddress) -> bool:
        """Whether a server has answered over UDP on the network that this relayed address was allocated on, or later.

        The socket that heard it may be gone since, with an interface that was off for a moment.
        """
        timeline = self.driver.timeline
        heard = max((at for at, event in timeline.latest(ServerAnswered) if event.transport == "udp"), default=None)
        allocated = max((at for at, event in timeline.latest(RelayAllocated) if event.address == relayed), default=0.0)
        changed = self.last(NetworkChanged)
        return heard is not None and not (changed is not None and heard < changed[0] < allocated)

    @property
    def hears_udp(self) -> bool:
        """Whether this component ever heard anything over UDP: a server, the peer, or an answer of the peer's."""
        changed, answered_at = self.last(NetworkChanged), self.driver.relay_answered_at
        relays = any(event.transport in ("udp", "dtls") for event in self.relays) or (
            answered_at is not None and (changed is None or answered_at >= changed[0])
        )
        by_tcp = {base for base, way in self.driver.relay_transports.items() if way in ("tcp", "tls")}
        udp = [
            report
            for report in self.core.pair_reports()
            if report.pair.local.transport == "udp" and report.path[0] not in by_tcp
        ]
        peer = any(report.requests_received or report.responses_received for report in udp)
        return bool(self.answers) or relays or peer

    @property
    def signalled_to_any(self) -> set[ice.CandidateType]:
        """Types of the candidates that the peer has signalled for any component of the agent."""
        return {kind for one in self._components() for kind in one.signalled}

    def _components(self) -> Iterable[Facts]:
        yield self
        for driver, gatherer in self._others:
            yield Facts(driver, gatherer, self.config)

    def hosts_reached(self, *transports: str) -> set[str]:
        """Return the names of the TURN servers that relay for us over one of these transports."""
        urls = {event.url for event in self.relays if event.transport in transports}
        return {server.endpoint()[0] for server in self.driver.servers if server.url in urls}

    @property
    def answering_families(self) -> set[int]:
        """IP versions over which a STUN server has answered."""
        return {event.base.family for event in self.answers}

    @property
    def silent_families(self) -> set[int]:
        """IP versions in which servers were asked, and none has answered."""
        return {event.family for event in self.silences} - self.answering_families

    # Checks

    @property
    def checks_received(self) -> int:
        """Authenticated checks of the peer."""
        return self.driver.checks_received

    @property
    def checks_answered(self) -> int:
        """Answers to checks of ours, of pairs there are."""
        return sum(report.responses_received for report in self.core.pair_reports())

    # Candidates

    @property
    def our_families(self) -> set[int]:
        """IP versions of our candidates."""
        return {candidate.path_base.family for candidate in self.ours}

    @property
    def their_families(self) -> set[int]:
        """IP versions of the peer's candidates."""
        return {candidate.address.family for candidate in self.theirs}

    @property
    def knows_public_address(self) -> bool:
        """Whether either side knows an address that the internet can send to, relays aside."""
        ours = [one for one in self.ours if one.type is not ice.CandidateType.RELAY]
        theirs = [one for one in self.theirs if one.type is not ice.CandidateType.RELAY]
        if bool(self.answers) or ice.CandidateType.SRFLX in self.signalled:
            return True
        return any(one.type is ice.CandidateType.SRFLX or not is_private(one.address.host) for one in (*ours, *theirs))

    @property
    def refused_candidates(self) -> Counter[ice.DropReason]:
        """Candidates that were left out, by reason; duplicates and those beyond a limit aside."""
        reasons = (
            ice.DropReason.CANDIDATE_TRANSPORT,
            ice.DropReason.CANDIDATE_UNRESOLVED,
            ice.DropReason.CANDIDATE_UNUSABLE,
        )
        return Counter({reason: self.core.counters[reason] for reason in reasons if self.core.counters[reason]})

    @property
    def refused_by_policy(self) -> Counter[str]:
        """Candidates of the peer's that the configuration forbids, by what forbids them."""
        refused = self.driver.policy.refused
        return Counter({what: number for what, number in refused.items() if what.startswith("remote")})

    # Sentences

    def general(self) -> list[str]:
        """Return what is worth knowing in any case."""
        core = self.core
        lines = [
            f"state {core.state.value}, role {core.role.value}",
            f"{count(core.local_candidates)} local and {count(core.remote_candidates)} remote candidates",
            f"{core.checks_sent} checks sent, {self.checks_received} received",
        ]
        pairs = core.pairs
        if pairs:
            states = [pair.state.value for pair in pairs]
            lines.append("pairs: " + ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))))
        lines += hard_nat_facts(self.driver.timeline)
        lines += [*self.server_lines(), *self.relay_lines(), *self.gateway_lines(), *self.unreachable_lines()]
        lines += [
            f"{plural(number, 'candidate')} of the peer left out: {reason}"
            for reason, number in self.refused_candidates.items()
        ]
        lines += [*self.driver.policy.facts(), *self.gatherer.tcp.facts()]
        if self.driver.failure:
            lines.append(self.driver.failure)
        return lines

    def server_lines(self) -> list[str]:
        """Return what STUN servers said, or did not."""
        lines = [
            f"{event.url} answered over IPv{event.base.family} in {event.rtt_s * 1000:.0f} ms" for event in self.answers
        ]
        lines += [f"{event.url} over IPv{event.family}: {event.reason}" for event in (*self.silences, *self.unresolved)]
        if self.silent_families and self.answering_families:
            lines.append(f"STUN answered over {versions(self.answering_families)} only")
        return lines

    def relay_lines(self) -> list[str]:
        """Return what TURN servers gave, or did not."""
        lines = [
            f"{event.url} relays at {event.address}, reached over {event.transport}{via(event.via_proxy)}"
            for event in self.relays
        ]
        lines += [
            f"{event.url} over {event.transport}{via(event.via_proxy)}: {event.reason}" for event in self.relay_failures
        ]
        return lines + [f"{event.url} relayed at {event.address} until {event.reason}" for event in self.relays_lost]

    def gateway_lines(self) -> list[str]:
        """Return what the gateway did about our ports."""
        lines = []
        for event in self.mapped_ports:
            line = f"the gateway maps {event.external} to {event.base} ({event.protocol})"
            if event.external != event.base and is_private(event.external.host):
                line += ", which is no public address: it is behind another NAT itself"
            lines.append(line)
        mapped = {event.protocol for event in self.mapped_ports}
        failed = [event for event in self.unmapped_ports if event.protocol not in mapped]
        return lines + [f"the gateway maps no port by {event.protocol}: {event.reason}" for event in failed]

    def unreachable_lines(self) -> list[str]:
        """Return what the network, or a relay, said of destinations."""
        relayed = {event.address for event in self.latest(RelayAllocated)}
        lines = []
        for event in self.unreachable:
            if event.base in relayed and event.errno == errno.EACCES:
                lines.append(f"the TURN server forbids to relay to {event.remote.host} (403)")
            else:
                lines.append(f"{event.remote} is unreachable: {os.strerror(event.errno)} (errno {event.errno})")
        return lines


_NOWHERE = TransportAddress("", 0)


def count(candidates: Iterable[ice.Candidate]) -> str:
    """Return how many candidates there are of each type: `3 (2 host, 1 srflx)`."""
    kinds = [candidate.type.value for candidate in candidates]
    return f"{len(kinds)} ({', '.join(f'{kinds.count(kind)} {kind}' for kind in sorted(set(kinds)))})" if kinds else "0"


def versions(families: Iterable[int]) -> str:
    """Return `IPv4`, `IPv6` or `IPv4 and IPv6`."""
    return " and ".join(f"IPv{family}" for family in sorted(families)) or "no"


def via(proxy: bool) -> str:
    """Return the words for a way through a proxy, or "" for one without."""
    return " through the proxy" if proxy else ""


def plural(number: int, noun: str, nouns: str = "") -> str:
    """Return `1 check`, `2 checks`."""
    return f"{number} {noun}" if number == 1 else f"{number} {nouns or noun + 's'}"


def listed(words: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
