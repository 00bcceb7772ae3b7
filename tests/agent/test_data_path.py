from __future__ import annotations

import random
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from iceagent.agent import Agent, AgentState
from iceagent.agent.inbox import Inbox
from iceagent.core import ice, stun
from iceagent.core.address import TransportAddress
from iceagent.net import Batch, SystemUdpSocket, open_udp_socket

PEER = TransportAddress("192.0.2.1", 1)


def dropped(agent: Agent) -> int:
    return sum(agent.statistics().transport.dropped.values())


def base_of(agent: Agent) -> TransportAddress:
    assert agent.selected_pair is not None
    return agent.selected_pair.local.path_base


async def send_all(sock: SystemUdpSocket, datagrams: list[bytes], remote: TransportAddress) -> None:
    """Send in portions that any socket buffer holds, letting the receiver catch up."""
    for at in range(0, len(datagrams), 200):
        await sock.send(datagrams[at : at + 200], remote)
        await wait_all_tasks_blocked()


def mutated_checks(agent: Agent, count: int, rng: random.Random) -> list[bytes]:
    """Valid checks of the agent's peer, each changed somewhere."""
    core = agent._driver.ice
    assert core.remote_credentials is not None
    key = stun.short_term_key(core.credentials.pwd)
    username = stun.Username(f"{core.credentials.ufrag}:{core.remote_credentials.ufrag}")
    changed = []
    for _ in range(count):
        request = stun.binding_request(rng.randbytes(12), username, stun.Priority(1), stun.IceControlling(1))
        data = bytearray(stun.encode(request, key=key))
        what = rng.randrange(4)
        if what == 0:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif what == 1:
            del data[rng.randrange(1, len(data)) :]
        elif what == 2:
            at = rng.randrange(len(data))
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        else:
            at = rng.randrange(20, len(data) - 4)
            data[at : at + 4] = rng.randbytes(4)
        changed.append(bytes(data))
    return changed


@pytest.mark.parametrize("segmentation", [True, False], ids=["gso-gro", "plain"])
async def test_stun_inside_a_buffer_of_data_is_sorted_out(connected: Any, config: Any, segmentation: bool) -> None:
    """Checks and data of one size arrive as one GRO buffer; the user must see the data alone, in order."""
    async with connected(config(segmentation=segmentation)) as (a, b):
        check = stun.encode(stun.binding_indication(bytes(12)))
        data = [bytes([200 + number]) * len(check) for number in range(6)]
        mixed = [data[0], check, data[1], data[2], check, check, data[3], data[4], data[5]]
        a._driver.sockets[base_of(a)].send_nowait(mixed, base_of(b))
        received: list[bytes] = []
        while len(received) < len(data):
            received += await b.receive_many()
        assert received == data


async def test_data_that_looks_a_little_like_stun_arrives(connected: Any) -> None:
    """An application's datagrams may start with any byte, or be empty: the fast path must not eat them."""
    async with connected() as (a, b):
        sent = [b"\x00", b"\x01\x02", b"", b"\x03" * 40, b"\x16\xfe", b"\x80" * 12, b""]
        for datagram in sent:
            await a.send(datagram)
        assert [await b.receive() for _ in sent] == sent


async def test_data_from_a_stranger_never_reaches_the_user(connected: Any) -> None:
    """Trap 3: whoever finds the port may send, but only validated pairs are heard."""
    async with connected() as (a, b):
        stranger = open_udp_socket("127.0.0.1")
        await send_all(stranger, [b"\x80 trust me"] * 100, base_of(b))
        await a.send(b"genuine")
        assert await b.receive_many() == [b"genuine"]
        assert b.statistics().transport.dropped[ice.DropReason.DATA_UNVALIDATED] == 100
        stranger.close()


