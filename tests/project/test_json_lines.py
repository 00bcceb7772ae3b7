"""The schema of `--json`: every line that a verb prints is in it, it is published as it is, and the pages name it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from iceagent.cli.json_lines import KINDS, check_line, json_schema

ROOT = Path(__file__).resolve().parents[2]
CLI = sorted((ROOT / "iceagent" / "cli").glob("*.py"))
PAGES = "\n".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("cli.md", "netcheck.md"))
COMMON = {"kind", "schema"}


def printed_by(text: str) -> Iterator[tuple[str, set[str]]]:
    """Give the kind and the keys of each call of `Output.line` that names them, and of `partial(output.line, …)`."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        arguments = node.args
        if arguments and isinstance(arguments[0], ast.Attribute) and arguments[0].attr == "line":
            called, arguments = "line", arguments[1:]
        if called == "line" and arguments and isinstance(arguments[0], ast.Constant):
            keys = {one.arg for one in node.keywords if one.arg is not None and one.arg != "essential"}
            yield str(arguments[0].value), keys


def all_printed() -> list[tuple[str, set[str]]]:
    return [one for path in CLI for one in printed_by(path.read_text(encoding="utf-8"))]


def keys_of(kind: str) -> set[str]:
    return {one.encode_name for one in msgspec.structs.fields(KINDS[kind])} - COMMON


def test_every_kind_that_is_printed_is_in_the_schema() -> None:
    """A program that checks what it reads would refuse the line."""
    unknown = {kind for kind, _ in all_printed()} - set(KINDS)
    assert unknown == set(), "give each a type in iceagent/cli/json_lines.py, run `make schema`, and name it in cli.md"
    assert set(KINDS) - {kind for kind, _ in all_printed()} == set(), "no verb prints these"


def test_every_key_that_is_printed_is_in_the_schema() -> None:
    assert [(kind, keys - keys_of(kind)) for kind, keys in all_printed() if keys - keys_of(kind)] == []


def test_the_guard_sees_calls() -> None:
    """A guard that cannot fail guards nothing."""
    text = 'output.line("a", "text", essential=True, x=1, **more)\npartial(output.line, "b", "text", y=2)\nline("c")\n'
    assert list(printed_by(text)) == [("a", {"x"}), ("b", {"y"})]


def test_the_published_schema_is_the_one_of_the_types() -> None:
    published = msgspec.json.decode((ROOT / "docs" / "json-lines.schema.json").read_bytes())
    assert published == msgspec.json.decode(msgspec.json.encode(json_schema())), "run `make schema`"


@pytest.mark.parametrize("kind", KINDS)
def test_the_pages_name_every_kind_and_key(kind: str) -> None:
    """A key that stands nowhere is one that nobody uses."""
    rows = [line for line in PAGES.splitlines() if line.startswith("|") and f"`{kind}`" in line.split("|")[1]]
    words = set(re.findall(r"`([\w-]+)`", " ".join(rows)))
    assert rows
    assert keys_of(kind) - words == set()


@pytest.mark.parametrize(
    "line",
    [
        {"kind": "nothing", "schema": 1},
        {"kind": "metrics", "schema": 2, "url": "x"},
        {"kind": "metrics", "schema": 1},
        {"kind": "metrics", "schema": 1, "url": 1},
        {"kind": "metrics", "schema": 1, "url": "x", "more": 1},
    ],
)
def test_what_is_not_as_the_schema_has_it_is_refused(line: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="json_lines"):
        check_line(line)


def test_who_reads_lines_may_meet_new_keys() -> None:
    """The published schema allows them, as docs/cli.md says."""
    assert "additionalProperties" not in str(json_schema()["$defs"]["PathLine"])
