"""docs/ice.md shows the state machines as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from diagrams import DIAGRAMS

PAGE = Path(__file__).parents[2] / "docs" / "ice.md"


@pytest.mark.parametrize("name", DIAGRAMS)
def test_diagrams_of_the_page_are_those_of_the_transition_tables(name: str) -> None:
    """If this fails, paste what `python tests/support/diagrams.py` prints."""
    assert DIAGRAMS[name] in PAGE.read_text()


def test_page_names_no_module_that_is_not_there() -> None:
    """Readers go from the page to the code."""
    here = PAGE.parents[1] / "iceagent" / "core" / "ice"
    words = {word for word in PAGE.read_text().split("`") if word.startswith("core/ice/")}
    assert words
    for word in words:
        assert (here / word.removeprefix("core/ice/")).exists(), word
