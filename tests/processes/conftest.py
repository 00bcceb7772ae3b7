"""Real processes for every test here: a relay, a listening peer, a forwarding peer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import Process, Processes, processes

TRAFFIC = (sys.executable, str(Path(__file__).resolve().parent.parent / "support" / "traffic.py"))


@dataclass
class Tunnel:
    """A relay, a listener and a forwarder on the loopback interface, and where the forward is bound."""

    run: Processes
    relay: Process
    listener: Process
    forwarder: Process
    bind: str

    def traffic(self, *arguments: str) -> Process:
        """Start one end of traffic."""
        return self.run.start(*TRAFFIC, *arguments)


@pytest.fixture
def run() -> Iterator[Processes]:
    """Start processes that end with the test."""
    with processes() as started:
        yield started


def open_tunnel(run: Processes, target: str, allow: str, suffix: str = "") -> Tunnel:
    """Connect two peers over a relay of their own and forward an ephemeral port to `target`."""
    relay = run.iceagent("serve", "--json", "--listen", "127.0.0.1:0")
    url = relay.wait_for("listening")["url"]
    listener = run.iceagent("listen", "--json", "--relay", url, "--allow", allow)
    code = listener.wait_for("code")["code"]
    forwarder = run.iceagent("forward", "--json", "--relay", url, "-L", f"0:{target}{suffix}", code)
    return Tunnel(run, relay, listener, forwarder, forwarder.wait_for("forwarding")["bind"])


@pytest.fixture
def tcp_tunnel(run: Processes) -> Tunnel:
    """A tunnel to a source of bytes."""
    port = run.start(*TRAFFIC, "source").wait_for("ready")["port"]
    return open_tunnel(run, f"127.0.0.1:{port}", f"tcp:127.0.0.1:{port}")


@pytest.fixture
def udp_tunnel(run: Processes) -> Tunnel:
    """A tunnel to a UDP echo."""
    port = run.start(*TRAFFIC, "echo").wait_for("ready")["port"]
    return open_tunnel(run, f"127.0.0.1:{port}", f"udp:127.0.0.1:{port}", "/udp")
