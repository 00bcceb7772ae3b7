"""docs/errors.md and the exports against the classes there are: no error without a row, a home and its exit code."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from icesignal import SignalError

import iceagent
from iceagent.cli.exits import Exit, exit_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
TREE, _, OTHERS = PAGE.partition("## Errors of single rooms")
IN_TREE = {
    name: (len(dots), exit_code)
    for dots, name, exit_code in re.findall(r"^\| (·*) ?`(\w+)` \|[^|]*\| (\d*) ?\|", TREE, re.MULTILINE)
}
ELSEWHERE = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|", OTHERS, re.MULTILINE)


def import_everything() -> None:
    for folder, package in ((ROOT / "iceagent", "iceagent"), (ROOT / "signal" / "icesignal", "icesignal")):
        for path in folder.rglob("*.py"):
            if path.name not in ("__main__.py", "__init__.py") and "pytest_plugin" not in path.name:
                name = ".".join((package, *path.relative_to(folder).with_suffix("").parts))
                try:
                    import_module(name)
                except ModuleNotFoundError as error:  # an extra's library
                    if str(error.name).startswith(("iceagent", "icesignal")):
                        raise


def below(base: type) -> set[type]:
    kinds: list[type] = base.__subclasses__()
    return {base}.union(*map(below, kinds))


def ours(base: type) -> set[type]:
    """Return the public classes of the tree that are the project's, not those of a test."""
    return {
        kind
        for kind in below(base)
        if kind.__module__.startswith(("iceagent", "icesignal")) and not kind.__name__.startswith("_")
    }


def listed() -> set[Any]:
    tree = {getattr(iceagent, name) for name in IN_TREE}
    return tree | {getattr(import_module(home), name) for name, home in ELSEWHERE}


def test_every_error_has_a_row():
    """Who catches an error looks its meaning up; one that nobody has written down cannot be handled."""
    import_everything()
    there_are = ours(iceagent.IceError) | ours(SignalError)
    assert {kind.__name__ for kind in there_are - listed()} == set()
    assert {kind.__name__ for kind in listed() - there_are} == set(), "the page lists what is no error of ours"


def test_what_the_tree_lists_is_exported():
    """`except iceagent.NoPath` must work without knowing in which room the class lives."""
    assert set(IN_TREE) - set(iceagent.__all__) == set()
    exported = {name for name in iceagent.__all__ if isinstance(getattr(iceagent, name), type)}
    errors = {name for name in exported if issubclass(getattr(iceagent, name), BaseException)}
    assert errors == set(IN_TREE)


@pytest.mark.parametrize(
    "room", ["iceagent.link.errors", "iceagent.session.errors", "iceagent.files.errors", "iceagent.tunnel.errors"]
)
def test_the_top_level_has_every_error_of_the_rooms_its_functions_go_through(room: str):
    module = import_module(room)
    errors = {kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, iceagent.IceError)}
    assert {kind.__name__ for kind in errors if getattr(iceagent, kind.__name__, None) is not kind} == set()


def test_the_tree_is_drawn_as_it_is():
    """The first base of each class is the nearest row above it with one dot less."""
    above: list[str] = []
    for name, (depth, _) in IN_TREE.items():
        kind = getattr(iceagent, name)
        above[depth:] = [name]
        if depth:
            assert kind.__bases__[0] is getattr(iceagent, above[depth - 1]), name


@pytest.mark.parametrize("name", [name for name, (_, exit_code) in IN_TREE.items() if exit_code])
def test_the_exit_code_is_that_of_the_command_line(name: str):
    kind = getattr(iceagent, name)
    assert exit_of(kind.__new__(kind)) is Exit(int(IN_TREE[name][1]))
