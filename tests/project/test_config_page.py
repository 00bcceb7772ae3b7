"""docs/config.md: its example is a configuration, and shows every key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec

from iceagent.cli.user_config import ForwardsTable, PeerTable, ServerTable, UserConfig, problems_of, read_user_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "config.md"


def test_the_example_is_good_and_has_every_key(tmp_path: Path) -> None:
    """A key that stands nowhere is one that nobody uses."""
    found = re.search(r"^```toml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found is not None
    path = tmp_path / "config.toml"
    path.write_text(found.group(1), encoding="utf-8")
    path.chmod(0o600)
    secret = tmp_path / "turn.secret"
    secret.write_text("correct-horse-battery\n")
    secret.chmod(0o600)
    assert list(problems_of(path, read_user_config(path))) == []
    shown = tomllib.loads(found.group(1))
    tables: dict[type[msgspec.Struct], dict[str, object]] = {
        UserConfig: shown,
        ServerTable: shown["server"][0],
        ForwardsTable: shown["forwards"]["office"],
        PeerTable: {**shown["connection"], **shown["peers"]["office"]},
    }
    for kind, table in tables.items():
        assert set(table) == {one.name for one in msgspec.structs.fields(kind)}
