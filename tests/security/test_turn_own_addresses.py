"""Trap 52: a TURN server's own addresses are those that it has now, for every decision."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from turn_bench import OWN, PEER, PEER_6, RELAY_4, Bench, Client, allocated, config, error_of

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.turn.server import CloseConnection, CloseRelay, ConnectionState, ConnectPeer, PeerPolicy
from iceagent.net import SystemNetwork
from iceagent.net.interfaces import own_hosts, ownership
from iceagent.servers import TurnOptions, TurnService, open_turn_server
from iceagent.vnet import Host, Network

WRAPPED = TransportAddress("64:ff9b::808:808", PEER.port)  # NAT64's name for the peer


def dual(bench: Bench, **changes: object) -> Client:
    client = Client(bench, **changes)  # type: ignore[arg-type]
    assert error_of(client.allocate(stun.AdditionalAddressFamily(2))) is None
    return client


def test_trap_52_a_permission_for_an_address_that_becomes_ours_is_revoked() -> None:
    """DHCP gave the server a peer's old address: what was permitted would reach the machine's own ports from inside."""
    client = dual(Bench())
    peer_6 = PEER_6
    for peer, number in ((PEER, 0x4000), (peer_6, 0x4001), (WRAPPED, 0x4002)):
        assert error_of(client.bind(number, peer)) is None
    client.bench.server.set_own_addresses([*OWN, PEER.host])
    allocation = client.bench.server.allocations[client.path]
    assert set(allocation.permissions) == {peer_6.host}
    assert set(allocation.channels) == {0x4001}
    assert not client.channel_data(b"\x40\x00\x00\x01x")
    assert not client.channel_data(b"\x40\x02\x00\x01x")
    assert client.channel_data(b"\x40\x01\x00\x01x")
    assert client.indicate(PEER, b"x") is None
    assert client.from_peer(PEER, b"x") == []
    assert error_of(client.permit(PEER)) == 403
    assert error_of(client.bind(0x4000, PEER)) == 403
    assert error_of(client.bind(0x4002, WRAPPED)) == 403
    assert client.bench.server.counters["permissions_revoked"] == 2


def test_trap_52_connections_to_an_address_that_becomes_ours_end() -> None:
    """RFC 6062: one that is being made, one that waits, and one that came from there."""
    bench = Bench()
    client = Client(bench, transport="tcp")
    assert error_of(client.allocate(transport=stun.TRANSPORT_TCP)) is None
    (relay,) = bench.server.allocations[client.path].relays
    assert error_of(client.permit(PEER)) is None
    client.connect(PEER)
    making = bench.of(ConnectPeer)[0].connection
    came = bench.server.peer_arrived(bench.now, relay, TransportAddress(PEER.host, 5))
    assert came is not None
    bench.server.set_own_addresses([*OWN, PEER.host])
    bench.settle()
    assert making.state is came.state is ConnectionState.CLOSED
    assert sum(isinstance(event, CloseConnection) for event in bench.events) == 2
    assert not bench.server.peer_connected(bench.now, making)
    assert bench.server.peer_arrived(bench.now, relay, PEER) is None
    client.connect(PEER)
    assert error_of(stun.decode(bench.sent[-1].data)) == 403


def test_trap_52_an_address_that_is_ours_no_longer_is_like_any_other() -> None:
    """The next machine that gets it is a peer, and permissions for relays there are over."""
    bench = Bench(config(policy=PeerPolicy(own=[*OWN, PEER.host, "10.0.0.1"])))
    client = allocated(bench)
    assert error_of(client.permit(TransportAddress("10.0.0.1", 0))) is None
    assert error_of(client.permit(PEER)) == 403
    bench.server.set_own_addresses(OWN)
    assert error_of(client.permit(PEER)) is None
    assert set(bench.server.allocations[client.path].permissions) == {PEER.host}


def test_trap_52_the_system_is_asked_for_each_permission() -> None:
    """An address comes, and the news of it some milliseconds later: in between nothing is granted."""
    ours: set[str] = set()
    client = dual(Bench(config(policy=PeerPolicy(own=OWN, is_here=ours.__contains__))))
    ours.add(PEER.host)
    for peer in (PEER, WRAPPED):
        assert error_of(client.permit(peer)) == 403
        assert error_of(client.bind(0x4000, peer)) == 403
    assert error_of(client.permit(PEER_6)) is None


def test_trap_52_relays_at_an_address_that_is_gone_end() -> None:
    """Their clients learn it from 437, allocate again, and get the address there is now; no port is lost."""
    bench = Bench()
    client, other = dual(bench), allocated(bench, remote=TransportAddress("192.0.2.7", 7))
    bench.server.set_relay_hosts(bench.now, {"192.0.2.99": "192.0.2.99", OWN[1]: OWN[1]})
    bench.settle()
    assert [relay.family for relay in bench.server.allocations[client.path].relays] == [6]
    assert other.path not in bench.server.allocations
    assert sum(isinstance(event, CloseRelay) for event in bench.events) == 2
    assert error_of(other.refresh()) == 437
    answer = other.allocate()
    relayed = answer.get(stun.XorRelayedAddress)
    assert relayed is not None
    assert relayed.address.host == "192.0.2.99"
    assert set(bench.server.pools) == {"192.0.2.99", OWN[1]}


def test_an_allocation_that_is_opening_does_not_wait_for_an_address_that_is_gone() -> None:
    """Its client asks again; it must not meet one that never ends."""
    bench = Bench(opens=False)
    client = Client(bench)
    client.nonce = "x"
    bench.give(client.path, client.encode(stun.Method.ALLOCATE, stun.RequestedTransport(17)))
    client.nonce = stun.decode(bench.sent[-1].data).get(stun.Nonce).value  # type: ignore[union-attr]
    bench.give(
        client.path, client.encode(stun.Method.ALLOCATE, stun.RequestedTransport(17), stun.AdditionalAddressFamily(2))
    )
    assert client.path in bench.server.allocations
    bench.server.set_relay_hosts(bench.now, {OWN[1]: OWN[1]})
    assert client.path not in bench.server.allocations
    assert bench.server.next_timeout() is None


def test_a_relay_is_where_the_client_asked_if_it_may_be() -> None:
    """That address the client reaches for sure; a machine's first one it may not."""
    hosts = {host: host for host in ("192.0.2.14", RELAY_4, "192.0.2.16")}
    client = Client(Bench(config(relay_hosts=hosts)))
    relayed = client.allocate().get(stun.XorRelayedAddress)
    assert relayed is not None
    assert relayed.address.host == RELAY_4


