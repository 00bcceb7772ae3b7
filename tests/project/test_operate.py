"""docs/operate.md: its configuration is one, and it shows all keys with their defaults."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest
from icesignal.config import limits_of, read_config
from icesignal.rooms import RoomLimits
from icesignal.sources import Limits

from iceagent.cli.serve_config import ServeConfig, TurnServerTable

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operate.md"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    found = re.search(r"^```toml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found is not None
    path = tmp_path / "serve.toml"
    path.write_text(found.group(1), encoding="utf-8")
    return path


def test_the_page_shows_every_key(example: Path) -> None:
    """A key that stands nowhere is one that nobody uses."""
    shown = tomllib.loads(example.read_text(encoding="utf-8"))
    assert set(shown) == {one.name for one in msgspec.structs.fields(ServeConfig)}
    for table, kind in (("limits", Limits), ("rooms", RoomLimits)):
        assert set(shown[table]) == {one.name for one in fields(kind)}
    assert {*shown["turn_server"], "alternate"} == {one.name for one in msgspec.structs.fields(TurnServerTable)}


def test_the_page_shows_the_defaults(example: Path) -> None:
    """It says that they are."""
    config = read_config(example, ServeConfig)
    assert limits_of(config, Limits) == Limits()
    assert limits_of(config, RoomLimits) == RoomLimits()
    turn, usual = config.turn_server, TurnServerTable()
    assert turn is not None
    numbers = [one.name for one in msgspec.structs.fields(TurnServerTable) if type(getattr(usual, one.name)) is int]
    assert [name for name in numbers if getattr(turn, name) != getattr(usual, name)] == []
