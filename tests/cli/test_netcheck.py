"""`iceagent netcheck` as its users meet it: real processes, lines, exit codes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from processes import Process, Processes, processes

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def relay() -> Iterator[str]:
    """The URL of a relay for all of these tests, which is a STUN and TURN server, too."""
    with processes() as started:
        yield started.iceagent("serve", "--json", "--turn", "--listen", "127.0.0.1:0").wait_for("listening")["url"]


def netcheck(run: Processes, *options: str) -> Process:
    return run.iceagent("netcheck", "--json", "--no-upnp", *options)


def lines_of(process: Process) -> dict[str, list[dict[str, Any]]]:
    """Return all lines by kind, up to the summary."""
    process.wait_for("summary")
    found: dict[str, list[dict[str, Any]]] = {}
    for line in process.lines:
        found.setdefault(line["kind"], []).append(line)
    return found


def test_check_against_a_relay_tells_all(run: Processes, relay: str) -> None:
    """Relay, servers, families, port mapping, the web, and what it means: each a line with a documented kind."""
    check = netcheck(run, "--relay", relay)
    found = lines_of(check)
    assert check.wait() == 0
    assert set(found) <= {"relay", "server", "nat", "port-mapping", "web", "summary"}
    assert found["relay"][0]["ok"]
    assert found["relay"][0]["latency_ms"] > 0
    assert {server["relays"] for server in found["server"]} == {True, False}
    assert all(server["ok"] for server in found["server"])
    (four,) = [line for line in found["nat"] if line["family"] == 4]
    assert (four["udp"], four["mapping"]) == (True, "none")
    assert found["web"][0]["intercepted"] is False
    assert abs(found["web"][0]["clock_offset_s"]) < 5
    assert all(line["schema"] == 1 for lines in found.values() for line in lines)


def test_people_get_sentences_and_no_json(run: Processes, relay: str) -> None:
    """On standard error, as all that is for people."""
    check = run.iceagent("netcheck", "--no-upnp", "--relay", relay)
    assert check.wait() == 0
    assert check.lines == []
    assert check.errors[0].startswith("relay ")
    assert check.errors[-1].endswith(".")


def test_quiet_leaves_the_sentence(run: Processes, relay: str) -> None:
    """For those who want to know one thing."""
    check = run.iceagent("netcheck", "--no-upnp", "-q", "--relay", relay)
    assert check.wait() == 0
    assert len(check.errors) == 1


def test_dead_relay_ends_with_3(run: Processes) -> None:
    """After the rest of the check, which may say why."""
    check = netcheck(run, "--relay", "ws://127.0.0.1:1")
    assert not check.wait_for("relay")["ok"]
    check.wait_for("summary")
    assert check.wait_for("error")["exit"] == check.wait() == 3


def test_silent_relay_is_named_in_the_error(run: Processes) -> None:
    """The last line stands alone in a script's log: who did not answer, and what to look at."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        check = netcheck(run, "--relay", url)
        error = check.wait_for("error")
    assert url in error["message"]
    assert "check the address" in error["message"].lower()
    assert check.wait() == error["exit"] == 3


def test_silence_of_all_servers_ends_with_5(run: Processes) -> None:
    """Nothing can be connected from here."""
    check = netcheck(run, "--stun", "stun:127.0.0.1:9")
    assert check.wait_for("summary")["udp"] is False
    assert check.wait_for("error")["exit"] == check.wait() == 5


def test_malformed_server_ends_with_2(run: Processes) -> None:
    """With a right one as an example, before anything is asked."""
    check = netcheck(run, "--stun", "http://example.org")
    error = check.wait_for("error")
    assert "stun:stun.example.org:3478" in error["message"]
    assert check.wait() == error["exit"] == 2


def test_malformed_relay_ends_with_2(run: Processes) -> None:
    """As it does with every other verb, before anything is asked; 3 would say that the relay is down."""
    check = netcheck(run, "--relay", "http://relay.example")
    error = check.wait_for("error")
    assert "write ws:// for http://" in error["message"]
    assert check.wait() == error["exit"] == 2
    assert [line["kind"] for line in check.lines] == ["error"]


def test_two_sides_read_the_same_prediction(run: Processes, relay: str) -> None:
    """A code here, the command it prints there; both end with 0 and the same words."""
    one = netcheck(run, "--invite", "--relay", relay)
    line = one.wait_for("code")
    assert f"--peer {line['code']}" in line["command"]
    other = netcheck(run, "--relay", relay, "--peer", line["code"])
    predictions = [side.wait_for("prediction") for side in (one, other)]
    assert predictions[0] == predictions[1]
    assert predictions[0]["outcome"] == "direct"
    assert [one.wait(), other.wait()] == [0, 0]


def test_invitation_without_a_relay_carries_its_own(run: Processes) -> None:
    """Two machines, nothing else; the code says where."""
    one = netcheck(run, "--invite")
    code = one.wait_for("code")["code"]
    assert "@" in code
    other = netcheck(run, "--peer", code)
    assert one.wait_for("prediction")["outcome"] == other.wait_for("prediction")["outcome"]


def test_wrong_code_ends_both_with_4(run: Processes, relay: str) -> None:
    """As everywhere."""
    one = netcheck(run, "--invite", "--relay", relay)
    nameplate = one.wait_for("code")["code"].partition("-")[0]
    other = netcheck(run, "--relay", relay, "--peer", f"{nameplate}-zebra-zebra")
    assert [one.wait(), other.wait()] == [4, 4]


def test_nobody_coming_ends_with_6(run: Processes, relay: str) -> None:
    """With --timeout, scripts get their answer."""
    one = netcheck(run, "--invite", "--relay", relay, "--timeout", "0.2")
    assert one.wait_for("error")["exit"] == one.wait() == 6


def test_other_command_on_the_other_side_is_named(run: Processes, relay: str) -> None:
    """Its code was meant for `forward`; say what to do, and end with 8."""
    listener = run.iceagent("listen", "--once", "--json", "--relay", relay, "--allow", "tcp:localhost:1")
    check = netcheck(run, "--relay", relay, "--peer", listener.wait_for("code")["code"])
    error = check.wait_for("error")
    assert "netcheck --invite" in error["message"]
    assert check.wait() == error["exit"] == 8
