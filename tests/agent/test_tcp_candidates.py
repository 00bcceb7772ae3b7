"""RFC 6544 in the agent: connected over TCP where UDP is blocked, no later over UDP where it is not, nothing left."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from iceagent.agent import Agent, AgentConfig, IceServer, open_agent
from iceagent.core import stun
from iceagent.core.ice import AgentState, Role
from iceagent.errors import NetworkError
from iceagent.link import LinkRole, generate_identity, open_link
from iceagent.net.tcp import peer_address
from iceagent.vnet import PORT_RESTRICTED, SYMMETRIC, UDP_BLOCKED, Network

STUN_TCP = "stun:stun.example?transport=tcp"


@dataclass
class Lab:
    net: Network
    alice: Agent
    bob: Agent
    routers: tuple

    def introduce(self, nursery):
        for one, other in ((self.alice, self.bob), (self.bob, self.alice)):
            nursery.start_soon(_carry, one, other)


async def _carry(sender, receiver):
    receiver.set_remote_credentials(sender.credentials, options=sender.options)
    async for candidate in sender.local_candidates():
        receiver.add_remote_candidate(candidate.to_sdp())
    receiver.add_remote_candidate(None)


async def answer_stun_over_tcp(host):
    """A STUN server over TCP: one answer per request, for as long as the client likes."""

    async def serve(stream):
        async with stream:
            while data := await stream.receive_some(2048):
                request = stun.decode(data)
                if request.message_class is stun.MessageClass.REQUEST:
                    mapped = stun.XorMappedAddress(peer_address(stream))
                    await stream.send_all(stun.encode(stun.success(request, mapped)))

    listener = await host.listen_tcp("0.0.0.0", 3478)
    await trio.serve_listeners(serve, [listener])


@asynccontextmanager
async def lab_of(net, left, right, *, connect=True, servers=(), ends=None, **options):
    """Two agents with candidates over TCP, each behind a router of its own (None: on the internet itself)."""
    routers = [net.internet if kind is None else net.router(net.internet, **kind) for kind in (left, right)]
    server = net.host(net.internet, name="stun.example", delay_s=0.010)
    hosts = [net.host(router, delay_s=0.010) for router in routers]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(net)
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(answer_stun_over_tcp, server)
        agents = []
        for host, role in zip(hosts, (Role.CONTROLLING, Role.CONTROLLED), strict=True):
            config = AgentConfig(
                network=host,
                randbytes=host.randbytes,
                servers=[IceServer(url) for url in servers],
                tcp_candidates=True,
                port_mapping=False,
                **options,
            )
            agents.append(await stack.enter_async_context(open_agent(config, role=role)))
        alice, bob = agents
        lab = Lab(net, alice, bob, tuple(routers))
        if connect:
            with trio.fail_after(30):
                async with trio.open_nursery() as meeting:
                    lab.introduce(meeting)
                    for agent in agents:
                        meeting.start_soon(agent.wait_connected)
        yield lab
        nursery.cancel_scope.cancel()


def transports(lab):
    return {agent.selected_pair.local.transport for agent in (lab.alice, lab.bob)}


async def exchange(lab):
    with trio.fail_after(20):
        await lab.alice.send(b"to bob")
        assert await lab.bob.receive() == b"to bob"
        await lab.bob.send(b"to alice")
        assert await lab.alice.receive() == b"to alice"


BLOCKED = {"firewall": UDP_BLOCKED}
HOME = {"nat": PORT_RESTRICTED, "firewall": UDP_BLOCKED}
HARD_HOME = {"nat": SYMMETRIC, "firewall": UDP_BLOCKED}


@pytest.mark.parametrize("side", ["alice", "bob"])
@pytest.mark.parametrize("home", [HOME, HARD_HOME], ids=["home", "hard home"])
async def test_a_public_peer_is_reached_over_tcp_where_udp_is_blocked(vnet, side, home):
    """Active to passive: whoever is behind the NAT, and whoever controls."""
    left, right = (home, None) if side == "alice" else (None, home)
    async with lab_of(vnet(), left, right) as lab:
        assert transports(lab) == {"tcp"}
        assert "tcp" in lab.alice.selected_pair.local.to_sdp()
        await exchange(lab)
        assert lab.alice.state is lab.bob.state is AgentState.COMPLETED
        net = lab.net
    assert net.statistics().sockets_left_open == 0


async def test_simultaneous_open_goes_through_two_nats(vnet):
    """Both NATs map independently of the destination, so that STUN over TCP tells the port the SYNs will cross at."""
    async with lab_of(vnet(), HOME, HOME, servers=[STUN_TCP]) as lab:
        assert {agent.selected_pair.local.tcp_type for agent in (lab.alice, lab.bob)} == {"so"}
        await exchange(lab)
        net = lab.net
    assert net.statistics().sockets_left_open == 0


async def test_simultaneous_open_needs_no_server_where_nothing_but_firewalls_is_between(vnet):
    """Public addresses, both firewalled: each lets in what answers to its own SYN."""
    async with lab_of(vnet(), BLOCKED, BLOCKED) as lab:
        assert {agent.selected_pair.local.tcp_type for agent in (lab.alice, lab.bob)} == {"so"}
        await exchange(lab)


async def test_udp_is_taken_where_it_works_and_no_later_for_tcp(vnet):
    """Candidates over TCP must cost those nothing who do not need them."""
    took = {}
    for tcp in (False, True):
        net = vnet(seed=7)
        hosts = [net.host(net.internet, delay_s=0.010) for _ in range(2)]
        async with net, AsyncExitStack() as stack:
            agents = [
                await stack.enter_async_context(
                    open_agent(
                        AgentConfig(network=host, randbytes=host.randbytes, tcp_candidates=tcp, port_mapping=False),
                        role=role,
                    )
                )
                for host, role in zip(hosts, Role, strict=True)
            ]
            alice, bob = agents
            lab = Lab(net, alice, bob, ())
            start = trio.current_time()
            async with trio.open_nursery() as nursery:
                lab.introduce(nursery)
                for agent in agents:
                    nursery.start_soon(agent.wait_connected)
            took[tcp] = trio.current_time() - start
            assert transports(lab) == {"udp"}
    assert took[True] == pytest.approx(took[False], abs=0.001)


@pytest.mark.parametrize("home", ["alice", "bob"])
async def test_a_connection_cut_by_the_nat_is_replaced(vnet, home):
    """A rebooted NAT has forgotten the connection; the active side opens another, and data flows over that."""
    left, right = (HOME, None) if home == "alice" else (None, HOME)
    async with lab_of(vnet(), left, right) as lab:
        await exchange(lab)
        next(router for router in lab.routers if router is not lab.net.internet).reboot()
        start = trio.current_time()

        async def keep_sending(agent, text):
            while True:
                await agent.send(text)
                await trio.sleep(0.05)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_sending, lab.alice, b"a")
                nursery.start_soon(keep_sending, lab.bob, b"b")
                await trio.sleep(0.3)
                for agent in (lab.alice, lab.bob):
                    while await agent.receive() and trio.current_time() < start + 0.3:
                        pass
                nursery.cancel_scope.cancel()
        assert trio.current_time() - start < 30
        net = lab.net
    assert net.statistics().sockets_left_open == 0


async def test_a_restart_keeps_the_connection_and_the_data_flowing(vnet):
    """Make before break (trap 25), over one and the same TCP connection."""
    async with lab_of(vnet(), HOME, None) as lab:
        lab.alice.restart()
        lab.bob.set_remote_credentials(lab.alice.credentials, options=lab.alice.options)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                lab.introduce(nursery)
                await exchange(lab)
            while lab.alice._driver.ice.restarting or lab.bob._driver.ice.restarting:
                await trio.sleep(0.1)
        await exchange(lab)
        assert transports(lab) == {"tcp"}


async def test_a_link_moves_a_megabyte_over_tcp(vnet):
    """QUIC in frames: whole batches in one write, and a reader that TCP can slow down."""
    async with lab_of(vnet(), HOME, None) as lab:
        identities = [generate_identity(), generate_identity()]
        links = {}
        key, received = b"k" * 32, trio.Event()

        async def serve():
            async with open_link(
                lab.bob,
                role=LinkRole.SERVER,
                identity=identities[1],
                peer_fingerprint=identities[0].fingerprint,
                session_key=key,
            ) as link:
                stream = await link.accept_stream()
                links["got"] = b"".join([chunk async for chunk in stream])
                received.set()
                await link.wait_closed()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                async with open_link(
                    lab.alice,
                    role=LinkRole.CLIENT,
                    identity=identities[0],
                    peer_fingerprint=identities[1].fingerprint,
                    session_key=key,
                ) as link:
                    stream = await link.open_stream("bulk")
                    await stream.send_all(bytes(1_000_000))
                    await stream.send_eof()
                    await received.wait()
        assert len(links["got"]) == 1_000_000


async def keep_talking(lab, until):
    """Send both ways all the time until the condition holds."""

    async def talk(sender, text):
        while True:
            await sender.send(text)
            await trio.sleep(0.02)

    async def drain(receiver):
        while True:
            await receiver.receive()

    async with trio.open_nursery() as nursery:
        for sender, receiver in ((lab.alice, lab.bob), (lab.bob, lab.alice)):
            nursery.start_soon(talk, sender, b"talk")
            nursery.start_soon(drain, receiver)
        while not until():
            await trio.sleep(0.02)
        nursery.cancel_scope.cancel()


async def test_tcp_takes_over_when_udp_is_blocked_in_the_middle_of_things(vnet):
    """The pairs over TCP were never checked, since UDP worked; they are what is left to try."""
    async with lab_of(vnet(), {"nat": PORT_RESTRICTED}, None, servers=["stun:stun.example"]) as lab:
        assert transports(lab) == {"udp"}
        await exchange(lab)
        lab.routers[0].firewall = UDP_BLOCKED
        start = trio.current_time()
        with trio.fail_after(30):
            await keep_talking(lab, lambda: transports(lab) == {"tcp"})
        assert trio.current_time() - start < 1


async def test_two_that_see_nothing_but_each_others_tcp_fail_with_a_reason(vnet):
    """Symmetric NATs on both sides and no relay: connections are tried, and it ends in time and without a socket."""
    net = vnet()
    async with lab_of(net, HARD_HOME, HARD_HOME, connect=False, servers=[STUN_TCP]) as lab:
        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                lab.introduce(nursery)
                with pytest.raises(NetworkError, match="no path"):
                    await lab.alice.wait_connected()
    await trio.sleep(60)  # TCP's own final messages
    assert net.statistics().sockets_left_open == 0


async def test_a_policy_holds_for_connections_too(vnet):
    """A peer that is forbidden is neither connected to nor listened to."""
    net = vnet()
    async with lab_of(net, None, BLOCKED, connect=False, deny_remote_prefixes=["0.0.0.0/0"]) as lab:
        async with trio.open_nursery() as nursery:
            lab.introduce(nursery)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert lab.alice.state is not AgentState.CONNECTED
        assert lab.alice._driver.ice.checks_sent == 0 or not lab.alice.statistics().transport.bytes_sent


async def test_without_the_option_there_is_no_tcp(vnet):
    """It costs sockets and memory, so whoever embeds an agent asks for it."""
    net = vnet()
    host = net.host(net.internet)
    async with net, open_agent(AgentConfig(network=host, port_mapping=False), role=Role.CONTROLLED) as agent:
        kinds = {candidate.transport async for candidate in agent.local_candidates()}
        assert kinds == {"udp"}


async def test_connections_turned_away_are_told(vnet):
    """A scanner found the port: nothing comes of it, and `explain()` says that it was there."""
    async with lab_of(vnet(), None, None, connect=False) as lab:
        bases = [one for one in lab.alice._driver.ice.local_candidates if one.tcp_type == "passive"]
        scanner = lab.net.host(lab.net.internet)
        stream = await scanner.connect_tcp(bases[0].address)
        await stream.send_all(b"\x00\x10GET / HTTP/1.1\r\n")
        await trio.sleep(1)
        assert "TCP: 1 connection(s) not kept: not STUN" in lab.alice.explain().evidence
