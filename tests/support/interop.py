"""Our agent and somebody else's, as two processes in a laboratory, and what they must do together."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from natlab import Natlab
from processes import Ended, Process, processes

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "tests" / "interop" / "peers"
NODE_MODULES = ROOT / "build" / "interop"
SYSTEM_PYTHON = "/usr/bin/python3"
DATAGRAMS = 1000
UNDER_WAY = 50  # datagrams of one side at a time: what the smallest of buffers takes, relays' and NATs' among them
SILENCE_S = 10.0  # what has not come by then never will


@dataclass(frozen=True)
class Implementation:
    """An ICE stack that nobody here wrote.

    Attributes:
        name: what it is called.
        command: runs it as a peer; its options follow.
        after: what follows the options.
        probe: succeeds where it is installed.
    """

    name: str
    command: tuple[str, ...]
    probe: tuple[str, ...]
    after: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def why_not(self) -> str | None:
        """Return why it cannot be had here, or None if it can."""
        if shutil.which(self.probe[0]) is None:
            return f"{self.name} needs {self.probe[0]}"
        done = subprocess.run(self.probe, cwd=ROOT, capture_output=True, text=True, check=False)
        return None if done.returncode == 0 else f"{self.name} is not installed; `make interop` does it"


OURS = (sys.executable, str(PEERS / "ours.py"))
IMPLEMENTATIONS = (
    Implementation("aioice", (sys.executable, str(PEERS / "peer_aioice.py")), (sys.executable, "-c", "import aioice")),
    Implementation(
        "libnice",
        (SYSTEM_PYTHON, str(PEERS / "peer_libnice.py")),
        (SYSTEM_PYTHON, "-c", "import gi; gi.require_version('Nice', '0.1'); from gi.repository import Nice"),
    ),
    Implementation(
        "libdatachannel",
        ("node", str(PEERS / "peer_libdatachannel.mjs")),
        ("node", "-e", f"require({str(NODE_MODULES / 'node_modules' / 'node-datachannel')!r})"),
        after=(str(NODE_MODULES),),
    ),
)


@dataclass
class Meeting:
    """Two peers that know nothing of each other yet; `introduce` changes that."""

    ours: Process
    theirs: Process
    trickle: bool

    def introduce(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Carry descriptions and candidates; return both `connected` lines, ours first.

        Raises:
            AssertionError: one of them failed.
            Ended: one of them said nothing for too long.
        """
        found: dict[str, dict[str, Any] | Exception] = {}
        threads = [
            threading.Thread(target=self._carry, args=(*ends, found, name))
            for name, ends in (("ours", (self.ours, self.theirs)), ("theirs", (self.theirs, self.ours)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name, line in found.items():
            if isinstance(line, Exception):
                raise line
            assert line["kind"] == "connected", f"{name}: {line}\n{self.story()}"
        return found["ours"], found["theirs"]  # type: ignore[return-value]

    def _carry(self, source: Process, target: Process, found: dict[str, Any], name: str) -> None:
        """Carry one side's lines until it has said all: a fast path may be found before its description is out."""
        is_described = False
        try:
            while not (is_described and name in found):
                line = source.wait_for("description", "candidate", "connected", "failed")
                match line["kind"]:
                    case "connected" | "failed":
                        found[name] = line
                        is_described |= line["kind"] == "failed"
                        continue
                    case "description":
                        is_described = not self.trickle
                        line = {**line, "trickle": self.trickle}
                    case "candidate":
                        is_described = line["candidate"] is None
                target.say(**line)
        except Ended as error:
            found[name] = error

    def exchange(self, count: int = DATAGRAMS) -> tuple[dict[str, Any], dict[str, Any]]:
        """Let both send `count` datagrams; return what each has received, ours first.

        Each sends some only when the other has what was sent before, so that none is lost for want of room in a buffer,
        however busy the machine is. Those that have not come after `SILENCE_S` are lost.
        """
        sides = (self.ours, self.theirs)
        reports: list[dict[str, Any]] = []
        for first in range(0, count, UNDER_WAY):
            end = min(count, first + UNDER_WAY)
            for side in sides:
                side.say(kind="send", first=first, end=end)
            reports = self._reports(end)
            if any(one["count"] < end for one in reports):
                break
        return reports[0], reports[1]

    def _reports(self, count: int) -> list[dict[str, Any]]:
        """Wait until both have received `count`, or until no more come; return what they say."""
        heard_at, had = time.monotonic(), -1
        while True:
            for side in (self.ours, self.theirs):
                side.say(kind="report")
            reports = [side.wait_for("received") for side in (self.ours, self.theirs)]
            has = sum(one["count"] for one in reports)
            if has > had:
                heard_at, had = time.monotonic(), has
            if all(one["count"] >= count for one in reports) or time.monotonic() > heard_at + SILENCE_S:
                return reports
            time.sleep(0.02)

    def story(self) -> str:
        """Return all that both have printed."""
        sides = (("ours", self.ours), ("theirs", self.theirs))
        return "\n".join(f"{name}: {line}" for name, side in sides for line in [*side.lines, *side.errors])


@contextmanager
def open_meeting(
    lab: Natlab, nodes: tuple[str, str], other: Implementation, options: Sequence[dict[str, Any]]
) -> Iterator[Meeting]:
    """Start our peer in the first node and the other in the second.

    Args:
        lab: where.
        nodes: of ours and of theirs.
        other: whose the other is.
        options: of ours and of theirs, as `common` in the folder of the peers says.
    """
    mine, its = (json.dumps(one) for one in options)
    with ExitStack() as stack:
        run = stack.enter_context(processes())
        ours = run.start(*lab.inside(nodes[0], *OURS, mine), stdin=subprocess.PIPE)
        theirs = run.start(*lab.inside(nodes[1], *other.command, its, *other.after), stdin=subprocess.PIPE)
        yield Meeting(ours, theirs, options[0]["trickle"])
