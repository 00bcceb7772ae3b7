"""What real use has taught of the world, drawn into it: the plain default, and networks as unkind as they are."""

from __future__ import annotations

import random
from dataclasses import replace

from sim_draw import Drawn, routers_above

from iceagent.vnet import Host

FIRST_SEED = 10_000_000  # seeds below keep the worlds they had before, so that those remembered show what they showed
CHANGES = ("alice's address", "bob's address", "alice's router", "bob's router")
PAUSES_S = (0.0, 0.3, 3.0, 15.0)
IDLE_S = (900.0, 900.0, 3600.0)
IDLE_SHARE = 0.006  # of the worlds: an idle hour costs what thirty worlds do
DEAD = {"stun": ("203.0.113.252", "2001:db8::dead:1"), "turn": ("203.0.113.253", "2001:db8::dead:2")}


def draw_lessons(drawn: Drawn, seed: int) -> None:
    """Add to a world what `FIRST_SEED` and later ones have besides."""
    if seed < FIRST_SEED:
        return
    rng = random.Random(f"sim lessons {seed}")
    if rng.random() < 0.25:
        _accept_input(drawn, rng)
    if rng.random() < 0.2:
        _give_servers_more_addresses(drawn, rng)
    if rng.random() < 0.12:
        drawn.fault, drawn.disturbance = "addresses change", ""
        drawn.changes = [(rng.choice(PAUSES_S), rng.choice(CHANGES)) for _ in range(rng.randrange(1, 4))]
        steps = ", ".join(f"{what} after {pause_s:g} s" for pause_s, what in drawn.changes)
        drawn.words.append(f"fault: addresses change: {steps}")
    if rng.random() < IDLE_SHARE and drawn.fault != "gone":
        drawn.idle_s = rng.choice(IDLE_S)
        drawn.words.append(f"{drawn.idle_s:g} s without a word")


def _accept_input(drawn: Drawn, rng: random.Random) -> None:
    """Let gateways take for themselves what nobody inside has asked for."""
    for router in dict.fromkeys(router for host in drawn.hosts for router in routers_above(host)):
        if rng.random() < 0.6 and router.nat is not None and router.wan is not None:
            router.nat = replace(router.nat, accepts_input=True)
            router.connect_upwards(router.wan)
            drawn.words.append(f"{router.public_address} accepts input")


def _give_servers_more_addresses(drawn: Drawn, rng: random.Random) -> None:
    """Let the servers' names have addresses that are dead, most often the first one."""
    for kind, server in (("stun", drawn.stun), ("turn", drawn.turn)):
        if server is not None and rng.random() < 0.7:
            alive, dead = _addresses(server), [host for host in DEAD[kind] if _family(host) in server_families(server)]
            told = dead + alive if rng.random() < 0.7 else alive + dead
            drawn.net.add_name(f"{kind}s.example", *told)
            drawn.names[kind] = f"{kind}s.example"
            drawn.words.append(
                f"{kind}'s name has {len(told)} addresses, {'the first dead' if told[0] in dead else ''}"
            )


def _addresses(server: Host) -> list[str]:
    return [host for family in server_families(server) for host in server.addresses(family)]


def server_families(server: Host) -> list[int]:
    """Return the IP versions that a server has."""
    return [family for family in (4, 6) if server.addresses(family)]


def _family(host: str) -> int:
    return 6 if ":" in host else 4
