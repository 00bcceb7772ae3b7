"""The events of a timeline in plain words: what happened, between whom, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from iceagent.core.printable import printable
from iceagent.session.path import format_ms

Event = Mapping[str, Any]
LONGEST_RTT_S: Final = 86_400.0  # ours: what is longer is none


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        t: seconds since the agent's beginning.
        what: happened.
        between: whom, or where.
        result: what came of it.
    """

    t: float
    what: str
    between: str = ""
    result: str = ""


def row_of(event: Event) -> Row:
    """Return an event in words; one of a kind that is not known is shown as it is."""
    at = float(event["t"])
    words = _WORDS.get(event["kind"])
    if words is None:
        known = {"t", "time", "kind"}
        rest = ", ".join(f"{printable(name)} {text(value)}" for name, value in event.items() if name not in known)
        return Row(at, printable(event["kind"]).replace("-", " "), "", printable(rest))
    what, between, result = words
    return Row(at, what, between(event), result(event))


def text(value: Any) -> str:
    """Return a value as it can be shown, whatever it is."""
    if isinstance(value, str):
        return printable(value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return printable(str(value)) if abs(value) < 10**20 else "a large number"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(text(one) for one in value[:8]) + (", …" if len(value) > 8 else "")
    return "…"


def end_of(candidate: Any) -> str:
    """Return a candidate as `host 192.0.2.1:1000`."""
    if not isinstance(candidate, Mapping):
        return "?"
    return f"{text(candidate.get('type', '?'))} {_address(candidate)}"


def _address(candidate: Mapping[str, Any]) -> str:
    host, port = candidate.get("address"), text(candidate.get("port", "?"))
    if not isinstance(host, str):
        return f"?:{port}"  # of a peer-reflexive one of the peer's it is not written down
    return f"[{printable(host)}]:{port}" if ":" in host else f"{printable(host)}:{port}"


def pair_of(pair: Any) -> str:
    """Return a pair as `host 192.0.2.1:1000 to srflx 198.51.100.7:2000`."""
    if not isinstance(pair, Mapping):
        return ""
    return f"{end_of(pair.get('local'))} to {end_of(pair.get('remote'))}"


def path_kind(pair: Any) -> str:
    """Return `direct`, `relayed`, or `none` for no pair."""
    if not isinstance(pair, Mapping):
        return "none"
    ends = [pair.get("local"), pair.get("remote")]
    types = [end.get("type") for end in ends if isinstance(end, Mapping)]
    return "relayed" if "relay" in types else "direct"


def _get(name: str) -> Callable[[Event], str]:
    return lambda event: text(event[name]) if event.get(name) is not None else ""


def _nothing(_: Event) -> str:
    return ""


def _pair(event: Event) -> str:
    return pair_of(event.get("pair"))


def _selected(event: Event) -> str:
    kind = path_kind(event.get("pair"))
    return "no path any more" if kind == "none" else f"{kind}{_rtt(event)}"


def _rtt(event: Event) -> str:
    pair = event.get("pair")
    seconds: Any = pair.get("rtt_s") if isinstance(pair, Mapping) else event.get("rtt_s")
    is_time = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < LONGEST_RTT_S
    return f", rtt {format_ms(float(seconds))} ms" if is_time else ""


def _pair_state(event: Event) -> str:
    pair = event.get("pair")
    return _STATES.get(state := text(pair.get("state", "?")), state) if isinstance(pair, Mapping) else ""


_STATES: Final = {
    "frozen": "waits for another one",
    "waiting": "is about to be checked",
    "in-progress": "is being checked",
    "succeeded": "answers",
    "failed": "does not answer",
}


def _candidate(event: Event) -> str:
    found = event.get("candidate")
    shown = end_of(found)
    protocol = text(found.get("protocol", "?")) if isinstance(found, Mapping) else "?"
    return f"{shown} {protocol}"


def _base(event: Event) -> str:
    found = event.get("candidate")
    base = found.get("base") if isinstance(found, Mapping) else None
    return f"on {text(base)}" if isinstance(base, str) and base not in _candidate(event) else ""


def _asked(event: Event) -> str:
    base = event.get("base")
    return f"{text(base)} to {text(event.get('url', '?'))}" if isinstance(base, str) else text(event.get("url", "?"))


def _moved(event: Event) -> str:
    return f"from {text(event.get('old', '?'))} to {text(event.get('new', '?'))}"


def _joined(*names: str) -> Callable[[Event], str]:
    return lambda event: ", ".join(text(event[name]) for name in names if event.get(name) not in (None, "", []))


_Words = tuple[str, Callable[[Event], str], Callable[[Event], str]]
_WORDS: Final[dict[str, _Words]] = {
    "state-changed": ("the agent's state changed", _nothing, _moved),
    "local-candidate-added": ("an address of ours was found", _candidate, _base),
    "remote-candidate-added": ("an address of the peer's came", _candidate, _nothing),
    "pair-state-changed": ("a pair of addresses", _pair, _pair_state),
    "pair-validated": ("a pair was answered for the first time", _pair, lambda event: _rtt(event).removeprefix(", ")),
    "pair-nominated": ("both sides chose a pair", _pair, _nothing),
    "selected-pair-changed": ("data takes another path", _pair, _selected),
    "role-changed": ("a conflict of roles was settled", _nothing, _get("role")),
    "consent-lost": ("nothing may be sent any more", _pair, _nothing),
    "path-unanswered": ("a path does not answer", _pair, _nothing),
    "restarted": ("a restart began", _nothing, lambda event: "of the peer's" if event.get("by_peer") else "of ours"),
    "restart-failed": ("the restart found no path", _nothing, _get("reason")),
    "controller-failed": ("a controller failed", _nothing, _joined("question", "reason")),
    "failed": ("the session is over", _nothing, _get("reason")),
    "checklist-state-changed": ("the checks of a stream", _get("stream"), _moved),
    "component-given-up": ("a component was given up", _joined("stream", "component"), _nothing),
    "server-answered": (
        "a STUN server answered",
        _asked,
        lambda event: f"we are seen as {text(event.get('mapped'))}{_rtt(event)}",
    ),
    "server-failed": ("a server gave nothing", _asked, _get("reason")),
    "relay-allocated": ("a TURN server relays for us", _get("url"), _joined("address", "transport")),
    "relay-failed": ("a TURN server does not relay", _get("url"), _joined("transport", "reason", "code")),
    "relay-lost": ("a relayed address is gone", _get("url"), _joined("address", "reason")),
    "gathering-enough": ("the likely addresses are known", _nothing, _joined("candidates", "missing")),
    "gathering-finished": ("no further address follows", _nothing, _get("candidates")),
    "destination-unreachable": ("the network refused a packet", _joined("base", "remote"), _get("errno")),
    "port-mapped": ("the gateway opened a port", _get("base"), _joined("external", "protocol")),
    "port-mapping-failed": ("the gateway opens no port", _get("base"), _joined("protocol", "reason")),
    "network-changed": ("this machine's network changed", _nothing, _joined("changes", "lost", "gained")),
    "stopped": ("this program stood still", _nothing, lambda event: f"for {text(event.get('seconds'))} s"),
    "servers-changed": ("other servers are used", _get("urls"), _nothing),
    "servers-not-renewed": ("credentials were not renewed", _nothing, _get("reason")),
    "fresh-port": ("another port was tried", _get("base"), _get("mapped")),
    "nat-seen": ("our NAT was looked at", _get("base"), _joined("nat", "external")),
    "hard-nat-begun": ("packets are sent to open a NAT", _get("target"), _get("technique")),
    "hard-nat-ended": ("that is over", _nothing, _joined("result", "packets")),
}
"""What is said of each kind (docs/explain.md): what happened, between whom, what came of it."""

KINDS: Final = frozenset(_WORDS)
