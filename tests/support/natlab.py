"""Networks of real kernels: Linux network namespaces, veth pairs and nftables, built and taken down as root.

```text
   host-a --- nat-a ---+             +--- nat-b --- host-b
  10.1.0.2    203.0.113.2   inet   198.51.100.2     10.2.0.2
                       +--- 192.0.2.1 (relay, STUN)
```

Every link is a routed /30 (and /64), so that a kernel without bridges will do. The namespaces carry the process id and
a number in their name, so that laboratories never meet, neither of one process nor of several.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from natlab_rules import (
    Firewall,
    NatKind,
    firewall_rules,
    isolation_rules,
    loss_rules,
    nat_rules,
    no_forwarding_rules,
    no_fragment_rules,
)

__all__ = [
    "DEAD_HOST",
    "INTERNET_HOST",
    "INTERNET_HOST_6",
    "OTHER_INTERNET_HOST",
    "Firewall",
    "Home",
    "Internet",
    "NatKind",
    "Natlab",
    "command_in",
]
__all__ += ["open_natlab", "why_not"]

INTERNET_HOST = "192.0.2.1"
OTHER_INTERNET_HOST = "192.0.2.2"  # the same machine's
INTERNET_HOST_6 = "2001:db8::1"
DEAD_HOST = "192.0.2.66"  # nobody's: the internet swallows what is sent there
NETNS_FILES = Path("/etc/netns")

_numbers = itertools.count()
_lock = threading.Lock()


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


@dataclass(frozen=True)
class Home:
    """What is behind one line to the internet: a router and its hosts.

    Attributes:
        nat: the router's.
        carrier: of the provider's own NAT above the router (CGNAT); None for none.
        firewall: of the router.
        hosts: how many hosts; the first is `host-LETTER`, the others `host-LETTER2` and so on.
        hairpin: whether the hosts reach each other at the router's outside address.
        isolated: whether the router keeps its hosts apart otherwise.
        mtu: of the line to the internet.
        no_fragments: the router drops fragments.
        accepts_input: the router takes what nobody asked for as meant for itself: `masquerade` and no other rule.
    """

    nat: NatKind = NatKind.PORT_RESTRICTED
    carrier: NatKind | None = None
    firewall: Firewall = Firewall.OPEN
    hosts: int = 1
    hairpin: bool = False
    isolated: bool = False
    mtu: int = 1500
    no_fragments: bool = False
    accepts_input: bool = False


@dataclass(frozen=True)
class Internet:
    """What is between the homes.

    Attributes:
        families: IP versions that exist, of 4 and 6. Nothing translates IPv6.
        loss_percent: of the UDP packets that pass, in each direction.
    """

    families: tuple[int, ...] = (4,)
    loss_percent: int = 0

    @property
    def host(self) -> str:
        """The address of the server on the internet, as text."""
        return INTERNET_HOST if 4 in self.families else INTERNET_HOST_6


def _run(*command: str, stdin: str | None = None) -> None:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()} {stdin or ''}")


@dataclass
class Natlab:
    """Homes and an internet. Use `open_natlab`; run commands with `inside`."""

    prefix: str
    internet: Internet = field(default_factory=Internet)
    namespaces: list[str] = field(default_factory=list)
    links: int = 0

    def name(self, node: str) -> str:
        """Return the full name of a namespace: `host-a`, `nat-a`, `inet`, `nat-b`, `host-b`, `cgn-a` and so on."""
        return f"{self.prefix}-{node}"

    def inside(self, node: str, *command: str) -> list[str]:
        """Return the command line that runs `command` inside a node."""
        return ["ip", "netns", "exec", self.name(node), *command]

    def add_node(self, node: str, *, forwards: bool = False) -> None:
        """Make a namespace with its loopback up."""
        _run("ip", "netns", "add", self.name(node))
        self.namespaces.append(self.name(node))
        _run("ip", "-n", self.name(node), "link", "set", "lo", "up")
        settings = ["net.ipv6.conf.default.dad_transmits=0"]  # new addresses are usable at once
        if forwards:
            settings += ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]
        _run(*self.inside(node, "sysctl", "-qw", *settings))

    def add_link(self, upper: str, lower: str, net: str, *, mtu: int = 1500, metric: int = 0) -> str:
        """Join two nodes by the /30 that begins at `net` and a /64 of its own; the lower's default routes go up.

        Returns:
            The first part of the /64, to which `1` (upper) and `2` (lower) are appended.
        """
        self.links += 1
        net_6 = f"2001:db8:{self.links:x}::"
        up, down = f"to-{lower}", f"to-{upper}"
        _run(
            *["ip", "-n", self.name(upper), "link", "add", up, "mtu", str(mtu), "type", "veth"],
            *["peer", "name", down, "mtu", str(mtu), "netns", self.name(lower)],
        )
        for number, (node, interface) in enumerate(((upper, up), (lower, down)), 1):
            commands = [f"link set {interface} up"]
            commands += [f"addr add {nth(net, number)}/30 dev {interface}"] * (4 in self.internet.families)
            commands += [f"addr add {net_6}{number}/64 dev {interface} nodad"] * (6 in self.internet.families)
            self.ip(node, *commands)
        gateways = [nth(net, 1)] * (4 in self.internet.families) + [f"{net_6}1"] * (6 in self.internet.families)
        self.ip(lower, *(f"route add default via {gateway} metric {metric}" for gateway in gateways))
        return net_6

    def ip(self, node: str, *commands: str) -> None:
        """Run commands of the tool `ip` in a node."""
        _run("ip", "-n", self.name(node), "-batch", "-", stdin="\n".join(commands) + "\n")

    def nft(self, node: str, *rule_sets: str) -> None:
        """Load rules of nftables in a node."""
        rules = "\n".join(filter(None, rule_sets))
        if rules:
            _run(*self.inside(node, "nft", "-f", "-"), stdin=rules)

    def add_router(self, node: str, upper: str, net: str, home: Home) -> str:
        """Add a router below another node; returns what `add_link` does."""
        self.add_node(node, forwards=True)
        net_6 = self.add_link(upper, node, net, mtu=home.mtu)
        wan = f"to-{upper}"
        nat = nat_rules(home.nat, wan, nth(net, 2), hairpin=home.hairpin, accepts_input=home.accepts_input)
        rules = [nat, firewall_rules(home.firewall, wan)]
        rules += [isolation_rules(wan)] * home.isolated + [no_fragment_rules()] * home.no_fragments
        self.nft(node, *rules)
        return net_6

    def add_home(self, letter: str, wan: str, lan: str, home: Home, *, upper: str = "inet") -> None:
        """Add `nat-LETTER` below `upper` (or `cgn-LETTER` between the two) and its hosts below it.

        Args:
            letter: the home's.
            wan: where the /30 of the line begins.
            lan: the first two bytes of the hosts' addresses.
            home: what it is like.
            upper: the node above.
        """
        nat = f"nat-{letter}"
        if home.carrier is not None:
            self.add_router(f"cgn-{letter}", upper, wan, Home(nat=home.carrier))
            upper, wan = f"cgn-{letter}", "100.64.0.0"
        wan_6 = self.add_router(nat, upper, wan, home)
        for number in range(home.hosts):
            host = f"host-{letter}{number + 1 if number else ''}"
            self.add_node(host)
            net = f"{lan}.{number}.0"
            net_6 = self.add_link(nat, host, net)
            if home.nat is NatKind.NONE and 4 in self.internet.families:
                self.ip(upper, f"route add {net}/30 via {nth(wan, 2)}")
            if 6 in self.internet.families:  # IPv6 is not translated; homes below a carrier's NAT have none
                self.ip(upper, f"route add {net_6}/64 via {wan_6}2")

    def move_home(self, letter: str) -> None:
        """Give the line of a home another IPv4 address; its router's connections are forgotten with the old one."""
        old = {"a": "203.0.113.0", "b": "198.51.100.0"}[letter]
        new = nth(old, 4)
        self.ip("inet", f"addr add {nth(new, 1)}/30 dev to-nat-{letter}")
        commands = [f"addr del {nth(old, 2)}/30 dev to-inet", f"addr add {nth(new, 2)}/30 dev to-inet"]
        self.ip(f"nat-{letter}", *commands, f"route add default via {nth(new, 1)}")

    def move_host(self, letter: str, gap_s: float = 0.0) -> None:
        """Give a host another IPv4 address in its own home, as a lease does that was not renewed.

        Args:
            letter: the home's.
            gap_s: for how long it has none.
        """
        lan, nat, host = f"10.{'ab'.index(letter) + 1}", f"nat-{letter}", f"host-{letter}"
        self.ip(nat, f"addr add {lan}.7.1/30 dev to-{host}")
        self.ip(host, f"addr del {lan}.0.2/30 dev to-{nat}")
        time.sleep(gap_s)
        self.ip(host, f"addr add {lan}.7.2/30 dev to-{nat}", f"route add default via {lan}.7.1")

    def switch_interface(self, letter: str, home: Home, *, says_so: bool) -> None:
        """Have a host leave its line for another one, in another home: from the cable to the Wi-Fi of a neighbour.

        Args:
            letter: the home's.
            home: the other one.
            says_so: whether the old interface goes down; else it stays, with its address, and carries nothing.
        """
        net = {"a": "203.0.113.128", "b": "198.51.100.128"}[letter]
        other, host = f"nat-{letter}-two", f"host-{letter}"
        self.add_router(other, "inet", net, home)
        self.add_link(other, host, f"10.{'ab'.index(letter) + 1}.9.0", metric=7)
        if says_so:
            self.ip(host, f"link set to-nat-{letter} down")
        else:
            self.nft(f"nat-{letter}", no_forwarding_rules())
            self.ip(host, "route del default metric 0", f"route add default via 10.{'ab'.index(letter) + 1}.9.1")

    def set_names(self, node: str, names: dict[str, Sequence[str]]) -> None:
        """Give a node a hosts file of its own (`ip netns exec` mounts it): names, each with its addresses in order."""
        folder = NETNS_FILES / self.name(node)
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{address} {name}" for name, addresses in names.items() for address in addresses]
        (folder / "hosts").write_text("127.0.0.1 localhost\n" + "\n".join(lines) + "\n")

    def forget_after(self, node: str, seconds: int) -> None:
        """Have a router forget a mapping of UDP that nothing has used for so long."""
        keys = ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream")
        _run(*self.inside(node, "sysctl", "-qw", *(f"net.netfilter.{key}={seconds}" for key in keys)))

    def close(self) -> None:
        """Delete every namespace; the links and rules go with them."""
        for name in reversed(self.namespaces):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            shutil.rmtree(NETNS_FILES / name, ignore_errors=True)
        self.namespaces.clear()


