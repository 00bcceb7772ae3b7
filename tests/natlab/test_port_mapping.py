"""Port mapping by the real miniupnpd: each protocol alone, netcheck, and a tunnel that would be relayed without it."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from miniupnpd import HOST, mapped_ports, open_mapping_lab, why_not
from natlab import NatKind, Natlab
from natlab_experiments import fetch, serving
from processes import Processes

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "map_port.py"
SEND = """
import socket, sys
host, port, text = sys.argv[1:]
socket.socket(type=socket.SOCK_DGRAM).sendto(text.encode(), (host, int(port)))
"""


@pytest.fixture
def home(tmp_path: Path, laboratory: None) -> Iterator[Natlab]:
    """A laboratory with two symmetric NATs, of which the one of home a maps ports when asked."""
    if reason := why_not():
        pytest.skip(reason)
    with open_mapping_lab(NatKind.SYMMETRIC, tmp_path) as lab:
        yield lab


def send_from_the_internet(lab: Natlab, external: str, text: str) -> None:
    host, _, port = external.rpartition(":")
    command = lab.inside("inet", sys.executable, "-c", SEND, host, port, text)
    subprocess.run(command, check=True, timeout=20)


@pytest.mark.parametrize("protocol", ["pcp", "nat-pmp", "upnp"])
def test_strangers_reach_a_mapped_port_until_it_is_given_back(home: Natlab, run: Processes, protocol: str) -> None:
    """Through a symmetric NAT that would let in nobody; and nothing stays open in somebody's router."""
    if protocol == "upnp":
        pytest.importorskip("miniupnpc", reason="the extra upnp is not installed")
    mapper = run.start(*home.inside("host-a", sys.executable, str(SCRIPT), protocol, HOST))
    external = mapper.wait_for("mapped")["external"]
    assert external.startswith("9.9.9.2:")
    assert HOST in mapped_ports(home)
    send_from_the_internet(home, external, "hello")
    assert mapper.wait_for("received")["text"] == "hello"
    send_from_the_internet(home, external, "stop")
    assert mapper.wait_for("released")["confirmed"]
    assert HOST not in mapped_ports(home)
    send_from_the_internet(home, external, "too late")
    assert mapper.wait_for("received", "over")["kind"] == "over"
    assert mapper.wait() == 0


def test_netcheck_finds_what_the_router_speaks(home: Natlab, run: Processes) -> None:
    """And maps nothing by looking."""
    serving_line = run.iceagent("serve", "--json", "--listen", "192.0.2.1:0", inside=home.inside("inet"))
    url = serving_line.wait_for("listening")["url"]
    check = run.iceagent("netcheck", "--json", "--relay", url, inside=home.inside("host-a"))
    assert check.wait_for("nat")["udp"]
    found = {line["protocol"]: line for line in (check.wait_for("port-mapping") for _ in range(3))}
    assert found["pcp"]["available"]
    assert found["nat-pmp"]["external"] == "9.9.9.2"
    assert found["upnp"]["available"] or "not installed" in found["upnp"]["detail"]
    assert check.wait_for("summary")["maps_ports"]
    assert check.wait() == 0
    assert HOST not in mapped_ports(home)


def test_tunnel_between_symmetric_nats_is_direct_when_a_router_maps_ports(home: Natlab, run: Processes) -> None:
    """The command line as users type it, no option given; without the mapping this pair is relayed."""
    data = random.Random(1).randbytes(300_000)
    with serving(home.name("host-b"), data) as port:
        relay = run.iceagent("serve", "--json", "--listen", "192.0.2.1:0", inside=home.inside("inet"))
        url = relay.wait_for("listening")["url"]
        rule = f"tcp:127.0.0.1:{port}"
        listening = ("listen", "--once", "--json", "--relay", url, "--allow", rule)
        listener = run.iceagent(*listening, inside=home.inside("host-b"))
        code = listener.wait_for("code")["code"]
        forwarding = ("forward", "--json", "--relay", url, "-L", f"0:127.0.0.1:{port}", code)
        forwarder = run.iceagent(*forwarding, inside=home.inside("host-a"))
        path = forwarder.wait_for("path", "error", timeout_s=60)
        assert path.get("direct"), path
        bind = forwarder.wait_for("forwarding")["bind"]
        got = fetch(home.name("host-a"), bind)
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        assert HOST in mapped_ports(home)
        assert forwarder.stop() == 130
    assert HOST not in mapped_ports(home)
