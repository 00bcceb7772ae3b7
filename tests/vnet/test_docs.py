"""The documentation's example is run, so that it stays true."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "vnet.md"


def test_worked_example_of_the_documentation(capsys):
    """The first thing a user types must work, and print the trace line that the text explains."""
    text = DOCUMENT.read_text(encoding="utf-8")
    code = re.search(r"```python\n(import trio.*?)```", text, re.DOTALL)
    assert code is not None
    exec(compile(code.group(1), str(DOCUMENT), "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("b'hello alice' from 203.0.113.3:")
    explained = re.search(r"```\n(.* router1 nat-out .*)\n```", text)
    assert explained is not None
    assert explained.group(1) in printed
