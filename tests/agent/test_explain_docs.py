"""docs/explain.md says what the code says: every verdict, every reason, every code, every event."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from msgspec import Struct

from iceagent.agent.explain import RelayReason, VerdictKind
from iceagent.agent.explain.verdict import CATALOGUE, REFUSALS, RELAY_CATALOGUE
from iceagent.agent.report.events import AgentEvent
from iceagent.agent.report.export import TIMELINE_SCHEMA, event_kind

TEXT = Path(__file__).parents[2].joinpath("docs", "explain.md").read_text()


def rows() -> list[str]:
    found = [f"| `{kind.value}` | {entry.meaning} | {entry.remedy} |" for kind, entry in CATALOGUE.items()]
    found += [f"| `{reason.value}` | {entry.meaning} | {entry.remedy} |" for reason, entry in RELAY_CATALOGUE.items()]
    return found + [f"| {code} | {entry.meaning} | {entry.remedy} |" for code, entry in sorted(REFUSALS.items())]


@pytest.mark.parametrize("row", rows())
def test_the_tables_of_the_page_are_those_of_the_code(row: str) -> None:
    """People look a verdict up on the page; programs look it up in the enum."""
    assert row in TEXT.splitlines(), f"docs/explain.md lacks this row:\n{row}"


def test_every_verdict_and_reason_has_an_entry() -> None:
    """A kind without a meaning would print an empty sentence."""
    assert set(CATALOGUE) == set(VerdictKind)
    assert set(RELAY_CATALOGUE) == set(RelayReason)


@pytest.mark.parametrize("event_type", get_args(AgentEvent), ids=lambda one: one.__name__)
def test_every_event_of_the_timeline_is_on_the_page_with_its_keys(event_type: type[Struct]) -> None:
    """Who writes a tool for timelines needs all of them."""
    rows = [line for line in TEXT.splitlines() if line.startswith(f"| `{event_kind(event_type.__name__)}` |")]
    names = [f"`{name}`" for name in event_type.__struct_fields__]
    assert any(all(name in row for name in names) for row in rows), f"{event_kind(event_type.__name__)}: {names}"


def test_the_version_of_the_timeline_is_on_the_page() -> None:
    """A reader checks it first."""
    assert f'"schema": {TIMELINE_SCHEMA}' in TEXT
