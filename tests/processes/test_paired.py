"""Pairing as its users meet it: two homes, real processes, relays that are killed, clocks that are wrong."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from coturn import free_port
from processes import ICEAGENT, Ended, Process, Processes

pytestmark = pytest.mark.processes
DAY_LATER = "import sys, time; real = time.time; time.time = lambda: real() + {}; from iceagent.cli import main; main()"


class Home:
    """One user: a folder for its files, and a clock."""

    def __init__(self, run: Processes, path: Path, relay: str, clock_s: int = 0) -> None:
        self.run = run
        self.path = path
        self.relay = relay
        self.clock_s = clock_s

    def environment(self) -> list[str]:
        return ["env", f"XDG_DATA_HOME={self.path}", f"ICEAGENT_RELAY={self.relay}"]

    def command(self, *arguments: str) -> list[str]:
        shifted = (sys.executable, "-c", DAY_LATER.format(self.clock_s))
        return [*self.environment(), *(shifted if self.clock_s else ICEAGENT), *arguments]

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> Process:
        return self.run.start(*self.command(*arguments), stdin=stdin)

    def peers(self, *arguments: str) -> list[str]:
        asked = subprocess.run(
            self.command("peers", "--json", *arguments), capture_output=True, text=True, timeout=60, check=True
        )
        return [line["name"] for line in map(json.loads, asked.stdout.splitlines()) if line["kind"] == "peer"]


def start_relay(run: Processes, port: int) -> Process:
    relay = run.iceagent("serve", "--json", "--listen", f"127.0.0.1:{port}")
    relay.wait_for("listening")
    return relay


def wait_for_rooms(port: int, number: int) -> None:
    """Wait until the relay's metrics count so many rooms."""
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            if f"icesignal_engine_rooms {number}" in answer.read().decode().splitlines():
                return
        time.sleep(0.05)


@pytest.fixture
def homes(run: Processes, tmp_path: Path) -> Iterator[tuple[Home, Home, int]]:
    """Two users who have paired at a relay, and its port."""
    port = free_port()
    relay = start_relay(run, port)
    one, two = (Home(run, tmp_path / name, f"ws://127.0.0.1:{port}") for name in ("one", "two"))
    first = one.start("pair", "--json", "--name", "office")
    code = first.wait_for("code")["code"]
    second = two.start("pair", "--json", "--name", "home", code)
    words = [process.wait_for("words")["words"] for process in (first, second)]
    assert words[0] == words[1]
    assert len(words[0]) == 5
    assert [first.wait_for("paired")["name"], second.wait_for("paired")["name"]] == ["office", "home"]
    assert [first.wait(), second.wait()] == [0, 0]
    assert [one.peers(), two.peers()] == [["office"], ["home"]]
    for home in (one, two):
        folder = home.path / "iceagent"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in folder.iterdir())
    yield one, two, port
    relay.stop()


def pipe(listener: Process, joiner: Process) -> None:
    """See that the two are connected, and end both."""
    for process in (listener, joiner):
        process.wait_for("path")
    for process in (listener, joiner):
        process.stop()


def listen(home: Home, *options: str) -> Process:
    return home.start("listen", "--json", "--allow", "tcp:localhost:*", *options, "--name", "office")


def forward(home: Home, *options: str) -> Process:
    return home.start("forward", "--json", "-L", "0:localhost:9", *options, "home")


@pytest.mark.parametrize("is_listener_first", [True, False])
def test_paired_users_connect_by_name_in_either_order(homes: tuple[Home, Home, int], is_listener_first: bool) -> None:
    """Whoever is first waits for the other."""
    one, two, _ = homes
    if is_listener_first:
        listener = listen(one)
        listener.wait_for("listening")
        joiner = forward(two)
    else:
        joiner = forward(two)
        joiner.wait_for("waiting")
        listener = listen(one)
    pipe(listener, joiner)


