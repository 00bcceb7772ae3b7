"""`iceagent turn` and `iceagent serve --turn` as their operators meet them."""

from __future__ import annotations

import signal
import socket
import urllib.request
from pathlib import Path

import icesignal
import pytest
import trio
from in_process import command
from processes import Process, Processes
from turn_wire import make_certificate, udp_client

from iceagent.core.address import parse_address

pytestmark = pytest.mark.processes

DEV = ("turn", "--json", "--listen", "127.0.0.1:0", "--insecure-dev")


def complaint(*arguments: str) -> str:
    """Return what a command says that must end with a usage error."""
    done = command(*arguments)
    assert done.returncode == 2, done.stderr
    return done.stderr.decode()


def allocate(listening: dict[str, str], username: str, password: str) -> str:
    """Return the host of a relayed address."""

    async def main() -> str:
        url = listening["turn"].removeprefix("turn:").partition("?")[0]
        async with udp_client(parse_address(url)) as (client, _):
            client.maker.username, client.maker.password = username, password
            client.maker.realm = listening["realm"]
            return (await client.allocate()).host

    return trio.run(main)


def test_development_server_makes_up_a_user(run: Processes) -> None:
    """One command for who wants to try it; what it prints is all a client needs."""
    line = run.iceagent(*DEV).wait_for("listening")
    assert line["turn"].startswith("turn:127.0.0.1:")
    assert allocate(line, line["username"], line["credential"]) == "127.0.0.1"


def test_users_come_from_a_file(run: Processes, tmp_path: Path) -> None:
    """Passwords on a command line would be everybody's; those of a file are not printed either."""
    (tmp_path / "users").write_text("# ours\n\ngeorge:a:b c\nringo:drums\n")
    process = run.iceagent(*DEV, "--users", str(tmp_path / "users"), "--realm", "example.org")
    line = process.wait_for("listening")
    assert "credential" not in line
    assert allocate(line, "george", "a:b c") == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "words"),
    [("george\n", "line 1"), ("a:b\na:c\n", "second password"), ("\n# none\n", "names no users"), (":x\n", "line 1")],
)
def test_half_a_list_of_users_is_none(tmp_path: Path, text: str, words: str) -> None:
    """The server does not start with a file it understands in part."""
    (tmp_path / "users").write_text(text)
    assert words in complaint("turn", "--listen", "127.0.0.1:0", "--users", str(tmp_path / "users"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--users"),
        (("--insecure-dev", "--listen", "0.0.0.0:0"), "127.0.0.1"),
        (("--insecure-dev", "--allow-peer", "10.0.0.1/8"), "peer rule"),
        (("--insecure-dev", "--deny-peer", "everything"), "peer rule"),
        (("--insecure-dev", "--listen", "nowhere"), "--listen"),
        (("--insecure-dev", "--ports", "5"), "--ports"),
        (("--insecure-dev", "--tls-cert", "x"), "--tls-key"),
        (("--insecure-dev", "--tls-cert", "x", "--tls-key", "y"), "cannot use"),
        (("--users", "not-there"), "cannot read"),
    ],
)
def test_mistakes_stop_the_start_with_a_sentence(arguments: tuple[str, ...], words: str) -> None:
    """A server with half its rules is worse than none."""
    listen = () if "--listen" in arguments else ("--listen", "127.0.0.1:0")
    assert words in complaint("turn", *listen, *arguments)


def test_the_operators_listener_is_told_by_its_own_name() -> None:
    """Malformed, and taken: neither is the relay's fault, and no other port would help."""
    assert "--admin-listen 'zz' cannot be" in complaint("serve", "--listen", "127.0.0.1:0", "--admin-listen", "zz")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = command("serve", "--listen", "127.0.0.1:0", "--admin-listen", address)
    assert done.returncode == 9
    assert address in done.stderr.decode()


def test_a_drain_has_an_end() -> None:
    """`nan` is in every range, and would be found at SIGTERM."""
    for arguments in (("turn", "--drain", "nan"), ("turn", "--drain", "inf"), ("serve", "--relay-drain", "nan")):
        assert "is no number of seconds" in complaint(*arguments)


