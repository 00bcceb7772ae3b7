"""A timeline as a chart: SVG, made of shapes and text alone.

What a file says is drawn as text, escaped, and never becomes part of the markup; there is no script, no style and no
address of anything else in it, so that opening a chart of somebody else's timeline does nothing but show it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, Final, NamedTuple

from iceagent.cli.trace_read import Trace
from iceagent.cli.trace_words import pair_of, path_kind, row_of, text

WIDTH: Final = 1200
LEFT: Final = 270
RIGHT: Final = 20
TAIL: Final = 60  # of the last state, whose end is not known
ROW: Final = 22
BAR: Final = 12
TOP: Final = 64
MAX_PAIRS: Final = 60  # ours: lanes of pairs; a hard NAT makes thousands
MAX_MARKS: Final = 2_000  # ours: of a lane
MAX_TEXT: Final = 46  # characters that fit beside a lane
GAP_S: Final = 2.0  # a longer time without an event is drawn as long as this
_COLOURS: Final = {
    "new": "#bbbbbb", "checking": "#e0b030", "connected": "#3a9d5d", "completed": "#2f7f4b", "failed": "#c0392b",
    "disconnected": "#d35400", "closed": "#666666", "none": "#dddddd", "direct": "#3a9d5d", "relayed": "#d98c2b",
    "frozen": "#dddddd", "waiting": "#c9d6e8", "in-progress": "#6f9bd1", "succeeded": "#3a9d5d", "validated": "#3a9d5d",
    "good": "#3a9d5d", "bad": "#c0392b", "plain": "#4a6fa5",
}  # fmt: skip
_GOOD: Final = {"server-answered", "relay-allocated", "port-mapped", "pair-validated", "pair-nominated"}
_BAD: Final = {
    "server-failed", "relay-failed", "relay-lost", "port-mapping-failed", "consent-lost", "path-unanswered",
    "restart-failed", "failed", "destination-unreachable", "servers-not-renewed", "controller-failed",
}  # fmt: skip
_LANES: Final = {
    "addresses": ("local-candidate-added", "remote-candidate-added", "gathering-enough", "gathering-finished"),
    "servers and gateway": (
        "server-answered", "server-failed", "relay-allocated", "relay-failed", "relay-lost", "port-mapped",
        "port-mapping-failed", "servers-changed", "servers-not-renewed", "nat-seen", "fresh-port",
    ),
    "troubles and restarts": (
        "path-unanswered", "consent-lost", "restarted", "restart-failed", "failed", "network-changed", "stopped",
        "destination-unreachable", "role-changed", "controller-failed", "hard-nat-begun", "hard-nat-ended",
    ),
}  # fmt: skip


_OF_PAIRS: Final = {"pair-state-changed", "pair-validated", "pair-nominated"}


class _Segment(NamedTuple):
    begin: float
    end: float
    kind: str
    title: str


class _Mark(NamedTuple):
    at: float
    kind: str
    title: str


class _Lane(NamedTuple):
    name: str
    segments: Sequence[_Segment] = ()
    marks: Sequence[_Mark] = ()


def draw(trace: Trace, name: str) -> str:
    """Return the chart of a timeline; `name` is its heading."""
    lanes = list(_lanes(trace.events))
    axis = _Axis([float(event["t"]) for event in trace.events])
    height = TOP + ROW * len(lanes) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(10, 20, f"{name}, begun {trace.started or 'at an unknown time'}", size=14),
        _text(10, 38, f"{trace.verdict.kind}: {trace.verdict.summary}"),
        *_legend(),
        *axis.drawn(height - 30),
    ]
    for number, lane in enumerate(lanes):
        parts += _drawn(lane, TOP + ROW * number, axis)
    return "\n".join([*parts, "</svg>", ""])


def _legend() -> Iterator[str]:
    x = LEFT
    for kind in ("checking", "connected", "direct", "relayed", "waiting", "in-progress", "succeeded", "failed"):
        yield f'<rect x="{x}" y="46" width="10" height="10" fill="{_COLOURS[kind]}"/>'
        yield _text(x + 14, 55, kind, size=10)
        x += 85


class _Axis:
    """Where a moment is: long times in which nothing happened are drawn short, and marked."""

    def __init__(self, times: Sequence[float]) -> None:
        self._times = sorted({0.0, *times})
        self._places = [0.0]
        for before, after in zip(self._times, self._times[1:], strict=False):
            self._places.append(self._places[-1] + min(after - before, GAP_S))
        self._scale = (WIDTH - LEFT - RIGHT - TAIL) / (self._places[-1] or 1.0)
        self._index = dict(zip(self._times, self._places, strict=True))
        self.end = self._times[-1]

    def x(self, at: float) -> float:
        """Return the place of a moment at which something happened."""
        return round(LEFT + self._index[at] * self._scale, 1)

    def drawn(self, bottom: float) -> Iterator[str]:
        """Give the axis: a line with times, as many as there is room for, and where time is left out."""
        yield f'<line x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}" stroke="#888888"/>'
        last = -1000.0
        for before, at in zip([None, *self._times], self._times, strict=False):
            x = self.x(at)
            if before is not None and at - before > GAP_S:
                middle = round((self.x(before) + x) / 2, 1)
                yield (
                    f'<line x1="{middle}" y1="{TOP - 8}" x2="{middle}" y2="{bottom}" stroke="#999999" '
                    'stroke-dasharray="3 4"/>'
                )
            if x - last >= 60 and x <= WIDTH - RIGHT - 20:
                last = x
                yield f'<line x1="{x}" y1="{bottom}" x2="{x}" y2="{bottom + 5}" stroke="#888888"/>'
                yield _text(x, bottom + 18, f"{at:.3g} s", anchor="middle", size=11)


def _lanes(events: Sequence[dict[str, Any]]) -> Iterator[_Lane]:
    end = float(events[-1]["t"]) if events else 0.0
    yield _Lane("state", _states(events, end))
    yield _Lane("data goes", _data(events, end))
    for name, kinds in _LANES.items():
        marks = [_mark(event) for event in events if event["kind"] in kinds][:MAX_MARKS]
        if marks:
            yield _Lane(name, marks=marks)
    known = {"state-changed", "selected-pair-changed"} | _OF_PAIRS
    known |= {kind for kinds in _LANES.values() for kind in kinds}
    others = [_mark(event) for event in events if event["kind"] not in known][:MAX_MARKS]
    if others:
        yield _Lane("others", marks=others)
    yield from _pairs(events, end)


def _mark(event: dict[str, Any]) -> _Mark:
    kind = event["kind"]
    row = row_of(event)
    title = ": ".join(filter(None, (f"{row.t:.3f} s  {row.what}", row.between, row.result)))
    return _Mark(row.t, "good" if kind in _GOOD else "bad" if kind in _BAD else "plain", title)


def _states(events: Sequence[dict[str, Any]], end: float) -> list[_Segment]:
    changes = [(float(event["t"]), text(event.get("new", "?"))) for event in events if event["kind"] == "state-changed"]
    return _segments(changes, end)


def _data(events: Sequence[dict[str, Any]], end: float) -> list[_Segment]:
    changes = [event for event in events if event["kind"] == "selected-pair-changed"]
    found = [(float(event["t"]), path_kind(event.get("pair"))) for event in changes]
    titles = [f"{path_kind(event.get('pair'))} {pair_of(event.get('pair'))}".strip() for event in changes]
    return _segments(found, end, titles)


def _segments(changes: Sequence[tuple[float, str]], end: float, titles: Sequence[str] | None = None) -> list[_Segment]:
    if not changes:
        return []
    ends = [at for at, _ in changes[1:]] + [end]
    names = titles or [kind for _, kind in changes]
    joined = zip(changes, ends, names, strict=True)
    return [_Segment(at, until, kind, title) for (at, kind), until, title in joined][:MAX_MARKS]


def _pairs(events: Sequence[dict[str, Any]], end: float) -> Iterator[_Lane]:
    """Give a lane for each pair, those that came to something first."""
    changes: dict[str, list[tuple[float, str]]] = {}
    marks: dict[str, list[_Mark]] = {}
    for event in events:
        pair = event.get("pair")
        if not isinstance(pair, dict) or event["kind"] not in _OF_PAIRS:
            continue
        name = pair_of(pair)
        if event["kind"] == "pair-state-changed":
            changes.setdefault(name, []).append((float(event["t"]), text(pair.get("state", "?"))))
        else:
            marks.setdefault(name, []).append(_mark(event))
    names = sorted({**changes, **marks}, key=lambda name: name not in marks)
    for name in names[:MAX_PAIRS]:
        yield _Lane(name, _segments(changes.get(name, []), end), marks.get(name, [])[:MAX_MARKS])
    if len(names) > MAX_PAIRS:
        yield _Lane(f"and {len(names) - MAX_PAIRS} pairs more")


def _drawn(lane: _Lane, y: int, axis: _Axis) -> Iterator[str]:
    name = lane.name if len(lane.name) <= MAX_TEXT else f"{lane.name[: MAX_TEXT - 1]}…"
    yield f"<g><title>{clean(lane.name)}</title>{_text(LEFT - 8, y + BAR - 1, name, anchor='end', size=10)}</g>"
    for segment in lane.segments:
        x, end = axis.x(segment.begin), axis.x(segment.end) if segment.end < axis.end else WIDTH - RIGHT
        width = max(1.0, end - x)
        colour = _COLOURS.get(segment.kind, _COLOURS["plain"])
        yield (
            f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}">'
            f"<title>{clean(f'from {segment.begin:.3f} s: {segment.title}')}</title></rect>"
        )
    for mark in lane.marks:
        yield (
            f'<circle cx="{axis.x(mark.at)}" cy="{y + BAR // 2}" r="4" fill="{_COLOURS[mark.kind]}" stroke="#ffffff">'
            f"<title>{clean(mark.title)}</title></circle>"
        )


def _text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="#222222">{clean(words)}</text>'


def clean(words: str) -> str:
    """Return words of anybody's as text of an XML document: escaped, without what XML cannot hold."""
    shown = "".join(one if one.isprintable() and not 0xD800 <= ord(one) <= 0xDFFF else "?" for one in words)
    return escape(shown, quote=True)
