"""Our agent as a peer; see `common` for what it prints and reads."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any

import trio
from common import Received, component_of, datagram, options, say

from iceagent import Agent, AgentConfig, Credentials, IceServer, Role, open_agent
from iceagent.agent import Component
from iceagent.errors import NetworkError


def configuration(given: dict[str, Any]) -> AgentConfig:
    """Return the configuration that the options ask for."""
    servers = []
    for scheme in ("stun", "turn"):
        if scheme in given:
            host, port = given[scheme]
            shown = f"[{host}]" if ":" in host else host
            secret = (given.get("username"), given.get("password")) if scheme == "turn" else (None, None)
            servers.append(IceServer(f"{scheme}:{shown}:{port}", username=secret[0], credential=secret[1]))
    policy: Any = "relay" if given.get("relay_only") else "all"
    return AgentConfig(
        servers=servers,
        families=(given["family"],),
        transport_policy=policy,
        tcp_candidates=bool(given.get("tcp")),
        streams=(given.get("components", 1),),
    )


async def describe(agent: Agent, trickle: bool) -> None:
    """Print our description, candidate by candidate or as a whole."""
    ufrag, pwd = agent.credentials.ufrag, agent.credentials.pwd
    if not trickle:
        candidates = [candidate.to_sdp() async for candidate in agent.local_candidates()]
        say("description", ufrag=ufrag, pwd=pwd, candidates=candidates)
        return
    say("description", ufrag=ufrag, pwd=pwd, candidates=[])
    async for candidate in agent.local_candidates():
        say("candidate", candidate=candidate.to_sdp())
    say("candidate", candidate=None)


async def listen(agent: Agent, received: Received, trickle: bool) -> None:
    """Do what the lines on standard input say."""
    stream = trio.lowlevel.FdStream(sys.stdin.fileno())
    buffer = b""
    async for chunk in stream:
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in map(json.loads, lines):
            match line["kind"]:
                case "description":
                    agent.set_remote_credentials(Credentials(line["ufrag"], line["pwd"]), lite=line.get("lite", False))
                    for candidate in line["candidates"]:
                        agent.add_remote_candidate(candidate)
                    if not line.get("trickle"):
                        agent.add_remote_candidate(None)
                case "candidate":
                    agent.add_remote_candidate(line["candidate"])
                case "send":
                    for number in range(line["first"], line["end"]):
                        component = component_of(number, received.components)
                        await agent.stream().component(component).send(datagram(number))
                case "report":
                    received.report()


async def receive(component: Component, received: Received) -> None:
    """Receive for ever, or until it turns out that the peer has no such component."""
    with suppress(trio.ClosedResourceError):
        while True:
            for data in await component.receive_many():
                received.put(data, component.id)


async def tell(agent: Agent) -> None:
    """Print where the session stands when that is known."""
    try:
        pair = await agent.wait_connected()
    except NetworkError as error:
        say("failed", reason=str(error))
        return
    ends = {name: [one.type.value, *one.address] for name, one in (("local", pair.local), ("remote", pair.remote))}
    say("connected", **ends)


async def main() -> None:
    """Be a peer until interrupted."""
    given = options()
    received = Received(given.get("components", 1))
    async with (
        open_agent(configuration(given), role=Role[given["role"].upper()]) as agent,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(describe, agent, given["trickle"])
        nursery.start_soon(listen, agent, received, given["trickle"])
        nursery.start_soon(tell, agent)
        for component in agent.stream().components:
            nursery.start_soon(receive, component, received)


if __name__ == "__main__":
    try:
        trio.run(main)
    except KeyboardInterrupt:
        sys.exit(130)
