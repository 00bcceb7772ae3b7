"""`iceagent serve`: where it listens, and what it says of what cannot be."""

from __future__ import annotations

import socket
from pathlib import Path

import icesignal
import pytest
from in_process import command
from processes import processes

pytestmark = pytest.mark.processes


def test_a_star_is_both_families_on_one_port() -> None:
    """Relay and STUN alike: who has IPv6 only would find half of them."""
    with processes() as run:
        line = run.iceagent("serve", "--json", "--listen", "*:0").wait_for("listening")
        port = icesignal.parse_relay_url(line["url"]).port
        hosts = ["127.0.0.1", "::1"] if socket.has_ipv6 else ["127.0.0.1"]
        for host in hosts:
            with socket.create_connection((host, port), timeout=30) as stream:
                stream.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert stream.recv(100).startswith(b"HTTP/1.1 200 ")
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(30)
                sock.sendto(bytes.fromhex("000100002112a442") + b"transaction-", (host, port))
                assert sock.recv(100)[:2] == b"\x01\x01"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--allow-origin", "page.example"), b"https://page.example"),
        (("--trusted-proxy", "ten"), b"ten"),
        (("--listen", "*"), b"[::]:8080"),
        (("--listen", "a..b:80"), b"[::]:8080"),
    ],
)
def test_what_cannot_be_is_refused_with_2(arguments: tuple[str, ...], hint: bytes) -> None:
    """Before anything listens: a rule that is dropped in silence is the opposite of what was asked."""
    done = command("serve", *(() if "--listen" in arguments else ("--listen", "127.0.0.1:0")), *arguments)
    assert done.returncode == 2
    assert hint in done.stderr
    assert b"Traceback" not in done.stderr


def test_check_config_tells_all_that_is_wrong(tmp_path: Path) -> None:
    """Of relay and TURN server alike, with the files they name."""
    users = tmp_path / "users"
    users.write_text("ann\n")
    users.chmod(0o600)
    path = tmp_path / "serve.toml"
    path.write_text(
        "listen = 'nonsense'\n[turn_server]\nusers = 'users'\nports = '1-x'\nallow_peers = ['10.0.0.1/8']\n"
        "alternate = 'x'\n"
    )
    done = command("check-config", str(path))
    assert done.returncode == 2
    text = done.stderr.decode()
    for part in ("listen: ", "users, line 1: not NAME:PASSWORD", "10.0.0.1/8", "turn_server.alternate: "):
        assert sum(part in line for line in text.splitlines()) == 1, text
    path.write_text("listen = '127.0.0.1:0'\n[turn_server]\nrealm = 'example.org'\n")
    done = command("check-config", str(path))
    assert (done.returncode, done.stderr) == (0, f"{path} is good\n".encode())


def test_secrets_that_everybody_may_read_are_refused(tmp_path: Path) -> None:
    """At the check and at the start: who has the secret makes credentials for anybody."""
    secret = tmp_path / "secret"
    secret.write_text("s" * 32)
    secret.chmod(0o644)
    path = tmp_path / "serve.toml"
    path.write_text("listen = '127.0.0.1:0'\n[turn_server]\nsecret_file = 'secret'\n")
    for arguments in (("check-config", str(path)), ("serve", "--config", str(path))):
        done = command(*arguments)
        assert done.returncode == 2
        assert b"chmod 640" in done.stderr
    secret.chmod(0o600)
    secret.write_text("short")
    assert b"at least 16 characters" in command("check-config", str(path)).stderr


def test_serve_reads_a_file_and_the_command_line_wins(tmp_path: Path) -> None:
    """A TURN server and another STUN server of the file; the address of the command line."""
    path = tmp_path / "serve.toml"
    path.write_text("listen = 'nowhere.invalid:1'\nstun = ['stun:192.0.2.1']\n[turn_server]\nrealm = 'of.the.file'\n")
    with processes() as run:
        arguments = ("--json", "--listen", "127.0.0.1:0", "--turn-listen", "127.0.0.1:0")
        line = run.iceagent("serve", "--config", str(path), *arguments).wait_for("listening")
    assert line["realm"] == "of.the.file"
