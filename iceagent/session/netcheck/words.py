"""What a report means, in plain sentences."""

from __future__ import annotations

from iceagent.core.address import is_private
from iceagent.core.discovery import Filtering, MappingBehaviour, NatBehaviour
from iceagent.session.netcheck.report import FamilyReport, Report

CLOCK_TOLERANCE_S = 60.0
"""Seconds; TURN credentials are good for minutes at the least, certificates for days."""

_MAPPINGS = {
    MappingBehaviour.NO_NAT: "no NAT",
    MappingBehaviour.ENDPOINT_INDEPENDENT: "NAT keeps one port for all destinations",
    MappingBehaviour.ADDRESS_DEPENDENT: "NAT takes another port for each address",
    MappingBehaviour.ADDRESS_AND_PORT_DEPENDENT: "NAT takes another port for each destination (symmetric)",
    MappingBehaviour.DESTINATION_DEPENDENT: "NAT takes another port for other destinations (symmetric)",
    MappingBehaviour.UNKNOWN: "kind of NAT unknown: it takes a server with two addresses, or two servers, to tell",
}
_FILTERINGS = {
    Filtering.ENDPOINT_INDEPENDENT: "lets in everybody",
    Filtering.ADDRESS_DEPENDENT: "lets in addresses it has sent to",
    Filtering.ADDRESS_AND_PORT_DEPENDENT: "lets in only what it has sent to",
    Filtering.UNKNOWN: "filter unknown",
}


def describe_behaviour(found: NatBehaviour) -> str:
    """Return a line on what stands between this machine and the internet."""
    if not found.udp_works:
        return "no answer over UDP"
    parts = [_MAPPINGS[found.mapping], _FILTERINGS[found.filtering]]
    if found.hairpin is not None:
        parts.append("turns its own traffic round" if found.hairpin else "does not turn its own traffic round")
    if found.fragments is not None:
        parts.append("fragments pass" if found.fragments else "fragments are dropped")
    if found.lifetime is not None:
        below = found.lifetime.below_s
        parts.append(
            f"idle mappings live {found.lifetime.at_least_s:g} s or more"
            if below is None
            else f"idle mappings die between {found.lifetime.at_least_s:g} and {below:g} s"
        )
    return ", ".join(parts)


def meaning(report: Report) -> str:
    """Return one sentence on what the report means for connecting."""
    sentence = _meaning(report)
    if report.web.intercepted:
        return f"Something answers in the web's place, perhaps a login page: open a browser first. {sentence}"
    offset = report.web.clock_offset_s
    if offset is not None and abs(offset) > CLOCK_TOLERANCE_S:
        direction = "ahead" if offset > 0 else "behind"
        return f"{sentence[:-1]}, but this machine's clock is {abs(offset):.0f} s {direction}, so relays may refuse it."
    return sentence


def _meaning(report: Report) -> str:
    if report.udp_works is None:
        return "No server was asked, so nothing is known of how others see this machine: give --relay or --stun."
    if not report.udp_works:
        return _without_udp(report)
    best = [one for one in report.families if one.behaviour is not None and one.behaviour.udp_works]
    four = next((one for one in best if one.family == 4), None)
    six = next((one for one in best if one.family == 6), None)
    if four is None:
        return "Only IPv6 works here: direct connections to peers that have IPv6, too; others need a relay with both."
    sentence = _family_meaning(four, report)
    if six is not None and six.behaviour is not None and six.behaviour.mapping is MappingBehaviour.NO_NAT:
        return f"{sentence[:-1]}; with peers that have IPv6, too, directly in any case."
    return sentence


def _without_udp(report: Report) -> str:
    if any(server.ok and server.transport == "udp" for server in report.servers):
        return "UDP gets out of this network, but no STUN server has shown how others see this machine."
    if any(server.ok for server in report.servers):
        return "UDP does not get out of this network: every connection will be relayed, over TCP or TLS."
    if report.relay is not None and report.relay.ok:
        return "The relay answers, but no server does over UDP: it does not get out of this network, or they are down."
    return "No server answers, neither over UDP nor over TCP: they are down or misspelt, or nothing gets out of here."


def _family_meaning(one: FamilyReport, report: Report) -> str:
    found = one.behaviour
    assert found is not None
    if found.mapping is MappingBehaviour.NO_NAT and is_private(found.mapped[0].host):
        return "The servers are on this machine or in its own network, so they cannot show how others see it."
    if found.mapping is MappingBehaviour.NO_NAT:
        if found.filtering is Filtering.ENDPOINT_INDEPENDENT:
            return "This machine has a public address: everybody can be connected directly."
        return "This machine has a public address, if guarded: nearly everybody can be connected directly."
    if report.maps_ports:
        return "The gateway opens ports when asked: nearly everybody can be connected directly."
    if found.mapping is MappingBehaviour.UNKNOWN:
        return "UDP works; whether others can be connected directly cannot be told: one more server would tell."
    if found.mapping.is_predictable:
        if found.filtering in (Filtering.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT):
            return "This NAT is friendly: everybody can be connected directly."
        return "This NAT lets most be connected directly; only peers behind a symmetric NAT need a relay."
    return (
        "This NAT takes another port for each destination: only peers with a public address or a friendly NAT can be "
        "connected directly, the others need a relay."
    )