def test_a_configuration_is_enough_on_both_sides(homes: tuple[Home, Home, int], run: Processes) -> None:
    """What a unit of systemd starts: no relay, rule or forward on the command line, nor in the environment."""
    one, two, port = homes
    relay = f'relay = "ws://127.0.0.1:{port}"\n'
    files = {
        one: f'{relay}[peers.office]\nallow = ["tcp:localhost:*"]\n',
        two: f'{relay}[forwards.web]\npeer = "home"\nlocal = ["0:localhost:9"]\n',
    }
    for home, text in files.items():
        file = home.path / "iceagent" / "config.toml"
        file.write_text(text)
        file.chmod(0o600)

    def start(home: Home, *arguments: str) -> Process:
        return run.start("env", f"XDG_DATA_HOME={home.path}", f"XDG_CONFIG_HOME={home.path}", *ICEAGENT, *arguments)

    listener = start(one, "listen", "--json", "--name", "office")
    joiner = start(two, "up", "web", "--json")
    assert joiner.wait_for("forwarding")["target"] == "tcp:localhost:9"
    assert joiner.stop() == 130
    assert listener.stop() == 130


def test_a_relay_that_is_killed_and_started_again_between_is_no_matter(
    homes: tuple[Home, Home, int], run: Processes
) -> None:
    """The one that waits was waiting before, and waits on."""
    one, two, _ = homes
    port = free_port()
    one.relay = two.relay = f"ws://127.0.0.1:{port}"
    relay = start_relay(run, port)
    listener = listen(one)
    listener.wait_for("listening")
    joiner = forward(two)
    pipe_path = [process.wait_for("path") for process in (listener, joiner)]
    assert all(line["direct"] for line in pipe_path)
    joiner.stop()
    listener.wait_for("closed")
    relay.signal(signal.SIGKILL)
    relay.wait()
    start_relay(run, port)
    again = forward(two)
    pipe(listener, again)


def test_pings_go_by_name_and_status_shows_it(homes: tuple[Home, Home, int], tmp_path: Path) -> None:
    """The listener waits on afterwards; a ping is a session like others."""
    one, two, _ = homes
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    inside = f"XDG_RUNTIME_DIR={runtime}"
    listener = one.run.start("env", inside, *one.command("listen", "--json", "--allow", "any", "--name", "office"))
    listener.wait_for("listening")
    pinger = two.run.start("env", inside, *two.command("ping", "--json", "--interval", "0.1", "home"))
    pinger.wait_for("ping")
    listener.wait_for("path")
    asked = subprocess.run(
        ["env", inside, *two.command("status", "--json")], capture_output=True, text=True, timeout=60, check=True
    )
    found = {line["verb"]: line["sessions"] for line in map(json.loads, asked.stdout.splitlines())}
    states = {verb: {(one["peer"], one["state"]) for one in sessions} for verb, sessions in found.items()}
    assert states["ping"] == {("home", "connected")}
    assert ("office", "connected") in states["listen"]  # where the next of its processes may be waited for by now
    pinger.stop()
    listener.wait_for("closed")
    again = two.start("ping", "--json", "--count", "1", "home")
    assert again.wait() == 0
    assert again.wait_for("pings")["answered"] == 1


@pytest.mark.parametrize("clock_s", [-86_400, 86_400])
def test_clocks_a_day_apart_are_no_matter(homes: tuple[Home, Home, int], clock_s: int) -> None:
    """Many machines start with a clock that was never set."""
    one, two, _ = homes
    two.clock_s = clock_s
    listener = listen(one)
    pipe(listener, forward(two))


def test_one_of_two_relays_is_dead(homes: tuple[Home, Home, int]) -> None:
    """The users have them in different orders; and a code is found, too."""
    one, two, port = homes
    dead = free_port()
    one.relay = f"ws://127.0.0.1:{dead},ws://127.0.0.1:{port}"
    two.relay = f"ws://127.0.0.1:{port},ws://127.0.0.1:{dead}"
    pipe(listen(one), forward(two))
    listener = one.start("listen", "--json", "--allow", "tcp:localhost:*")
    code = listener.wait_for("code")["code"]
    assert code.endswith(f"@127.0.0.1:{port}")
    pipe(listener, two.start("forward", "--json", "-L", "0:localhost:9", code))


def test_a_removed_peer_does_not_get_in(homes: tuple[Home, Home, int]) -> None:
    """Also where somebody has been waiting for it since before; it is told."""
    one, two, port = homes
    wait_for_rooms(port, 0)  # that of the pairing is over
    listener = listen(one)
    wait_for_rooms(port, 1)  # what it prints first says nothing about the relay
    one.peers("rename", "office", "work")
    one.peers("rename", "work", "office")
    one.peers("remove", "office")
    joiner = forward(two)
    line = joiner.wait_for("error")
    assert "refuses us" in line["message"]
    assert joiner.wait() == line["exit"] == 8
    assert listener.wait_for("error")["exit"] == 2
    for process in (one.start("listen", "--json", "--allow", "any", "--name", "office"), forward(one)):
        line = process.wait_for("error")
        assert "no paired peer is called" in line["message"]
        assert process.wait() == line["exit"]


