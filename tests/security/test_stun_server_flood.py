"""Thousands of datagrams of noise and of near misses at a STUN server on a real socket; forged sources."""

from __future__ import annotations

import ipaddress
import random

import pytest
import trio
from amount import amount

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.constants import STUN_TOTAL_BYTES
from iceagent.net import SystemNetwork
from iceagent.net.api import UdpSocket
from iceagent.servers.stun import StunServer, open_stun_server

COUNT = amount(10_000, 3_000)
BURST = 32
SEED = 6268


def noise(rng: random.Random) -> bytes:
    """Return random bytes."""
    return rng.randbytes(rng.randint(1, 300))


def near_miss(rng: random.Random) -> bytes:
    """Return a valid request with one to four of its bytes replaced."""
    request = stun.binding_request(rng.randbytes(12), stun.Username("a:b"), stun.Software("x" * rng.randint(0, 40)))
    data = bytearray(stun.encode(request, key=b"k", integrity=rng.choice(list(stun.Integrity))))
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


async def flood(sock: UdpSocket, server: StunServer, datagrams: list[bytes]) -> None:
    """Send all, never more at once than any socket buffer holds."""
    for at in range(0, len(datagrams), BURST):
        wanted = server.counters.total() + len(datagrams[at : at + BURST])
        await sock.send(datagrams[at : at + BURST], server.address)
        while server.counters.total() < wanted:
            await trio.lowlevel.checkpoint()


async def ask(server: TransportAddress) -> None:
    """Ask as an honest client does, and be told one's own address."""
    sock = await SystemNetwork().open_udp("127.0.0.1")
    try:
        await sock.send([stun.encode(stun.binding_request(b"after floods"))], server)
        (batch,) = await sock.receive()
        assert stun.decode(batch.data).get(stun.XorMappedAddress) == stun.XorMappedAddress(sock.local_address)
    finally:
        sock.close()


@pytest.mark.thorough
async def test_thousands_of_hostile_datagrams_leave_a_stun_server_unharmed() -> None:
    """No exception escapes, every datagram is in one counter, and an honest client is answered afterwards."""
    rng = random.Random(SEED)
    sock = await SystemNetwork().open_udp("127.0.0.1")
    try:
        async with open_stun_server("127.0.0.1", 0, limits=stun.BindingLimits(burst=10**6)) as server:
            with trio.fail_after(60):
                await flood(sock, server, [noise(rng) for _ in range(COUNT)])
                assert server.counters == {"not_stun": COUNT}
                await flood(sock, server, [near_miss(rng) for _ in range(COUNT)])
                await ask(server.address)
            assert server.counters.total() == 2 * COUNT + 1
            assert server.counters["bad_fingerprint"] > COUNT // 10
    finally:
        sock.close()


BARE = stun.encode(stun.binding_request(b"a transacti."), fingerprint=False)
HERE = TransportAddress("192.0.2.1", 3478)


def answers_to(
    server: stun.BindingServer, hosts: list[str], per_s: int, seconds: float, question: bytes = BARE
) -> list[tuple[float, int]]:
    """Send questions from hosts in turn, evenly; return when answers were sent, and their bytes."""
    sent = []
    for number in range(int(per_s * seconds)):
        now = 1000 + number / per_s
        remote = TransportAddress(hosts[number % len(hosts)], 1 + number % 60000)
        answer = server.handle_datagram(now, HERE, remote, question)
        if answer is not None:
            sent.append((now, len(answer)))
    return sent


