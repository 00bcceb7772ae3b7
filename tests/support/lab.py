"""Networks of real kernels: Linux network namespaces, veth pairs and nftables, built and taken down as root.

```text
   host-a --- nat-a ---+             +--- nat-b --- host-b
  10.1.0.2    203.0.113.2   inet   198.51.100.2     10.2.0.2
                       +--- 192.0.2.1 (relay, STUN)
```

Every link is a routed /30, so that a kernel without bridges will do. The namespaces carry the process id in their
name, so that two laboratories on one machine never meet.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

INTERNET_HOST = "192.0.2.1"


class NatKind(Enum):
    """What stands between a home and the internet, by the behaviour measured of it (RFC 4787)."""

    NONE = "none"
    FULL_CONE = "full cone"
    ADDRESS_RESTRICTED = "address-restricted"
    PORT_RESTRICTED = "port-restricted"
    SYMMETRIC = "symmetric"


def why_not() -> str | None:
    """Return why no laboratory can be built here, or None if one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "nft"):
        if shutil.which(tool) is None:
            return f"the command {tool} is not installed"
    probe = f"ia{os.getpid()}-probe"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode != 0:
        return "this kernel or container does not allow network namespaces"
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return None


def nat_rules(kind: NatKind, wan: str, inside: str) -> str:
    """Return the nftables rule set that makes a router behave as `kind`.

    Args:
        kind: the behaviour wanted.
        wan: the name of the interface towards the internet.
        inside: the one inside host, to which the cone kinds send what comes in.
    """
    if kind is NatKind.NONE:
        return ""
    masquerade = "masquerade fully-random" if kind is NatKind.SYMMETRIC else "masquerade"
    # Home routers drop what nobody asked for. Without that rule it would be delivered to the router itself, whose
    # connection table would then hold the very port that the inside host's own packet to that peer needs.
    lines = [
        "table ip lab {",
        "  chain input { type filter hook input priority 0;",
        f'    iifname "{wan}" meta l4proto udp ct state new drop',
        "  }",
    ]
    if kind is NatKind.ADDRESS_RESTRICTED:
        lines += [
            "  set seen { type ipv4_addr . inet_service; flags dynamic, timeout; timeout 5m; size 65535; }",
            "  chain forward { type filter hook forward priority 0;",
            f'    oifname "{wan}" meta l4proto udp update @seen {{ ip daddr . udp sport }}',
            "  }",
        ]
    if kind in (NatKind.FULL_CONE, NatKind.ADDRESS_RESTRICTED):
        match = "ip saddr . udp dport @seen " if kind is NatKind.ADDRESS_RESTRICTED else "meta l4proto udp "
        lines += [
            "  chain pre { type nat hook prerouting priority -100;",
            f'    iifname "{wan}" {match}dnat to {inside}',
            "  }",
        ]
    lines += [
        "  chain post { type nat hook postrouting priority 100;",
        f'    oifname "{wan}" {masquerade}',
        "  }",
        "}",
        "",
    ]
    return "\n".join(lines)


def _run(*command: str, stdin: str | None = None) -> None:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


@dataclass
class Lab:
    """Two homes and an internet. Use `open_lab`; run commands with `inside`."""

    prefix: str
    namespaces: list[str] = field(default_factory=list)

    def name(self, node: str) -> str:
        """Return the full name of a namespace: `host-a`, `nat-a`, `inet`, `nat-b` or `host-b`."""
        return f"{self.prefix}-{node}"

    def inside(self, node: str, *command: str) -> list[str]:
        """Return the command line that runs `command` inside a node."""
        return ["ip", "netns", "exec", self.name(node), *command]

    def add_node(self, node: str, *, forwards: bool = False) -> None:
        """Make a namespace with its loopback up."""
        _run("ip", "netns", "add", self.name(node))
        self.namespaces.append(self.name(node))
        _run("ip", "-n", self.name(node), "link", "set", "lo", "up")
        if forwards:
            _run(*self.inside(node, "sysctl", "-qw", "net.ipv4.ip_forward=1"))

    def add_link(self, upper: str, upper_ip: str, lower: str, lower_ip: str) -> None:
        """Join two nodes by a /30; the lower node's default route goes up."""
        up, down = f"to-{lower}", f"to-{upper}"
        _run(
            *["ip", "-n", self.name(upper), "link", "add", up, "type", "veth"],
            *["peer", "name", down, "netns", self.name(lower)],
        )
        for node, interface, ip in ((upper, up, upper_ip), (lower, down, lower_ip)):
            _run("ip", "-n", self.name(node), "addr", "add", f"{ip}/30", "dev", interface)
            _run("ip", "-n", self.name(node), "link", "set", interface, "up")
        _run("ip", "-n", self.name(lower), "route", "add", "default", "via", upper_ip)

    def add_home(self, letter: str, wan: tuple[str, str], lan: tuple[str, str], kind: NatKind) -> None:
        """Add `nat-LETTER` below the internet and `host-LETTER` below it."""
        nat, host = f"nat-{letter}", f"host-{letter}"
        self.add_node(nat, forwards=True)
        self.add_node(host)
        self.add_link("inet", wan[0], nat, wan[1])
        self.add_link(nat, lan[0], host, lan[1])
        if kind is NatKind.NONE:
            _run("ip", "-n", self.name("inet"), "route", "add", f"{lan[1]}/32", "via", wan[1])
        else:
            _run(*self.inside(nat, "nft", "-f", "-"), stdin=nat_rules(kind, "to-inet", lan[1]))

    def close(self) -> None:
        """Delete every namespace; the links and rules go with them."""
        for name in reversed(self.namespaces):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        self.namespaces.clear()


@contextmanager
def open_lab(kind_a: NatKind = NatKind.PORT_RESTRICTED, kind_b: NatKind = NatKind.PORT_RESTRICTED) -> Iterator[Lab]:
    """Build two homes behind NATs and an internet, and take them down at the end, whatever happened.

    Raises:
        RuntimeError: a command of the construction failed; its message is the tool's.
    """
    lab = Lab(prefix=f"ia{os.getpid()}")
    try:
        lab.add_node("inet", forwards=True)
        _run("ip", "-n", lab.name("inet"), "addr", "add", f"{INTERNET_HOST}/32", "dev", "lo")
        lab.add_home("a", ("203.0.113.1", "203.0.113.2"), ("10.1.0.1", "10.1.0.2"), kind_a)
        lab.add_home("b", ("198.51.100.1", "198.51.100.2"), ("10.2.0.1", "10.2.0.2"), kind_b)
        yield lab
    finally:
        lab.close()


def command_in(lab: Lab | None, node: str, command: Sequence[str]) -> list[str]:
    """Return `command` as it runs inside a node of the laboratory, or as it is without one."""
    return list(command) if lab is None else lab.inside(node, *command)