@pytest.mark.parametrize("source", ["stranger", "peer"])
async def test_ten_thousand_random_datagrams_harm_nothing(connected: Any, source: str) -> None:
    """No exception, each counted, and the session goes on."""
    rng = random.Random(7)
    async with connected() as (a, b):
        noise = [rng.randbytes(rng.choice([0, 1, 19, 20, 28, 100, 1200])) for _ in range(5000)]
        noise += [b"\x00\x01" + rng.randbytes(2) + b"\x21\x12\xa4\x42" + rng.randbytes(60) for _ in range(5000)]
        sock = open_udp_socket("127.0.0.1")
        sender = sock if source == "stranger" else a._driver.sockets[base_of(a)]
        before = b.statistics().transport.datagrams_received
        await send_all(sender, noise, base_of(b))
        transport = b.statistics().transport
        assert transport.datagrams_received - before >= len(noise)
        if source == "stranger":
            assert dropped(b) >= len(noise)
        else:
            assert len(await b.receive_many()) >= 4900
        await check_unharmed(a, b)
        sock.close()


async def test_ten_thousand_mutated_checks_harm_nothing(connected: Any) -> None:
    """One wrong bit anywhere in a check: no answer that counts, no new pair, no change of state."""
    async with connected() as (a, b):
        sock = open_udp_socket("127.0.0.1")
        for agent in (a, b):
            before = dropped(agent)
            await send_all(sock, mutated_checks(agent, 5000, random.Random(11)), base_of(agent))
            assert dropped(agent) - before >= 4900
            assert not [found for found in agent._driver.ice.remote_candidates if found.address == sock.local_address]
        await check_unharmed(a, b)
        sock.close()


async def check_unharmed(a: Agent, b: Agent) -> None:
    assert (a.state, b.state) == (AgentState.COMPLETED, AgentState.COMPLETED)
    for one, other in ((a, b), (b, a)):
        await one.send(b"still here")
        while await other.receive() != b"still here":
            pass


async def test_a_reader_that_does_not_read_costs_a_bounded_queue(connected: Any, config: Any) -> None:
    """Memory stays bounded and the loss is counted; what was queued is whole and in order."""
    async with connected(config(receive_queue_bytes=64 * 1024)) as (a, b):
        sent = [number.to_bytes(2, "big").rjust(1000, b"\x80") for number in range(1000)]
        for at in range(0, 1000, 20):
            await a.send_many(sent[at : at + 20])
            await wait_all_tasks_blocked()
        received = await b.receive_many()
        assert received == sent[: len(received)]
        assert 20 <= len(received) < 70
        assert b.statistics().transport.receive_queue_dropped == len(sent) - len(received)
        await a.send(b"again")
        assert await b.receive() == b"again"


async def test_single_datagrams_and_batches_may_be_mixed() -> None:
    """A batch that is half taken apart keeps its place and its rest."""
    inbox = Inbox(10_000)
    inbox.put(Batch(PEER, b"aabbc", 2))
    inbox.put(Batch(PEER, b"", 1))
    assert await inbox.datagram() == b"aa"
    assert [batch.datagrams() for batch in await inbox.batches()] == [[b"bb", b"c"], [b""]]
    inbox.put(Batch(PEER, b"", 1))
    assert await inbox.datagram() == b""
    inbox.put(Batch(PEER, b"dd", 1))
    assert await inbox.datagrams() == [b"d", b"d"]


async def test_every_waiting_reader_gets_its_datagram() -> None:
    """One arrival of many datagrams must wake as many readers as it can serve."""
    inbox = Inbox(10_000)
    received: list[bytes] = []

    async def read() -> None:
        received.append(await inbox.datagram())

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(read)
        await wait_all_tasks_blocked()
        inbox.put(Batch(PEER, b"1234", 1))
    assert sorted(received) == [b"1", b"2", b"3", b"4"]


async def test_what_arrived_before_the_end_is_received_before_it() -> None:
    """A path that dies does not take with it what it delivered; a local close does."""
    inbox = Inbox(10_000)
    inbox.put(Batch(PEER, b"last", 4))
    inbox.end(lambda: trio.BrokenResourceError("gone"), discard=False)
    inbox.put(Batch(PEER, b"late", 4))
    assert await inbox.datagram() == b"last"
    with pytest.raises(trio.BrokenResourceError):
        await inbox.datagram()
    assert inbox.datagrams_dropped == 1


async def test_the_queue_counts_bytes_taken_singly() -> None:
    """Accounting that leaks would close the queue for good after a while."""
    inbox = Inbox(2000)
    for _ in range(100):
        inbox.put(Batch(PEER, bytes(1000), 100))
        assert [len(await inbox.datagram()) for _ in range(10)] == [100] * 10
    assert inbox.datagrams_dropped == 0
