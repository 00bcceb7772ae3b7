"""Causes in the network between the two machines, where no candidate pair works."""

from __future__ import annotations

from typing import Final

from iceagent.agent.explain.facts import Facts, plural, versions
from iceagent.agent.explain.nats import guessing_alone, our_nat, their_nat
from iceagent.agent.explain.relays import refusal
from iceagent.agent.explain.verdict import CATALOGUE, Verdict, VerdictKind, beyond_guessing, verdict
from iceagent.core import ice

MIN_SILENT_HOSTS: Final = 2
"""Ours: so many silent servers are hardly all down, at hosts of different names."""


def network_cause(facts: Facts) -> Verdict:
    """Return what stands between the two; CHECKING while paths are being tried."""
    if not facts.is_over:
        nats = (*our_nat(facts).evidence, *their_nat(facts).evidence)
        return verdict(VerdictKind.CHECKING, evidence=(*nats, *facts.general()))
    return (
        refusal(facts)
        or _names_cause(facts)
        or _egress_cause(facts)
        or _family_cause(facts)
        or _nat_cause(facts)
        or _address_cause(facts)
        or _checks_cause(facts)
    )


def _names_cause(facts: Facts) -> Verdict | None:
    if not facts.unresolved or facts.udp_answers or facts.asked or facts.relays:
        return None
    failed = {event.url for event in facts.unresolved}
    evidence = [f"{plural(len(failed), 'server name')} did not resolve"]
    return verdict(VerdictKind.NO_NAME_RESOLUTION, evidence=(*evidence, *facts.general()))


def _egress_cause(facts: Facts) -> Verdict | None:
    """Return that nothing answers over UDP, where that is evidence.

    A server may be down, and so may the peer: one of each says nothing of this network. It takes a server that answers
    otherwise, or two that are silent, and then the sentence still leaves it open.
    """
    if not facts.silences or facts.udp_answers:
        return None
    servers = {event.url for event in facts.silences}
    evidence = [
        f"0 of {plural(len(servers), 'server')} answered over UDP",
        f"{plural(facts.core.checks_sent, 'check')} sent, none answered, none received",
    ]
    asked = {server.endpoint()[0] for server in facts.driver.servers if server.url in servers}
    summary = ""
    is_certain = bool(asked & facts.hosts_reached("tcp", "tls"))
    if not is_certain and len(asked) < MIN_SILENT_HOSTS:
        return None
    if is_certain:
        transport = facts.relays[0].transport.upper()
        evidence.append(f"a relay answers over {transport}")
        summary = f"A server that answers over {transport} does not over UDP: UDP does not leave this network."
    return verdict(VerdictKind.NO_UDP_EGRESS, summary, (*evidence, *facts.general()))


def _family_cause(facts: Facts) -> Verdict | None:
    silent, answering = facts.silent_families, facts.answering_families
    if not answering or not silent or not facts.their_families <= silent:
        return None
    kind = VerdictKind.STUN_IPV4_ONLY if 4 in answering else VerdictKind.STUN_IPV6_ONLY
    summary = (
        f"STUN answered over {versions(answering)} only, and the peer has {versions(facts.their_families)} "
        f"addresses only: {versions(silent)} does not get out of this network, or they are down."
    )
    return verdict(kind, summary, tuple(facts.general()))


def _nat_cause(facts: Facts) -> Verdict | None:
    here, there = our_nat(facts), their_nat(facts)
    evidence = (*here.evidence, *there.evidence, *facts.general())
    if here.per_destination and there.per_destination:
        return _nat_verdict(facts, VerdictKind.BOTH_MAP_PER_DESTINATION, "", evidence)
    if here.per_destination or there.per_destination:
        side, other = ("Our", "the peer's side") if here.per_destination else ("The peer's", "our side")
        summary = (
            f"{side} NAT takes another port for each destination (symmetric), and {other} lets in only what it has "
            "sent to, or does the same."
        )
        return _nat_verdict(facts, VerdictKind.ONE_MAPS_PER_DESTINATION, summary, evidence)
    return None


def _nat_verdict(facts: Facts, kind: VerdictKind, summary: str, evidence: tuple[str, ...]) -> Verdict:
    remedy, evidence = CATALOGUE[kind].remedy, (*guessing_alone(facts), *evidence)
    return verdict(kind, summary, evidence, beyond_guessing(remedy) if facts.config.hard_nat else remedy)


def _address_cause(facts: Facts) -> Verdict | None:
    """Two sides with private addresses alone, behind NATs: neither knows its address outside of the NAT."""
    if facts.knows_public_address or facts.checks_received or facts.checks_answered:
        return None
    if any(one.type is ice.CandidateType.RELAY for one in (*facts.ours, *facts.theirs)):
        return None
    summary = "Both sides have private addresses alone, and no STUN server has shown either side's public one."
    return verdict(VerdictKind.NO_PATH, summary, tuple(facts.general()))


def _checks_cause(facts: Facts) -> Verdict:
    general = tuple(facts.general())
    if not facts.checks_received:
        silent = sorted({event.url for event in facts.silences}) if not facts.udp_answers else []
        unknown = (f"{silent[0]} has not answered either: it, the peer or this network may be why",) if silent else ()
        return verdict(VerdictKind.PEER_NEVER_CHECKED, evidence=(*unknown, *general))
    if not facts.checks_answered:
        evidence = f"{plural(facts.checks_received, 'check')} received, none of our {facts.core.checks_sent} answered"
        return verdict(VerdictKind.PEER_NEVER_ANSWERED, evidence=(evidence, *general))
    return verdict(VerdictKind.NO_PATH, evidence=general)
