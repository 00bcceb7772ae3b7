"""`--timeline FILE`: what is in the file, whoever may read it, and what is said when it cannot be written."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from processes import Processes

pytestmark = pytest.mark.processes


def test_both_ends_write_their_timelines_however_they_end(run: Processes, tmp_path: Path) -> None:
    """The file for a bug report: every event, the verdict, the numbers, and no secret."""
    files = [tmp_path / "listen.json", tmp_path / "forward.json"]
    listener = run.iceagent("listen", "--once", "--json", "--allow", "any", "--timeline", str(files[0]))
    code = listener.wait_for("code")["code"]
    other = run.iceagent("forward", "--json", "-L", "0:localhost:9", "--timeline", str(files[1]), code)
    other.wait_for("forwarding")
    os.kill(other.pid, signal.SIGINT)
    assert other.wait(20) == 130
    assert listener.wait(20) == 0
    for file in files:
        document = json.loads(file.read_text())
        assert document["schema"] == 1
        assert document["kind"] == "iceagent-timeline"
        kinds = [event["kind"] for event in document["events"]]
        assert "selected-pair-changed" in kinds
        assert "restarted" not in kinds
        assert document["verdict"]["kind"] == "connected"
        (transport,) = [one for one in document["statistics"].values() if one["type"] == "transport"]
        assert transport["packetsSent"] > 0
        assert file.stat().st_mode & 0o077 == 0, "it holds addresses"


def test_a_file_that_cannot_be_written_is_said_before_the_code_is_used(run: Processes, tmp_path: Path) -> None:
    """One sentence, exit 9, and the code is still good."""
    listener = run.iceagent("listen", "--once", "--json", "--allow", "any")
    code = listener.wait_for("code")["code"]
    missing = tmp_path / "no such folder" / "timeline.json"
    forward = ("forward", "--json", "-L", "0:localhost:9")
    failed = run.iceagent(*forward, "--timeline", str(missing), code)
    line = failed.wait_for("error")
    assert line["message"] == f"the timeline cannot be written to {missing}: No such file or directory"
    assert failed.wait() == line["exit"] == 9
    assert run.iceagent(*forward, code).wait_for("path")["direct"]
