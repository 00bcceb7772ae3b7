"""Many agents on one UDP port: each meets its own peer, and nobody else's."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio
from virtual_pair import STUN_SERVER, config_of, trickle
from virtual_udp import silent

from iceagent.agent import Agent, IceServer, open_agent, open_shared_port
from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.ice import AgentState, Candidate, CandidateType, Role
from iceagent.errors import LocalError, NetworkError
from iceagent.link import LinkRole, generate_identity, open_link
from iceagent.servers.stun import open_stun_server
from iceagent.vnet import PORT_RESTRICTED, SYMMETRIC

FLOOD = 500


async def introduce(one, other):
    """Carry both descriptions, to the end of both."""
    one.set_remote_credentials(other.credentials, lite=other._config.ice_lite)
    other.set_remote_credentials(one.credentials, lite=one._config.ice_lite)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle, one, other)
        nursery.start_soon(trickle, other, one)


async def connect(one, other):
    await introduce(one, other)
    await one.wait_connected()
    await other.wait_connected()


async def open_pair(stack, port, server, client, **options) -> tuple[Agent, Agent]:
    """Open an agent at the shared port and its peer; they know nothing of each other yet."""
    at_port = config_of(server, shared_port=port, **options)
    there = await stack.enter_async_context(open_agent(at_port, role=Role.CONTROLLED))
    here = await stack.enter_async_context(open_agent(config_of(client), role=Role.CONTROLLING))
    return there, here


async def assert_talk(there, here, text):
    """Send both ways; each gets what its own peer sent, and nothing before it."""
    await there.send(b"to " + text)
    await here.send_many([b"from " + text] * 3)
    assert await here.receive() == b"to " + text
    for _ in range(3):
        assert await there.receive() == b"from " + text


async def test_a_lite_agent_whose_peer_never_gets_through_fails(vnet):
    """It checks nothing, so nothing of its own fails; whoever waits for the connection is told all the same."""
    net = vnet()
    server, client = net.host(net.internet), net.host(net.internet)
    async with net:
        lite_config = config_of(server, ice_lite=True)
        async with (
            open_agent(lite_config, role=Role.CONTROLLED) as lite,
            open_agent(config_of(client), role=Role.CONTROLLING) as full,
        ):
            client.partition()
            await introduce(lite, full)
            with trio.fail_after(60), pytest.raises(NetworkError, match="nominated no pair"):
                await lite.wait_connected()
            assert lite.state is AgentState.FAILED


@pytest.mark.parametrize("lite", [False, True])
async def test_each_agent_meets_its_own_peer(vnet, lite):
    """Peers with and without NATs, some behind the same one; a lite server is the usual one."""
    net = vnet()
    server = net.host(net.internet)
    homes = [net.router(net.internet, nat=nat) for nat in (PORT_RESTRICTED, SYMMETRIC, None)]
    clients = [net.host(home) for home in homes for _ in range(3)]
    with trio.fail_after(300):
        async with net, open_shared_port(network=server) as port, AsyncExitStack() as stack:
            pairs = [await open_pair(stack, port, server, client, ice_lite=lite) for client in clients]
            assert len({candidate.address for there, _ in pairs for candidate in await candidates(there)}) == 1
            async with trio.open_nursery() as nursery:
                for there, here in pairs:
                    nursery.start_soon(connect, there, here)
            assert port.sessions == len(pairs)
            assert len(server.sockets) == 1
            for number, (there, here) in enumerate(pairs):
                await assert_talk(there, here, b"%d" % number)
            await trio.sleep(100)
            assert all(agent.state is AgentState.COMPLETED for pair in pairs for agent in pair)
            await pairs[0][0].aclose()
            assert port.sessions == len(pairs) - 1
            await assert_talk(*pairs[1], b"after one has left")
        assert port.sessions == 0
        assert sum(table.entries for table in port._tables.values()) == 0
    assert net.statistics().sockets_left_open == 0


async def candidates(agent):
    return [candidate async for candidate in agent.local_candidates()]


async def test_reflexive_candidates_are_found_through_the_shared_socket(vnet):
    """All agents of the port ask the same STUN server from the same socket at the same time."""
    net = vnet()
    stun_host = net.host(net.internet, name="stun.example")
    home = net.router(net.internet, nat=PORT_RESTRICTED)
    server, client = net.host(home), net.host(net.router(net.internet, nat=PORT_RESTRICTED))
    servers = [IceServer(STUN_SERVER)]
    with trio.fail_after(300):
        async with (
            net,
            open_stun_server("0.0.0.0", network=stun_host),
            open_shared_port(network=server) as port,
            AsyncExitStack() as stack,
        ):
            pairs = []
            for _ in range(3):
                at_port = config_of(server, shared_port=port, servers=servers)
                there = await stack.enter_async_context(open_agent(at_port, role=Role.CONTROLLED))
                peer = config_of(client, servers=servers)
                here = await stack.enter_async_context(open_agent(peer, role=Role.CONTROLLING))
                pairs.append((there, here))
            async with trio.open_nursery() as nursery:
                for there, here in pairs:
                    nursery.start_soon(connect, there, here)
            mapped = [[one for one in await candidates(there) if one.type is CandidateType.SRFLX] for there, _ in pairs]
            assert [len(found) for found in mapped] == [1, 1, 1]
            for number, (there, here) in enumerate(pairs):
                await assert_talk(there, here, b"%d" % number)


async def test_a_restart_takes_its_new_name_along(vnet):
    """The checks of the new session name another username fragment; the old one is answered meanwhile."""
    net = vnet()
    server, client = net.host(net.internet), net.host(net.router(net.internet, nat=PORT_RESTRICTED))
    with trio.fail_after(300):
        async with net, open_shared_port(network=server) as port, AsyncExitStack() as stack:
            there, here = await open_pair(stack, port, server, client)
            await connect(there, here)
            for agent, other in ((there, here), (here, there), (there, here)):
                agent.restart()
                await introduce(other, agent)
                await trio.sleep(1)
                assert there.state is here.state is AgentState.COMPLETED
                await assert_talk(there, here, b"again")
            await trio.sleep(60)
            await assert_talk(there, here, b"a minute later")


async def test_a_flood_from_strangers_neither_registers_nor_disturbs(vnet):
    """Names travel in the clear, so a stranger may use them; without the password nothing comes of it."""
    net = vnet()
    server, client, stranger = net.host(net.internet), net.host(net.internet), net.host(net.internet)
    with trio.fail_after(300):
        async with net, open_shared_port(network=server) as port, AsyncExitStack() as stack:
            there, here = await open_pair(stack, port, server, client)
            await connect(there, here)
            (table,) = port._tables.values()
            before = table.entries
            target = port.addresses[0]
            for number in range(FLOOD):
                sock = await stranger.open_udp(stranger.address, 10000 + number)
                known = f"{there.credentials.ufrag}:{here.credentials.ufrag}"
                for name in (known, "nobody:nobody"):
                    request = stun.binding_request(number.to_bytes(12, "big"), stun.Username(name), stun.Priority(1))
                    sock.send_nowait([stun.encode(request, key=b"guessed")], target)
                response = stun.success(request, stun.XorMappedAddress(TransportAddress("192.0.2.1", 1)))
                sock.send_nowait([stun.encode(response, key=b"guessed"), b"\x80data", b""], target)
                await trio.sleep(0.001)
                assert await silent(sock, 0.1)
                sock.close()
            assert table.entries <= before + 2  # a consent check may be under way
            assert dict(port.counters) == {
                "stun-request-for-unknown-ufrag": FLOOD,
                "stun-response-of-unknown-transaction": FLOOD,
                "data-from-unknown-address": 2 * FLOOD,
            }
            await assert_talk(there, here, b"undisturbed")


async def test_of_two_sessions_between_two_shared_ports_only_one_uses_the_pair_of_addresses(vnet):
    """Their data would be the same to both ends, so the second one must fail rather than read the first one's."""
    net = vnet()
    hosts = [net.host(net.internet) for _ in range(2)]
    with trio.fail_after(120):
        async with net, AsyncExitStack() as stack:
            ports = [await stack.enter_async_context(open_shared_port(network=host)) for host in hosts]
            pairs: list[tuple[Agent, Agent]] = []
            for _ in range(2):
                pair: list[Agent] = []
                for host, port, role in zip(hosts, ports, (Role.CONTROLLED, Role.CONTROLLING), strict=True):
                    config = config_of(host, shared_port=port)
                    pair.append(await stack.enter_async_context(open_agent(config, role=role)))
                one, other = pair
                pairs.append((one, other))
            await connect(*pairs[0])
            await introduce(*pairs[1])
            for agent in pairs[1]:
                with pytest.raises(NetworkError):
                    await agent.wait_connected()
            await assert_talk(*pairs[0], b"still alone")
            for port in ports:
                assert port.counters["remote-address-in-use-by-another-session"] > 0
            for agent in (*pairs[0], *pairs[1]):
                await agent.aclose()
            assert [port.sessions for port in ports] == [0, 0]


