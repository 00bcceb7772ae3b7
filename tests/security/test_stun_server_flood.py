"""Ten thousand datagrams of noise and ten thousand of near misses at a STUN server on a real socket."""

from __future__ import annotations

import random

import trio

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.net import SystemNetwork
from iceagent.net.api import UdpSocket
from iceagent.servers.stun import StunServer, open_stun_server

COUNT = 10_000
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


async def test_twenty_thousand_hostile_datagrams_leave_a_stun_server_unharmed() -> None:
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
