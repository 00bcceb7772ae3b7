"""Trap 56: what is closed is gone. No closed allocation, session or transaction lives on in a queue, table or heap.

The machines live on while their parts close, as those of a server do for months; counted are the live objects of the
kinds that the parts are made of and that were made since the test began.
"""

from __future__ import annotations

import gc
import random
from collections import Counter

import pytest
from amount import examples
from hypothesis import given
from hypothesis import strategies as st
from ice_harness import A4, B4, World, connected_pair
from turn_bench import CLIENT, PEER, PEER_6, SERVER, Bench, Client, error_of

from iceagent.core import ice, stun
from iceagent.core.address import TransportAddress
from iceagent.core.constants import RESTART_LINGER_S
from iceagent.core.deadlines import Deadline, Deadlines
from iceagent.core.discovery import Discovery, DiscoverySockets
from iceagent.core.ice.model.pair import Check
from iceagent.core.ice.session import IceSession
from iceagent.core.portmap.port_mapper import PortMapper
from iceagent.core.stun.rate_limit import AnswerBudget, RateLimiter
from iceagent.core.stun.transaction import ClientTransaction
from iceagent.core.turn import TurnClient, TurnCredentials
from iceagent.core.turn.client_requests import PendingRequest
from iceagent.core.turn.server import Allocation, Channel, ConnectPeer, PeerConnection, RelayedAddress
from iceagent.core.turn.server.limits import RESERVATION_S
from iceagent.core.turn.server.state import Reservation

OF_TURN_SERVER = (Allocation, RelayedAddress, Channel, PeerConnection, Reservation, Deadline)
OF_STUN_CLIENT = (ClientTransaction, PendingRequest)
OF_ICE = (IceSession, Check)


@pytest.fixture(autouse=True)
def from_here_on() -> None:
    """Count among what comes from here on: what earlier tests of this process have left is a million objects."""
    gc.collect()
    gc.freeze()


def alive(*kinds: type) -> Counter[str]:
    """Return how many objects of some kinds there are."""
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one) in kinds)


@examples(200, 60)
@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=60), st.randoms(use_true_random=False))
def test_trap_56_a_deadline_that_is_taken_back_is_gone(plan: list[tuple[float, bool]], chance: random.Random) -> None:
    """In whatever order: the others are called in time and in turn, and more than half of the heap is never empty."""
    deadlines, called = Deadlines(), []
    made = [(at, kept, deadlines.call_at(at, lambda now, at=at: called.append(at))) for at, kept in plan]  # type: ignore[misc]
    cancelled = [one for one in made if not one[1]]
    chance.shuffle(cancelled)
    for number, (_, _, deadline) in enumerate(cancelled, 1):
        deadlines.cancel(deadline)
        deadlines.cancel(deadline)
        live = len(made) - number
        assert len(deadlines) <= 2 * live
    expected = sorted(at for at, kept, _ in made if kept)
    assert deadlines.next_timeout() == (expected[0] if expected else None)
    deadlines.handle_timeout(100)
    assert called == expected
    assert len(deadlines) == 0


HABITS = ["permit", "bind", "refresh", "both families", "reserve", "wait", "connect", "arrive"]


@examples(40, 15, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.sampled_from(HABITS), max_size=6), st.sampled_from(["release", "expire", "gone"]))),
    st.integers(0, 99),
)
def test_trap_56_a_turn_server_keeps_nothing_of_allocations_that_have_ended(
    clients: list[tuple[list[str], str]], seed: int
) -> None:
    """Released, expired or with their connection: 2.8 KB of each lived on for up to an hour, outside all quotas."""
    before = alive(*OF_TURN_SERVER)
    bench = Bench(seed=seed)
    for number, (habits, end) in enumerate(clients):
        live_one(bench, Client(bench, TransportAddress(CLIENT.host, 1000 + number), transport="tcp"), habits, end)
    bench.events.clear()
    bench.sent.clear()
    bench.to_peers.clear()
    if any("reserve" in habits for habits, _ in clients):
        bench.wait(RESERVATION_S)
    assert bench.server.next_timeout() is None
    assert alive(*OF_TURN_SERVER) == before
    assert not bench.server.flows("tcp", SERVER.port)