@pytest.mark.parametrize(
    ("hosts", "share"),
    [
        (["9.9.9.9"], 1),
        (["2001:db8::1", "2001:db8::2"], 1),  # one /64
        ([f"2001:db8:0:{n:x}::1" for n in range(256)], 2),  # one /56
        ([f"2001:db8:0:{n:x}00::1" for n in range(256)], 4),  # one /48
    ],
)
def test_trap_57_a_victim_is_sent_hardly_more_than_was_sent_in_its_name(hosts: list[str], share: int) -> None:
    """Forged questions of 20 bytes, answers of 32 or 44: without a bound, 1.6 to 2.2 times what the forger spends."""
    for per_s in (500, 5_000):
        server = stun.BindingServer(limits=stun.BindingLimits(rate_per_s=10**6, burst=10**6))
        sent = answers_to(server, hosts, per_s, 2.0)
        assert (
            sum(size for at, size in sent if at < 1001) <= per_s * len(BARE) + share * stun.BindingLimits().free_bytes
        )


def anywhere(number: int) -> str:
    """Return a source that has no network in common with another."""
    return (
        f"2001:{number >> 8:x}:{number & 255:x}::1" if number % 2 else str(ipaddress.IPv4Address(0x0B000000 + number))
    )


@pytest.mark.thorough
@pytest.mark.parametrize(("per_s", "seconds"), [(10_000, 2), (30_000, amount(2, 1))])
def test_trap_57_forged_sources_from_everywhere_are_sent_no_more_than_came(per_s: int, seconds: int) -> None:
    """Spread over networks that have nothing in common, no bound of one source is ever reached."""
    server = stun.BindingServer()
    sent = answers_to(server, [anywhere(number) for number in range(20_000)], per_s, seconds)
    for began in range(1000, 1000 + seconds):
        bytes_out = sum(size for at, size in sent if began <= at < began + 1)
        assert bytes_out <= max(per_s * len(BARE), STUN_TOTAL_BYTES)


def test_trap_57_new_clients_get_in_while_forged_sources_ask() -> None:
    """They ask again after half a second, as all clients do, and are answered then at the latest.

    The flood takes the budget of a second within a third of it, so that a client cannot count on luck.
    """
    server = stun.BindingServer()
    asking = sorted((1000 + number / 13 + after_s, f"192.0.2.{number}") for number in range(20) for after_s in (0, 0.5))
    answered: set[str] = set()
    for number in range(20_000 * 2):
        now = 1000 + number / 20_000
        server.handle_datagram(now, HERE, TransportAddress(anywhere(number), 1), BARE)
        while asking and asking[0][0] <= now:
            host = asking.pop(0)[1]
            if server.handle_datagram(now, HERE, TransportAddress(host, 1), BARE) is not None:
                answered.add(host)
    assert not asking
    assert len(answered) == 20


def test_trap_57_five_thousand_clients_at_once_wait_for_nothing() -> None:
    """What bounds forged sources must not be felt by those that there are."""
    hosts = [anywhere(number) for number in range(5_000)]
    assert len(answers_to(stun.BindingServer(), hosts, 50_000, 0.1)) == 5_000


def test_trap_57_those_behind_one_address_are_served() -> None:
    """A carrier's NAT hides thousands: their 200 questions a second are all answered, and 300 that come at once."""
    assert len(answers_to(stun.BindingServer(), ["9.9.9.9"], 200, 10)) == 2000
    assert len(answers_to(stun.BindingServer(), ["9.9.9.9"], 3000, 0.1)) == 300


def test_trap_57_questions_as_long_as_their_answers_are_paid_for() -> None:
    """Who pads a question gains nothing by a forged source, so that only the rate bounds it."""
    padded = stun.encode(stun.binding_request(bytes(12), stun.Software(" " * 8)), fingerprint=False)
    assert len(answers_to(stun.BindingServer(), ["9.9.9.9"], 1000, 1, padded)) == 1000


def test_keepalives_use_up_nobodys_share() -> None:
    """Binding indications draw no answer: thousands of quiet clients must not keep a new one out."""
    server = stun.BindingServer()
    remote = TransportAddress("9.9.9.9", 1)
    for _ in range(5_000):
        assert server.handle_datagram(1.0, HERE, remote, b"\x00\x11" + BARE[2:]) is None
    assert server.handle_datagram(1.0, HERE, remote, BARE) is not None
    assert server.counters == {"indication": 5_000, "answered": 1}
