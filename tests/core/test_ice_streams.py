"""Several streams and components: one checklist set, in which components share what RFC 8445 shares, and no more."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from ice_harness import World, randbytes_of, transmits_of

from iceagent.core import ice, stun
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.ice import AgentState, ChecklistState, Role, StreamSet
from iceagent.core.transmit import Transmit

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def base(host: str, stream: int, component: int, number: int = 0) -> TransportAddress:
    """The socket of a component at an address: one port each."""
    return make_address(host, 1000 * (number + 1) + 100 * stream + component)


def streams(role: Role, layout: tuple[int, ...], seed: int = 1, **config: object) -> StreamSet:
    return StreamSet(role=role, layout=layout, randbytes=randbytes_of(seed), config=ice.IceConfig(**config))  # type: ignore[arg-type]


class StreamWorld(World):
    """A world whose agents are stream sets; it tells whom each datagram belonged to."""

    def both(self, *layouts: tuple[int, ...], **config: object) -> tuple[StreamSet, StreamSet]:
        seed = self.random.randrange(2**32)
        first, last = layouts[0], layouts[-1]
        return (
            self.add(streams(Role.CONTROLLING, first, seed, **config)),
            self.add(streams(Role.CONTROLLED, last, seed + 1, **config)),
        )

    def hosts(self, one: StreamSet, *hosts: str) -> None:
        for (stream, component), _ in one.agents.items():
            for index, host in enumerate(hosts):
                address = base(host, stream, component, index)
                self.owner[address] = one
                one.add_local_candidate(self.now, ice.host_candidate(address, 65535 - index, component), stream)
        self.drain(one)

    def meet(self, a: StreamSet, b: StreamSet, *, ended: bool = True) -> None:
        for one, other in ((a, b), (b, a)):
            one.set_remote_credentials(self.now, other.credentials())
            self.drain(one)
            for (stream, _), component in other.agents.items():
                for candidate in component.local_candidates:
                    one.add_remote_candidate(self.now, ice.Candidate.from_sdp(candidate.to_sdp()), stream)
                    self.drain(one)
            if ended:
                one.end_of_local_candidates(self.now)
                one.add_remote_candidate(self.now, None, None)
                self.drain(one)

    def drain(self, one: StreamSet) -> None:
        for transmit in transmits_of(one):
            self.sent.append((self.now, one, transmit))
            self.trace.append((self.now, f"{transmit.local}>{transmit.remote} {transmit.data.hex()}"))
            self.fly(transmit)
        while (event := one.poll_event()) is not None:
            self.events[id(one)].append(event)

    def complete(self, a: StreamSet, b: StreamSet, limit_s: float = 60) -> float:
        return self.run_until(lambda: {a.state, b.state} == {AgentState.COMPLETED}, limit_s)

    def fresh_checks(self, one: StreamSet) -> list[tuple[float, Transmit]]:
        """The checks sent for the first time that are no nominations and no consent: those that pacing is about."""
        seen: set[bytes] = set()
        found = []
        for at, sender, transmit in self.sent:
            data = transmit.data
            if sender is one and data[:2] == b"\x00\x01" and data[8:20] not in seen:
                seen.add(data[8:20])
                if stun.decode(data).get(stun.UseCandidate) is None:
                    found.append((at, transmit))
        return found


def connected(layout: tuple[int, ...] = (2, 2), seed: int = 1) -> tuple[StreamWorld, StreamSet, StreamSet]:
    world = StreamWorld(seed)
    a, b = world.both(layout)
    world.hosts(a, "192.0.2.1")
    world.hosts(b, "198.51.100.1")
    world.meet(a, b)
    world.complete(a, b)
    return world, a, b


def test_every_component_of_every_stream_gets_its_own_selected_pair() -> None:
    """RFC 8445 section 8.1.1; the pair of one component never serves another."""
    _, a, b = connected((2, 1, 2))
    for key, agent in a.agents.items():
        pair, theirs = agent.data_pair(), b.component(*key).data_pair()
        assert pair == (base("192.0.2.1", *key), base("198.51.100.1", *key))
        assert theirs == (base("198.51.100.1", *key), base("192.0.2.1", *key))
    assert [a.checklist_state(stream) for stream in range(3)] == [ChecklistState.COMPLETED] * 3