def live_one(bench: Bench, client: Client, habits: list[str], end: str) -> None:
    """Live through an allocation."""
    more: list[stun.Attribute] = []
    transport = stun.TRANSPORT_TCP if {"connect", "arrive"} & set(habits) else stun.TRANSPORT_UDP
    if "both families" in habits:
        more.append(stun.AdditionalAddressFamily(2))
    elif "reserve" in habits and transport == stun.TRANSPORT_UDP:
        more.append(stun.EvenPort(True))
    assert error_of(client.allocate(*more, transport=transport)) is None
    for habit in habits:
        if habit == "permit":
            client.permit(PEER, PEER_6) if "both families" in habits else client.permit(PEER)
        elif habit == "bind":
            client.bind(0x4000, PEER)
        elif habit == "refresh":
            client.refresh(3600)
        elif habit == "wait":
            bench.wait(20)
        elif habit == "connect":
            client.connect(PEER)
            for event in bench.of(ConnectPeer):
                assert isinstance(event, ConnectPeer)
                bench.server.peer_connected(bench.now, event.connection)
        elif habit == "arrive":
            client.permit(PEER)
            relay = bench.server.allocations[client.path].relays[0]
            bench.server.peer_arrived(bench.now, relay, PEER)
    if end == "release":
        assert error_of(client.refresh(0)) is None
    elif end == "gone":
        bench.server.handle_client_gone(bench.now, client.path)
    else:
        bench.wait(4000)
    bench.settle()


def test_trap_56_a_busy_turn_servers_deadlines_do_not_pile_up() -> None:
    """Ten thousand allocations of an hour, each released at once: no entry is left of any."""
    bench = Bench()
    client = Client(bench)
    before = alive(Deadline)
    for _ in range(2_000):
        client.allocate(stun.Lifetime(3600))
        client.refresh(0)
        bench.events.clear()
    assert alive(Deadline) == before


@examples(60, 20, deadline=None)
@given(st.lists(st.sampled_from(["start", "answer", "wait", "cancel"]), max_size=40), st.integers(0, 99))
def test_trap_56_a_stun_client_keeps_no_transaction_that_has_ended(steps: list[str], seed: int) -> None:
    """Answered, cancelled, given up or closed."""
    before = alive(*OF_STUN_CLIENT)
    chance, now = random.Random(seed), 0.0
    client = stun.StunClient()
    open_ones: list[stun.Message] = []
    for step in steps:
        if step == "start":
            open_ones.append(stun.binding_request(chance.randbytes(12)))
            client.start(now, A4, B4, open_ones[-1])
        elif step == "wait":
            now += 1
            client.handle_timeout(now)
        elif open_ones:
            request = open_ones.pop(chance.randrange(len(open_ones)))
            if step == "cancel":
                client.cancel(request.transaction_id)
            else:
                client.handle_message(now, A4, B4, stun.success(request, stun.XorMappedAddress(A4)))
    if seed % 2:
        client.close()
    else:
        while (due := client.next_timeout()) is not None:
            client.handle_timeout(due)
        while client.poll_event() is not None or client.poll_transmit() is not None:
            pass
    assert client.next_timeout() is None
    assert alive(*OF_STUN_CLIENT) == before


def turn_client(bench: Bench) -> TurnClient:
    """Return a client with an allocation, a permission and a channel."""
    client = TurnClient(CLIENT, SERVER, TurnCredentials("george", "secret"), randbytes=bench.random.randbytes)
    client.start(bench.now)
    exchange(bench, client)
    for datagram in (b"\xffdata",) * 2:
        client.wrap(bench.now, PEER, [datagram])
        exchange(bench, client)
    return client


def exchange(bench: Bench, client: TurnClient) -> None:
    """Carry messages until there are none."""
    path = Client(bench).path
    while (transmit := client.poll_transmit()) is not None:
        answer = bench.give(path, transmit.data)
        if answer is not None:
            client.unwrap(bench.now, answer)
    while client.poll_event() is not None:
        pass


