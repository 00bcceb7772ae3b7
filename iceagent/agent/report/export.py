"""A timeline as JSON, to be kept, sent to somebody who helps, or drawn. The schema is in docs/explain.md.

Nothing secret is in it: of credentials only the ufrag, and only the port of the peer's peer-reflexive candidates, whose
addresses the peer has not signalled. The same holds for statistics in the W3C's form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any, Final, Protocol

from msgspec import structs

from iceagent.agent.driver import Driver
from iceagent.agent.explain import Verdict
from iceagent.agent.report.events import AgentEvent, DestinationUnreachable
from iceagent.agent.report.statistics import AgentStatistics
from iceagent.core import ice
from iceagent.core.address import TransportAddress

TIMELINE_SCHEMA: Final = 1
"""A key never changes its meaning within a version; new keys and kinds may come at any time."""


class Explaining(Protocol):
    """Who explains its state: an `Agent`."""

    def explain(self) -> Verdict:
        """Return the verdict of the moment."""
        ...

    def statistics(self) -> AgentStatistics:
        """Return the numbers of the moment."""
        ...


def timeline_document(driver: Driver, agent: Explaining) -> dict[str, Any]:
    """Return what is known of an agent's past, and its conclusions, as values that JSON has."""
    timeline = driver.timeline
    entries = timeline.entries()
    started_at = driver.started_at
    writer = _Writer(driver, (event for _, event in entries))
    events = [
        {
            "t": round(at - started_at, 6),
            "time": iso_time(timeline.wall_time(at)),
            "kind": event_kind(type(event).__name__),
            **writer.members(event),
        }
        for at, event in entries
    ]
    return {
        "schema": TIMELINE_SCHEMA,
        "kind": "iceagent-timeline",
        "started": iso_time(timeline.wall_time(started_at)),
        "events_forgotten": timeline.events_forgotten,
        "verdict": agent.explain().as_dict(),
        "statistics": agent.statistics().as_w3c(),
        "events": events,
    }


def timeline_json(driver: Driver, agent: Explaining) -> str:
    """Return `timeline_document` as text, one event a line, so that tools for lines work, too."""
    document = timeline_document(driver, agent)
    lines = ",\n".join(json.dumps(event) for event in document.pop("events"))
    head = json.dumps(document)[1:-1]
    return f'{{{head}, "events": [\n{lines}\n]}}\n'


@cache
def event_kind(name: str) -> str:
    """Return what an event is called in the JSON, given its type's name: `StateChanged` is `state-changed`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def iso_time(seconds: float) -> str:
    """Return a time since the epoch in the form of RFC 3339, UTC, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Writer:
    """Turns events into values that JSON has. Only types known here pass; all else is named, not shown."""

    def __init__(self, driver: Driver, events: Iterable[AgentEvent]) -> None:
        self._names = driver.names
        remote = [event.candidate for event in events if isinstance(event, ice.RemoteCandidateAdded)]
        remote += driver.ice.remote_candidates
        signalled = {candidate.address for candidate in remote if candidate.type is not ice.CandidateType.PRFLX}
        self._unsignalled = {candidate.address for candidate in remote} - signalled

    def members(self, event: AgentEvent) -> dict[str, Any]:
        """Return the fields of an event."""
        if isinstance(event, ice.RemoteCandidateAdded):
            return {"candidate": self._candidate(event.candidate, is_remote=True)}
        if isinstance(event, ice.LocalCandidateAdded):
            return {"candidate": self._candidate(event.candidate, is_remote=False)}
        if isinstance(event, DestinationUnreachable) and event.remote in self._unsignalled:
            event = structs.replace(event, remote=TransportAddress("", event.remote.port))
        return {name: self._value(getattr(event, name)) for name in event.__struct_fields__}

    def _value(self, value: object) -> Any:
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return round(value, 6)
        if isinstance(value, Enum):
            return value.value
        if isinstance(value, TransportAddress):
            return str(value) if value.host else f"?:{value.port}"
        if isinstance(value, ice.CandidatePair):
            return self._pair(value)
        if isinstance(value, ice.Credentials):
            return {"ufrag": value.ufrag}
        if isinstance(value, tuple):
            return [self._value(one) for one in value]
        return type(value).__name__

    def _candidate(self, candidate: ice.Candidate, *, is_remote: bool) -> dict[str, Any]:
        shown = self._end(candidate, is_remote=is_remote) | {"priority": candidate.priority}
        if not is_remote:
            shown["base"] = str(candidate.path_base)
        return shown

    def _end(self, candidate: ice.Candidate, *, is_remote: bool) -> dict[str, Any]:
        is_unsignalled = is_remote and candidate.type is ice.CandidateType.PRFLX
        return {
            "id": self._names.candidate(candidate, is_remote=is_remote),
            "type": candidate.type.value,
            "protocol": candidate.transport,
            "address": None if is_unsignalled else candidate.address.host,
            "port": candidate.address.port,
        }

    def _pair(self, pair: ice.CandidatePair) -> dict[str, Any]:
        return {
            "local": self._end(pair.local, is_remote=False),
            "remote": self._end(pair.remote, is_remote=True),
            "state": pair.state.value,
            "nominated": pair.nominated,
            "valid": pair.valid,
            "rtt_s": None if pair.rtt_s is None else round(pair.rtt_s, 6),
            "priority": pair.priority,
        }
