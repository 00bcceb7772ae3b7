"""What agents say of the world held against it: a reason that is given has to be true, and unknown is no reason."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio
from sim_draw import Drawn, routers_above
from sim_luck import has_heard_nothing

from iceagent.agent import Agent, RelayReason, Verdict, VerdictKind
from iceagent.core.ice import Candidate, CandidateType, LocalCandidateAdded
from iceagent.vnet import Host, Router

STALE_S = 40.0  # what was true until so long ago may still be said: the peer has to be told of a change, after consent
OURS, THEIRS = "our NAT takes another port", "the peer's NAT takes another port"
ONE = {RelayReason.ONE_MAPS_PER_DESTINATION.value, VerdictKind.ONE_MAPS_PER_DESTINATION.value}
BOTH = {RelayReason.BOTH_MAP_PER_DESTINATION.value, VerdictKind.BOTH_MAP_PER_DESTINATION.value}


@dataclass
class Truth:
    """The routers that each of the two hosts has had above it, each with the last time when it was seen there."""

    seen: tuple[dict[Router, float], dict[Router, float]] = field(default_factory=lambda: ({}, {}))
    now: float = 0.0

    def lie(self, drawn: Drawn, agents: list[Agent]) -> str:
        """Return what an agent says now that is not true; "" for nothing. Awaits nothing, so it changes nothing."""
        self.look(drawn, trio.current_time())
        for number, agent in enumerate(agents):
            for stream in agent.streams:
                for component in stream.components:
                    verdict = component.explain()
                    if what := self.contradiction(drawn, agents, number, verdict):
                        return f"untrue: {what}: {verdict}"
        return ""

    def look(self, drawn: Drawn, now: float) -> None:
        """Take note of which routers are above the hosts."""
        self.now = now
        for seen, host in zip(self.seen, drawn.hosts, strict=True):
            seen.update(dict.fromkeys(routers_above(host), now))

    def contradiction(self, drawn: Drawn, agents: list[Agent], number: int, verdict: Verdict) -> str:
        """Return what of a verdict of one agent's the world contradicts, or ""."""
        words = verdict.kind.value if verdict.because is None else verdict.because.value
        own, other = self._maps(number), self._maps(1 - number)
        if words in BOTH and not (own and other):
            return "not both map per destination"
        if words in ONE and not (own or other):
            return "neither maps per destination"
        if any(line.startswith(OURS) for line in verdict.evidence) and not own:
            return "our NAT does not map per destination"
        if any(line.startswith(THEIRS) for line in verdict.evidence) and not other:
            return "the peer's NAT does not map per destination"
        says_blocked = "UDP does not" in verdict.summary
        if says_blocked and not (self._blocks_udp(number, drawn.hosts[number]) or has_heard_nothing(drawn, number)):
            return "UDP gets out"
        is_narrow = drawn.is_relay_only(number) or "candidate_types" in drawn.policies[number]
        if verdict.kind is VerdictKind.UNUSABLE_CANDIDATES:
            if "has no candidate" in verdict.summary and agents[1:] and _candidates(agents[1 - number]):
                return "the peer has candidates"
            if not _candidates(agents[number]):
                return "it is we who have no candidate"
        if verdict.because is RelayReason.POLICY and not is_narrow:
            return "the policy allows more"
        if verdict.because is RelayReason.PEER_RELAYS_ONLY and agents[1:]:
            # Candidates are carried one after the other; what came after a peer's last one may be on its way.
            carried_s = len(_candidates(agents[1 - number])) * drawn.signaling_s + drawn.trickle_s
            if _has_direct(agents[1 - number], before=self.now - carried_s):
                return "the peer has direct candidates"
        return ""

    def _routers(self, number: int) -> list[Router]:
        return [router for router, at in self.seen[number].items() if at > self.now - STALE_S]

    def _maps(self, number: int) -> bool:
        nats = [nat for router in self._routers(number) for nat in (router.nat, router.nat64) if nat is not None]
        return any(nat.mapping != "endpoint-independent" for nat in nats)

    def _blocks_udp(self, number: int, host: Host) -> bool:
        walls = [router.firewall for router in self._routers(number) if router.firewall is not None]
        is_off = not any(wire.is_up and not wire.link.is_cut for wire in host.attachments())
        return is_off or any(wall.udp_ports is not None or wall.drops_stun or wall.inbound == "none" for wall in walls)


def _has_direct(agent: Agent, *, before: float) -> bool:
    """Whether an agent has candidates of its own that are no relays, and had them so long ago."""
    rooms = [part for stream in agent.streams for part in stream.components]
    entries = [entry for room in rooms for entry in room.driver.timeline.entries()]
    added = {event.candidate for at, event in entries if isinstance(event, LocalCandidateAdded) and at <= before}
    direct = {one for one in _candidates(agent) if one.type in (CandidateType.HOST, CandidateType.SRFLX)}
    return bool(direct & added)


def _candidates(agent: Agent) -> list[Candidate]:
    """Return the candidates that an agent has now."""
    rooms = [part for stream in agent.streams for part in stream.components]
    return [one for room in rooms for one in room.driver.ice.local_candidates]
