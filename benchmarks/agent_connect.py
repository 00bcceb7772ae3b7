"""Milliseconds from two open agents to both connected: loopback, candidates trickled, both in this process.

agent_connect.py [--runs 50] [--smoke]
"""

from __future__ import annotations

import argparse
import statistics
import time

import trio

from iceagent.agent import Agent, AgentConfig, Role, open_agent

TARGET_MS = 15.0


async def trickle(source: Agent, target: Agent) -> None:
    target.set_remote_credentials(source.credentials)
    async for candidate in source.local_candidates():
        target.add_remote_candidate(candidate.to_sdp())
    target.add_remote_candidate(None)


async def connect_once(config: AgentConfig) -> tuple[float, float]:
    """Return milliseconds for opening both agents, and from there to both connected."""
    start = time.perf_counter()
    async with open_agent(config, role=Role.CONTROLLING) as a, open_agent(config, role=Role.CONTROLLED) as b:
        opened = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle, a, b)
            nursery.start_soon(trickle, b, a)
            await a.wait_connected()
            await b.wait_connected()
            connected = time.perf_counter()
    return (opened - start) * 1000, (connected - opened) * 1000


async def main(runs: int) -> None:
    for name, config in (
        ("loopback alone", AgentConfig(interfaces=["lo"])),
        ("all interfaces", AgentConfig(include_loopback=True)),
    ):
        times = [await connect_once(config) for _ in range(runs)]
        opening, connecting = (sorted(column) for column in zip(*times, strict=True))
        print(
            f"{name}: open {statistics.median(opening):.1f} ms, connected after {statistics.median(connecting):.1f} ms "
            f"(median of {runs}; slowest {connecting[-1]:.1f} ms; target {TARGET_MS:.0f} ms)"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    trio.run(main, 3 if options.smoke else options.runs)
