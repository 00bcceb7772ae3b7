"""How a network check is printed, for people and for programs. The JSON schema is in docs/netcheck.md."""

from __future__ import annotations

from typing import Any

from iceagent.cli.output import Output
from iceagent.core.discovery import NatBehaviour, PredictedPath, Prediction
from iceagent.session.netcheck import (
    FamilyReport,
    PortMappingReport,
    RelayReport,
    Report,
    ServerHealth,
    WebReport,
    describe_behaviour,
    meaning,
)
from iceagent.session.path import format_ms

_NAMES = {"pcp": "PCP", "nat-pmp": "NAT-PMP", "upnp": "UPnP"}


def show_report(report: Report, output: Output) -> None:
    """Print all of a report, a line for each thing, the meaning last."""
    if report.relay is not None:
        _show_relay(report.relay, output)
    for server in report.servers:
        _show_server(server, output)
    for family in report.families:
        _show_family(family, output)
    for protocol in report.port_mapping:
        _show_port_mapping(protocol, output)
    _show_web(report.web, output)
    sentence = meaning(report)
    output.line(
        "summary", sentence, essential=True, udp=report.udp_works, maps_ports=report.maps_ports, meaning=sentence
    )


def show_prediction(prediction: Prediction, output: Output) -> None:
    """Print how the two sides would be connected, and why."""
    likely = "" if prediction.certain else "probably "
    text = {
        PredictedPath.DIRECT: f"the two sides will {likely}be connected directly",
        PredictedPath.RELAYED: f"the two sides will {likely}be connected through a relay",
        PredictedPath.UNKNOWN: "whether the two sides will be connected directly cannot be told",
        PredictedPath.IMPOSSIBLE: f"the two sides {likely}cannot be connected",
    }[prediction.outcome]
    output.line(
        "prediction",
        f"{text}: {prediction.reason}",
        essential=True,
        outcome=prediction.outcome.value,
        certain=prediction.certain,
        reason=prediction.reason,
        family=prediction.family,
    )


def _show_relay(relay: RelayReport, output: Output) -> None:
    state = f"{_ms(relay.latency_s)} ms" if relay.ok else relay.detail
    output.line(
        "relay",
        f"relay     {relay.url}  {state}",
        url=relay.url,
        ok=relay.ok,
        latency_ms=_rounded(relay.latency_s),
        detail=relay.detail,
    )


def _show_server(server: ServerHealth, output: Output) -> None:
    way = f"IPv{server.family}" if server.family else server.transport.upper()
    latency = f"{_ms(server.latency_s)} ms" if server.latency_s else "answers"
    state = ", ".join(filter(None, (latency, "relays" if server.relays else "", server.detail)))
    output.line(
        "server",
        f"server    {server.url}  {way}  {state if server.ok else server.detail}",
        url=server.url,
        transport=server.transport,
        family=server.family,
        ok=server.ok,
        relays=server.relays,
        latency_ms=_rounded(server.latency_s),
        detail=server.detail,
    )


def _show_family(one: FamilyReport, output: Output) -> None:
    found = one.behaviour
    gateway = one.gateway.host if one.gateway is not None else None
    seen = f", seen as {', '.join(map(str, found.mapped))}" if found is not None and found.mapped else ""
    text = f"IPv{one.family}      {one.host}{f', gateway {gateway}' if gateway else ''}{seen}"
    if found is not None:
        text += f"\n          {describe_behaviour(found)}"
    fields = _behaviour_fields(found) if found is not None else {}
    output.line("nat", text, family=one.family, local=one.host, gateway=gateway, **fields)


def _behaviour_fields(found: NatBehaviour) -> dict[str, Any]:
    lifetime = found.lifetime
    return {
        "udp": found.udp_works,
        "mapping": found.mapping.value,
        "filtering": found.filtering.value,
        "mapped": [str(address) for address in found.mapped],
        "hairpin": found.hairpin,
        "fragments": found.fragments,
        "preserves_port": found.preserves_port,
        "lifetime_s": None if lifetime is None else [lifetime.at_least_s, lifetime.below_s],
    }


def _show_port_mapping(one: PortMappingReport, output: Output) -> None:
    external = f", external address {one.external_host}" if one.external_host else ""
    output.line(
        "port-mapping",
        f"{_NAMES.get(one.protocol, one.protocol):<10}{one.detail}{external}",
        protocol=one.protocol,
        available=one.available,
        detail=one.detail,
        external=one.external_host,
    )


def _show_web(web: WebReport, output: Output) -> None:
    states = {None: "not looked at" if not web.detail else web.detail, True: web.detail, False: "nothing in between"}
    text = f"web       {states[web.intercepted]}"
    if web.proxy:
        text += f", proxy {web.proxy}"
    if web.clock_offset_s is not None:
        # Dates come in whole seconds, so less than two say nothing.
        text += ", clock right" if abs(web.clock_offset_s) < 2 else f", clock {web.clock_offset_s:+.0f} s"
    output.line(
        "web",
        text,
        intercepted=web.intercepted,
        detail=web.detail,
        proxy=web.proxy,
        clock_offset_s=web.clock_offset_s,
    )


def _ms(seconds: float | None) -> str:
    return format_ms(seconds or 0.0)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
