"""UDP forwards over a link in memory, with real sockets at both ends."""

# ruff: noqa: SIM117 (what is around stands apart from what is tested)

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from fake_link import linked_sessions
from hypothesis import given
from hypothesis import strategies as st
from udp_echo import udp_echo

from iceagent.link.config import MAX_STREAMS
from iceagent.session.datagrams import encode_varint, split_varint_untrusted
from iceagent.session.session import Session
from iceagent.tunnel import udp
from iceagent.tunnel.errors import BindError
from iceagent.tunnel.forward import forward_local
from iceagent.tunnel.serve import serve_forwards
from iceagent.tunnel.spec import PortBind, UdpTarget


@asynccontextmanager
async def forwarded(port: int) -> AsyncIterator[tuple[str, int]]:
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, [f"udp:127.0.0.1:{port}"]):
        async with forward_local(joiner, f"0:127.0.0.1:{port}/udp") as forward:
            host, _, near = forward.bind.rpartition(":")
            yield host, int(near)


@asynccontextmanager
async def client(address: tuple[str, int]) -> AsyncIterator[trio.socket.SocketType]:
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        await sock.connect(address)
        yield sock


async def test_fifty_sources_get_their_own_answers():
    """Flows share one local socket and one link; a datagram that reaches the wrong source is a leak."""
    rng = random.Random(7)

    async def source(number: int, address: tuple[str, int]) -> None:
        async with client(address) as sock:
            for count in range(20):
                data = bytes([number]) * rng.randint(1, 1200) + count.to_bytes(2, "big")
                await sock.send(data)
                assert await sock.recv(65535) == data

    async with udp_echo() as port, forwarded(port) as address, trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(source, number, address)


@pytest.mark.parametrize("size", [0, 1, 1198, 1199, 1200, 1201, 9000, 65507])
async def test_any_size_arrives_whole(size):
    """What fits into no QUIC datagram takes the flow's stream; an application's datagram is never cut."""
    async with udp_echo() as port, forwarded(port) as address, client(address) as sock:
        data = random.Random(size).randbytes(size)
        await sock.send(data)
        assert await sock.recv(65535) == data


async def test_an_idle_flow_ends_on_both_sides(autojump_clock):
    """Every source that ever spoke would otherwise hold a socket and a stream for ever."""
    async with udp_echo() as port, linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]):
        target = UdpTarget("127.0.0.1", port)
        async with udp.open_udp_sockets(PortBind("127.0.0.1", 0)) as (near,), trio.open_nursery() as nursery:
            nursery.start_soon(udp.UdpForward(joiner, near, target, idle_s=0.05).run)
            async with client(("127.0.0.1", int(near.text.rpartition(":")[2]))) as sock:
                for data in (b"one", b"two"):
                    await sock.send(data)
                    assert await sock.recv(100) == data
                    while open_flows(joiner) or open_flows(inviter):
                        await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


def open_flows(session: Session) -> int:
    return len(session.datagrams._flows)


async def test_more_sources_than_flows_evict_the_longest_idle(monkeypatch):
    """A scan of the local port must not grow the table without bound, nor shut out who comes next."""
    monkeypatch.setattr(udp, "MAX_FLOWS", 4)
    async with udp_echo() as port, linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]):
        async with forward_local(joiner, f"0:127.0.0.1:{port}/udp") as forward:
            near = ("127.0.0.1", int(forward.bind.rpartition(":")[2]))
            for number in range(12):
                async with client(near) as sock:
                    await sock.send(bytes([number]))
                    assert await sock.recv(100) == bytes([number])
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert open_flows(joiner) <= 4


async def test_all_forwards_of_a_session_share_its_flows(monkeypatch):
    """Each flow takes a stream of the link, which has so many and no more: the next would wait for one to fall idle."""
    assert udp.MAX_FLOWS < MAX_STREAMS
    monkeypatch.setattr(udp, "MAX_FLOWS", 4)
    async with udp_echo() as port, linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]):
        spec = f"0:127.0.0.1:{port}/udp"
        async with forward_local(joiner, spec) as one, forward_local(joiner, spec) as other:
            for number in range(12):
                near = ("127.0.0.1", int((one, other)[number % 5 == 4].bind.rpartition(":")[2]))
                async with client(near) as sock:
                    await sock.send(bytes([number]))
                    assert await sock.recv(100) == bytes([number])
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert open_flows(joiner) <= 4


async def test_a_name_that_cannot_be_is_a_bind_error():
    """No resolver takes an empty label; it raises UnicodeError for it."""
    async with linked_sessions() as (joiner, _):
        for suffix in ("", "/udp"):
            with pytest.raises(BindError, match="does not resolve"):
                async with forward_local(joiner, f"a..b:0:h:1{suffix}"):
                    pass


async def test_a_dead_target_does_not_end_the_flow():
    """ICMP errors come back on the far socket; the service may start a moment later."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
        late.bind(("127.0.0.1", 0))
        port = late.getsockname()[1]
        late.close()
        async with forwarded(port) as address, client(address) as sock:
            await sock.send(b"too early")
            await trio.testing.wait_all_tasks_blocked(0.02)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
                server.bind(("127.0.0.1", port))
                server.settimeout(5)
                await sock.send(b"now")
                data, source = await trio.to_thread.run_sync(server.recvfrom, 100)
                assert data == b"now"
                server.sendto(b"yes", source)
                assert await sock.recv(100) == b"yes"


async def test_a_taken_udp_port_is_a_bind_error():
    """As for TCP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        async with linked_sessions() as (joiner, _):
            with pytest.raises(BindError, match="already in use"):
                async with forward_local(joiner, f"{taken.getsockname()[1]}:h:1/udp"):
                    pass


async def test_unknown_and_malformed_datagrams_are_counted():
    """They come from the network, perhaps late, perhaps from a newer version."""
    async with linked_sessions() as (joiner, inviter):
        for data in (b"", b"\x40", b"\x06late", b"\xff\xff"):
            await joiner.datagrams._link.send_datagram(data)
        await trio.testing.wait_all_tasks_blocked()
        assert inviter.datagrams.dropped == {"malformed": 3, "unknown flow": 1}


async def test_application_datagrams_pass_and_are_bounded():
    """Nobody may be reading; then the newest are dropped and counted, and nothing else stops."""
    async with linked_sessions() as (joiner, inviter):
        for number in range(1030):
            await joiner.send_datagram(number.to_bytes(2, "big"))
        await trio.testing.wait_all_tasks_blocked()
        assert await inviter.receive_datagram() == b"\0\0"
        assert inviter.datagrams.dropped["queue full"] == 6


@given(st.integers(min_value=0, max_value=2**62 - 1), st.binary(max_size=8))
def test_varints_round_trip(value, rest):
    """Flow ids are QUIC varints so that the usual ones cost one byte (RFC 9000 section 16)."""
    assert split_varint_untrusted(encode_varint(value) + rest) == (value, rest)


@pytest.mark.parametrize(
    ("text", "value"),
    [("c2197c5eff14e88c", 151288809941952652), ("9d7f3e7d", 494878333), ("7bbd", 15293), ("25", 37)],
)
def test_varints_of_the_rfc(text, value):
    """RFC 9000 appendix A.1."""
    assert split_varint_untrusted(bytes.fromhex(text)) == (value, b"")
    assert encode_varint(value).hex() == text
