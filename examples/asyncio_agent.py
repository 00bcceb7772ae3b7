"""An ICE agent under asyncio: the sans-IO core, driven as docs/core.md says. Trio is not imported.

    python asyncio_agent.py           both peers in this process, to see it work
    python asyncio_agent.py offer     on one machine: prints its line, asks for the other's
    python asyncio_agent.py answer    on the other; or there `own_signaling.py answer`, which is Trio's

A STUN server lets them meet through NATs: `python asyncio_agent.py offer stun:stun.example.org:3478`.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Callable

import ifaddr

from iceagent.agent.description import Description, StreamDescription
from iceagent.core import stun
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.ice import (
    AgentState,
    CandidateType,
    HeldDataReleased,
    IceAgent,
    Received,
    Role,
    host_candidate,
    srflx_candidate,
)

OPTIONS = ("ice2", "trickle", "renomination")  # what IceAgent does by default


class AsyncioAgent:
    """Datagrams to one peer. Whatever tells the core something ends in `_settle`, which does what follows."""

    def __init__(self, role: Role) -> None:
        self._loop = asyncio.get_running_loop()
        self._ice = IceAgent(role=role, randbytes=secrets.token_bytes)
        self._stun = stun.StunClient()
        self._unanswered = 0
        self._sockets: dict[TransportAddress, asyncio.DatagramTransport] = {}  # by base
        self._preferences: dict[TransportAddress, int] = {}
        self._received: asyncio.Queue[bytes] = asyncio.Queue(1000)
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    async def gather(self, servers: list[TransportAddress]) -> None:
        """Bind a socket at each address, ask each server how it sees it, and wait for the answers."""
        for index, host in enumerate(addresses_here()):
            transport, _ = await self._loop.create_datagram_endpoint(lambda: _Socket(self), local_addr=(host, 0))
            base = make_address(*transport.get_extra_info("sockname")[:2])
            self._sockets[base], self._preferences[base] = transport, 65535 - index
            self._ice.add_local_candidate(self._loop.time(), host_candidate(base, self._preferences[base]))
            for server in servers:
                if server.family == base.family:
                    self._stun.start(self._loop.time(), base, server, stun.binding_request(secrets.token_bytes(12)))
                    self._unanswered += 1
        self._settle()
        await self._until(lambda: self._unanswered == 0)
        self._ice.end_of_local_candidates(self._loop.time())
        self._settle()

    def description(self) -> str:
        """Return what the peer has to know; peer-reflexive candidates it finds by itself."""
        ours = tuple(one for one in self._ice.local_candidates if one.type is not CandidateType.PRFLX)
        return Description((StreamDescription(self._ice.credentials, ours, end=True),), OPTIONS).to_json()

    def accept(self, text: str) -> None:
        """Take the peer's description."""
        peer, now = Description.from_json(text), self._loop.time()
        self._ice.set_remote_credentials(
            now, peer.streams[0].credentials, lite=peer.lite, options=peer.options, pacing_s=peer.pacing_s or 0.05
        )
        for candidate in (*peer.streams[0].candidates, None):  # None: no more will follow
            self._ice.add_remote_candidate(now, candidate)
        self._settle()

    async def send(self, data: bytes) -> None:
        """Send a datagram over the best path, once there is one."""
        await self._until(lambda: self._ice.data_pair() is not None or self._ice.state is AgentState.FAILED)
        if (path := self._ice.data_pair()) is None:
            raise ConnectionError("no path leads to the peer")
        self._transmit(*path, data)

    async def receive(self) -> bytes:
        """Wait for the peer's next datagram."""
        return await self._received.get()

    async def nominated(self) -> str:
        """Wait until both sides have agreed on a path; return its two ends."""
        await self._until(lambda: self._ice.selected_pair is not None or self._ice.state is AgentState.FAILED)
        return " - ".join(map(str, self._ice.data_pair() or ("no path",)))

    def close(self) -> None:
        """End the session: no timer and no socket is left."""
        self._ice.close(self._loop.time())
        self._stun.close()
        self._settle()
        for transport in self._sockets.values():
            transport.close()

    def take(self, local: TransportAddress, remote: TransportAddress, data: bytes) -> None:
        """Deal with a datagram: an answer of a STUN server's, a matter of ICE, or the user's."""
        now = self._loop.time()
        if self._is_servers_answer(now, local, remote, data):
            pass
        elif self._ice.handle_datagram(now, local, remote, data) is Received.APPLICATION_DATA:
            self._deliver(data)
        self._settle()

    def _is_servers_answer(self, now: float, local: TransportAddress, remote: TransportAddress, data: bytes) -> bool:
        try:
            return bool(self._unanswered) and self._stun.handle_message(now, local, remote, stun.decode(data))
        except stun.StunError:
            return False

    def _settle(self) -> None:
        """Do what is due, look at what happened, send what is to be sent, and set the timer."""
        now = self._loop.time()
        for machine in (self._stun, self._ice):  # in this order, for a server's answer makes a candidate
            due = machine.next_timeout()
            if due is not None and due <= now:
                machine.handle_timeout(now)
            while (event := machine.poll_event()) is not None:
                self._follow(now, event)
            while (out := machine.poll_transmit()) is not None:
                self._transmit(out.local, out.remote, out.data)
        if self._timer is not None:
            self._timer.cancel()
        times = [at for at in (self._stun.next_timeout(), self._ice.next_timeout()) if at is not None]
        self._timer = self._loop.call_at(min(times), self._settle) if times else None
        self._changed.set()

    def _follow(self, now: float, event: object) -> None:
        if isinstance(event, stun.Response | stun.TimedOut):
            self._unanswered -= 1
        if isinstance(event, stun.Response) and (seen := event.message.get(stun.XorMappedAddress)) is not None:
            found = srflx_candidate(seen.address, event.local, event.remote.host, self._preferences[event.local])
            self._ice.add_local_candidate(now, found)
        elif isinstance(event, HeldDataReleased):
            for data in event.datagrams:
                self._deliver(data)

    def _transmit(self, local: TransportAddress, remote: TransportAddress, data: bytes) -> None:
        self._sockets[local].sendto(data, remote)

    def _deliver(self, data: bytes) -> None:
        if not self._received.full():  # else it is lost, as datagrams may be
            self._received.put_nowait(data)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._changed.clear()
            await self._changed.wait()


