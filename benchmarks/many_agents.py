"""What a connected agent costs while nothing is sent: memory each, and the share of a core all of them take.

many_agents.py [--agents 1000] [--seconds 15] [--smoke]

The agents are in pairs, connected over loopback, in this process.
"""

from __future__ import annotations

import argparse
import gc
import resource
import time
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from iceagent.agent import Agent, AgentConfig, Role, open_agent

TARGET_KB = 60.0
TARGET_CPU = 0.05


def resident_kb() -> float:
    """Return the memory this process holds, kilobytes."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def verdict(found: float, target: float) -> str:
    return "met" if found <= target else "missed"


async def introduce(source: Agent, target: Agent) -> None:
    target.set_remote_credentials(source.credentials, options=source.options)
    async for candidate in source.local_candidates():
        target.add_remote_candidate(candidate)
    target.add_remote_candidate(None)


async def main(agents: int, seconds: float) -> None:
    """Connect the agents, measure, close them."""
    config = AgentConfig(include_loopback=True, interfaces=["lo"], families=(4,))
    async with AsyncExitStack() as stack:
        first = [await stack.enter_async_context(open_agent(config, role=role)) for role in Role]
        await introduce(first[0], first[1])
        await introduce(first[1], first[0])
        for agent in first:
            await agent.wait_connected()
        gc.collect()
        before_kb = resident_kb()
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(agents // 2):
            one = await stack.enter_async_context(open_agent(config, role=Role.CONTROLLING))
            other = await stack.enter_async_context(open_agent(config, role=Role.CONTROLLED))
            await introduce(one, other)
            await introduce(other, one)
            await one.wait_connected()
            await other.wait_connected()
        took_s, took_cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
        gc.collect()
        each_kb = (resident_kb() - before_kb) / (agents // 2 * 2)
        await trio.sleep(min(6.0, seconds))  # by then all pairs have come to their steady rhythm
        cpu, wall = time.process_time(), time.perf_counter()
        await trio.sleep(seconds)
        share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    each_ms = took_cpu_s / (agents // 2 * 2) * 1000
    print(f"{agents} agents connected in {took_s:.1f} s, one pair after the other: {each_ms:.2f} ms of CPU each")
    print(f"memory: {each_kb:.0f} KB each (target {TARGET_KB:.0f}: {verdict(each_kb, TARGET_KB)})")
    target = TARGET_CPU * agents / 1000
    print(f"idle: {share:.1%} of a core for all of them (target {target:.1%}: {verdict(share, target)})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.agents, arguments.seconds = 20, 0.5
    trio.run(main, arguments.agents, arguments.seconds)
