"""What a peer, a server or a neighbour may say to make us remember, send or compute more than is due."""

from __future__ import annotations

import struct
from contextlib import closing
from typing import Any

import pytest
import trio
from virtual_pair import config_of

from iceagent.agent import Agent, Role, open_agent
from iceagent.agent.gather.remote import MAX_WAITING
from iceagent.agent.hard_nat.sockets import MAX_OPEN, SocketPool
from iceagent.agent.hard_nat.view import NatView
from iceagent.core import ice, sdp, stun
from iceagent.core.address import TransportAddress
from iceagent.errors import RemoteError
from iceagent.net import SystemNetwork
from iceagent.net.mdns_packets import MAX_ENTRIES, encode_query, parse_untrusted

NAME = "1f4712db-ea17-4bcf-a596-105139dfd8bf.local"
UNSUPPORTED = ice.DropReason.CANDIDATE_TRANSPORT


def remote_candidate(host: str, port: int = 4000, component: int = 1) -> str:
    return f"candidate:1 {component} udp 2122262783 {host} {port} typ host"


def dropped(agent: Agent) -> int:
    return sum(one.driver.ice.counters[UNSUPPORTED] for one in agent._components.all.values())


# Streams and components that are not there


@pytest.mark.parametrize("streams", [(1,), (1, 2)])
@pytest.mark.parametrize("stream", [-1, 2, 7, 10**9])
async def test_candidates_of_unknown_streams_are_counted_and_left_out(
    vnet: Any, streams: tuple[int, ...], stream: int
) -> None:
    """Which stream a trickled candidate belongs to, the peer says: a line of a description that may have fewer."""
    net = vnet()
    host = net.host(net.internet)
    async with net, open_agent(config_of(host, streams=streams), role=Role.CONTROLLING) as agent:
        agent.set_remote_credentials(ice.Credentials("peer", "p" * 24))
        for port in range(4000, 4010):
            agent.add_remote_candidate(remote_candidate("198.51.100.7", port), stream=stream)
        agent.add_remote_candidate(None, stream=stream)
        assert dropped(agent) == 10
        assert agent.state is not ice.AgentState.CLOSED
        assert not any(one.driver.ice.remote_candidates for one in agent._components.all.values())


async def test_candidates_of_unknown_components_are_counted_and_left_out(vnet: Any) -> None:
    """A component that only the peer has is no error, and costs nothing."""
    net = vnet()
    host = net.host(net.internet)
    async with net, open_agent(config_of(host, streams=(1, 2)), role=Role.CONTROLLING) as agent:
        agent.set_remote_credentials(ice.Credentials("peer", "p" * 24))
        for component in (2, 3, 256):
            agent.add_remote_candidate(remote_candidate("198.51.100.7", component=component), stream=0)
        agent.add_remote_candidate(remote_candidate("198.51.100.7", component=3), stream=1)
        assert dropped(agent) == 4


# Shapes


def test_a_candidate_wrapped_a_thousand_times_is_refused_like_any_other_nonsense() -> None:
    """JSON of a peer may nest as deep as its decoder lets it, just short of what Python's stack takes."""
    value: object = "candidate:"
    for _ in range(100_000):
        value = {"candidate": value}
    with pytest.raises(RemoteError, match="not dict"):
        sdp.trickled_candidate(value)


# Zones


ZONES = ["none such", "nonesuch", "\0", "-1", "9" * 30, "9" * 5000, "x" * 5000, "\u2028"]


@pytest.mark.parametrize("zone", ZONES, ids=range(len(ZONES)))
async def test_the_zone_of_a_peer_s_address_means_nothing_here(zone: str) -> None:
    """RFC 4007 section 11.2; and the system refuses some with other errors than those of a network."""
    for related in ("", f" raddr fe80::2%{zone} rport 9"):
        try:
            candidate = ice.Candidate.from_sdp(remote_candidate(f"fe80::1%{zone}") + related)
        except ValueError:
            continue
        assert candidate.address.host == "fe80::1"
        assert candidate.related_address in (None, TransportAddress("fe80::2", 9))
    remote = TransportAddress(f"fe80::1%{zone}", 4000)
    sock = await SystemNetwork().open_udp("::1")
    with closing(sock):
        assert sock.send_nowait((b"x",), remote) == 1
    with pytest.raises(OSError):
        await SystemNetwork().connect_tcp(remote, local_host="::1")


