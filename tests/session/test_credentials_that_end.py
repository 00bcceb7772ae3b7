"""Sessions that last longer than the credentials of their relay's TURN server: days, here minutes, in virtual time.

Relay, TURN server, agents and links are the real ones; the network and the clock are not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import trio
from amount import amount
from memory_relay import MemoryRelay, open_memory_relay

from iceagent.agent import Agent, AgentConfig, RelayAllocated, RelayFailed, ServersNotRenewed
from iceagent.core.address import TransportAddress
from iceagent.link import generate_identity
from iceagent.servers.turn import TurnService, open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.session.establish import establish
from iceagent.session.relay import session_servers
from iceagent.session.session import Session
from iceagent.vnet import Host, Nat, Network, run

pytestmark = pytest.mark.thorough

LIFE_S = amount(300, 100)  # some times the patience of consent
HOME = Nat(filtering="address-and-port-dependent")
RELAY = "192.0.2.1"


@dataclass
class Lab:
    """Two sessions over a TURN server that wants credentials, and what gives them."""

    net: Network
    hosts: list[Host]
    relay: MemoryRelay
    agents: list[Agent]
    sessions: list[Session]

    def happened(self, number: int, kind: type[Any]) -> list[Any]:
        """Return the events of a kind that one side has seen."""
        agent = self.agents[number]
        return [event for _, event in agent._driver.timeline.entries() if isinstance(event, kind)]

    async def talk(self) -> None:
        """Let a stream carry something both ways."""
        with trio.fail_after(60):
            stream = await self.sessions[0].open_stream("hello")
            await stream.send_all(b"ping")
            other = await self.sessions[1].accept_stream()
            assert await other.receive_some() == b"ping"
            await other.send_all(b"pong")
            assert await stream.receive_some() == b"pong"


@asynccontextmanager
async def relayed(*, ttl: bool = True) -> AsyncIterator[Lab]:
    """Yield two connected sessions that may only be relayed, with credentials good for `LIFE_S`.

    Args:
        ttl: whether the relay says how long they are.
    """
    net = Network(1)
    hosts = [net.host(net.router(net.internet, nat=HOME), name=name) for name in ("alice", "bob")]
    server = net.host(net.internet, name="turn.example")
    options = TurnOptions(
        listen=[TransportAddress(server.address, 3478)],
        tcp_listen=(),
        secrets=["a secret of sixteen"],
        allow_peers=["0.0.0.0/0"],
        unix_time=lambda: 1.7e9 + trio.current_time(),
    )

    def named(turn: TurnService, source: str) -> list[dict[str, Any]]:
        username, credential = turn.make_credentials_at(source, LIFE_S)
        entry = {"urls": ["turn:turn.example?transport=udp"], "username": username, "credential": credential}
        return [{**entry, "ttl": LIFE_S} if ttl else entry]

    async with (
        net,
        open_turn_server(options, network=server, randbytes=server.randbytes) as turn,
        open_memory_relay(partial(named, turn)) as relay,
        relay.channels() as channels,
        trio.open_nursery() as nursery,
    ):
        lab = Lab(net, hosts, relay, [], [])

        async def open_session(number: int, *, task_status: Any) -> None:
            host, channel = hosts[number], channels[1 - number]
            config = AgentConfig(transport_policy="relay", network=host, randbytes=host.randbytes, proxy="")
            servers_of = partial(session_servers, config, RELAY)
            config = replace(config, servers=servers_of(channel.ice_servers))
            opening = establish(Session, channel, generate_identity(), config, servers_of=servers_of)
            async with opening as session:
                task_status.started(session)
                await trio.sleep_forever()

        found: dict[int, Session] = {}

        async def start(number: int) -> None:
            found[number] = await nursery.start(open_session, number)

        async with trio.open_nursery() as both:
            both.start_soon(start, 0)
            both.start_soon(start, 1)
        lab.sessions = [found[0], found[1]]
        lab.agents = [_agent_of(found[number]) for number in (0, 1)]
        yield lab
        nursery.cancel_scope.cancel()


def _agent_of(session: Session) -> Agent:
    (cell,) = [cell.cell_contents for cell in session._read_path.__closure__ or ()]
    assert isinstance(cell, Agent)
    return cell


async def loses_its_address(lab: Lab) -> None:
    """Alice's network is another one: the TURN server does not know her any more."""
    old = {event.address for event in lab.happened(0, RelayAllocated)}
    lab.hosts[0].move(lab.net.router(lab.net.internet, nat=HOME))
    while not {event.address for event in lab.happened(0, RelayAllocated)} - old:
        await trio.sleep(1)
    await trio.sleep(5)


def in_time(main: Callable[[], Any]) -> None:
    """Run in virtual time, bounded."""

    async def bounded() -> None:
        with trio.fail_after(20 * LIFE_S):
            await main()

    run(bounded, seed=1)


def test_a_relayed_session_gets_another_relayed_path_long_after_its_credentials_have_ended():
    """They are asked for anew before they end, on both sides, so that none is ever refused."""

    async def main():
        async with relayed() as lab:
            await trio.sleep(3.5 * LIFE_S)
            with trio.fail_after(90):
                await loses_its_address(lab)
            await lab.talk()
            assert not [event.code for number in (0, 1) for event in lab.happened(number, RelayFailed)]
            assert lab.relay.server.counters["servers_given"] >= 6

    in_time(main)


def test_a_server_that_refuses_old_credentials_is_word_enough():
    """A relay that does not say how long they are good, a machine that slept: what tells is 401."""

    async def main():
        async with relayed(ttl=False) as lab:
            await trio.sleep(3.5 * LIFE_S)
            assert lab.relay.server.counters["servers_given"] == 0
            with trio.fail_after(90):
                await loses_its_address(lab)
            await lab.talk()
            assert [event.code for event in lab.happened(0, RelayFailed)] == [401]
            assert lab.relay.server.counters["servers_given"] == 1

    in_time(main)


def test_a_session_whose_relay_is_gone_says_so_once_and_goes_on():
    """Nothing can be renewed; the allocations there are live on with the credentials that have ended."""

    async def main():
        async with relayed() as lab:
            await trio.sleep(LIFE_S / 4)
            await lab.relay.cut()
            await trio.sleep(3 * LIFE_S)
            await lab.talk()
            assert [len(lab.happened(number, ServersNotRenewed)) for number in (0, 1)] == [1, 1]

    in_time(main)


def test_a_connection_to_the_relay_that_comes_back_brings_credentials_unasked():
    """Whoever resumes is told the servers anew, so that nobody has to ask just when all is lost."""

    async def main():
        async with relayed(ttl=False) as lab:
            await trio.sleep(3.5 * LIFE_S)
            await lab.relay.cut()
            lab.relay.is_up = True
            await trio.sleep(30)
            with trio.fail_after(90):
                await loses_its_address(lab)
            await lab.talk()
            assert not lab.happened(0, RelayFailed)
            assert lab.relay.server.counters["servers_given"] == 0

    in_time(main)
