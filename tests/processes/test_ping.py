"""`iceagent ping` against real listeners: whatever they are there for, they answer."""

from __future__ import annotations

import signal
import subprocess

import pytest
from processes import Processes

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("offers", [("--allow", "any"), ()], ids=["forwards", "pipe"])
def test_pings_are_counted_and_summed_up(run: Processes, offers: tuple[str, ...]) -> None:
    """Each with its round trip and path."""
    listener = (
        run.iceagent("listen", "--json", *offers)
        if offers
        else run.start("sh", "-c", 'exec "$0" -m iceagent listen --json 2>&1', _python(), stdin=subprocess.PIPE)
    )
    code = listener.wait_for("code")["code"]
    pinger = run.iceagent("ping", "--json", "--count", "3", "--interval", "0.1", code)
    assert [pinger.wait_for("ping")["number"] for _ in range(3)] == [1, 2, 3]
    summary = pinger.wait_for("pings")
    assert (summary["sent"], summary["answered"], summary["lost"]) == (3, 3, 0)
    assert 0 < summary["min_ms"] <= summary["median_ms"] <= summary["max_ms"]
    assert pinger.wait() == 0
    pings = [line for line in pinger.lines if line["kind"] == "ping"]
    assert all(line["direct"] and line["path"].startswith("direct udp") for line in pings)


def _python() -> str:
    import sys

    return sys.executable


def test_until_direct_ends_with_the_first_direct_path(run: Processes) -> None:
    """As soon as it is, whatever the count."""
    listener = run.iceagent("listen", "--json", "--allow", "any")
    pinger = run.iceagent("ping", "--json", "--until-direct", listener.wait_for("code")["code"])
    assert pinger.wait() == 0
    assert pinger.wait_for("ping")["direct"]
    assert pinger.wait_for("pings")["sent"] >= 1


def test_ctrl_c_sums_up_what_there_was(run: Processes) -> None:
    listener = run.iceagent("listen", "--json", "--allow", "any")
    pinger = run.iceagent("ping", "--json", listener.wait_for("code")["code"])
    pinger.wait_for("ping")
    pinger.signal(signal.SIGINT)
    assert pinger.wait_for("pings")["answered"] >= 1
    assert pinger.wait() == 130


def test_the_other_side_may_leave(run: Processes) -> None:
    """Then it is said, and summed up."""
    listener = run.iceagent("listen", "--json", "--allow", "any")
    pinger = run.iceagent("ping", "--json", "--interval", "0.2", listener.wait_for("code")["code"])
    pinger.wait_for("ping")
    listener.signal(signal.SIGINT)
    assert pinger.wait_for("pings")["answered"] >= 1
    assert pinger.wait_for("error")["exit"] == pinger.wait() == 5


def relayed_listener(run: Processes) -> tuple[str, str]:
    """Return the code of a listener that offers relayed addresses alone, and the relay's URL."""
    serving = run.iceagent("serve", "--json", "--turn", "--insecure-dev", "--listen", "127.0.0.1:0")
    relay = str(serving.wait_for("listening")["url"])
    listener = run.iceagent("listen", "--json", "--allow", "any", "--relay", relay, "--relay-only")
    return str(listener.wait_for("code")["code"]), relay


def test_a_path_that_stays_relayed_ends_with_7(run: Processes) -> None:
    """After the time that was given; what there was is summed up, and it is said why."""
    code, relay = relayed_listener(run)
    pinger = run.iceagent("ping", "--json", "--until-direct", "--timeout", "2", "--relay", relay, code)
    assert not pinger.wait_for("ping")["direct"]
    assert pinger.wait_for("pings")["answered"] >= 1
    error = pinger.wait_for("error")
    assert error["exit"] == pinger.wait() == 7
    assert "the path is still relayed after 2 s" in error["message"]
    assert error["verdict"]["kind"] == "relayed"


@pytest.mark.parametrize("verb", [("ping",), ("forward", "-L", "0:localhost:9")], ids=["ping", "forward"])
def test_who_insists_on_a_direct_path_ends_with_7_where_there_is_none(run: Processes, verb: tuple[str, ...]) -> None:
    """Before anything is sent, with the verdict and what to do."""
    code, relay = relayed_listener(run)
    insisting = run.iceagent(*verb, "--json", "--direct", "--relay", relay, code)
    error = insisting.wait_for("error")
    assert error["exit"] == insisting.wait() == 7
    assert "only a relayed one is possible" in error["message"]
    assert "leave out --direct" in error["verdict"]["remedy"]
    assert not any(line["kind"] == "path" for line in insisting.lines)
