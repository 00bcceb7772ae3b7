"""Two machines in a virtual network with whatever keeps them apart, and the verdicts of both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import trio
from turn_script import Script

from iceagent.agent import Agent, AgentConfig, AgentState, IceServer, Role, Verdict, VerdictKind, open_agent
from iceagent.core.address import TransportAddress
from iceagent.servers.stun import open_stun_server
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.vnet import Firewall, Host, Nat, Network, Router

USER, PASSWORD = "george", "secret"
STUN = (IceServer("stun:one.example:3478"), IceServer("stun:two.example:3478"))
TURN = IceServer("turn:turn.example?transport=udp", username=USER, credential=PASSWORD)
TURN_TCP = IceServer("turn:turn.example", username=USER, credential=PASSWORD)


@dataclass
class Site:
    """A network that runs; `stack` ends with it."""

    net: Network
    homes: tuple[Router, Router]
    hosts: tuple[Host, Host]
    turn: Host
    stack: AsyncExitStack
    nursery: trio.Nursery
    agents: list[Agent] = field(default_factory=list)
    servers: dict[str, trio.CancelScope] = field(default_factory=dict)

    @property
    def alice(self) -> Agent:
        return self.agents[0]

    @property
    def bob(self) -> Agent:
        return self.agents[1]

    async def open(self, number: int, **options: Any) -> Agent:
        """Open alice (0) or bob (1)."""
        host = self.hosts[number]
        settings: dict[str, Any] = {"network": host, "randbytes": host.randbytes, "port_mapping": False, **options}
        role = (Role.CONTROLLING, Role.CONTROLLED)[number]
        agent = await self.stack.enter_async_context(open_agent(AgentConfig(**settings), role=role))
        self.agents.append(agent)
        return agent

    async def open_both(self, *servers: IceServer, alice: dict[str, Any] | None = None, **options: Any) -> None:
        """Open both with the same options, but for alice's own."""
        await self.open(0, **{"servers": servers, **options, **(alice or {})})
        await self.open(1, servers=servers, **options)

    def tell(self, sender: Agent, receiver: Agent) -> None:
        """Carry what one agent has to say to the other, from now on."""
        self.nursery.start_soon(trickle, sender, receiver)

    def introduce(self) -> None:
        """Carry everything, both ways, from now on."""
        self.tell(self.alice, self.bob)
        self.tell(self.bob, self.alice)

    async def connect(self) -> None:
        """Introduce, and wait until both are connected."""
        self.introduce()
        await self.alice.wait_connected()
        await self.bob.wait_connected()

    async def fail(self, *agents: Agent) -> Verdict:
        """Wait until all agents (or those given) have failed; return the verdict of the first."""
        for agent in agents or self.agents:
            while agent.state is not AgentState.FAILED:
                await trio.sleep(1)
        return (agents or self.agents)[0].explain()

    async def serve_turn(self, *, tcp: bool = False, **options: Any) -> None:
        """Start a TURN server that relays to these networks."""
        listen = [TransportAddress(self.turn.address, 3478)]
        settings: dict[str, Any] = {"listen": listen, "tcp_listen": listen if tcp else (), **options}
        settings = {"users": {USER: PASSWORD}, "allow_peers": ["0.0.0.0/0"], **settings}
        await self.nursery.start(self._serve_turn, TurnOptions(**settings))

    async def _serve_turn(self, options: TurnOptions, task_status: trio.TaskStatus[None]) -> None:
        with trio.CancelScope() as self.servers["turn"]:
            async with open_turn_server(options, network=self.turn, randbytes=self.turn.randbytes):
                task_status.started()
                await trio.sleep_forever()

    async def serve_script(self, code: int) -> None:
        """Start a TURN server that refuses all allocations with a code."""
        script = Script(answers={3: code})
        await self.nursery.start(self._serve_script, script)

    async def _serve_script(self, script: Script, task_status: trio.TaskStatus[None]) -> None:
        sock = await self.turn.open_udp(self.turn.address, 3478)
        try:
            task_status.started()
            while True:
                for batch in await sock.receive():
                    for data in batch.datagrams():
                        answer = script.answer(data)
                        if answer is not None:
                            sock.send_nowait([answer], batch.remote)
        finally:
            sock.close()


async def trickle(sender: Agent, receiver: Agent) -> None:
    with suppress(trio.ClosedResourceError):  # the test is over before gathering is
        receiver.set_remote_credentials(sender.credentials, options=sender.options)
        async for candidate in sender.local_candidates():
            receiver.add_remote_candidate(candidate.to_sdp())
        receiver.add_remote_candidate(None)


@asynccontextmanager
async def site(
    net: Network,
    *nats: Nat | None,
    firewalls: tuple[Firewall | None, Firewall | None] = (None, None),
    families: tuple[Any, Any] = (None, None),
    stun: bool = True,
) -> AsyncIterator[Site]:
    """Run two homes, two STUN servers (unless dead) and a machine for a TURN server."""
    servers = [net.host(net.internet, name=f"{name}.example") for name in ("one", "two")]
    turn = net.host(net.internet, name="turn.example")
    homes = [
        net.router(net.internet, nat=nat, firewall=firewall, families=family)
        for nat, firewall, family in zip(nats, firewalls, families, strict=True)
    ]
    hosts = [net.host(home, name=name) for home, name in zip(homes, ("alice", "bob"), strict=True)]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(net)
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        for server in servers if stun else ():
            hosts_of = ["0.0.0.0", "::"] if len(server.addresses()) > 1 else ["0.0.0.0"]
            for bound in hosts_of:
                await stack.enter_async_context(open_stun_server(bound, network=server))
        yield Site(net, (homes[0], homes[1]), (hosts[0], hosts[1]), turn, stack, nursery)


def assert_verdict(verdict: Verdict, kind: VerdictKind, *facts: str) -> None:
    """Check the kind, that there are a sentence and a remedy, and that the evidence has the facts."""
    assert verdict.kind is kind, str(verdict)
    assert verdict.summary.endswith("."), verdict.summary
    for fact in facts:
        assert any(fact in line for line in verdict.evidence), f"{fact!r} is not in the evidence of\n{verdict}"
