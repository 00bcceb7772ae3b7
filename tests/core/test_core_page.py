"""docs/core.md against the core: its program runs, and whoever drives the core finds each call and event there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import get_args

from iceagent.core.ice import IceAgent, IceEvent, Received

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "core.md").read_text(encoding="utf-8")
ASKED = {"checks_sent", "counters", "current_pairs", "generation", "heard_at", "pairs", "pair_reports", "probing"}
ASKED |= {"path_is_silent", "remote_candidates", "remote_candidates_ended", "remote_credentials", "restarting", "role"}
ASKED |= {"signs", "state", "stranded", "uses_path", "component", "gives_up_at"}
"""What may be asked and need not be, and `uses_path`, which matters to TCP."""
OF_THE_CHECKLIST_SET = {"current_facts", "note_slot_used", "schedules", "settle_alone"}


def test_the_program_of_the_page_runs(capsys):
    """Two agents, no socket: the first thing that somebody tries."""
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    exec(compile(code.group(1), "docs/core.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines == sorted(lines, key=lambda line: line.startswith("b'"))
    assert {"agreed on 192.0.2.1:5000 - 192.0.2.2:5000", "b'hello alice'"} < set(lines)
    assert len(lines) == 3


def test_every_event_and_verdict_is_on_the_page():
    """An event that nobody told of is one that a shell loses: two of them carry data, and credentials."""
    for event in get_args(IceEvent):
        assert f"`{event.__name__}" in PAGE
    for verdict in Received:
        assert f"`{verdict.name}`" in PAGE


def test_every_call_is_on_the_page():
    names = {name for name, _ in inspect.getmembers(IceAgent) if not name.startswith("_")}
    told = {name for name in names if re.search(rf"`(?:agent\.)?{name}\b", PAGE)}
    assert names - told - OF_THE_CHECKLIST_SET - ASKED == set()
