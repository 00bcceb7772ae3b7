"""`iceagent serve`: where it listens, and what it says of what cannot be."""

from __future__ import annotations

import socket

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
