"""Thousands of random and of mutated frames at a running relay, while two peers talk over it."""

from __future__ import annotations

import random
from collections.abc import Callable

import icesignal
import pytest
import trio
from amount import amount
from icesignal import wire
from icesignal.server import Server, serve
from icesignal.sources import Limits, Rate
from icesignal.transport import ConnectionEnded, WebsocketConnection

COUNT = amount(10_000, 2_000)
SEED = 20_250_101
GENEROUS = Limits(
    messages=Rate(1e9, 1e9),
    bytes=Rate(1e12, 1e12),
    joins=Rate(1e9, 1e9),
    connections=Rate(1e9, 1e9),
    malformed_frames=10**9,
)
VALID = [
    wire.encode(frame)
    for frame in (
        wire.Allocate(session=b"f" * 16, opening=b"opening"),
        wire.Join(session=b"g" * 16, nameplate="7", opening=b"opening"),
        wire.Meet(session=b"h" * 16, name=b"n" * 32, role="inviter", opening=b"o"),
        wire.Resume(session=b"f" * 16, token=b"t" * 16, epoch=1, seq=0),
        wire.Send(client_seq=1, payload=b"payload" * 10),
        wire.Close(reason="code-wrong"),
    )
]


def random_bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 8, 40, 300)))


def mutated_frame(rng: random.Random) -> bytes:
    data = bytearray(rng.choice(VALID))
    for _ in range(rng.randint(1, 4)):
        match rng.randrange(3):
            case 0:
                data[rng.randrange(len(data))] = rng.randrange(256)
            case 1:
                del data[rng.randrange(len(data)) :]
            case _:
                at = rng.randrange(len(data) + 1)
                data[at:at] = rng.randbytes(rng.randint(1, 6))
        data = data or bytearray(b"\x80")
    return bytes(data)


@pytest.mark.thorough
@pytest.mark.parametrize("make", [random_bytes, mutated_frame])
async def test_thousands_of_bad_frames_harm_nobody(make: Callable[[random.Random], bytes], raw_to) -> None:
    """No exception escapes, the counters tell, and the conversation beside it goes on."""
    rng = random.Random(SEED)
    async with serve(limits=GENEROUS) as relay:
        channels: list[icesignal.SealedChannel] = []
        async with icesignal.open_invitation(relay.url) as invitation, trio.open_nursery() as nursery:

            async def wait() -> None:
                channels.append(await invitation.wait_peer())

            nursery.start_soon(wait)
            async with icesignal.open_join(relay.url, invitation.code) as joined:
                arrived = 0
                while arrived < COUNT:
                    async with raw_to(relay.url) as attacker:
                        arrived += await attack(attacker.connection, relay, lambda: make(rng))
                    await joined.send({"arrived": arrived})
                    assert await channels[0].receive() == {"arrived": arrived}
        statistics = relay.statistics()
        kinds = ("frames_malformed", "frames_unknown-type", "frames_version")
        assert statistics.get("internal_errors", 0) == 0
        assert sum(statistics.get(kind, 0) for kind in kinds) > COUNT // 2
        assert statistics["frames_in"] >= COUNT


async def attack(connection: WebsocketConnection, relay: Server, make: Callable[[], bytes]) -> int:
    """Send up to a thousand messages, each batch once the one before has been handled; return how many were."""
    before = relay.counters["frames_in"]
    for _ in range(20):
        handled = relay.counters["frames_in"]
        for _ in range(50):
            connection.send_nowait(make())
        while connection.is_open and relay.counters["frames_in"] < handled + 50:
            await trio.sleep(0)
        if not connection.is_open:
            break  # a mutated `close` or version ends the connection, as it should
    return relay.counters["frames_in"] - before


@pytest.mark.parametrize("after_upgrade", [False, True])
async def test_random_bytes_on_the_socket_harm_nobody(after_upgrade: bool) -> None:
    """Below the frames: HTTP that is none, and websocket headers that are none."""
    rng = random.Random(SEED)
    upgrade = (
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    async with serve(limits=GENEROUS) as relay, icesignal.open_client(relay.url) as witness:
        nameplate = await witness.allocate()
        for _ in range(300):
            stream = await trio.open_tcp_stream("127.0.0.1", relay.port)
            async with stream:
                try:
                    await stream.send_all((upgrade if after_upgrade else b"") + rng.randbytes(rng.randint(1, 400)))
                    if rng.random() < 0.5:
                        await stream.send_eof()
                        with trio.move_on_after(0.05):
                            while await stream.receive_some():
                                pass
                except trio.BrokenResourceError:
                    pass
        assert relay.counters["internal_errors"] == 0
        async with icesignal.open_client(relay.url) as other:
            assert await other.join(nameplate) == nameplate


async def test_a_message_without_end_is_cut(raw_to) -> None:
    """Empty fragments for ever: each costs its sender six bytes and the library a list entry."""
    async with serve(limits=GENEROUS) as relay, raw_to(relay.url) as attacker:
        stream = attacker.connection._stream

        async def flood() -> None:
            await stream.send_all(b"\x02\x80\0\0\0\0")  # a binary message begins, not finished
            for _ in range(400):
                await stream.send_all(b"\x00\x80\0\0\0\0" * 400)
            await attacker.connection.receive()

        with pytest.raises((trio.BrokenResourceError, ConnectionEnded)):
            await flood()
        assert relay.counters["internal_errors"] == 0