@pytest.mark.parametrize("end", ["release", "close", "connection_lost"])
def test_trap_56_a_turn_client_that_has_ended_keeps_no_request_and_no_peer(end: str) -> None:
    """The agent keeps the client object for its reports; what it asked and whom it knew is gone."""
    before = alive(*OF_STUN_CLIENT)
    bench = Bench()
    client = turn_client(bench)
    assert client.permission(PEER.host) is not None
    client.wrap(bench.now, TransportAddress("8.8.4.4", 1), [b"\xffpending"])
    if end == "release":
        client.release(bench.now)
        exchange(bench, client)
    elif end == "close":
        client.close()
    else:
        client.connection_lost()
    while client.poll_transmit() is not None or client.poll_event() is not None:
        pass
    assert client.next_timeout() is None
    assert client.permission(PEER.host) is None
    assert alive(*OF_STUN_CLIENT) == before


def restart(world: World, a: ice.IceAgent, b: ice.IceAgent) -> None:
    """Restart both ends and let them agree."""
    a.restart(world.now)
    world.drain(a)
    world.host(a, A4)
    b.set_remote_credentials(world.now, a.credentials)
    world.drain(b)
    world.host(b, B4)
    world.introduce(a, b)
    world.run(2)


def test_trap_56_an_ice_agent_keeps_no_session_whose_time_is_over() -> None:
    """Twenty restarts, as a phone does in a day: the old generations answer for a while, then they are gone."""
    before = alive(*OF_ICE)
    world, a, b = connected_pair()
    for _ in range(20):
        restart(world, a, b)
    world.run(RESTART_LINGER_S + 1)
    assert (alive(*OF_ICE) - before)["IceSession"] == 2
    restart(world, a, b)
    for one in (a, b):
        one.close(world.now)
        assert one.next_timeout() is None
        while one.poll_event() is not None or one.poll_transmit() is not None:
            pass
    assert (alive(*OF_ICE) - before) == Counter({"IceSession": 2}), "the last one, for the reports"


def test_trap_56_discovery_and_port_mapping_end_with_nothing_under_way() -> None:
    """They are asked anew at each change of the network."""
    before = alive(*OF_STUN_CLIENT)
    sockets = DiscoverySockets(TransportAddress("10.0.0.1", 1), TransportAddress("10.0.0.1", 2))
    discovery = Discovery(sockets, [SERVER], randbytes=random.Random(1).randbytes)
    discovery.start(0.0)
    while (due := discovery.next_timeout()) is not None:
        discovery.handle_timeout(due)
    while discovery.poll_event() is not None or discovery.poll_transmit() is not None:
        pass
    assert alive(*OF_STUN_CLIENT) == before
    local, gateway = TransportAddress("10.0.0.1", 1), TransportAddress("10.0.0.2", 5351)
    mapper = PortMapper(local=local, server=gateway, internal_port=1, randbytes=random.Random(1).randbytes)
    mapper.start(0.0)
    mapper.release(0.5)
    while (due := mapper.next_timeout()) is not None:
        mapper.handle_timeout(due)
        while mapper.poll_event() is not None or mapper.poll_transmit() is not None:
            pass


def test_trap_56_tables_of_sources_are_bounded() -> None:
    """Sources are strangers' to choose: each table has a size."""
    limiter, budget = RateLimiter(rate_per_s=1, burst=1, max_sources=100), AnswerBudget(free_bytes=9, max_sources=100)
    server = stun.BindingServer(limits=stun.BindingLimits(max_sources=100))
    question = stun.encode(stun.binding_request(bytes(12)))
    for number in range(1_000):
        host = f"2001:db8:{number:x}::1"
        limiter.allow(number, host)
        budget.allows(number, host, 9, 9)
        server.handle_datagram(number, SERVER, TransportAddress(host, 1), question)
    assert max(len(limiter), len(budget), server.sources) <= 100
