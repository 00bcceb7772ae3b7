"""Manual pages: from the texts of `--help-all`, nothing missing, and man takes them without a word."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from in_process import command

from iceagent.cli.app import VERBS, app, load_verb
from iceagent.cli.exits import Exit
from iceagent.cli.man import ENVIRONMENT, EXIT_MEANINGS, escaped, page, page_name

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
EVERY = [None, *VERBS]


def table(heading: str) -> dict[str, str]:
    """Return a table of docs/cli.md, without its marks."""
    rows = re.findall(
        r"^\| ([^|]+) \| ([^|]+) \|$", PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0], re.MULTILINE
    )
    return {name.replace("`", ""): text.replace("`", "") for name, text in rows[1:] if "---" not in name}


@pytest.mark.parametrize("verb", EVERY)
@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")
def test_groff_takes_it_without_a_warning(verb: str | None) -> None:
    run = ["groff", "-man", "-Tascii", "-ww", "-rCHECKSTYLE=0"]
    ended = subprocess.run(run, input=page(verb).encode("ascii"), capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    shown = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", ended.stdout.decode())
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "EXIT STATUS", "ENVIRONMENT", "SEE ALSO"):
        assert f"\n{heading}\n" in shown


@pytest.mark.parametrize("verb", EVERY)
def test_it_has_every_option(verb: str | None) -> None:
    """Of subcommands, too."""
    found = app if verb is None else load_verb(verb)
    commands = [found, *(found.commands.values() if isinstance(found, click.Group) and verb else ())]
    options = [opt for one in commands for param in one.params for opt in param.opts if opt.startswith("-")]
    text = page(verb)
    assert [one for one in options if escaped(one) not in text] == []


def test_what_is_special_to_man_is_only_text() -> None:
    assert escaped(".SH it's a-b\\c …") == "\\&.SH it\\(aqs a\\-b\\ec \\[u2026]"
    assert escaped("'x") == "\\(aqx"


def test_its_tables_are_those_of_the_page() -> None:
    """Numbers and variables, and each text is the beginning of the one there."""
    codes = table("Exit codes")
    assert set(codes) == {str(int(code)) for code in EXIT_MEANINGS} == {str(int(code)) for code in Exit}
    assert [code for code, text in EXIT_MEANINGS.items() if not codes[str(int(code))].startswith(text)] == []
    assert set(table("Environment")) == set(ENVIRONMENT)


def test_one_is_printed_and_all_are_written(tmp_path: Path) -> None:
    assert command("man", "listen").stdout.decode() == page("listen")
    assert command("man").stdout.decode() == page()
    assert command("man", "--into", str(tmp_path / "man1")).returncode == 0
    assert {path.name for path in (tmp_path / "man1").iterdir()} == {f"{page_name(one)}.1" for one in EVERY}


def test_what_is_wrong_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = command("man", "--into", str(tmp_path / "file"))
    assert ended.returncode == 9
    assert "cannot be written: File exists" in ended.stderr.decode()
    ended = command("man", "liste")
    assert ended.returncode == 2
    assert "'liste' is no command of iceagent" in ended.stderr.decode()
