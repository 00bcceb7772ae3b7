"""Real processes for every test here: a relay, a listening peer, a forwarding peer."""

from __future__ import annotations

import pytest
from processes import Processes
from tunnels import TRAFFIC, Tunnel, open_tunnel


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
