"""The machine of RFC 5780 as a machine: its five rules. What it finds is tested in tests/net."""

from __future__ import annotations

import random

import pytest
from amount import examples
from hypothesis import given
from hypothesis import strategies as st

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.discovery import Discovery, DiscoverySockets, MappingBehaviour, NatBehaviour
from iceagent.errors import LocalError

A, B = TransportAddress("192.168.1.2", 1000), TransportAddress("192.168.1.2", 1001)
SERVERS = [TransportAddress("198.51.100.1", 3478), TransportAddress("198.51.100.2", 3478)]
MAPPED = TransportAddress("203.0.113.1", 7)


def make(seed=1, servers=SERVERS):
    return Discovery(DiscoverySockets(A, B), servers, randbytes=random.Random(seed).randbytes)


@examples(150, 50)
@given(
    st.integers(0, 99),
    st.lists(
        st.tuples(
            st.sampled_from(["answer", "garbage", "mutate", "wait", "error", "elsewhere"]), st.binary(max_size=60)
        ),
        max_size=40,
    ),
)
def test_hostile_servers_never_raise_and_the_end_comes(seed, steps):
    """Whatever comes back, discovery ends in bounded time and sends a bounded number of packets."""
    machine, now, sent = make(seed), 0.0, []
    machine.start(now)
    chance = random.Random(seed)
    for what, data in steps:
        while (transmit := machine.poll_transmit()) is not None:
            sent.append(transmit)
        if what == "wait" or not sent:
            now += 0.3
            machine.handle_timeout(now)
            due = machine.next_timeout()
            assert due is None or due > now
            continue
        transmit = chance.choice(sent)
        machine.handle_datagram(now, transmit.local, transmit.remote, forge(what, transmit, data, chance))
    for _ in range(200):
        due = machine.next_timeout()
        if due is None:
            break
        now = due
        machine.handle_timeout(now)
    assert machine.finished
    assert now < 40
    events = []
    while (event := machine.poll_event()) is not None:
        events.append(event)
    assert isinstance(events[-1], NatBehaviour)
    assert sum(isinstance(event, NatBehaviour) for event in events) == 1


def forge(what, transmit, data, chance):
    request = stun.decode(transmit.data)
    if what == "garbage":
        return data
    if what == "error":
        return stun.encode(stun.error(request, 420, "", stun.UnknownAttributes((3,))))
    other = TransportAddress("198.51.100.77", 9) if what == "elsewhere" else TransportAddress("198.51.100.3", 3479)
    answer = stun.encode(stun.success(request, stun.XorMappedAddress(MAPPED), stun.OtherAddress(other)))
    if what == "mutate":
        at = chance.randrange(len(answer))
        answer = answer[:at] + bytes((answer[at] ^ 1 << chance.randrange(8),)) + answer[at + 1 :]
    return answer


def test_same_seed_gives_the_same_packets():
    """Rule 4: a trace that can be repeated."""

    def packets(seed):
        machine = make(seed)
        machine.start(0)
        return [transmit.data for transmit in iter(machine.poll_transmit, None)]

    assert packets(3) == packets(3) != packets(4)


def test_servers_beyond_eight_are_not_asked():
    """Each costs packets; the list may come from a stranger."""
    many = [TransportAddress(f"198.51.100.{n}", 3478) for n in range(1, 30)]
    machine = make(servers=many + many)
    machine.start(0)
    assert len(list(iter(machine.poll_transmit, None))) == 8


def test_answers_count_only_from_where_they_must_come():
    """Who guesses the source does not know the transaction id; who sees it sits on the path anyway."""
    machine = make(servers=SERVERS[:1])
    machine.start(0)
    request = stun.decode(machine.poll_transmit().data)
    answer = stun.encode(stun.success(request, stun.XorMappedAddress(MAPPED)))
    for local, remote in ((B, SERVERS[0]), (A, SERVERS[1])):
        machine.handle_datagram(0.1, local, remote, answer)
    assert machine.counters["wrong_path"] == 2
    assert not machine.behaviour().udp_works
    machine.handle_datagram(0.1, A, SERVERS[0], answer)
    assert machine.behaviour().mapped == (MAPPED,)
    assert machine.behaviour().mapping is MappingBehaviour.UNKNOWN


def test_wrong_use_is_told():
    """The caller's mistakes."""
    machine = make()
    machine.start(0)
    with pytest.raises(LocalError):
        machine.start(0)
    with pytest.raises(LocalError):
        Discovery(DiscoverySockets(A, B), SERVERS, randbytes=bytes, lifetimes_s=(30,))