def test_short_secret_is_refused(tmp_path: Path) -> None:
    """Whoever guesses it relays for ever."""
    (tmp_path / "secret").write_text("hush\n")
    assert "16 characters" in complaint("turn", "--listen", "127.0.0.1:0", "--secret-file", str(tmp_path / "secret"))


def test_port_that_is_taken_is_said_with_exit_code_9() -> None:
    """As for every other verb."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert command("turn", "--insecure-dev", "--listen", address).returncode == 9


def ends(process: Process, *signals: signal.Signals) -> int:
    for number in signals:
        process.signal(number)
    return process.wait(10)


def test_sigterm_drains_and_ends_with_0(run: Processes) -> None:
    """Without allocations at once; with one, a second signal is needed, or the deadline."""
    process = run.iceagent(*DEV)
    process.wait_for("listening")
    assert ends(process, signal.SIGTERM) == 0
    process = run.iceagent(*DEV, "--drain", "1")
    line = process.wait_for("listening")
    allocate(line, line["username"], line["credential"])
    process.signal(signal.SIGTERM)
    assert process.wait_for("draining")["allocations"] == 1
    assert process.wait(10) == 0


def test_second_sigterm_ends_the_draining(run: Processes) -> None:
    """Who cannot wait need not."""
    process = run.iceagent(*DEV, "--drain", "3600")
    line = process.wait_for("listening")
    allocate(line, line["username"], line["credential"])
    process.signal(signal.SIGTERM)
    process.wait_for("draining")
    assert ends(process, signal.SIGTERM) == 0


def test_sighup_reads_the_certificate_again(run: Processes, tmp_path: Path) -> None:
    """And says whether it could; a bad one does not end the server."""
    files = make_certificate(tmp_path)
    tls = ("--tls-cert", str(files.certificate), "--tls-key", str(files.key), "--tls-listen", "127.0.0.1:0")
    process = run.iceagent(*DEV, *tls)
    line = process.wait_for("listening")
    assert [url.partition(":")[0] for url in line["urls"]] == ["turn", "turn", "turns", "turns"]
    process.signal(signal.SIGHUP)
    assert process.wait_for("reloaded")["ok"] is True
    files.key.write_text("not a key")
    process.signal(signal.SIGHUP)
    assert process.wait_for("reloaded")["ok"] is False


def test_metrics_are_served(run: Processes) -> None:
    """Where `--metrics` says."""
    process = run.iceagent(*DEV, "--metrics", "127.0.0.1:0")
    process.wait_for("listening")
    url = process.wait_for("metrics")["url"]
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert b"iceagent_turn_allocations 0.0" in answer.read()


def test_relay_hands_members_credentials_bound_to_where_they_come_from(run: Processes, tmp_path: Path) -> None:
    """`serve --turn`: who joins a room can relay, who passes by cannot; two members at one address are one of them."""
    (tmp_path / "secret").write_text("one of at least sixteen characters\n")
    options = ("--turn", "--insecure-dev", "--secret-file", str(tmp_path / "secret"))
    line = run.iceagent("serve", "--json", "--listen", "127.0.0.1:0", *options).wait_for("listening")

    async def members() -> list[dict[str, str]]:
        async with icesignal.open_client(line["url"]) as inviter, icesignal.open_client(line["url"]) as joiner:
            nameplate = await inviter.allocate()
            await joiner.join(nameplate)
            return [next(one for one in side.ice_servers if "username" in one) for side in (inviter, joiner)]

    first, second = trio.run(members)
    assert first["username"].partition(":")[2] == second["username"].partition(":")[2]
    assert line["turn"] in first["urls"]
    for member in (first, second):
        assert allocate(line, member["username"], member["credential"]) == "127.0.0.1"


def test_turn_options_of_serve_need_the_turn_flag() -> None:
    """An option that does nothing would be believed."""
    assert "--turn" in complaint("serve", "--listen", "127.0.0.1:0", "--insecure-dev")
