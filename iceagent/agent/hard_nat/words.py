"""What was done about hard NATs, in words for people."""

from __future__ import annotations

from typing import Final

from iceagent.agent.report.events import AgentEvent, HardNatBegun, HardNatEnded, NatSeen
from iceagent.agent.report.timeline import Timeline

_NATS: Final = {
    "easy": "keeps one external port for all destinations",
    "predictable": "maps per destination, to ports that can be known beforehand",
    "hard": "maps per destination, to ports at random",
    "unknown": "maps nobody knows how, for want of a second STUN server that answers",
}
_RESULTS: Final = {
    "direct": "a direct path was found",
    "no-path": "no path was found in time",
    "no-packets-left": "no path was found with the packets allowed",
    "hopeless": "against these two NATs nothing is known to help",
}


def hard_nat_facts(timeline: Timeline[AgentEvent]) -> list[str]:
    """Return one fact on our NAT and one on what was done, the latest of each."""
    kinds = (NatSeen, HardNatBegun, HardNatEnded)
    entries = [entry for kind in kinds for entry in timeline.latest(kind)]
    latest: dict[type, str] = {}
    begun: HardNatBegun | None = None
    for _, event in sorted(entries, key=lambda entry: entry[0]):
        if isinstance(event, NatSeen):
            latest[NatSeen] = f"our NAT {_NATS.get(event.nat, event.nat)}"
        elif isinstance(event, HardNatBegun):
            begun = event
            latest[HardNatEnded] = f"hard NAT: {_work(event)}"
        elif isinstance(event, HardNatEnded):
            result = _RESULTS.get(event.result, event.result)
            packets = f" ({event.packets} packets in {event.seconds:.1f} s)" if event.packets else ""
            work = f"{_work(begun)}; " if begun is not None else ""
            latest[HardNatEnded] = f"hard NAT: {work}{result}{packets}"
    return list(latest.values())


def _work(event: HardNatBegun) -> str:
    if event.technique == "spray":
        return f"probes to many ports of {event.target.host}"
    if event.technique == "both":
        return f"{event.sockets} sockets open to {event.target}, and probes to many ports there"
    return f"{event.sockets} sockets open to {event.target}"
