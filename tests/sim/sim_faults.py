"""The hard faults of a simulation: what happens to hosts, routers and servers while two agents are connected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import trio
from sim_draw import Drawn

from iceagent.net import monitor
from iceagent.vnet import Host, Nat

AWAY_S = (1.0, 5.0, 12.0, 20.0)
CRASHED_S = 3.0
CRASHES = ("turn crash", "stun crash")


@dataclass
class ServerSwitch:
    """Keeps servers running, and lets them crash."""

    _crash: trio.Event = field(default_factory=trio.Event)

    async def serve(
        self, open_servers: Callable[[AsyncExitStack], Awaitable[None]], *, task_status: trio.TaskStatus
    ) -> None:
        """Run what `open_servers` enters into a stack; begin again after each crash."""
        is_started = False
        while True:
            async with AsyncExitStack() as stack:
                await open_servers(stack)
                if not is_started:
                    task_status.started()
                    is_started = True
                await self._crash.wait()
            await trio.sleep(CRASHED_S)

    def crash(self) -> None:
        """End them; they come back after `CRASHED_S`, and remember nothing."""
        self._crash.set()
        self._crash = trio.Event()


def is_on_the_network(host: Host) -> bool:
    """Whether a host could reach a signaling server."""
    return any(wire.is_up and not wire.link.is_cut for wire in host.attachments())


async def carry_out(drawn: Drawn, turn: ServerSwitch, stun: ServerSwitch) -> None:
    """Do to the world what was drawn; return when it works again."""
    host, rng, fault = drawn.hosts[1], drawn.more, drawn.fault
    away_s = rng.choice(AWAY_S)
    if fault in ("nat reboot", "both nats reboot"):
        for home in drawn.homes[: 1 + (fault == "both nats reboot")]:
            home.reboot()
    elif fault == "interface off":
        await _off(host, away_s)
    elif fault == "interface flaps":
        for _ in range(rng.randrange(2, 6)):
            await _off(host, rng.choice((0.05, 0.5, 2.0)))
            await trio.sleep(rng.choice((0.05, 0.5, 2.0)))
    elif fault == "new address":
        host.renew()
    elif fault == "another network":
        nat = Nat(filtering="address-and-port-dependent")
        host.move(drawn.net.router(drawn.net.internet, nat=nat, delay_s=0.01, families=drawn.homes[1].families))
    elif fault == "router renewed":
        drawn.homes[1].renew()
    elif fault in ("partition", "sleep"):
        host.partition()
        await trio.sleep(away_s)
        host.heal()
        if fault == "sleep":
            monitor._watches.get()[id(host)]._notify(monitor.Change.WOKE)
    elif fault == "turn crash":
        turn.crash()
    elif fault == "stun crash":
        stun.crash()
    elif fault == "addresses change":
        for pause_s, what in drawn.changes:
            await trio.sleep(pause_s)
            await _change(drawn, what)
    elif fault == "gone":
        host.partition()


async def _change(drawn: Drawn, what: str) -> None:
    """Give a host, or the router of its home, another address."""
    number = int(what.startswith("bob"))
    if what.endswith("router"):
        drawn.homes[number].renew()
    else:
        drawn.hosts[number].renew()


async def _off(host: Host, seconds: float) -> None:
    for wire in host.attachments():
        host.set_up(wire, up=False)
    await trio.sleep(seconds)
    for wire in host.attachments():
        host.set_up(wire, up=True)
