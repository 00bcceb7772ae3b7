"""What routers do, as nftables rule sets: the kinds of NAT, and firewalls. Each was measured (RFC 4787, RFC 5780)."""

from __future__ import annotations

from enum import Enum

PRIVATE = "{ 10.0.0.0/8, 100.64.0.0/10 }"


class NatKind(Enum):
    """What stands between a home and the internet, by the behaviour measured of it (RFC 4787)."""

    NONE = "none"
    FULL_CONE = "full cone"
    ADDRESS_RESTRICTED = "address-restricted"
    PORT_RESTRICTED = "port-restricted"
    SYMMETRIC = "symmetric"


class Firewall(Enum):
    """What a router keeps from passing."""

    OPEN = "open"
    NO_UDP = "no UDP"
    ONLY_443 = "443/tcp alone"
    NO_STUN = "no STUN, by content"
    STATEFUL = "nothing unasked"


def nat_rules(kind: NatKind, wan: str, wan_ip: str = "", *, hairpin: bool = False, accepts_input: bool = False) -> str:
    """Return the rule set that makes a router behave as `kind`.

    Args:
        kind: the behaviour wanted.
        wan: the name of the interface towards the internet.
        wan_ip: its address, needed for `hairpin`.
        hairpin: whether inside hosts reach each other at the outside addresses (RFC 4787 section 6).
        accepts_input: whether the router takes what nobody asked for as meant for itself. Its connection table then
            holds the very port that the inside host's own packet to that sender needs.
    """
    if kind is NatKind.NONE:
        return ""
    masquerade = "masquerade fully-random" if kind is NatKind.SYMMETRIC else "masquerade"
    restricted, cone = kind is NatKind.ADDRESS_RESTRICTED, kind in (NatKind.ADDRESS_RESTRICTED, NatKind.FULL_CONE)
    dnat = "dnat ip to udp dport map @inside"
    lines = ["table ip lab {"]
    if not accepts_input:  # home routers drop what nobody asked for; a line of `masquerade` alone does not
        lines += [
            "  chain input { type filter hook input priority 0;",
            f'    iifname "{wan}" meta l4proto {{ tcp, udp }} ct state new drop',
            "  }",
        ]
    # Masquerading keeps the port where it can, so that the inside port of a packet going out is the outside one.
    remember = ["meta l4proto udp update @inside { udp sport : ip saddr }"] if cone or hairpin else []
    remember += ["meta l4proto udp update @seen { ip daddr . udp sport }"] if restricted else []
    if remember:
        lines += [
            "  map inside { type inet_service : ipv4_addr; flags dynamic, timeout; timeout 5m; size 65535; }",
            "  set seen { type ipv4_addr . inet_service; flags dynamic, timeout; timeout 5m; size 65535; }",
            "  chain forward { type filter hook forward priority 0;",
            *(f'    oifname "{wan}" {rule}' for rule in remember),
            "  }",
            "  chain pre { type nat hook prerouting priority -100;",
            *([f'    iifname "{wan}" {"ip saddr . udp dport @seen " * restricted}{dnat}'] if cone else []),
            *([f'    iifname != "{wan}" ip daddr {wan_ip} meta l4proto udp {dnat}'] if hairpin else []),
            "  }",
        ]
    lines += [
        "  chain post { type nat hook postrouting priority 100;",
        *([f'    oifname != "{wan}" ip saddr {PRIVATE} ct status dnat snat to {wan_ip}'] if hairpin else []),
        f'    oifname "{wan}" {masquerade}',
        "  }",
        "}",
        "",
    ]
    return "\n".join(lines)


def firewall_rules(kind: Firewall, wan: str) -> str:
    """Return the rule set of a firewall on a router, for both IP versions."""
    match kind:
        case Firewall.OPEN:
            return ""
        case Firewall.NO_UDP:
            rules = ["meta l4proto udp drop"]
        case Firewall.ONLY_443:
            rules = [f'oifname "{wan}" tcp dport 443 accept', f'iifname "{wan}" ct state established accept', "drop"]
        case Firewall.NO_STUN:
            # The magic cookie, 4 bytes into a datagram, or into a segment over TCP after 20 or 32 bytes of header.
            rules = ["meta l4proto udp @th,96,32 0x2112a442 drop"]
            rules += [f"meta l4proto tcp @th,{8 * header + 32},32 0x2112a442 drop" for header in (20, 32)]
        case Firewall.STATEFUL:
            rules = [f'iifname "{wan}" ct state new drop']
    return _chain("firewall", "forward", 10, *rules)


def isolation_rules(wan: str) -> str:
    """Return the rules of a router that keeps its inside hosts apart, except for what went out and came back."""
    return _chain("isolation", "forward", 10, f'iifname != "{wan}" oifname != "{wan}" ct status & dnat == 0 drop')


def loss_rules(percent: int) -> str:
    """Return the rules of a router that loses UDP packets at random, in each direction."""
    return _chain("loss", "prerouting", -300, f"meta l4proto udp numgen random mod 100 < {percent} drop")


def no_fragment_rules() -> str:
    """Return the rules of a router that drops every fragment but the first, before the kernel could reassemble them."""
    return _chain("fragments", "prerouting", -450, "ip frag-off & 0x1fff != 0 drop", "exthdr frag exists drop")


def no_forwarding_rules() -> str:
    """Return the rules of a router whose line has died: it takes every packet, and none gets anywhere."""
    return _chain("dead", "forward", -200, "drop")


def _chain(table: str, hook: str, priority: int, *rules: str) -> str:
    body = [
        f"  chain {hook} {{ type filter hook {hook} priority {priority};",
        *(f"    {rule}" for rule in rules),
        "  }",
    ]
    return "\n".join([f"table inet {table} {{", *body, "}", ""])
