"""IPv6 alone behind a NAT64, as most phones have it: IPv4 peers and servers are reached all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import trio
from signaling import carry

from iceagent import vnet as virtual
from iceagent.agent import AgentConfig, CandidateType, IceServer, Role, open_agent
from iceagent.core.address import TransportAddress
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions

STUN_HOST = "stun.example"


class World:
    """A phone behind a NAT64, and a host of IPv4 alone behind a NAT of its own; a server of IPv4 alone."""

    def __init__(self, net: virtual.Network, nat: virtual.Nat | None = None) -> None:
        self.net = net
        self.mobile = net.router(net.internet, nat64=virtual.PORT_RESTRICTED)
        self.phone = net.host(self.mobile, name="phone")
        self.old = net.host(net.router(net.internet, nat=nat, families=(4,)), name="old")
        self.server = net.host(net.router(net.internet, families=(4,)), name=STUN_HOST)

    @asynccontextmanager
    async def running(self, answer_stun: Any) -> AsyncIterator[None]:
        async with self.net, trio.open_nursery() as nursery:
            with closing(await self.server.open_udp(self.server.address, 3478)) as sock:
                nursery.start_soon(answer_stun, sock)
                yield
                nursery.cancel_scope.cancel()

    def config(self, host: virtual.Host, *urls: str, **options: Any) -> AgentConfig:
        servers = [IceServer(url) for url in urls]
        return AgentConfig(servers=servers, network=host, randbytes=host.randbytes, **options)


@pytest.mark.parametrize("nat", [None, virtual.FULL_CONE, virtual.PORT_RESTRICTED])
@pytest.mark.parametrize("by_literal", [True, False])
async def test_a_phone_meets_a_peer_of_ipv4_alone(vnet: Any, answer_stun: Any, nat: Any, by_literal: bool) -> None:
    """Directly: the peer's candidates are checked under the prefix, and the server's literal is asked under it."""
    world = World(vnet(families=(4, 6)), nat)
    async with world.running(answer_stun):
        url = f"stun:{world.server.address if by_literal else STUN_HOST}"
        async with (
            open_agent(world.config(world.phone, url), role=Role.CONTROLLING) as phone,
            open_agent(world.config(world.old, url), role=Role.CONTROLLED) as old,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(carry, phone, old)
            nursery.start_soon(carry, old, phone)
            with trio.fail_after(5):
                pair = await phone.wait_connected()
                await old.wait_connected()
            assert pair.remote.address.host.startswith("64:ff9b::")
            told = [candidate.type for candidate in await phone.wait_gathered()]
            assert told == [CandidateType.HOST, CandidateType.SRFLX]
            await phone.send(b"hello")
            assert await old.receive() == b"hello"
            nursery.cancel_scope.cancel()


async def test_a_slow_resolver_delays_nothing_and_is_made_up_for(vnet: Any, answer_stun: Any) -> None:
    """Candidates that came before the prefix was known are checked once it is."""
    world = World(vnet(families=(4, 6)))
    world.net.dns_delay_s = 3.0
    async with (
        world.running(answer_stun),
        open_agent(world.config(world.phone), role=Role.CONTROLLING) as phone,
        open_agent(world.config(world.old), role=Role.CONTROLLED) as old,
    ):
        for one, other in ((phone, old), (old, phone)):
            other.set_remote_credentials(one.credentials)
            for candidate in await one.wait_gathered():
                other.add_remote_candidate(candidate)
            other.add_remote_candidate(None)
        started_at = trio.current_time()
        await phone.wait_connected()
        assert 2.5 < trio.current_time() - started_at < 4


async def test_a_relay_with_an_ipv4_literal_is_reached(vnet: Any, answer_stun: Any) -> None:
    """The TURN server, too, is asked under the prefix."""
    world = World(vnet(families=(4, 6)))
    options = TurnOptions(
        listen=[TransportAddress(world.server.address, 3478)],
        tcp_listen=(),
        users={"george": "x"},
        allow_peers=["0.0.0.0/0"],
    )
    async with world.net, open_turn_server(options, network=world.server, randbytes=world.server.randbytes):
        turn = IceServer(f"turn:{world.server.address}?transport=udp", username="george", credential="x")
        config = AgentConfig(servers=[turn], network=world.phone, randbytes=world.phone.randbytes)
        async with open_agent(config, role=Role.CONTROLLING) as phone:
            kinds = {candidate.type for candidate in await phone.wait_gathered()}
            assert CandidateType.RELAY in kinds


async def test_who_has_ipv4_asks_for_no_prefix(vnet: Any, answer_stun: Any) -> None:
    """And nothing is disguised."""
    world = World(vnet(families=(4, 6)))
    asked: list[str] = []
    resolve = world.old.resolve

    async def listen(host: str, port: int, *, family: int | None = None) -> Any:
        asked.append(host)
        return await resolve(host, port, family=family)

    world.old.resolve = listen  # type: ignore[method-assign]
    async with world.running(answer_stun), open_agent(world.config(world.old), role=Role.CONTROLLING) as old:
        await trio.sleep(5)
        assert asked == []
        assert old._gatherer.nat64.prefix is None


async def test_a_denied_ipv4_address_is_denied_in_disguise(vnet: Any, answer_stun: Any) -> None:
    """The policy sees through it."""
    world = World(vnet(families=(4, 6)))
    async with world.running(answer_stun):
        config = world.config(world.phone, deny_remote_prefixes=[f"{world.old.address}/32"])
        async with (
            open_agent(config, role=Role.CONTROLLING) as phone,
            open_agent(world.config(world.old), role=Role.CONTROLLED) as old,
        ):
            for one, other in ((phone, old), (old, phone)):
                other.set_remote_credentials(one.credentials)
                for candidate in await one.wait_gathered():
                    other.add_remote_candidate(candidate)
            await trio.sleep(20)
            sent = [e.packet for e in world.net.trace if e.place == "phone" and e.event == "send"]
            assert not sent
