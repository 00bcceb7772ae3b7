"""Why data goes through a relay: the most certain reason first."""

from __future__ import annotations

from typing import NamedTuple

from iceagent.agent.explain.facts import Facts, listed, versions
from iceagent.agent.explain.nats import guessing_alone, our_nat, their_nat
from iceagent.agent.explain.verdict import RelayReason
from iceagent.agent.report.events import path_kind
from iceagent.core import ice

_UDP = ("udp", "dtls")


class Because(NamedTuple):
    """A reason, and the facts it rests on."""

    reason: RelayReason
    evidence: tuple[str, ...] = ()


def why_relayed(facts: Facts, pair: ice.CandidatePair) -> Because:
    """Return why the data of a pair goes through a relay."""
    return _policy(facts) or _past(facts) or _udp(facts, pair) or _no_fit(facts) or _nats(facts)


def _policy(facts: Facts) -> Because | None:
    if facts.config.transport_policy == "relay":
        return Because(RelayReason.POLICY, ("transport_policy='relay'",))
    if not set(facts.config.candidate_types) & {"host", "srflx"}:
        return Because(RelayReason.POLICY, (f"candidate_types={tuple(facts.config.candidate_types)!r}",))
    if facts.signalled == {ice.CandidateType.RELAY}:
        left_out = facts.refused_by_policy.total()
        if left_out:
            words = tuple(f"{number} times {what}" for what, number in facts.refused_by_policy.items())
            return Because(RelayReason.DIRECT_FILTERED, words)
        # Until then its others may be on their way. Of one component alone they may have been lost.
        if facts.core.remote_candidates_ended and facts.signalled_to_any == facts.signalled:
            return Because(RelayReason.PEER_RELAYS_ONLY)
    direct = [one for one in facts.ours if one.type is not ice.CandidateType.RELAY]
    if not direct and facts.gatherer.addresses_seen and not facts.gatherer.bases:
        return Because(RelayReason.DIRECT_FILTERED, (f"{facts.gatherer.addresses_seen} addresses here, none allowed",))
    return None


def _past(facts: Facts) -> Because | None:
    restarted = facts.last(ice.Restarted)
    relays = {one.address for one in facts.theirs if one.type is ice.CandidateType.RELAY}
    direct = [
        (at, event.pair)
        for at, event in facts.driver.timeline.latest(ice.SelectedPairChanged)
        # What looked direct may have led to the peer's relay, whose candidate was not signalled yet.
        if event.pair is not None and path_kind(event.pair) == "direct" and event.pair.remote.address not in relays
    ]
    if direct and (restarted is None or restarted[0] < direct[-1][0]):
        at, pair = direct[-1]
        kinds = f"{pair.local.type.value} to {pair.remote.type.value}"
        return Because(RelayReason.DIRECT_PATH_LOST, (f"a direct path, {kinds}, was taken {facts.ago(at)} ago",))
    return None


def _udp(facts: Facts, pair: ice.CandidatePair) -> Because | None:
    """UDP was tried with the very server that answers otherwise, and nothing has ever answered over it."""
    transport = facts.driver.relay_transports.get(pair.local.path_base)
    if facts.udp_answers or transport not in ("tcp", "tls") or facts.heard_udp_beside(pair.local.path_base):
        return None
    # Each transport starts after the better one has had its head start, so UDP was tried before this.
    servers = facts.driver.servers
    tried = [one for one in servers if not one.is_turn or any(way in _UDP for way in one.transports())]
    alive = facts.hosts_reached("tcp", "tls")
    if not any(one.endpoint()[0] in alive for one in tried):
        return None  # they may be down
    urls = sorted({one.url for one in tried})
    return Because(RelayReason.UDP_BLOCKED, (f"no answer over UDP of {listed(urls)}",))


def _no_fit(facts: Facts) -> Because | None:
    if not facts.core.remote_candidates_ended:
        return None
    ours = [one for one in facts.ours if one.type is not ice.CandidateType.RELAY]
    theirs = [one for one in facts.theirs if one.type is not ice.CandidateType.RELAY]
    our_families = {one.path_base.family for one in ours}
    their_families = {one.address.family for one in theirs}
    if ours and theirs and not our_families & their_families:
        words = f"direct candidates here: {versions(our_families)}; the peer's: {versions(their_families)}"
        return Because(RelayReason.NO_COMMON_FAMILY, (words,))
    if ours and theirs and not {one.transport for one in ours} & {one.transport for one in theirs}:
        return Because(RelayReason.NO_COMMON_TRANSPORT)
    return None


def _nats(facts: Facts) -> Because:
    here, there = our_nat(facts), their_nat(facts)
    evidence = (*guessing_alone(facts), *here.evidence, *there.evidence)
    if here.per_destination and there.per_destination:
        return Because(RelayReason.BOTH_MAP_PER_DESTINATION, evidence)
    if here.per_destination or there.per_destination:
        return Because(RelayReason.ONE_MAPS_PER_DESTINATION, evidence)
    if not facts.knows_public_address:
        return Because(RelayReason.NO_PUBLIC_ADDRESS, ("no STUN server showed either side's public address",))
    return Because(RelayReason.NO_DIRECT_ANSWER, evidence)
