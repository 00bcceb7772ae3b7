"""`icesignal-relay`, as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import click
import icesignal
import pytest
from click.testing import CliRunner
from icesignal.main import main, parse_listen
from icesignal.metrics import Family, render
from icesignal.systemd import HandedOver, take_sockets

COMMAND = [sys.executable, "-c", "from icesignal.main import main; main()"]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("0.0.0.0:1", "0.0.0.0", 1),
        ("[::]:8080", "::", 8080),
        (":8080", None, 8080),
        ("8080", "127.0.0.1", 8080),
        ("localhost:0", "localhost", 0),
    ],
)
def test_listen_addresses_are_understood(text: str, host: str | None, port: int) -> None:
    """A bare port means loopback: nobody opens a relay to the world by leaving something out."""
    assert parse_listen(text) == (host, port)


@pytest.mark.parametrize("text", ["", "host", "::1:80", "host:99999", "ho st:80", "[1.2.3.4]:80", "host:-1"])
def test_malformed_listen_addresses_come_with_an_example(text: str) -> None:
    """Exit 2 and a right one to copy."""
    with pytest.raises(click.BadParameter, match="as in"):
        parse_listen(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--listen", "nonsense"],
        ["--stun", "http://x"],
        ["--tls-cert", "only.pem"],
        ["--tls-cert", "missing.pem", "--tls-key", "missing.pem"],
        ["--trusted-proxy", "ten"],
        ["--drain", "nan"],
        ["--drain", "inf"],
    ],
)
def test_usage_errors_exit_2(arguments: list[str]) -> None:
    """Before anything listens."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2


def test_a_port_in_use_exits_9_with_a_json_line() -> None:
    """Scripts read the line, people the sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [*COMMAND, "--listen", address, "--json"], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 9
    assert json.loads(done.stdout) | {"message": ""} == {"kind": "error", "exit": 9, "message": ""}
    assert address in done.stderr


def test_an_operators_port_in_use_is_the_one_that_is_told() -> None:
    """And not the relay's, which is free."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = CliRunner().invoke(main, ["--listen", "127.0.0.1:0", "--admin-listen", address])
    assert done.exit_code == 9
    assert f"cannot listen on {address}: " in done.output


@pytest.mark.parametrize("count", ["1", "65", "9" * 5_000, "two"])
def test_sockets_that_are_not_there_are_told(count: str) -> None:
    """A manager's variables may be left over, and its descriptors closed."""
    with pytest.raises(HandedOver):
        take_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}, first=1_000_000)


def test_metrics_are_escaped() -> None:
    """As the text format wants it, whatever stands in a label."""
    family = Family("a", "counter", "back\\slash\nand line", [("", (("why", 'q"\\\n'),), 1)])
    help_line, _, sample = render({}, [family]).splitlines()
    assert help_line == r"# HELP icesignal_a back\\slash\nand line"
    assert sample == r'icesignal_a{why="q\"\\\n"} 1'


def test_an_error_of_ours_is_no_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator must not look for it in the configuration."""

    async def fail(*_: object, **__: object) -> int:
        raise ValueError("ours")

    monkeypatch.setattr("icesignal.main.serve_until_signal", fail)
    done = CliRunner().invoke(main, ["--listen", "127.0.0.1:0"])
    assert done.exit_code == 1
    assert done.exception is not None
    done = CliRunner().invoke(main, ["--listen", "127.0.0.1:0", "--trusted-proxy", "ten"])
    assert (done.exit_code, "'ten'" in done.output) == (2, True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
async def test_it_listens_serves_and_ends_on_a_signal(number: int, code: int, tmp_path: Path) -> None:
    """One JSON line says where; a signal ends it at once."""
    process = subprocess.Popen(
        [*COMMAND, "--listen", "127.0.0.1:0", "--json", "--stun", "stun::3478"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            line = json.loads(process.stdout.readline())
            assert line["kind"] == "listening"
            async with icesignal.open_client(line["url"]) as client:
                await client.allocate()
                assert client.ice_servers == [{"urls": ["stun:127.0.0.1:3478"]}]
                process.send_signal(number)
                assert process.wait(timeout=60) == code
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            process.kill()


async def test_a_file_gives_options_and_the_command_line_wins(tmp_path: Path) -> None:
    """What stands in a file can be tried otherwise without editing it; limits of the file hold."""
    path = tmp_path / "relay.toml"
    path.write_text(
        'listen = "nowhere.invalid:1"\nstun = ["stun:192.0.2.1:3478"]\n[limits]\nmax_connections_per_source = 1\n'
    )
    process = subprocess.Popen(
        [*COMMAND, "--config", str(path), "--listen", "127.0.0.1:0", "--json"], stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            async with icesignal.open_client(url) as client:
                await client.allocate()
                assert client.ice_servers == [{"urls": ["stun:192.0.2.1:3478"]}]
                with pytest.raises(icesignal.RelayRefused):
                    async with icesignal.open_client(url):
                        pass
        finally:
            process.terminate()