class _Socket(asyncio.DatagramProtocol):
    """One base."""

    def __init__(self, agent: AsyncioAgent) -> None:
        self._agent = agent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._base = make_address(*transport.get_extra_info("sockname")[:2])

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._agent.take(self._base, make_address(*addr[:2]), data)


def addresses_here() -> list[str]:
    """Return our IPv4 addresses, those of loopback only if there are no others."""
    found = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)]
    return [ip for ip in found if not ip.startswith("127.")] or found


async def greet(agent: AsyncioAgent, name: str) -> None:
    """Say hello until the other side does: datagrams may get lost."""
    heard = asyncio.create_task(agent.receive())
    while not heard.done():
        await agent.send(f"hello from {name}".encode())
        await asyncio.wait([heard], timeout=0.2)
    path = await agent.nominated()
    await agent.send(f"hello from {name}".encode())  # in case ours have all been lost so far
    print(f"{name}: {heard.result().decode()!r} over {path}")


async def main(arguments: list[str]) -> None:
    roles = {"offer": (Role.CONTROLLING, "offerer"), "answer": (Role.CONTROLLED, "answerer")}
    asked = [argument for argument in arguments if argument in roles]
    places = [argument.removeprefix("stun:").rsplit(":", 1) for argument in arguments if argument not in roles]
    found = [await asyncio.get_running_loop().getaddrinfo(host, int(port), family=2) for host, port in places]
    servers = [make_address(*one[0][4][:2]) for one in found]
    agents = {name: AsyncioAgent(role) for role, name in (roles[one] for one in asked or roles)}
    await asyncio.gather(*(agent.gather(servers) for agent in agents.values()))
    if asked:
        (agent,) = agents.values()
        print(f"Give this line to the other side:\n\n{agent.description()}\n", flush=True)
        agent.accept(await asyncio.to_thread(input, "Its line, then Enter: "))
    else:
        one, other = agents.values()
        one.accept(other.description())
        other.accept(one.description())
    await asyncio.gather(*(greet(agent, name) for name, agent in agents.items()))
    for agent in agents.values():
        agent.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
