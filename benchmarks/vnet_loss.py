"""How long two agents behind NATs take to connect, nominated on both sides, over a line that loses packets each way.

`--seeds N` pairs of agents in virtual time, 30 % loss in either direction unless `--loss` says otherwise; both have
gathered, and learn the other's description at t = 0. `--smoke` runs a fraction. It fails if fewer than 95 % connect
within 10 s, or one not within 40 s.
"""

from __future__ import annotations

import argparse
import sys

import trio

from iceagent import vnet
from iceagent.agent import Agent, AgentConfig, IceServer, open_agent
from iceagent.core import ice
from iceagent.servers.stun import open_stun_server

GIVE_UP_S = 60.0
NATS = (vnet.NONE, vnet.FULL_CONE, vnet.ADDRESS_RESTRICTED, vnet.PORT_RESTRICTED)


async def _nominated(agent: Agent) -> None:
    async for event in agent.events():
        if isinstance(event, ice.StateChanged) and event.new is ice.AgentState.COMPLETED:
            return


async def _run(seed: int, loss: float) -> float:
    """Return seconds to nomination on both sides; infinite if there was none."""
    net = vnet.Network(seed, trace_limit=0)
    draw = net.rng("benchmark")
    server = net.host(net.internet, name="stun.example")
    per_line = 1 - (1 - loss) ** 0.5
    delay_s = draw.choice([0.005, 0.02, 0.05])
    homes = [net.router(net.internet, nat=draw.choice(NATS), delay_s=delay_s) for _ in range(2)]
    hosts = [net.host(home) for home in homes]
    configs = [
        AgentConfig(
            servers=[IceServer("stun:stun.example")], network=host, randbytes=host.randbytes, port_mapping=False
        )
        for host in hosts
    ]
    async with (
        net,
        open_stun_server("0.0.0.0", network=server),
        open_agent(configs[0], role=ice.Role.CONTROLLING) as alice,
        open_agent(configs[1], role=ice.Role.CONTROLLED) as bob,
    ):
        agents = (alice, bob)
        found = [[candidate async for candidate in agent.local_candidates()] for agent in agents]
        for home in homes:  # from now on: gathering is not what is measured
            for direction in (home.link.up, home.link.down):
                direction.loss = per_line
        start = trio.current_time()
        for index, one in enumerate(agents):
            other = agents[1 - index]
            one.set_remote_credentials(other.credentials, options=other.options, pacing_s=other.pacing_s)
            for candidate in found[1 - index]:
                one.add_remote_candidate(candidate)
            one.add_remote_candidate(None)
        with trio.move_on_after(GIVE_UP_S) as patience:
            async with trio.open_nursery() as nursery:
                for agent in agents:
                    nursery.start_soon(_nominated, agent)
        return float("inf") if patience.cancelled_caught else trio.current_time() - start


def times_of(seeds: range, loss: float) -> list[float]:
    """Return how long each seed took, shortest first."""
    return sorted(vnet.run(_run, seed, loss, seed=seed) for seed in seeds)


def main() -> int:
    """Print the distribution; return 1 if it is not good enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--loss", type=float, default=0.3, help="each way")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    count = 20 if options.smoke else options.seeds
    times = times_of(range(options.first, options.first + count), options.loss)
    within = {limit: sum(one <= limit for one in times) for limit in (1, 2, 5, 10, 20, 40)}
    middle, late = times[count // 2], times[min(count - 1, int(count * 0.95))]
    print(f"{count} pairs, {options.loss:.0%} loss each way: median {middle:.2f} s, 95 % {late:.2f} s, ", end="")
    print(f"slowest {times[-1]:.2f} s")
    print(", ".join(f"{number / count:.1%} within {limit} s" for limit, number in within.items()))
    return int(within[10] < 0.95 * count or within[40] < count)


if __name__ == "__main__":
    sys.exit(main())
