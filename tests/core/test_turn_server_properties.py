"""Ten thousand random operations, and what must hold after each: nothing is lost, nothing is had twice."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from amount import amount, examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from turn_bench import RELAY_4, RELAY_6, SERVER, Bench, Client, config, error_of

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.stun.rate_limit import levels_of
from iceagent.core.turn.server import AllocationState, ClientPath, OpenRelay, TurnLimits

LIMITS = TurnLimits(
    allocations=8,
    allocations_per_user=5,
    allocations_per_source=3,
    permissions=4,
    channels=4,
    bytes_per_s=10_000,
)
PORTS = (50000, 50011)
STEPS, EXAMPLES = 100, amount(100, 25)  # 10,000 operations, or 2,500
CLIENTS = [TransportAddress(f"192.0.2.{host}", port) for host in (1, 2, 3) for port in (1, 2, 3, 4)]
PEERS = [TransportAddress(f"8.8.8.{n}", 53) for n in range(8)]
USERS = [("george", "secret"), ("ringo", "drums")]

clients = st.sampled_from(range(len(CLIENTS)))


class ServerMachine(RuleBasedStateMachine):
    """Clients do what they like; the shell binds, fails to bind, or takes its time."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.bench = Bench(config(limits=LIMITS, ports=PORTS), seed=seed, opens=False)
        self.clients = [Client(self.bench, one, *USERS[n % 2]) for n, one in enumerate(CLIENTS)]
        self.began_at = self.bench.now
        self.relayed: Counter[str] = Counter()

    def ask(self, which: int, method: int, *attributes: stun.Attribute) -> None:
        client = self.clients[which]
        for _ in range(2):
            answer = self.bench.give(client.path, client.encode(method, *attributes))
            nonce = None if answer is None else stun.decode(answer).get(stun.Nonce)
            if nonce is None:
                return
            client.nonce = nonce.value

    def opening(self) -> list[OpenRelay]:
        waiting = [event for event in self.bench.events[-100:] if isinstance(event, OpenRelay)]
        return [
            one
            for one in waiting
            if not one.relay.is_open
            and one.relay in one.relay.allocation.relays
            and one.relay.allocation.state is AllocationState.OPENING
        ]

    @rule(which=clients, extra=st.sampled_from(["", "both", "v6", "even", "pair"]))
    def allocate(self, which: int, extra: str) -> None:
        more: dict[str, tuple[stun.Attribute, ...]] = {
            "both": (stun.AdditionalAddressFamily(2),),
            "v6": (stun.RequestedAddressFamily(2),),
            "even": (stun.EvenPort(),),
            "pair": (stun.EvenPort(reserve=True),),
        }
        self.ask(which, stun.Method.ALLOCATE, stun.RequestedTransport(17), *more.get(extra, ()))

    @rule(index=st.integers(0, 20), works=st.booleans())
    def report(self, index: int, works: bool) -> None:
        waiting = self.opening()
        if waiting:
            relay = waiting[index % len(waiting)].relay
            if works:
                self.bench.server.relay_opened(self.bench.now, relay)
            else:
                self.bench.server.relay_failed(self.bench.now, relay)
            self.bench.settle()

    @rule()
    def bind_all(self) -> None:
        while waiting := self.opening():
            self.bench.server.relay_opened(self.bench.now, waiting[0].relay)
            self.bench.settle()

    @rule(which=clients, lifetime=st.sampled_from([0, 600, 3600]))
    def refresh(self, which: int, lifetime: int) -> None:
        self.ask(which, stun.Method.REFRESH, stun.Lifetime(lifetime))

    @rule(which=clients, peers=st.lists(st.sampled_from(PEERS), min_size=1, max_size=5))
    def permit(self, which: int, peers: list[TransportAddress]) -> None:
        self.ask(which, stun.Method.CREATE_PERMISSION, *map(stun.XorPeerAddress, peers))

    @rule(which=clients, number=st.integers(0x4000, 0x4006), peer=st.sampled_from(PEERS))
    def bind(self, which: int, number: int, peer: TransportAddress) -> None:
        self.ask(which, stun.Method.CHANNEL_BIND, stun.ChannelNumber(number), stun.XorPeerAddress(peer))

    @rule(which=clients, number=st.integers(0x4000, 0x4006), size=st.integers(0, 1200), count=st.integers(1, 20))
    def send(self, which: int, number: int, size: int, count: int) -> None:
        allocation = self.bench.server.allocations.get(self.clients[which].path)
        if allocation is not None:
            data = (number.to_bytes(2, "big") + size.to_bytes(2, "big") + bytes(size)) * count
            for forward in self.bench.server.forward_to_peer(self.bench.now, allocation, data, size + 4):
                self.relayed[allocation.user] += sum(map(len, forward.datagrams))

    @rule(which=clients, peer=st.sampled_from(PEERS), size=st.integers(0, 1200), count=st.integers(1, 20))
    def receive(self, which: int, peer: TransportAddress, size: int, count: int) -> None:
        allocation = self.bench.server.allocations.get(self.clients[which].path)
        for relay in [] if allocation is None else allocation.relays[:1]:
            before = relay.allocation.traffic["bytes_to_client"]
            data = bytes(size) * count
            self.bench.server.forward_to_client(self.bench.now, relay, peer, data, size or 1)
            self.relayed[relay.allocation.user] += relay.allocation.traffic["bytes_to_client"] - before

    @rule(which=clients)
    def vanish(self, which: int) -> None:
        self.bench.server.handle_client_gone(self.bench.now, self.clients[which].path)
        self.bench.settle()

    @rule(seconds=st.sampled_from([0.1, 1, 31, 61, 299, 601, 3601]))
    def wait(self, seconds: float) -> None:
        self.bench.wait(seconds)

    @invariant()
    def quotas_hold(self) -> None:
        allocations = self.bench.server.allocations.values()
        assert len(allocations) <= LIMITS.allocations
        by_user = Counter(one.user for one in allocations)
        by_source = Counter(source for one in allocations for source, _ in levels_of(one.path.remote.host))
        assert max(by_user.values(), default=0) <= LIMITS.allocations_per_user
        assert max(by_source.values(), default=0) <= LIMITS.allocations_per_source
        assert all(len(one.permissions) <= LIMITS.permissions for one in allocations)
        assert all(len(one.channels) == len(one.channel_of) <= LIMITS.channels for one in allocations)

    @invariant()
    def ports_are_conserved(self) -> None:
        relays = [relay for one in self.bench.server.allocations.values() for relay in one.relays]
        assert len({relay.bind for relay in relays}) == len(relays)
        for host, reserved in ((RELAY_4, None), (RELAY_6, 0)):
            pool = self.bench.server.pools[host]
            assert pool.used + pool.resting + pool.free == len(pool) == 12
            mine = sum(relay.bind.host == host for relay in relays)
            assert pool.used == mine + (reserved if reserved is not None else pool.used - mine)
        used = sum(pool.used for pool in self.bench.server.pools.values())
        assert used == len(relays) + self.bench.server.reservations

    @invariant()
    def bandwidth_holds(self) -> None:
        rate = LIMITS.bytes_per_s or 0
        allowed = rate * LIMITS.burst_s + rate * (self.bench.now - self.began_at)
        assert max(self.relayed.values(), default=0) <= allowed + 1e-6

    @invariant()
    def deadlines_are_ahead(self) -> None:
        timeout = self.bench.server.next_timeout()
        self.bench.server.handle_timeout(self.bench.now)
        self.bench.settle()
        timeout = self.bench.server.next_timeout()
        assert timeout is None or timeout > self.bench.now


