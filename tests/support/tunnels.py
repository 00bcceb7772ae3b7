"""A relay, a listening peer and a forwarding peer on the loopback interface, each a process of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from processes import Process, Processes

TRAFFIC = (sys.executable, str(Path(__file__).resolve().parent / "traffic.py"))


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


def open_tunnel(run: Processes, target: str, allow: str, suffix: str = "", *, few_descriptors: bool = False) -> Tunnel:
    """Connect two peers over a relay of their own and forward an ephemeral port to `target`.

    `few_descriptors`: the system lets both have but 300, unless they ask for more.
    """
    limits = ["prlimit", "--nofile=300:4000"] * few_descriptors
    relay = run.iceagent("serve", "--json", "--listen", "127.0.0.1:0")
    url = relay.wait_for("listening")["url"]
    listener = run.iceagent("listen", "--once", "--json", "--relay", url, "--allow", allow, inside=limits)
    code = listener.wait_for("code")["code"]
    forwarder = run.iceagent("forward", "--json", "--relay", url, "-L", f"0:{target}{suffix}", code, inside=limits)
    return Tunnel(run, relay, listener, forwarder, forwarder.wait_for("forwarding")["bind"])