def nth(net: str, number: int) -> str:
    """Return the address `number` steps after `net`."""
    stem, _, last = net.rpartition(".")
    return f"{stem}.{int(last) + number}"


@contextmanager
def open_natlab(
    a: Home | NatKind = NatKind.PORT_RESTRICTED,
    b: Home | NatKind = NatKind.PORT_RESTRICTED,
    internet: Internet | None = None,
    *,
    carrier: Home | None = None,
) -> Iterator[Natlab]:
    """Build two homes and an internet, and take them down at the end, whatever happened.

    Args:
        a: the home of `host-a`; a NAT kind alone makes an ordinary one.
        b: the home of `host-b`.
        internet: what is between them.
        carrier: the router `cgn` of a provider that both homes have in common; None for none.

    Raises:
        RuntimeError: a command of the construction failed; its message is the tool's.
    """
    homes = [Home(nat=home) if isinstance(home, NatKind) else home for home in (a, b)]
    with _lock:
        lab = Natlab(f"ia{os.getpid()}-{next(_numbers)}", internet or Internet())
    try:
        lab.add_node("inet", forwards=True)
        servers = [f"addr add {host}/32 dev lo" for host in (INTERNET_HOST, OTHER_INTERNET_HOST)]
        servers *= 4 in lab.internet.families
        servers += [f"addr add {INTERNET_HOST_6}/128 dev lo nodad"] * (6 in lab.internet.families)
        # The internet swallows what is addressed to nobody; it does not complain, as a kernel without a route would.
        sink = ["link add sink type veth peer name drain", "link set sink arp off up", "link set drain up"]
        sink += [f"route add {net} dev sink" for net in ("0.0.0.0/0", "::/0")]
        lab.ip("inet", *servers, *sink)
        if lab.internet.loss_percent:
            lab.nft("inet", loss_rules(lab.internet.loss_percent))
        upper, wans = "inet", ("203.0.113.0", "198.51.100.0")
        if carrier is not None:
            lab.add_router("cgn", "inet", wans[0], carrier)
            upper, wans = "cgn", ("100.64.0.0", "100.64.1.0")
        for letter, wan, home in zip("ab", wans, homes, strict=True):
            lab.add_home(letter, wan, f"10.{'ab'.index(letter) + 1}", home, upper=upper)
        yield lab
    finally:
        lab.close()


def command_in(lab: Natlab | None, node: str, command: Sequence[str]) -> list[str]:
    """Return `command` as it runs inside a node of the laboratory, or as it is without one."""
    return list(command) if lab is None else lab.inside(node, *command)
