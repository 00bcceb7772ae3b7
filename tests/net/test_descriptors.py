"""How many files and sockets a server may have open. The relay's package has a helper of its own, tested alike."""

from __future__ import annotations

import subprocess
import sys

import pytest

resource = pytest.importorskip("resource", reason="Windows has no such limit")

HELPERS = ["iceagent.net.accepting", "icesignal.listener"]
SCRIPT = """
import resource, sys
from importlib import import_module
soft, hard = map(int, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
helper = import_module(sys.argv[1]).raise_descriptor_limit
told = helper()
now = resource.getrlimit(resource.RLIMIT_NOFILE)
assert told in (None, now[0]), told
assert helper() == told, "again, with nothing left to raise"
print(*now)
"""


def limits_after(helper: str, soft: int, hard: int) -> tuple[int, int]:
    """Return the limits of a process that began with these and has called the helper."""
    command = [sys.executable, "-c", SCRIPT, helper, str(soft), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()
    return int(first), int(second)


@pytest.mark.parametrize("helper", HELPERS)
def test_trap_47_the_soft_limit_becomes_the_hard_one(helper: str) -> None:
    """1,024 descriptors, which is what most systems give a service, are 1,024 clients."""
    assert limits_after(helper, 256, 640) == (640, 640)
    assert limits_after(helper, 640, 640) == (640, 640)


@pytest.mark.parametrize("helper", HELPERS)
def test_a_system_that_says_no_is_obeyed(helper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has a hard limit of "unlimited" and refuses to grant it: a server starts all the same."""
    from importlib import import_module

    def refuse(_kind: int, _limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert import_module(helper).raise_descriptor_limit() in (None, 256)


@pytest.mark.parametrize("module", ["iceagent/cli/serve.py", "iceagent/cli/turn.py", "signal/icesignal/main.py"])
def test_every_server_raises_it(module: str) -> None:
    """The helper helps nobody who does not call it."""
    from pathlib import Path

    assert "    raise_descriptor_limit()\n" in (Path(__file__).parents[2] / module).read_text(encoding="utf-8")
