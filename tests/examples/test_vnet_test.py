"""The example that users copy is run as they run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["vnet_test.py", "vnet_links_test.py"])
def test_example_passes_when_run_as_its_first_line_says(name: str) -> None:
    """`pytest examples/NAME`, in a process of its own and with the project's configuration; one test will do.

    `make unit` runs all of them.
    """
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"examples/{name}",
        "-k",
        "bad_line",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "passed" in result.stdout