async def test_a_user_who_does_not_read_keeps_nobody_waiting(vnet):
    """His queue fills and overflows; the others' datagrams come at once."""
    net = vnet()
    server, client = net.host(net.internet), net.host(net.internet)
    with trio.fail_after(300):
        async with net, open_shared_port(network=server) as port, AsyncExitStack() as stack:
            slow = await open_pair(stack, port, server, client, receive_queue_bytes=100_000)
            quick = await open_pair(stack, port, server, client)
            for pair in (slow, quick):
                await connect(*pair)
            for _ in range(50):
                await slow[1].send_many([bytes([128]) * 1000] * 10)
                start = trio.current_time()
                await assert_talk(*quick, b"quick")
                assert trio.current_time() - start < 0.2
            assert len(await slow[0].receive_many()) < 120


async def test_a_link_works_over_a_share(vnet):
    """A megabyte through QUIC: the batches of bulk data pass the port whole."""
    net = vnet()
    server, client = net.host(net.internet), net.host(net.router(net.internet, nat=PORT_RESTRICTED))
    identities = [generate_identity() for _ in range(2)]
    data = bytes(range(256)) * 4096
    with trio.fail_after(120):
        async with net, open_shared_port(network=server) as port, AsyncExitStack() as stack:
            there, here = await open_pair(stack, port, server, client)
            await connect(there, here)
            got = bytearray()

            async def receive():
                async with open_link(
                    there,
                    role=LinkRole.SERVER,
                    identity=identities[0],
                    peer_fingerprint=identities[1].fingerprint,
                    session_key=bytes(32),
                ) as link:
                    stream = await link.accept_stream()
                    async for chunk in stream:
                        got.extend(chunk)
                    await stream.send_all(b"done")
                    await stream.send_eof()
                    await link.wait_closed()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                async with open_link(
                    here,
                    role=LinkRole.CLIENT,
                    identity=identities[1],
                    peer_fingerprint=identities[0].fingerprint,
                    session_key=bytes(32),
                ) as link:
                    stream = await link.open_stream("file")
                    await stream.send_all(data)
                    await stream.send_eof()
                    assert await stream.receive_some() == b"done"
            assert bytes(got) == data


