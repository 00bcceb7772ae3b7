"""Two agents without any signaling server: a description is one line of text, and you carry it.

    python own_signaling.py           both peers in this process, to see it work
    python own_signaling.py offer     on one machine: prints its line, asks for the other's
    python own_signaling.py answer    on the other machine: likewise

A STUN server lets them meet through NATs: `python own_signaling.py offer stun:stun.example.org:3478`.
"""

from __future__ import annotations

import sys

import trio

from iceagent import Agent, AgentConfig, Description, IceServer, Role, open_agent


async def describe(agent: Agent) -> str:
    """Return all that a peer must know, as one line."""
    await agent.wait_gathered()
    return agent.description().to_json()


def accept(agent: Agent, line: str) -> None:
    """Take the line of the other side."""
    agent.accept(Description.from_json(line))


async def greet(agent: Agent, name: str) -> None:
    """Say hello until the other side does: datagrams may get lost."""
    greeting = f"hello from {name}".encode()

    async def repeat() -> None:
        while True:
            await agent.send(greeting)
            await trio.sleep(0.2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(repeat)
        heard = await agent.receive()
        await agent.send(greeting)  # in case ours have all been lost so far
        nursery.cancel_scope.cancel()
    pair = await agent.wait_connected()
    print(f"{name}: {heard.decode()!r} over {pair.local.address} - {pair.remote.address}")


async def by_hand(role: Role, name: str, config: AgentConfig) -> None:
    """One peer; a person carries the lines."""
    async with open_agent(config, role=role) as agent:
        print(f"Give this line to the other side:\n\n{await describe(agent)}\n")
        line = await trio.to_thread.run_sync(input, "Its line, then Enter: ", abandon_on_cancel=True)
        accept(agent, line)
        await greet(agent, name)


async def both_here(config: AgentConfig) -> None:
    """Both peers; this function is the person."""
    async with (
        open_agent(config, role=Role.CONTROLLING) as alice,
        open_agent(config, role=Role.CONTROLLED) as bob,
        trio.open_nursery() as nursery,
    ):
        accept(bob, await describe(alice))
        accept(alice, await describe(bob))
        nursery.start_soon(greet, alice, "alice")
        nursery.start_soon(greet, bob, "bob")


async def main(arguments: list[str]) -> None:
    servers = [IceServer(url) for url in arguments if url.startswith("stun:")]
    config = AgentConfig(servers=servers)
    match arguments[:1]:
        case ["offer"]:
            await by_hand(Role.CONTROLLING, "offerer", config)
        case ["answer"]:
            await by_hand(Role.CONTROLLED, "answerer", config)
        case _:
            await both_here(config)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
