"""Every exit code, and every sentence that users see, has a test that provokes it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from iceagent.cli.exits import Exit

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
PROVOKED: dict[Exit, tuple[str, ...]] = {
    Exit.OK: ("tests/cli/test_commands.py::test_listen_and_forward_with_an_embedded_relay",),
    Exit.INTERNAL: ("tests/cli/test_sentences.py::test_what_nobody_foresaw_is_1_and_says_how_to_see_more",),
    Exit.USAGE: (
        "tests/cli/test_sentences.py::test_a_slip_is_one_sentence_and_2",
        "tests/cli/test_config.py::test_what_is_wrong_is_one_sentence_before_anything_is_dialled",
    ),
    Exit.RELAY: ("tests/cli/test_commands.py::test_a_relay_that_dies_before_the_peer_comes_is_noticed",),
    Exit.CODE: ("tests/cli/test_commands.py::test_a_wrong_code_is_exit_4_and_the_listener_has_another",),
    Exit.NO_PATH: ("tests/cli/test_commands.py::test_a_forward_ends_when_the_listener_closes",),
    Exit.NOBODY_CAME: ("tests/cli/test_sentences.py::test_qr_stands_under_the_command",),
    Exit.NOT_DIRECT: ("tests/processes/test_ping.py::test_a_path_that_stays_relayed_ends_with_7",),
    Exit.REFUSED: ("tests/processes/test_paired.py::test_a_removed_peer_does_not_get_in",),
    Exit.LOCAL_IO: ("tests/processes/test_paired.py::test_a_bad_identity_is_one_sentence_and_9",),
    Exit.VERSION: ("tests/cli/test_sentences.py::test_a_relay_of_another_version_is_10",),
    Exit.INTERRUPTED: ("tests/processes/test_paired.py::test_a_configuration_is_enough_on_both_sides",),
}
"""For each code one test or more that runs the command and sees how it ends."""

WINDOW = 12  # characters of a sentence that a test has to name
NEVER_SAID = {"the last attempt returns or raises"}  # for what cannot be


def documented() -> set[int]:
    table = PAGE.partition("## Exit codes")[2].partition("\n## ")[0]
    return {int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}


def test_every_documented_exit_code_is_one_and_is_provoked() -> None:
    assert documented() == set(map(int, Exit))
    assert set(PROVOKED) == set(Exit), "name a test in PROVOKED that runs the command to that end"


@pytest.mark.parametrize(("code", "test"), [(code, one) for code, tests in PROVOKED.items() for one in tests])
def test_the_test_is_there_and_asks_for_the_code(code: Exit, test: str) -> None:
    """A table that names tests which are gone, or look at something else, would be worth nothing."""
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    (found,) = [
        one for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name == name
    ]
    numbers = {one.value for one in ast.walk(found) if isinstance(one, ast.Constant) and type(one.value) is int}
    assert int(code) in numbers


def raised_in(text: str) -> Iterator[tuple[int, list[str]]]:
    """Give line and literal parts of each sentence that is raised, longest first."""
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args):
            continue
        said = node.exc.args[0]
        values = said.values if isinstance(said, ast.JoinedStr) else [said]
        parts = [one.value for one in values if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        if any(len(part) >= WINDOW for part in parts):
            yield node.lineno, sorted(parts, key=len, reverse=True)


@cache
def all_tests() -> str:
    files = (path for path in (ROOT / "tests").rglob("*.py") if path.name != Path(__file__).name)
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def is_in_a_test(parts: list[str]) -> bool:
    starts = ((part, at) for part in parts for at in range(len(part) - WINDOW + 1))
    return any(part[at : at + WINDOW] in all_tests() for part, at in starts)


SAYING = ("agent", "cli", "files", "link", "session", "tunnel")
"""The packages whose sentences users see."""


@pytest.mark.parametrize("package", SAYING)
def test_every_sentence_is_in_a_test(package: str) -> None:
    """One that nobody has ever seen may be wrong in what it advises, or be raised by nothing at all."""
    unseen = [
        f"{path.name}:{line} {parts[0]!r}"
        for path in sorted((ROOT / "iceagent" / package).rglob("*.py"))
        for line, parts in raised_in(path.read_text(encoding="utf-8"))
        if not is_in_a_test(parts)
    ]
    assert [one for one in unseen if not any(never in one for never in NEVER_SAID)] == [], "provoke it, and name a part"


def test_the_guard_sees_a_sentence() -> None:
    text = 'raise LocalError(f"{path} is not what anybody would expect: {error}") from None\nraise ValueError(x)\n'
    ((line, parts),) = raised_in(text)
    assert (line, parts[0]) == (1, " is not what anybody would expect: ")
    assert not is_in_a_test(["qwertzuiop yxcvbnm asdfghjkl"[::-1]])