def test_a_peer_that_does_not_come_is_waited_for_as_long_as_asked(homes: tuple[Home, Home, int]) -> None:
    """6 is for that."""
    _, two, _ = homes
    joiner = forward(two, "--timeout", "0.5")
    assert joiner.wait_for("error")["exit"] == 6


def test_words_are_shown_on_both_sides_and_asked_for_on_a_terminal(homes: tuple[Home, Home, int]) -> None:
    """One side asks; who says no opens nothing, on either side."""
    one, two, _ = homes
    for answer, code in (("y", 0), ("n", 8)):
        listener = listen(one)
        primary, secondary = pty.openpty()
        with closing(os.fdopen(primary, "r+b", buffering=0)) as terminal:
            command = two.command("forward", "--verify", "-L", "0:localhost:9", "home")
            asker = subprocess.Popen(
                ["setsid", "--ctty", "--wait", *command], stdin=secondary, stdout=secondary, stderr=secondary
            )
            os.close(secondary)
            words = " ".join(listener.wait_for("words")["words"])
            seen = b""
            while b"[y/N]" not in seen:
                seen += os.read(primary, 4096)
            assert words in seen.decode()
            terminal.write(f"{answer}\n".encode())
            if code == 0:
                listener.wait_for("path")
                terminal.write(b"\x03")
            while asker.poll() is None:
                try:
                    seen += os.read(primary, 4096)
                except OSError:
                    break
            assert asker.wait(60) == (code or 130)
        listener.stop()


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda path: path.chmod(0o644), "chmod 600"),
        (lambda path: path.write_bytes(b"?"), "damaged"),
        (lambda path: (path.unlink(), path.mkdir()), "plain file"),
    ],
)
def test_a_bad_identity_is_one_sentence_and_9(run: Processes, tmp_path: Path, break_it: object, says: str) -> None:
    """Nothing is made in its place."""
    home = Home(run, tmp_path, "ws://127.0.0.1:9")
    assert home.peers() == []
    break_it(tmp_path / "iceagent" / "identity")  # type: ignore[operator]
    for verb in (("peers", "--json"), ("pair", "--json")):
        process = home.start(*verb)
        line = process.wait_for("error")
        assert says in line["message"]
        assert process.wait() == line["exit"] == 9
    with pytest.raises(Ended):
        process.wait_for("code")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_next_process_of_a_peer_is_found_by_itself(homes: tuple[Home, Home, int], how: signal.Signals) -> None:
    """Killed the moment the session is open: the two are about to move on to a room of their own.

    What connects meanwhile waits, and the local port stays.
    """
    one, two, _ = homes
    with closing(socket.create_server(("127.0.0.1", 0))) as target:
        where = f"127.0.0.1:{target.getsockname()[1]}"
        listener = listen(one, "--allow", f"tcp:{where}")
        joiner = two.start("forward", "--json", "-L", f"0:{where}", "home")
        host, _, port = joiner.wait_for("forwarding")["bind"].rpartition(":")
        listener.signal(how)
        closed = joiner.wait_for("closed")
        assert closed["peer"] == "home"
        assert ("interrupted" if how is signal.SIGTERM else "its program has ended") in closed["reason"]
        with closing(socket.create_connection((host, int(port)), timeout=60)) as waiting:
            waiting.sendall(b"meanwhile")
            again = listen(one, "--allow", f"tcp:{where}")
            joiner.wait_for("path")
            target.settimeout(60)
            with closing(target.accept()[0]) as accepted:
                assert accepted.recv(64) == b"meanwhile"
        assert [process.stop() for process in (joiner, again)] == [130, 130]


def test_a_peer_that_does_not_come_again_is_given_up(homes: tuple[Home, Home, int]) -> None:
    """`--give-up-after` is how long its next process may take; `--once` waits for none."""
    one, two, _ = homes
    listener = listen(one)
    joiner, once = forward(two, "--give-up-after", "2"), forward(two, "--once")
    for process in (joiner, once):
        process.wait_for("forwarding")
    listener.stop()
    assert joiner.wait() == 6
    assert joiner.rest()[-1]["message"].startswith("home did not come within ")
    assert once.wait() == 5