# -- the shell


@asynccontextmanager
async def served(net: Network, machine: Host) -> AsyncIterator[TurnService]:
    nets = ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24")
    options = TurnOptions([TransportAddress("0.0.0.0", 3478)], users={"george": "secret"}, allow_peers=nets)
    async with net, open_turn_server(options, network=machine, randbytes=machine.randbytes) as service:
        yield service


async def test_trap_52_the_server_notices_what_comes_and_goes(vnet: Callable[..., Network]) -> None:
    """A second interface is plugged in, and the first one gets another address."""
    net = vnet()
    machine = net.host(net.internet)
    first = machine.address
    async with served(net, machine) as service:
        machine.attach(net.internet)
        second = machine.addresses()[1]
        await trio.sleep(0.1)
        assert set(service.core.relay_hosts) == {first, second}
        machine.renew()
        await trio.sleep(0.1)
        third = machine.address
        assert set(service.core.relay_hosts) == {second, third}
        policy = service.core.policy
        assert policy.is_own(third)
        assert not policy.is_own(first)


def test_the_system_says_at_once_whether_an_address_is_ours() -> None:
    """By a bind, so that no list has to be up to date."""
    network = SystemNetwork()
    is_here = ownership(network)
    assert is_here("127.0.0.1")
    assert is_here("127.1.2.3")  # the whole prefix is
    assert not is_here("192.0.2.77")
    assert own_hosts(network) >= {one.host.partition("%")[0] for one in network.interfaces()}
    assert all(ipaddress.ip_address(host) for host in own_hosts(network))


def test_a_system_that_binds_to_everything_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ip_nonlocal_bind`: all the world would be ours, and nobody a peer."""
    monkeypatch.setattr(socket.socket, "bind", lambda *_: None)
    assert not ownership(SystemNetwork())("192.0.2.77")
