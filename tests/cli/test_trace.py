"""`iceagent trace`: a timeline in words and as a chart, and files that are none, or bad ones."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from in_process import command

from iceagent.agent.report.events import AgentEvent
from iceagent.agent.report.export import event_kind
from iceagent.cli import trace_svg
from iceagent.cli.trace_read import MAX_BYTES, MAX_EVENTS, parse_trace_untrusted
from iceagent.cli.trace_words import KINDS, row_of
from iceagent.errors import LocalError

HERE = {"id": "L", "type": "host", "protocol": "udp", "address": "192.0.2.1", "port": 1000}
THERE = {"id": "R", "type": "prflx", "protocol": "udp", "address": None, "port": 2000}
RELAY = {"id": "Y", "type": "relay", "protocol": "udp", "address": "2001:db8::1", "port": 3000}
HOSTILE = '"/><script>alert(1)</script><a href="javascript:x" onload=\'y\'>&\x1b[31m\x00\ud800]]>'


def pair(remote: dict[str, Any] = THERE, **more: Any) -> dict[str, Any]:
    shown = {"local": HERE, "remote": remote, "state": "succeeded", "nominated": False, "valid": True, "rtt_s": 0.018}
    return {**shown, "priority": 1, **more}


def document(*events: dict[str, Any], **more: Any) -> dict[str, Any]:
    verdict: dict[str, Any] = {
        "kind": "connected",
        "because": None,
        "summary": "Connected directly.",
        "evidence": [],
        "remedy": "",
    }
    head = {"schema": 1, "kind": "iceagent-timeline", "started": "2026-03-01T12:00:00.000Z", "events_forgotten": 0}
    return {**head, "verdict": verdict, "statistics": {}, "events": list(events), **more}


STORY = document(
    {"t": 0.0, "time": "x", "kind": "state-changed", "old": "new", "new": "checking"},
    {"t": 0.01, "time": "x", "kind": "local-candidate-added", "candidate": {**HERE, "base": "192.0.2.1:1000"}},
    {"t": 0.02, "time": "x", "kind": "remote-candidate-added", "candidate": RELAY},
    {
        "t": 0.03, "time": "x", "kind": "server-answered", "url": "stun:s", "base": "192.0.2.1:1000",
        "mapped": "203.0.113.1:7", "rtt_s": 0.02, "server": "203.0.113.9:3478", "transport": "udp",
    },
    {"t": 0.04, "time": "x", "kind": "pair-state-changed", "pair": pair(state="in-progress")},
    {"t": 0.06, "time": "x", "kind": "pair-validated", "pair": pair()},
    {"t": 0.07, "time": "x", "kind": "selected-pair-changed", "pair": pair(RELAY)},
    {"t": 0.08, "time": "x", "kind": "selected-pair-changed", "pair": pair()},
    {"t": 3600.0, "time": "x", "kind": "stopped", "seconds": 40.0},
    {"t": 3601.0, "time": "x", "kind": "selected-pair-changed", "pair": None},
    {"t": 3602.0, "time": "x", "kind": "brewed-tea", "leaves": 7, "cup": {"of": "mine"}},
)  # fmt: skip


def write(folder: Path, content: Any) -> Path:
    path = folder / "trace.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_the_table_says_what_happened_between_whom_and_what_came_of_it(tmp_path: Path) -> None:
    ended = command("trace", str(write(tmp_path, STORY)))
    assert ended.returncode == 0
    lines = [re.sub(r"\s\s+", "  ", line.strip()) for line in ended.stderr.decode().splitlines()]
    assert lines == [
        "0.000  the agent's state changed  from new to checking",
        "0.010  an address of ours was found  host 192.0.2.1:1000 udp",
        "0.020  an address of the peer's came  relay [2001:db8::1]:3000 udp",
        "0.030  a STUN server answered  192.0.2.1:1000 to stun:s  we are seen as 203.0.113.1:7, rtt 20 ms",
        "0.040  a pair of addresses  host 192.0.2.1:1000 to prflx ?:2000  is being checked",
        "0.060  a pair was answered for the first time  host 192.0.2.1:1000 to prflx ?:2000  rtt 18 ms",
        "0.070  data takes another path  host 192.0.2.1:1000 to relay [2001:db8::1]:3000  relayed, rtt 18 ms",
        "0.080  data takes another path  host 192.0.2.1:1000 to prflx ?:2000  direct, rtt 18 ms",
        "3600.000  this program stood still  for 40 s",
        "3601.000  data takes another path  no path any more",
        "3602.000  brewed tea  leaves 7, cup …",
        "in the end: Connected directly.",
    ]


def test_programs_get_the_same(tmp_path: Path) -> None:
    ended = command("trace", "--json", str(write(tmp_path, {**STORY, "events_forgotten": 3})))
    lines = [json.loads(line) for line in ended.stdout.decode().splitlines()]
    assert [line["kind"] for line in lines] == ["forgotten", *["event"] * 11, "conclusion"]
    assert lines[0]["count"] == 3
    assert lines[8]["result"] == "direct, rtt 18 ms"
    assert lines[-1]["verdict"] == "connected"


def test_every_kind_of_event_has_words() -> None:
    """The type of all events, and the table of words, are two places; one that is new needs both."""
    from typing import get_args

    assert {event_kind(one.__name__) for one in get_args(AgentEvent)} == KINDS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_events_that_lack_all_or_have_anything_are_shown(kind: str) -> None:
    """A file may come from another version, or from anybody."""
    names = ("pair", "candidate", "url", "base", "reason", "seconds", "rtt_s", "new", "by_peer", "mapped", "port")
    for value in (None, 7, 1e300, 10**400, "x" * 10_000, HOSTILE, [HOSTILE] * 99, {"a": {"b": 1}}, True, {}):
        row = row_of({"t": 1, "kind": kind, **dict.fromkeys(names, value)})
        assert all(one.isprintable() for one in row[1:])
        assert max(map(len, row[1:])) < 3000
    assert row_of({"t": 1, "kind": kind}).what


def test_the_chart_has_a_lane_for_state_data_servers_and_each_pair(tmp_path: Path) -> None:
    """And an hour in which nothing happened does not squeeze the second in which all did."""
    out = tmp_path / "out.svg"
    assert command("trace", str(write(tmp_path, STORY)), "--svg", str(out)).returncode == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    root = ElementTree.fromstring(out.read_text())
    words = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
    for lane in ("state", "data goes", "addresses", "servers and gateway", "troubles and restarts", "others"):
        assert lane in words
    assert "host 192.0.2.1:1000 to prflx ?:2000" in words
    titles = [one.text or "" for one in root.iter("{http://www.w3.org/2000/svg}title")]
    assert any("direct host 192.0.2.1:1000 to prflx" in title for title in titles)
    axis = trace_svg._Axis([0.0, 1.0, 3600.0, 3601.0])
    assert axis.x(1.0) - axis.x(0.0) == axis.x(3601.0) - axis.x(3600.0) > 100


def hostile_document() -> dict[str, Any]:
    """Every text of it is one that would like to be markup, or a command for the terminal."""
    ends = {"type": HOSTILE, "address": HOSTILE, "port": HOSTILE, "protocol": HOSTILE, "base": HOSTILE}
    names = ("url", "base", "reason", "new", "old", "role", "mapped", "urls", "changes", "target", "technique")
    events = [
        {"t": number, "kind": kind, "candidate": ends, "pair": {"local": ends, "remote": ends, "state": HOSTILE}}
        | dict.fromkeys(names, HOSTILE)
        for number, kind in enumerate([*sorted(KINDS), HOSTILE])
    ]
    verdict = {"kind": HOSTILE, "summary": HOSTILE, "remedy": HOSTILE}
    return document(*events, started=HOSTILE, verdict=verdict)


HARMLESS = {"svg", "rect", "text", "line", "circle", "title", "g"}


def test_trap_113_a_hostile_timeline_is_drawn_as_text_and_executes_nothing(tmp_path: Path) -> None:
    """Charts are sent around, and opened in browsers."""
    content = json.dumps(hostile_document()).replace("\\ud800", "?")
    path = write(tmp_path, content.encode())
    out = tmp_path / '"><script>x.svg'
    ended = command("trace", str(path), "--svg", str(out))
    assert ended.returncode == 0
    root = ElementTree.fromstring(out.read_text())
    assert {one.tag.partition("}")[2] for one in root.iter()} <= HARMLESS
    attributes = {name for one in root.iter() for name in one.attrib}
    assert not any(name.lower().startswith("on") or "href" in name or name == "style" for name in attributes)
    values = [value for one in root.iter() for value in one.attrib.values()]
    assert not any("<" in value or "script" in value for value in values)
    assert "<script" not in out.read_text()
    assert b"\x1b" not in ended.stderr


def test_trap_113_lone_surrogates_and_controls_make_a_chart_all_the_same() -> None:
    """XML has no place for them."""
    assert trace_svg.clean("a\x00\x1b\ud800\ufffe<&>\"'") == "a????&lt;&amp;&gt;&quot;&#x27;"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not the JSON that --timeline writes"),
        (b"\xff\xfe", "not the JSON"),
        (b"[]", "is no timeline: "),
        (b"7", "is no timeline: "),
        (b"[" * 100_000, "is no timeline: "),
        (json.dumps({**STORY, "kind": "tea\x1b"}).encode(), "is no timeline: its kind is"),
        (json.dumps({**STORY, "schema": 2}).encode(), "is a timeline of version 2; this program knows 1"),
        (json.dumps({**STORY, "events": 7}).encode(), "is no timeline: "),
        (json.dumps({**STORY, "events": [7]}).encode(), "is no timeline: "),
        (json.dumps({**STORY, "events": [{"t": 1}]}).encode(), "its event 1 has no time or no kind"),
        (json.dumps({**STORY, "events": [{"kind": "failed"}]}).encode(), "its event 1 has no"),
        (json.dumps({**STORY, "events": [{"t": True, "kind": "failed"}]}).encode(), "its event 1 has no"),
        (json.dumps({**STORY, "events": [{"t": 1e300, "kind": "failed"}]}).encode(), "its event 1 has no"),
        (b'{"schema": 1, "kind": "iceagent-timeline", "events": [{"t": 1e999, "kind": "failed"}]}', "no timeline: "),
        (json.dumps({**STORY, "events": [{"t": 10**400, "kind": "failed"}]}).encode(), "no timeline: "),
        (json.dumps({**STORY, "events": [{"t": 1, "kind": "failed"}] * (MAX_EVENTS + 1)}).encode(), "at most 5000 can"),
        (b"", "is empty: the command that wrote it ended before"),
    ],
    ids=range(17),
)
def test_trap_113_a_file_that_is_no_timeline_is_one_sentence_and_exit_2(
    tmp_path: Path, content: bytes, words: str
) -> None:
    """Whatever it is, and however large."""
    ended = command("trace", str(write(tmp_path, content)))
    assert ended.returncode == 2
    (line,) = ended.stderr.decode().splitlines()
    assert line.startswith("iceagent: ")
    assert words in line
    assert b"\x1b" not in ended.stderr
    assert len(line) < 400


def test_trap_113_a_file_larger_than_any_timeline_is_not_looked_into(tmp_path: Path) -> None:
    ended = command("trace", str(write(tmp_path, b" " * (MAX_BYTES + 1))))
    assert ended.returncode == 2
    assert b"more than 16 MiB" in ended.stderr


def test_trap_113_words_of_a_file_are_cut_and_printable() -> None:
    """They come to a terminal, and to everybody who opens the chart."""
    row = row_of({"t": 1, "kind": "failed", "reason": HOSTILE + "x" * 10_000})
    assert row.result.isprintable()
    assert len(row.result) < 300


def test_a_file_that_is_not_there_and_a_chart_that_cannot_be_written(tmp_path: Path) -> None:
    ended = command("trace", str(tmp_path / "missing"))
    assert ended.returncode == 2
    assert b"cannot be read: No such file" in ended.stderr
    ended = command("trace", str(write(tmp_path, STORY)), "--svg", str(tmp_path / "no such folder" / "x.svg"))
    assert ended.returncode == 9
    assert b"the chart cannot be written to" in ended.stderr


def test_nothing_at_all_happened() -> None:
    """A timeline without an event is one."""
    trace = parse_trace_untrusted(json.dumps(document()).encode(), "x")
    ElementTree.fromstring(trace_svg.draw(trace, "x"))
    with pytest.raises(LocalError):
        parse_trace_untrusted(b"null", "x")


def test_many_pairs_are_not_all_drawn() -> None:
    """A hard NAT makes thousands; those that came to something come first."""
    events = [
        {"t": at, "kind": "pair-state-changed", "pair": pair({**HERE, "port": at}, state="failed")} for at in range(900)
    ]
    events.append({"t": 901, "kind": "pair-validated", "pair": pair(RELAY)})
    drawn = trace_svg.draw(parse_trace_untrusted(json.dumps(document(*events)).encode(), "x"), "x")
    assert "host 192.0.2.1:1000 to relay [2001:db8::1]:" in drawn
    assert f"and {901 - trace_svg.MAX_PAIRS} pairs more" in drawn
