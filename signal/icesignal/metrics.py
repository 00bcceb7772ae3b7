"""What a relay counts, as Prometheus reads it: text format 0.0.4, each family with its meaning and its type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

PREFIX = "icesignal_"
Labels = tuple[tuple[str, str], ...]
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_]")
_GAUGES = {
    "connections_limit": "Connections that there may be.",
    "connections_open": "Connections now.",
    "sources": "Sources and networks of sources that are remembered.",
    "work_tries": "Hashes that a join costs now, 0 for none.",
    "engine_guesses": "Guesses of codes of late, at all nodes; those of five minutes ago count half.",
    "engine_rooms": "Rooms now.",
    "engine_sessions": "Sessions now, those that may resume included.",
    "engine_log_bytes": "Bytes in the logs of all rooms.",
    "engine_store_away": "Whether the store that the nodes share is away: 1, or 0.",
}
_HELP = {
    "bad_requests": "Requests that were none.",
    "claims_beyond_budget": "Claims beyond the budget of their source, each paid for by work.",
    "bytes_over_limit": "Times that a source sent more bytes than its budget.",
    "connections": "Connections that were let in.",
    "connections_broken": "Connections that broke.",
    "connections_over_limit": "Connections refused because the relay was full or draining.",
    "connections_refused": "Connections refused because their source had too many.",
    "connections_shed": "Connections in no room that ended for the sake of others.",
    "engine_unreadable": "Times that a stored room could not be read here, and who was in it was sent away.",
    "frames_in": "Frames of clients.",
    "frames_out": "Frames to clients.",
    "headers_too_slow": "Requests that took too long.",
    "idle": "Connections that took no place in a room in time.",
    "internal_errors": "Errors of the relay itself.",
    "joins_over_limit": "Entries refused because of the budget of their source.",
    "messages_over_limit": "Connections closed because their source sent too many frames.",
    "outcomes_left_out": "Reports of outcomes that were not counted: of no member, or the second of a session.",
    "origins_refused": "Connections of web pages that are not allowed.",
    "pages": "Pages served.",
    "rooms_forbidden": "Rooms refused because the relay has an owner.",
    "rooms_while_draining": "Rooms refused because the relay goes away.",
    "servers_failed": "Times that a member was told of no ICE servers since they could not be made.",
    "servers_given": "Times that a member was given ICE servers anew.",
    "slow_consumers": "Connections closed because they took their messages too slowly.",
    "status_tokens_wrong": "Requests for the numbers of the status page without its token.",
    "stun_connections": "Connections handed over to the TURN server on the same port.",
    "work_asked": "Puzzles that were given.",
    "work_done": "Entries with a right solution.",
    "work_wrong": "Entries with a wrong solution.",
    "websockets": "Websockets that were opened.",
}


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name without the prefix, and its samples, each a suffix, labels and a value."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    samples: Sequence[tuple[str, Labels, float]]


def render(statistics: Mapping[str, int], more: Iterable[Family] = ()) -> str:
    """Return totals and gauges by name, and further families, as text."""
    families = [_family_of(name, value) for name, value in sorted(statistics.items())]
    return "".join(f"{line}\n" for family in (*families, *more) for line in _lines(family))


def _family_of(name: str, value: int) -> Family:
    if name in _GAUGES:
        return Family(name, "gauge", _GAUGES[name], [("", (), value)])
    words = name.replace("_", " ").replace("-", " ")
    meaning = _HELP.get(name, f"{words[:1].upper()}{words[1:]}, in all.")
    return Family(f"{name}_total", "counter", meaning, [("", (), value)])


def _escaped(text: str, *, is_label: bool) -> str:
    """Return a text as the format has it between its marks."""
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if is_label else text


def _lines(family: Family) -> Iterator[str]:
    name = PREFIX + _NOT_IN_A_NAME.sub("_", family.name)
    yield f"# HELP {name} {_escaped(family.meaning, is_label=False)}"
    yield f"# TYPE {name} {family.kind}"
    for suffix, labels, value in family.samples:
        shown = ",".join(f'{key}="{_escaped(text, is_label=True)}"' for key, text in labels)
        number = int(value) if float(value).is_integer() else value
        yield f"{name}{suffix}{f'{{{shown}}}' if shown else ''} {number}"
