"""Servers at 0.0.0.0 and [::] on a machine with several addresses, on real kernels: each address answers for itself.

```text
   client 10.90.0.2 ----- 10.90.0.1 server, which has 203.0.113.10 (and later 203.0.113.11) on its loopback interface
```

The client's sockets are connected: what comes from another address than the one asked never reaches them. A NAT would
drop it, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import ICEAGENT, Process
from turn_wire import make_certificate

SUPPORT = Path(__file__).parents[1] / "support"
SERVER, CLIENT = f"ia{os.getpid()}-srv", f"ia{os.getpid()}-cli"
SECOND, LATER = "203.0.113.10", "203.0.113.11"
ACCOUNT = ("george", "secret-secret", "example.org")


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


@pytest.fixture(scope="module")
def machines() -> Iterator[None]:
    """Build both machines, and take them down."""
    try:
        for name in (SERVER, CLIENT):
            ip(f"netns add {name}")
            ip(f"-n {name} link set lo up")
        ip(f"link add ia-v0 netns {SERVER} type veth peer name ia-v1 netns {CLIENT}")
        ip(f"-n {SERVER} addr add 10.90.0.1/30 dev ia-v0")
        ip(f"-n {CLIENT} addr add 10.90.0.2/30 dev ia-v1")
        for name, end, host in ((SERVER, "ia-v0", "2001:db8:90::1"), (CLIENT, "ia-v1", "2001:db8:90::2")):
            ip(f"-n {name} link set {end} addrgenmode none")  # one link-local address, and that at once
            ip(f"-n {name} link set {end} up")
            ip(f"-n {name} addr add {host}/64 dev {end} nodad")
            ip(f"-n {name} addr add fe80::90:{host[-1]}/64 dev {end} nodad")
        ip(f"-n {CLIENT} route add default via 10.90.0.1")
        ip(f"-n {CLIENT} -6 route add default via 2001:db8:90::1")
        ip(f"-n {SERVER} addr add {SECOND}/32 dev lo")
        ip(f"-n {SERVER} addr add 2001:db8:91::10/128 dev lo")
        yield
    finally:
        for name in (SERVER, CLIENT):
            subprocess.run(["ip", "netns", "del", name], check=False)


def ask(*arguments: object) -> dict[str, Any]:
    command = ["ip", "netns", "exec", CLIENT, sys.executable, str(SUPPORT / "asker.py"), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(SUPPORT)}
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def started(*arguments: str) -> Process:
    return Process(["ip", "netns", "exec", SERVER, *ICEAGENT, *arguments, "--json"])


def host_of(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def test_trap_69_a_relays_stun_server_answers_from_each_address(machines: None) -> None:
    """The default deployment, `serve`: also at an address that came after the start."""
    server = started("serve", "--listen", "0.0.0.0:8080")
    try:
        server.wait_for("listening")
        for asked in ("10.90.0.1", SECOND):
            assert host_of(ask("stun", asked, 8080)["mapped"]) == "10.90.0.2"
        ip(f"-n {SERVER} addr add {LATER}/32 dev lo")
        assert host_of(ask("stun", LATER, 8080)["mapped"]) == "10.90.0.2"
    finally:
        ip(f"-n {SERVER} addr flush to {LATER}/32 dev lo")
        server.stop()


def test_trap_69_ipv6_and_link_local_addresses_answer_for_themselves(machines: None) -> None:
    """fe80:: needs the zone of the link that was asked."""
    server = started("serve", "--listen", "[::]:8080")
    try:
        server.wait_for("listening")
        for asked in ("2001:db8:90::1", "2001:db8:91::10"):
            assert host_of(ask("stun", asked, 8080)["mapped"]) == "2001:db8:90::2"
        assert host_of(ask("stun", "fe80::90:1%ia-v1", 8080)["mapped"]) == "fe80::90:2"
    finally:
        server.stop()


@pytest.mark.parametrize("transport", ["udp", "tcp", "dtls"])
def test_trap_69_a_turn_server_serves_at_each_address(machines: None, tmp_path: Path, transport: str) -> None:
    """Answers, and what comes from peers in bulk, leave from the address asked; relays are there, if they may be."""
    (tmp_path / "users").write_text(f"{ACCOUNT[0]}:{ACCOUNT[1]}\n")
    files = make_certificate(tmp_path)
    server = started(
        *("turn", "--listen", "0.0.0.0:3478", "--users", str(tmp_path / "users"), "--realm", ACCOUNT[2]),
        *("--tls-cert", str(files.certificate), "--tls-key", str(files.key), "--allow-peer", "10.90.0.0/30"),
    )
    try:
        server.wait_for("listening")
        ip(f"-n {SERVER} addr add {LATER}/32 dev lo")
        dtls = [5349] if transport == "dtls" else []
        for asked in (SECOND, LATER, "10.90.0.1"):
            answer = ask("tcp" if transport == "tcp" else "turn", asked, 3478, *ACCOUNT, *dtls)
            assert answer["bulk"] == 50
            # 203.0.113.0/24 stands for global addresses here: relays are there, and at 10.90.0.1 only for want of them
            expected = asked if asked != "10.90.0.1" else SECOND
            assert host_of(answer["relayed"]) == host_of(answer["seen"]) == expected
    finally:
        ip(f"-n {SERVER} addr flush to {LATER}/32 dev lo")
        server.stop()
