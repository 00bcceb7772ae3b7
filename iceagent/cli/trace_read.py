"""Reads what `--timeline` has written, or somebody has sent: bounded, and never believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from iceagent.errors import LocalError

KIND: Final = "iceagent-timeline"
SCHEMA: Final = 1
MAX_BYTES: Final = 16 * 1024 * 1024  # ours: an agent keeps 512 events of some hundred bytes
MAX_EVENTS: Final = 5_000  # ours
LONGEST_S: Final = 10 * 365 * 86_400.0  # ours: beyond it no session lasts


class TimelineVerdict(msgspec.Struct):
    """What the agent said of itself at the end (docs/explain.md)."""

    kind: str = ""
    summary: str = ""
    remedy: str = ""


class Trace(msgspec.Struct):
    """A timeline.

    Attributes:
        events: each with `t`, seconds since the agent's beginning, `kind`, and what else is known of it; in order.
        started: wall-clock time of the beginning, as it was written.
        forgotten: how many earlier events are not kept.
    """

    schema: int
    kind: str
    events: list[dict[str, Any]]
    started: str = ""
    forgotten: int = msgspec.field(default=0, name="events_forgotten")
    verdict: TimelineVerdict = msgspec.field(default_factory=TimelineVerdict)


def read_trace(path: str | Path) -> Trace:
    """Return the timeline in a file.

    Raises:
        LocalError: it is none, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise LocalError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise LocalError(f"{path} is no timeline: it has more than {MAX_BYTES // (1024 * 1024)} MiB")
    if not content.strip():
        raise LocalError(f"{path} is empty: the command that wrote it ended before it looked for a path")
    return parse_trace_untrusted(content, str(path))


def parse_trace_untrusted(content: bytes, name: str) -> Trace:
    """Return the timeline in a text.

    Raises:
        LocalError: it is none; `name` is what it is called in the message.
    """
    try:
        trace = msgspec.json.decode(content, type=Trace)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        why = str(error) if isinstance(error, msgspec.ValidationError) else "it is not the JSON that --timeline writes"
        raise LocalError(f"{name} is no timeline: {why}") from None
    if trace.kind != KIND:
        raise LocalError(f"{name} is no timeline: its kind is {trace.kind[:40]!r}, not {KIND!r}")
    if trace.schema != SCHEMA:
        raise LocalError(f"{name} is a timeline of version {trace.schema}; this program knows {SCHEMA}, so upgrade it")
    if len(trace.events) > MAX_EVENTS:
        raise LocalError(f"{name} has {len(trace.events)} events; at most {MAX_EVENTS} can be shown")
    for number, event in enumerate(trace.events, 1):
        _check_event(event, number, name)
    trace.events.sort(key=lambda event: float(event["t"]))
    return trace


def _check_event(event: dict[str, Any], number: int, name: str) -> None:
    at: Any = event.get("t")
    is_time = isinstance(at, int | float) and not isinstance(at, bool) and abs(at) <= LONGEST_S
    if not is_time or not isinstance(event.get("kind"), str):
        raise LocalError(f"{name} is no timeline: its event {number} has no time or no kind")
