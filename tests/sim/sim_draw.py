"""What a seed draws: where two hosts sit, what their lines are like, which servers there are, and what goes wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from iceagent.vnet import Burst, Firewall, Host, Nat, Network, Reachability, Relay, Router, Side, reachability

BEHAVIOURS: tuple[Any, ...] = ("endpoint-independent", "address-dependent", "address-and-port-dependent")
SITES = {
    "public": 10,
    "home": 40,
    "carrier": 10,
    "office": 10,
    "home+firewall": 10,
    "udp-blocked": 6,
    "stun-blocked": 2,
    "nat64": 6,
}
TURN_PORT = 3478
KINDS = ("host", "srflx", "prflx", "relay")
PRIVATE = ("10.0.0.0/8", "192.168.0.0/16", "100.64.0.0/10", "fd00::/8")
FAULTS = (
    "nat reboot",
    "both nats reboot",
    "interface off",
    "interface flaps",
    "new address",
    "another network",
    "router renewed",
    "partition",
    "sleep",
    "turn crash",
    "stun crash",
    "gone",
)


@dataclass
class Drawn:
    """One world with two hosts in it, and what is to be done there."""

    net: Network
    hosts: list[Host]
    homes: list[Router]
    stun: Host | None
    turn: Host | None
    mallory: Host
    words: list[str]
    families: list[tuple[Any, ...]]
    relay_only: bool = False
    dead_stun: bool = False
    turn_tcp: bool = False
    same_role: bool = False
    late_s: float = 0.0
    signaling_s: float = 0.0
    trickles: bool = True
    is_clean: bool = True
    has_corruption: bool = False
    disturbance: str = ""
    policies: list[dict[str, Any]] = field(default_factory=lambda: [{}, {}])
    trickle_s: float = 0.0
    dead_turn: bool = False
    nameless_server: bool = False
    fault: str = ""
    changes: list[tuple[float, str]] = field(default_factory=list)
    idle_s: float = 0.0
    names: dict[str, str] = field(default_factory=lambda: {"stun": "stun.example", "turn": "turn.example"})
    more: random.Random = field(default_factory=random.Random)
    techniques: dict[str, Any] = field(default_factory=dict)

    @property
    def streams(self) -> tuple[int, ...]:
        """The number of components of each data stream."""
        return self.techniques.get("streams", (1,))

    def is_relay_only(self, number: int) -> bool:
        """Whether one of the two may use nothing but relays."""
        return self.relay_only or self.policies[number].get("transport_policy") == "relay"

    def sides(self) -> tuple[Side, Side]:
        """Return what the oracle needs to know."""
        stun = (self.stun,) if self.stun else ()
        tcp_ports = (TURN_PORT,) if self.turn_tcp else ()
        relays = (Relay(self.turn, TURN_PORT, tcp_ports),) if self.turn else ()
        one, other = (self._side(number, stun, relays) for number in (0, 1))
        return one, other

    def _side(self, number: int, stun: tuple[Host, ...], relays: tuple[Relay, ...]) -> Side:
        policy = self.policies[number]
        return Side(
            self.hosts[number],
            families=self.families[number],
            interfaces=policy.get("interfaces"),
            stun=stun,
            relays=relays,
            relay_only=self.is_relay_only(number),
            kinds=policy.get("candidate_types", KINDS),
            deny_remote=policy.get("deny_remote_prefixes", ()),
        )

    def surest(self) -> Reachability:
        """Return what can be reached whoever sends first: a router that accepts input may be late with every packet.

        Its inside hosts then show each peer that was quicker another port than they show the servers. A fresh port
        heals that where a server can tell how it is seen from outside, which is no use if the peer sees it otherwise.
        """
        accepting = {router: router.nat for host in self.hosts for router in routers_above(host) if router.nat}
        try:
            for router, nat in accepting.items():
                if nat.accepts_input and not (self.stun and nat.mapping == "endpoint-independent"):
                    router.nat = replace(nat, mapping="address-and-port-dependent")
            return reachability(*self.sides())
        finally:
            for router, nat in accepting.items():
                router.nat = nat

    def __str__(self) -> str:
        return "; ".join(self.words)


def routers_above(host: Host) -> list[Router]:
    """Return the routers between a host and the internet, of all its interfaces."""
    found: list[Router] = []
    for interface in host.attachments():
        router = interface.router
        while router is not None:
            found.append(router)
            router = router.parent
    return found


def draw(seed: int) -> Drawn:
    """Return the world of a seed."""
    rng = random.Random(f"sim {seed}")
    families = rng.choices([(4,), (4, 6), (6,)], [50, 42, 8])[0]
    net = Network(seed, families=families)
    words = ["families " + "+".join(map(str, families))]
    server_line = {"delay_s": rng.choice([0.001, 0.010, 0.050])}
    stun = net.host(net.internet, name="stun.example", **server_line) if rng.random() < 0.9 else None
    turn = net.host(net.internet, name="turn.example", **server_line) if rng.random() < 0.6 else None
    words.append("servers" + (" stun" if stun else "") + (" turn" if turn else ""))
    mallory = net.host(net.internet, name="mallory")
    homes = _draw_homes(net, rng, words)
    hosts = [net.host(home, name=name) for home, name in zip(homes, ("alice", "bob"), strict=True)]
    drawn = Drawn(net, hosts, homes, stun, turn, mallory, words, [(4, 6), (4, 6)])
    drawn.turn_tcp = turn is not None and rng.random() < 0.7
    if drawn.turn_tcp:
        words.append("turn over tcp, too")
    _draw_more_interfaces(drawn, rng)
    _draw_lines(drawn, rng)
    _draw_conduct(drawn, rng)
    # Apart, so that the seeds of before this was drawn keep their worlds.
    drawn.more = random.Random(f"sim more {seed}")
    if drawn.more.random() < 0.6:
        _draw_policies(drawn, drawn.more)
        _draw_signaling(drawn, drawn.more)
        _draw_fault(drawn, drawn.more)
    _draw_techniques(drawn, random.Random(f"sim techniques {seed}"))
    return drawn


def _draw_nat(rng: random.Random) -> Nat:
    if rng.random() < 0.4:  # what most homes have
        return Nat(filtering="address-and-port-dependent", hairpin=rng.random() < 0.5)
    return Nat(
        mapping=rng.choice(BEHAVIOURS),
        filtering=rng.choice(BEHAVIOURS),
        port_allocation=rng.choice(["preserving", "random", "random", "sequential", "contiguous"]),
        hairpin=rng.random() < 0.5,
        mapping_timeout_s=rng.choice([30.0, 60.0, 120.0, 300.0]),
        refreshed_by=rng.choice(["outbound", "both"]),
    )


def _nat_words(nat: Nat) -> str:
    short = {name: "".join(part[0] for part in name.split("-")) for name in BEHAVIOURS}
    hairpin = " hairpin" if nat.hairpin else ""
    return f"{short[nat.mapping]}/{short[nat.filtering]}/{nat.port_allocation}{hairpin}"


def _draw_homes(net: Network, rng: random.Random, words: list[str]) -> list[Router]:
    together = rng.choices(["", "same home", "same carrier"], [80, 8, 12])[0]
    if together == "same home":
        words.append("both in one home")
        home = _draw_site(net, net.internet, rng, words)
        return [home, home]
    parent = net.internet
    if together == "same carrier":
        nat = _draw_nat(rng)
        parent = net.router(net.internet, nat=nat, subnet="100.64.0.0/16", delay_s=0.005)
        words.append(f"both below one carrier {_nat_words(nat)}")
    subnet = "192.168.77.0/24" if rng.random() < 0.2 else None
    return [_draw_site(net, parent, rng, words, subnet) for _ in range(2)]


def _draw_site(net: Network, parent: Router, rng: random.Random, words: list[str], subnet: str | None = None) -> Router:
    kinds = dict(SITES)
    if parent.families != (4, 6):
        del kinds["nat64"]
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    delay_s = rng.choice([0.001, 0.005, 0.020, 0.050, 0.150])
    nat = _draw_nat(rng)
    said = f"{kind} {_nat_words(nat)}" if kind not in ("public", "office") else kind
    words.append(said + (f" {subnet}" if subnet and nat else ""))
    if kind == "public":
        return net.router(parent, delay_s=delay_s)
    if kind == "office":
        return net.router(parent, delay_s=delay_s, firewall=Firewall())
    if kind == "carrier":
        outer = _draw_nat(rng)
        words.append(f"  under {_nat_words(outer)}")
        parent = net.router(parent, nat=outer, subnet="100.127.0.0/16", delay_s=0.005)
    if kind == "nat64":
        return net.router(parent, nat64=nat, delay_s=delay_s)
    firewall = {
        "home+firewall": Firewall(),
        "udp-blocked": Firewall(udp_ports=frozenset()),
        "stun-blocked": Firewall(drops_stun=True),
    }.get(kind)
    return net.router(parent, nat=nat, firewall=firewall, delay_s=delay_s, subnet=subnet)


def _draw_more_interfaces(drawn: Drawn, rng: random.Random) -> None:
    """Give some hosts a second interface: a VPN, a container bridge that leads nowhere, a second line."""
    for host in drawn.hosts:
        if rng.random() < 0.2:
            drawn.words.append(f"{host.name} has a second line")
            host.attach(_draw_site(drawn.net, drawn.net.internet, rng, drawn.words))
        elif rng.random() < 0.15:
            drawn.words.append(f"{host.name} has a bridge to nowhere")
            host.attach(drawn.net.router(drawn.net.internet, nat=Nat(), firewall=Firewall(udp_ports=frozenset())))


def _draw_lines(drawn: Drawn, rng: random.Random) -> None:
    for host in drawn.hosts:
        if rng.random() < 0.5:
            continue
        faults: dict[str, Any] = {
            "loss": rng.choice([0.0, 0.01, 0.1, 0.2]),
            "jitter_s": rng.choice([0.0, 0.005, 0.05]),
            "duplicate": rng.choice([0.0, 0.0, 0.05]),
            "reorder": rng.choice([0.0, 0.0, 0.05]),
            # TURN's first answers are neither authenticated nor fingerprinted: what they say is believed.
            "corrupt": rng.choice([0.0, 0.0, 0.0, 0.02]) * (drawn.turn is None),
            "mtu": rng.choice([None, None, 1280, 1400]),
            "rate_bps": rng.choice([None, None, 1_000_000]),
            "burst": rng.choice([None, None, None, Burst(0.02, 0.3)]),
        }
        faults = {name: value for name, value in faults.items() if value}
        for interface in host.attachments():
            interface.link.change(**faults)
        drawn.words.append(f"{host.name}'s line: " + " ".join(f"{name}={value}" for name, value in faults.items()))
        if faults.keys() & {"loss", "burst", "corrupt", "reorder"}:
            drawn.is_clean = False
        drawn.has_corruption |= "corrupt" in faults


def _draw_conduct(drawn: Drawn, rng: random.Random) -> None:
    words = drawn.words
    for number, host in enumerate(drawn.hosts):
        if rng.random() < 0.08:
            drawn.families[number] = (rng.choice((4, 6)),)
            words.append(f"{host.name} uses IPv{drawn.families[number][0]} only")
    drawn.same_role = rng.random() < 0.15
    drawn.late_s = rng.choice([0.0, 0.0, 0.0, 0.3, 3.0])
    drawn.signaling_s = rng.choice([0.0, 0.01, 0.1, 0.5])
    drawn.trickles = rng.random() < 0.8
    drawn.dead_stun = rng.random() < 0.2
    drawn.relay_only = drawn.turn is not None and rng.random() < 0.15
    drawn.disturbance = rng.choices(["", "cut", "nat reboot", "firewall reboot"], [60, 25, 15, 0])[0]
    facts = {
        "same role": drawn.same_role,
        f"bob {drawn.late_s} s late": drawn.late_s,
        f"signaling {drawn.signaling_s} s": drawn.signaling_s,
        "no trickle": not drawn.trickles,
        "a dead stun server": drawn.dead_stun,
        "relay only": drawn.relay_only,
        drawn.disturbance: drawn.disturbance,
    }
    words += [word for word, holds in facts.items() if holds]


def _draw_policies(drawn: Drawn, rng: random.Random) -> None:
    """Say what each side may use."""
    for number, host in enumerate(drawn.hosts):
        policy = drawn.policies[number]
        choice = rng.random()
        if choice < 0.08 and drawn.turn is not None:
            policy["transport_policy"] = "relay"
        elif choice < 0.16:
            policy["deny_remote_prefixes"] = PRIVATE
        elif choice < 0.22 and not drawn.relay_only:
            policy["candidate_types"] = ("host", "srflx", "prflx")
        elif choice < 0.28 and not drawn.relay_only:
            policy["candidate_types"] = ("srflx", "prflx", "relay")
        elif choice < 0.34 and len(host.attachments()) > 1:
            policy["interfaces"] = ("eth0",)
        if policy:
            drawn.words.append(f"{host.name}: " + " ".join(f"{name}={value}" for name, value in policy.items()))


def _draw_signaling(drawn: Drawn, rng: random.Random) -> None:
    drawn.trickle_s = rng.choice([0.0, 0.0, 0.2, 2.0])
    drawn.dead_turn = rng.random() < 0.15
    drawn.nameless_server = rng.random() < 0.1
    drawn.net.dns_delay_s = rng.choice([0.0, 0.0, 0.05, 1.0])
    facts = {
        f"candidates up to {drawn.trickle_s} s late, in any order": drawn.trickle_s,
        "a dead turn server": drawn.dead_turn,
        "a server without a name": drawn.nameless_server,
        f"dns {drawn.net.dns_delay_s} s": drawn.net.dns_delay_s,
    }
    drawn.words += [word for word, holds in facts.items() if holds]


def _draw_fault(drawn: Drawn, rng: random.Random) -> None:
    """Choose something that agents which restart have to live through, in place of the mild disturbances."""
    if rng.random() < 0.5:
        drawn.fault, drawn.disturbance = rng.choice(FAULTS), ""
        drawn.words.append(f"fault: {drawn.fault}")


def _draw_techniques(drawn: Drawn, rng: random.Random) -> None:
    """Choose what both agents do besides: more streams and components, TCP, names for addresses, guessing at NATs."""
    techniques = drawn.techniques
    if rng.random() < 0.15:
        techniques["streams"] = rng.choice([(2,), (1, 1), (2, 1)])
    elif rng.random() < 0.02:
        techniques["hard_nat"] = True
    if rng.random() < 0.3:
        techniques["tcp_candidates"] = True
    # Names are resolved in one house only, so that elsewhere they would hide what the oracle sees.
    if drawn.homes[0] is drawn.homes[1] and drawn.is_clean and not any(drawn.policies) and rng.random() < 0.5:
        techniques["mdns"] = "publish"
    drawn.words += [f"{name}={value}" for name, value in techniques.items()]