async def test_what_cannot_work_is_refused(vnet):
    """With a sentence, and with nothing left open."""
    net = vnet()
    server, other = net.host(net.internet), net.host(net.internet)
    async with net:
        async with open_shared_port(network=server) as port:
            with pytest.raises(LocalError, match="network"):
                config_of(other, shared_port=port)
            with pytest.raises(LocalError, match="port_range"):
                config_of(server, shared_port=port, port_range=(1000, 2000))
            with pytest.raises(LocalError, match="components"):
                config_of(server, shared_port=port, streams=(2,))
            config = config_of(server, shared_port=port)
            async with open_agent(config, role=Role.CONTROLLED) as agent:
                same = config_of(server, shared_port=port, credentials=agent.credentials)
                with pytest.raises(LocalError, match="username fragment"):
                    async with open_agent(same, role=Role.CONTROLLED):
                        pass
            with pytest.raises(LocalError, match="cannot be opened"):
                async with open_shared_port(port.addresses[0].port, network=server):
                    pass
            assert port.sessions == 0
        with pytest.raises(LocalError, match="closed"):
            async with open_agent(config, role=Role.CONTROLLED):
                pass
    assert net.statistics().sockets_left_open == 0


async def test_an_unreachable_peer_is_told_to_whom_it_concerns(vnet):
    """An ICMP error names no session; the one that asked there last hears of it."""
    net = vnet()
    server, client = net.host(net.internet), net.host(net.internet)
    with trio.fail_after(300):
        async with net, open_shared_port(network=server) as port, AsyncExitStack() as stack:
            there, here = await open_pair(stack, port, server, client)
            there.set_remote_credentials(here.credentials)
            text = f"candidate:1 1 udp 2130706431 {client.address} 9 typ host"
            there.add_remote_candidate(Candidate.from_sdp(text))
            async for event in there.events():
                if type(event).__name__ == "DestinationUnreachable":
                    break


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_trap_69_a_port_at_a_wildcard_serves_each_address_of_the_machine(vnet, which):
    """Also one that came after the port was opened; a peer behind a strict NAT hears only the address that it asked."""
    net = vnet()
    server, home = net.host(net.internet), net.router(net.internet, nat=PORT_RESTRICTED)
    server.attach(net.internet)
    client = net.host(home)
    async with net, open_shared_port(3478, hosts=["0.0.0.0"], network=server) as port, AsyncExitStack() as stack:
        server.attach(net.internet)
        address = server.addresses()[which]
        there, here = await open_pair(stack, port, server, client)
        there.set_remote_credentials(here.credentials)
        here.set_remote_credentials(there.credentials)
        async for candidate in there.local_candidates():
            if candidate is not None and candidate.address.host == address:
                here.add_remote_candidate(candidate)
        here.add_remote_candidate(None)
        async for candidate in here.local_candidates():
            there.add_remote_candidate(candidate)
        there.add_remote_candidate(None)
        pair = await here.wait_connected()
        await there.wait_connected()
        assert pair.remote.address == TransportAddress(address, 3478)
        await assert_talk(there, here, b"x")
        assert port.sessions == 1


async def test_what_comes_to_an_address_without_sessions_is_counted(vnet):
    """A wildcard hears strangers at all addresses; nothing is remembered of those."""
    net = vnet()
    server, client = net.host(net.internet), net.host(net.internet)
    async with net, open_shared_port(3478, hosts=["0.0.0.0"], network=server) as port:
        sock = await client.open_udp("0.0.0.0")
        await sock.send([b"x"] * 3, TransportAddress(server.address, 3478))
        await trio.sleep(1)
        assert port.counters == {"address-without-sessions": 3}
        sock.close()
