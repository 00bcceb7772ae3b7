"""Mapped ports as candidates: they make paths where there were none, and never cost anybody time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
import trio
from gateway import Gateway as GatewayMachine
from gateway import serve_gateway
from virtual_pair import STUN_SERVER, trickle

from iceagent.agent import (
    Agent,
    AgentConfig,
    CandidateType,
    IceServer,
    PortMapped,
    PortMappingFailed,
    Role,
    open_agent,
)
from iceagent.core.address import TransportAddress
from iceagent.net.gateway import Gateway
from iceagent.servers.stun import open_stun_server
from iceagent.vnet import SYMMETRIC

E = TypeVar("E")


class World:
    """Two homes with symmetric NATs; a box in alice's maps ports, for which this test opens the NAT itself."""

    def __init__(self, vnet):
        self.net = vnet()
        self.server = self.net.host(self.net.internet, name="stun.example")
        self.homes = [self.net.router(self.net.internet, nat=SYMMETRIC) for _ in range(2)]
        self.alice, self.bob = (self.net.host(home) for home in self.homes)
        self.box = self.net.host(self.homes[0], name="box")
        self.machine = GatewayMachine(external_host=self.homes[0].public_address)
        self.forwards = {}

        async def gateways():
            return [Gateway(self.box.address, "eth0")]

        self.alice.gateways = gateways
        self._forward(self.homes[0])

    def _forward(self, home):
        """Make the NAT obey the box's table, in both directions, before its own rules."""
        table = home.nat_table
        inbound, outbound = table.inbound, table.outbound
        mappings = self.machine.mappings

        def mapped_in(now, port, source):
            for (host, internal), external in mappings.items():
                if external == port:
                    return TransportAddress(host, internal)
            return inbound(now, port, source)

        def mapped_out(now, source, destination):
            external = mappings.get(tuple(source))
            if external is not None:
                return TransportAddress(table.external_host, external)
            return outbound(now, source, destination)

        table.inbound, table.outbound = mapped_in, mapped_out

    def config(self, host, **options):
        servers = [IceServer(STUN_SERVER)]
        return AgentConfig(network=host, randbytes=host.randbytes, **{"servers": servers, **options})

    @asynccontextmanager
    async def running(self, *, box=True):
        async with self.net, open_stun_server("0.0.0.0", network=self.server), trio.open_nursery() as nursery:
            if box:
                nursery.start_soon(serve_gateway, self.machine, self.box)
                await trio.sleep(0.001)
            yield
            nursery.cancel_scope.cancel()


async def first_event(agent: Agent, kind: type[E]) -> E:
    async for event in agent.events():
        if isinstance(event, kind):
            return event
    raise AssertionError(f"the events ended without {kind.__name__}")


async def candidates_of(agent):
    return [candidate async for candidate in agent.local_candidates()]


async def test_two_symmetric_nats_connect_directly_when_one_gateway_maps(vnet):
    """The reason for all of it: without the mapping this pair is relayed or lost."""
    world = World(vnet)
    async with (
        world.running(),
        open_agent(world.config(world.alice), role=Role.CONTROLLING) as alice,
        open_agent(world.config(world.bob), role=Role.CONTROLLED) as bob,
        trio.open_nursery() as nursery,
    ):
        alice.set_remote_credentials(bob.credentials)
        bob.set_remote_credentials(alice.credentials)
        nursery.start_soon(trickle, alice, bob)
        nursery.start_soon(trickle, bob, alice)
        with trio.fail_after(10):
            pair = await alice.wait_connected()
        assert pair.local.type in (CandidateType.HOST, CandidateType.SRFLX)
        await alice.send(b"direct")
        assert await bob.receive() == b"direct"
        nursery.cancel_scope.cancel()
    assert world.machine.mappings == {}


async def test_mapping_is_a_server_reflexive_candidate_of_its_base(vnet):
    """RFC 8445 section 5.1.1: other ways to such an address than STUN are as good."""
    world = World(vnet)
    async with world.running(), open_agent(world.config(world.alice), role=Role.CONTROLLING) as agent:
        found = await candidates_of(agent)
        host = next(one for one in found if one.type is CandidateType.HOST)
        external = world.machine.mappings[tuple(host.address)]
        mapped = next(one for one in found if one.address == (world.homes[0].public_address, external))
        assert (mapped.type, mapped.base) == (CandidateType.SRFLX, host.address)
        assert host.priority > mapped.priority
    assert world.net.statistics().sockets_left_open == 0


async def test_mapping_is_told_as_an_event(vnet):
    """So that a user can see why it is direct."""
    world = World(vnet)
    async with world.running(), open_agent(world.config(world.alice), role=Role.CONTROLLING) as agent:
        with trio.fail_after(5):
            told = await first_event(agent, PortMapped)
        assert told.protocol == "pcp"


async def test_silent_gateway_delays_no_candidate_and_holds_the_end_for_two_seconds(vnet):
    """The candidates of servers come as they would without it."""
    world = World(vnet)
    world.machine.silent_to_pcp = True
    world.machine.speaks_natpmp = world.machine.speaks_pcp = False
    async with world.running(), open_agent(world.config(world.alice), role=Role.CONTROLLING) as agent:
        start = trio.current_time()
        times = [trio.current_time() - start async for _ in agent.local_candidates()]
        assert max(times) < 0.1
        assert trio.current_time() - start <= 2.01
        left_at = trio.current_time()
    assert trio.current_time() - left_at < 0.01, "nobody waits for what was never granted"


async def test_refused_port_ends_gathering_at_once(vnet):
    """An ICMP error from the gateway is the usual answer."""
    world = World(vnet)
    async with world.running(box=False), open_agent(world.config(world.alice), role=Role.CONTROLLING) as agent:
        start = trio.current_time()
        await candidates_of(agent)
        assert trio.current_time() - start < 0.1
        with trio.fail_after(1):
            told = await first_event(agent, PortMappingFailed)
        assert told.reason == "nobody listens there"


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, True),
        ({"port_mapping": True}, True),
        ({"port_mapping": True, "servers": []}, True),
        ({"port_mapping": False}, False),
        ({"servers": []}, False),
        ({"interfaces": ["lo"], "port_mapping": True}, False),
    ],
)
async def test_gateway_is_asked_only_where_it_can_help(vnet, options, asked):
    """Opening somebody's router is not done by the way."""
    world = World(vnet)
    async with world.running(), open_agent(world.config(world.alice, **options), role=Role.CONTROLLING):
        await trio.sleep(1)
        assert bool(world.machine.log) is asked


async def test_address_behind_a_second_nat_is_no_candidate(vnet):
    """The gateway's own address is private: nobody out there can send to it."""
    world = World(vnet)
    world.machine.external_host = "100.64.3.4"
    async with world.running(), open_agent(world.config(world.alice), role=Role.CONTROLLING) as agent:
        found = await candidates_of(agent)
        assert not [one for one in found if one.address.host.startswith("100.64")]
        assert world.machine.mappings
