"""A home whose router runs the real miniupnpd: UPnP IGD, NAT-PMP and PCP, with nftables, in a namespace of its own."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from natlab import Home, NatKind, Natlab, open_natlab

HOST = "10.1.0.2"
_RULES = """
table inet upnp {
  chain forward { type filter hook forward priority 0; jump allowed; }
  chain prerouting { type nat hook prerouting priority -110; jump inward; }
  chain postrouting { type nat hook postrouting priority 90; jump outward; }
  chain allowed { }
  chain inward { }
  chain outward { }
}
"""
_CONFIGURATION = """
ext_ifname=to-inet
listening_ip=to-host-a
port=0
enable_natpmp=yes
enable_upnp=yes
upnp_table_name=upnp
upnp_nat_table_name=upnp
upnp_forward_chain=allowed
upnp_nat_chain=inward
upnp_nat_postrouting_chain=outward
uuid=11111111-2222-3333-4444-555555555555
secure_mode=yes
allow 1024-65535 10.1.0.0/16 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


def why_not() -> str | None:
    """Return why there can be no such home here, or None."""
    if shutil.which("miniupnpd") is None:
        return "miniupnpd is not installed (Debian's package miniupnpd)"
    found = subprocess.run(["ldd", shutil.which("miniupnpd") or ""], capture_output=True, text=True, check=False)
    return None if "libnftnl" in found.stdout else "this miniupnpd is not built for nftables"


@contextmanager
def open_mapping_lab(kind: NatKind, folder: Path, other: NatKind = NatKind.SYMMETRIC) -> Iterator[Natlab]:
    """Build a laboratory whose home a has a router that maps ports when asked; home b is an ordinary one."""
    with open_natlab(Home(nat=kind), Home(nat=other)) as lab:
        # miniupnpd refuses an outside address out of the prefixes for documentation, which laboratories use.
        outside = "9.9.9."
        lab.ip("inet", f"addr add {outside}1/30 dev to-nat-a")
        commands = ["addr del 203.0.113.2/30 dev to-inet", f"addr add {outside}2/30 dev to-inet"]
        lab.ip("nat-a", *commands, f"route add default via {outside}1")
        lab.nft("nat-a", _RULES)
        configuration = folder / "miniupnpd.conf"
        configuration.write_text(_CONFIGURATION)
        command = ["miniupnpd", "-d", "-f", str(configuration), "-P", str(folder / "miniupnpd.pid")]
        with (folder / "miniupnpd.log").open("wb") as log:
            daemon = subprocess.Popen(lab.inside("nat-a", *command), stdout=log, stderr=log)
            try:
                wait_until_it_listens(lab, daemon, folder)
                yield lab
            finally:
                daemon.terminate()
                daemon.wait(10)


def wait_until_it_listens(lab: Natlab, daemon: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for the daemon's port of NAT-PMP and PCP; raises RuntimeError with its log if it ends before."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and daemon.poll() is None:
        shown = subprocess.run(lab.inside("nat-a", "ss", "-uln"), capture_output=True, text=True, check=True)
        if ":5351 " in shown.stdout:
            return
        time.sleep(0.02)
    raise RuntimeError((folder / "miniupnpd.log").read_text(errors="replace"))


def mapped_ports(lab: Natlab) -> str:
    """Return the router's rules that lead inwards, as nft prints them."""
    command = lab.inside("nat-a", "nft", "list", "chain", "inet", "upnp", "inward")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