@pytest.mark.thorough
def test_quota_bandwidth_and_ports_hold_under_ten_thousand_operations() -> None:
    """Trap 36: whatever clients and shell do, no quota is passed, no port is lost or had twice, no byte is free."""
    run_state_machine_as_test(
        ServerMachine,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, derandomize=True, database=None
        ),
    )


def test_everything_is_given_back_in_the_end() -> None:
    """After the last lifetime a server is as it was at its start."""
    bench = Bench(config(limits=LIMITS, ports=PORTS))
    for n, remote in enumerate(CLIENTS):
        Client(bench, remote, *USERS[n % 2]).allocate(stun.EvenPort(reserve=n % 2 == 0))
    assert bench.server.allocations
    bench.wait(4000)
    assert not bench.server.allocations
    assert bench.server.reservations == 0
    assert bench.server.next_timeout() is None
    assert all(pool.used == 0 for pool in bench.server.pools.values())
    assert all(not flows for flows in [bench.server.flows("udp", SERVER.port)])


@given(st.binary(max_size=200), st.integers(0, 2**32))
@examples(500, 100, deadline=None, derandomize=True, database=None)
def test_bytes_from_clients_and_peers_never_raise(data: bytes, seed: int) -> None:
    """Rule 1 of the core's contract, for noise and for near misses of real messages."""
    bench = Bench(seed=seed)
    client = Client(bench)
    client.allocate()
    client.permit(PEERS[0])
    rng = random.Random(seed)
    near = bytearray(client.encode(rng.choice(list(stun.Method)), stun.RequestedTransport(17)))
    for _ in range(rng.randint(0, 4)):
        near[rng.randrange(len(near))] = rng.randrange(256)
    for candidate in (data, bytes(near), bytes(near[: rng.randrange(len(near))])):
        for path in (client.path, ClientPath("udp", SERVER, TransportAddress("9.9.9.9", 9))):
            bench.server.handle_message(bench.now, path, candidate)
        if candidate:
            client.channel_data(candidate, rng.randint(1, len(candidate)))
            client.from_peer(PEERS[0], candidate, rng.randint(1, len(candidate)))
    bench.settle()


def test_same_seed_and_inputs_give_the_same_outputs() -> None:
    """Rule 4: a failure can be replayed."""

    def play() -> list[bytes]:
        bench = Bench(seed=7)
        client = Client(bench)
        answers = [client.allocate().raw, client.permit(PEERS[0]).raw, client.bind(0x4000, PEERS[1]).raw]
        return answers + client.from_peer(PEERS[0], b"x")

    assert play() == play()
    assert all(one.state is AllocationState.ACTIVE for one in Bench().server.allocations.values())
    assert error_of(stun.decode(play()[0])) is None