# Names


async def test_a_thousand_candidates_of_one_name_wait_for_nothing(vnet: Any) -> None:
    """As many as fit wait for the lookup; of the others nothing is kept but their number."""
    net = vnet()
    home = net.router(net.internet)
    host = net.host(home)
    async with net, open_agent(config_of(host), role=Role.CONTROLLING) as agent:
        agent.set_remote_credentials(ice.Credentials("peer", "p" * 24))
        for port in range(4000, 5000):
            agent.add_remote_candidate(remote_candidate(NAME, port))
        assert agent._driver.ice.counters[ice.DropReason.CANDIDATE_UNRESOLVED] == 1000 - MAX_WAITING
        await trio.sleep(20)
        assert agent._driver.ice.counters[ice.DropReason.CANDIDATE_UNRESOLVED] == 1000


@pytest.mark.parametrize("section", range(4))
def test_messages_with_hundreds_of_records_are_not_read(section: int) -> None:
    """A neighbour who names us could have us parse 9,000 bytes fifty times a second, which would take all our time."""
    query = bytearray(encode_query(NAME))
    assert parse_untrusted(bytes(query)) is not None
    record = b"\xc0\x0c" + struct.pack("!HHIH4s", 1, 1, 120, 4, bytes(4))
    counts = [2, 0, 0, 0]
    counts[section] += MAX_ENTRIES - 1
    query[4:12] = struct.pack("!4H", *counts)
    assert parse_untrusted(bytes(query) + record * 500) is None


# Hard NATs


async def test_a_stun_server_that_names_a_denied_address_has_nothing_sent_there(vnet: Any) -> None:
    """OTHER-ADDRESS is the server's word; where packets may go is ours."""
    net = vnet()
    server, host = net.host(net.internet), net.host(net.internet)
    other = TransportAddress("198.51.100.200", 3479)

    async def answer(sock: Any) -> None:
        while True:
            for batch in await sock.receive():
                request = stun.decode(batch.data)
                attributes = (stun.XorMappedAddress(batch.remote), stun.OtherAddress(other))
                sock.send_nowait((stun.encode(stun.success(request, *attributes)),), batch.remote)

    sent: list[list[str]] = []
    for allowed in (True, False):
        async with net, trio.open_nursery() as nursery:
            sock = await server.open_udp(server.address, 3478)
            nursery.start_soon(answer, sock)
            before = len(net.trace)
            view = NatView(
                lambda: host.open_udp(host.address),
                [sock.local_address],
                host.randbytes,
                lambda address, allowed=allowed: allowed or address.host != other.host,  # type: ignore[misc]
            )
            await view.look()
            sends = [
                entry.packet for entry in list(net.trace)[before:] if (entry.place, entry.event) == (host.name, "send")
            ]
            sent.append([packet.destination.host for packet in sends if packet.destination.host == other.host])
            nursery.cancel_scope.cancel()
        sock.close()
    assert sent[0]
    assert not sent[1]


async def test_pools_that_open_at_once_share_the_process_s_bound(vnet: Any) -> None:
    """Many agents meet hard NATs in the same second; the descriptors of the process are not theirs alone."""
    net = vnet()
    host = net.host(net.internet)

    async def open_slowly() -> Any:
        await trio.sleep(0.001)
        return await host.open_udp(host.address)

    pools = [SocketPool(open_slowly, lambda sock, batch: False) for _ in range(4)]
    async with net:
        async with trio.open_nursery() as nursery:
            for pool in pools:
                nursery.start_soon(pool.open, 256)
        assert sum(map(len, pools)) == MAX_OPEN
        for pool in pools:
            pool.close()
        again = SocketPool(open_slowly, lambda sock, batch: False)
        with trio.move_on_after(0.01):
            await again.open(256)
        again.close()
        await pools[0].open(256)
        assert len(pools[0]) == 256
        pools[0].close()
